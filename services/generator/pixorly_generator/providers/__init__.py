"""The seam between Pixorly and whatever makes images: one method, this project's words on both sides.

An adapter is the one file that knows its provider's wire. It makes one call, does not retry, and raises in the words of
`pixorly.errors`; `pixorly.outcomes` says what becomes of them. `docs/providers.md` shows how to write one, and
`tests/contracts/test_providers.py` is what each must pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from pixorly.catalogue import Model
from pixorly.events import ImageParams


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRequest:
    """One call: images for some of a job's slots.

    Attributes:
        job_id: Whose call it is; a provider that groups calls is told so.
        call_no: Which of the job's calls.
        attempt: Which try of this call, from 1.
        user_id: Who asked; it leaves the house as a hash only.
        model: The model of the catalogue that shall make the images.
        prompt: What the images shall show. Never logged.
        params: Size, format, quality and so on.
        indexes: The slots that the call serves, one image each.
        timeout_s: The longest that the whole call may take.
    """

    job_id: UUID
    call_no: int
    attempt: int
    user_id: str
    model: Model
    prompt: str
    params: ImageParams
    indexes: tuple[int, ...]
    timeout_s: float

    @property
    def n(self) -> int:
        """How many images are wanted."""
        return len(self.indexes)

    @property
    def seed(self) -> int | None:
        """The seed of this call: the job's moved on by the first slot, so that two calls of a job differ."""
        return None if self.params.seed is None else self.params.seed + self.indexes[0]


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One image as the provider sent it.

    Attributes:
        data: The encoded image.
        content_type: What the provider called it, if it did. The bytes decide, not this.
        revised_prompt: The prompt that the provider made of ours, where it says so.
    """

    data: bytes
    content_type: str | None = None
    revised_prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderAnswer:
    """What one call brought.

    Attributes:
        images: In the order of the request's `indexes`; fewer than asked for is possible, none or more is not.
        provider: The adapter's name.
        model: The model that made them, as the provider names it.
        cost_usd: What the provider charged us, where it says so.
        generation_id: The provider's own id of the call, where it has one.
        usage: The provider's counts, such as tokens, for the records.
    """

    images: list[GeneratedImage]
    provider: str
    model: str
    cost_usd: Decimal | None = None
    generation_id: str | None = None
    usage: Mapping[str, int | float | str | bool] = field(default_factory=dict)


class ImageProvider(Protocol):
    """Makes images."""

    @property
    def name(self) -> str:
        """The stable name, as the catalogue has it."""
        ...

    async def generate(self, request: ProviderRequest) -> ProviderAnswer:
        """Make the images of one call, within `request.timeout_s`.

        Raises:
            TransientError: It may work in a moment; `retry_after_s` where the provider says when.
            OutageError: Our account there, or the model, is away; nothing was made. `part` is `provider:NAME` for the
                account and `provider:NAME/MODEL` for one model.
            ServerError: The provider can't do it, or sent garbage.
            ContentRejected: The provider's content rules refuse the prompt.

        An error that came after money was spent carries `cost_usd` (a Decimal) and `generation_id` in its `facts`,
        where they are known.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...
