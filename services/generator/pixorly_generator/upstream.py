"""Asking providers: which one makes which model, what it is asked, and what the asking costs and takes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from pixorly import metrics, telemetry
from pixorly.catalogue import Catalogue, Model, UnknownModel
from pixorly.errors import InvalidRequest, ModelUnavailable, OutageError, PixorlyError, ProviderTimeout
from pixorly.events import ImageParams, JobCreated, PlannedCall
from pixorly_generator.pauses import Pauses
from pixorly_generator.providers import ImageProvider, ProviderAnswer, ProviderRequest

_log = structlog.get_logger()
_SLACK_S: Final = 5.0

CALLS = metrics.counter("pixorly_provider_calls", "Provider calls by how they ended.", "provider", "model", "code")
IN_FLIGHT = metrics.gauge("pixorly_provider_calls_in_flight", "Provider calls under way.", "provider")
SECONDS = metrics.histogram(
    "pixorly_provider_call_seconds",
    "How long provider calls took.",
    "provider",
    "model",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320),
)
COST_USD = metrics.counter("pixorly_provider_cost_usd", "What providers charged us.", "provider", "model")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of one call of a job.

    Attributes:
        left_s: How long it was until the job's deadline when the call was leased, by the database's clock.
    """

    event: JobCreated
    call: PlannedCall
    number: int
    left_s: float

    @property
    def key(self) -> tuple[UUID, int]:
        """Its call: the job's id and the call's number."""
        return self.event.job_id, self.call.call_no


class Upstream:
    """The providers that there are keys for.

    Args:
        providers: By name.
        catalogue: Which provider makes which model.
        pauses: What is not to be asked for the time being.
        timeout_s: The longest that one call may take.
    """

    def __init__(
        self,
        providers: Mapping[str, ImageProvider],
        catalogue: Catalogue,
        pauses: Pauses,
        *,
        timeout_s: float = 180,
    ) -> None:
        self._providers = providers
        self._pauses = pauses
        self._catalogue = catalogue
        self._timeout_s = timeout_s

    def provider_of(self, model_id: str) -> str:
        """Return the name of the provider that makes a model; `none` if the catalogue knows none."""
        try:
            return self._catalogue.find(model_id).provider
        except UnknownModel:
            return "none"

    async def generate(
        self, attempt: Attempt, turning_to: Callable[[str], Awaitable[None]]
    ) -> tuple[ProviderAnswer, str]:
        """Ask for the job's model, or for the next of its fallbacks where one is gone or away.

        Args:
            attempt: The attempt that is made.
            turning_to: Told of each fallback before it is asked.

        Returns:
            What the provider answered, and the id in the catalogue of the model that was asked.

        Raises:
            TransientError: It is worth another try.
            OutageError: No model can be asked now, but one may come back.
            ServerError: It can't be done.
            UserError: The user's request was refused.
        """
        away: OutageError | None = None
        gone = ModelUnavailable()
        for model_id in (attempt.event.model, *attempt.event.fallback_models):
            if model_id != attempt.event.model:
                await turning_to(model_id)
            try:
                return await self._generate_with(model_id, attempt), model_id
            except ModelUnavailable as error:
                gone = error
            except OutageError as error:
                away = away or error
            _log.warning("a model can't be asked", model=model_id)
        # One that is away comes back; only where all are gone is there nothing to wait for.
        raise away or gone

    async def _generate_with(self, model_id: str, attempt: Attempt) -> ProviderAnswer:
        try:
            model = self._catalogue.find(model_id)
        except UnknownModel as error:
            raise ModelUnavailable from error
        if model.provider not in self._providers:
            # Nothing would come of waiting: a key comes with a new process, and with new jobs.
            raise ModelUnavailable(f"No key for {model.provider} is set.")
        await self._pauses.check(model)
        event = attempt.event
        request = ProviderRequest(
            job_id=event.job_id,
            call_no=attempt.call.call_no,
            attempt=attempt.number,
            user_id=event.user_id,
            model=model,
            prompt=event.prompt,
            params=event.params if model_id == event.model else _same(model, event.params),
            indexes=attempt.call.indexes,
            timeout_s=min(self._timeout_s, max(attempt.left_s, 1.0)),
        )
        return await _ask(self._providers[model.provider], request)


def _same(model: Model, params: ImageParams) -> ImageParams:
    """Return what the job asks for, in the terms of a fallback."""
    try:
        return model.same(params)
    except InvalidRequest as error:  # it could when the job was made; the catalogue has changed
        raise ModelUnavailable from error


async def _ask(provider: ImageProvider, request: ProviderRequest) -> ProviderAnswer:
    """Make one call, measured and traced."""
    model, code = request.model.id, "internal_error"
    attributes: dict[str, str | int] = {
        # Neither prompt nor image: OpenTelemetry's names for those are left out on purpose.
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": provider.name,
        "gen_ai.request.model": model,
        "gen_ai.output.type": "image",
        "gen_ai.request.choice.count": request.n,
        "pixorly.job_id": str(request.job_id),
        "pixorly.attempt": request.attempt,
    }
    with (
        telemetry.span(f"generate_content {model}", "client", attributes) as span,
        IN_FLIGHT.labels(provider.name).track_inprogress(),
        SECONDS.labels(provider.name, model).time(),
    ):
        try:
            # Each provider keeps to the time-out itself; this is for one that does not.
            async with asyncio.timeout(request.timeout_s + _SLACK_S):
                answer = await provider.generate(request)
            code = "ok"
            span.set_attributes(_answer_attributes(answer))
        except TimeoutError as error:
            code = ProviderTimeout.code
            raise ProviderTimeout from error
        except PixorlyError as error:
            code = error.code
            raise
        finally:
            CALLS.labels(provider.name, model, code).inc()
    COST_USD.labels(provider.name, model).inc(float(answer.cost_usd or 0))
    return answer


def _answer_attributes(answer: ProviderAnswer) -> dict[str, str | int | float]:
    """Return OpenTelemetry's attributes of what a provider answered, as far as it said so."""
    tokens = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
    told = {
        f"gen_ai.usage.{name}": int(count)
        for name, theirs in tokens.items()
        if isinstance(count := answer.usage.get(name, answer.usage.get(theirs)), int | float)
    }
    found: dict[str, str | int | float] = {
        "gen_ai.response.model": answer.model,
        "pixorly.provider.images": len(answer.images),
        **told,
    }
    if answer.generation_id:
        found["gen_ai.response.id"] = answer.generation_id
    if answer.cost_usd is not None:
        found["pixorly.provider.cost_usd"] = float(answer.cost_usd)
    return found
