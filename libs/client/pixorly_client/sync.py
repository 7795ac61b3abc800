"""The client for code that waits: `Pixorly`."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack, cast

import httpx

from pixorly_client import calls
from pixorly_client.calls import Call, Filters, ImageFilters, Paging, When, Wishes
from pixorly_client.core import ANSWER_TIMEOUT_S, WAIT_TIMEOUT_S, Core
from pixorly_client.downloading import downloaded
from pixorly_client.flows import Flow, Hear, Listen, Pause, Send, Step, Tell, answered
from pixorly_client.models import (
    Account,
    DeletedImages,
    Generation,
    Image,
    Model,
    Page,
    Receipt,
    Timeline,
    Transaction,
    Usage,
)
from pixorly_client.patience import Patience
from pixorly_client.watching import generated, waited

T = TypeVar("T")
OnProgress = Callable[[Generation], object]


class Pixorly:
    """Talks to Pixorly's API, and waits for each answer; use it in a `with` block, or close it.

    Args:
        api_key: The key, `px_live_…`.
        base_url: Where the API is.
        timeout_s: How long an answer may take.
        patience: How often and how long is tried.
        transport: What carries the requests in place of the network.
        trust_env: Whether proxies and certificates that the environment names are used.
        sleep: What waits.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        patience: Patience | None = None,
        transport: httpx.BaseTransport | None = None,
        trust_env: bool = True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._core = Core(base_url, api_key, timeout_s, patience or Patience())
        self._http = httpx.Client(transport=transport, trust_env=trust_env)
        self._sleep = sleep
        self.images = Images(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @property
    def patience(self) -> Patience:
        """How often and how long it tries."""
        return self._core.patience

    def create(
        self,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        wait_s: float | None = None,
        **wishes: Unpack[Wishes],
    ) -> Generation:
        """Create a job, and return it at once, or as it is when it is settled or `wait_s` are over."""
        return self.ask(calls.create_generation(prompt, wishes, idempotency_key, wait_s))

    def generate(
        self,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        on_progress: OnProgress | None = None,
        timeout_s: float = WAIT_TIMEOUT_S,
        **wishes: Unpack[Wishes],
    ) -> Generation:
        """Create a job, tell `on_progress` of every change, and return it completed.

        Raises:
            JobFailed: It was settled without an image.
            NotSettledYet: The time is up; the job goes on.
            PixorlyAPIError: The request was refused.
        """
        call = calls.create_generation(prompt, wishes, idempotency_key)
        return self.run(generated(call, self.patience, timeout_s), on_progress)

    def wait(
        self, job_id: str, timeout_s: float = WAIT_TIMEOUT_S, *, on_progress: OnProgress | None = None
    ) -> Generation:
        """Return the job when it is settled, whatever came of it.

        Raises:
            NotSettledYet: The time is up; the job goes on.
        """
        return self.run(waited(job_id, self.patience, timeout_s), on_progress)

    def get(self, job_id: str) -> Generation:
        """Return a job."""
        return self.ask(calls.get_generation(job_id))

    def list(self, **filters: Unpack[Filters]) -> Page[Generation]:
        """Return a page of the caller's jobs, newest first."""
        return self.ask(calls.list_generations(filters))

    def cancel(self, job_id: str) -> Generation:
        """Cancel a job that was not started.

        Raises:
            Conflict: It was.
        """
        return self.ask(calls.cancel_generation(job_id))

    def receipt(self, job_id: str) -> Receipt:
        """Return who paid what for a job."""
        return self.ask(calls.get_receipt(job_id))

    def timeline(self, job_id: str) -> Timeline:
        """Return what happened to a job, and when."""
        return self.ask(calls.get_timeline(job_id))

    def account(self) -> Account:
        """Return the caller's account."""
        return self.ask(calls.get_account())

    def usage(self, from_: When | None = None, to: When | None = None, group_by: str | None = None) -> Usage:
        """Return what the caller used, by `day` or by `model`."""
        return self.ask(calls.get_usage(from_, to, group_by))

    def transactions(self, **paging: Unpack[Paging]) -> Page[Transaction]:
        """Return a page of the movements of the caller's credits, newest first."""
        return self.ask(calls.list_transactions(paging))

    def models(self) -> Sequence[Model]:
        """Return the models on offer."""
        return self.ask(calls.list_models())

    def ask(self, call: Call[T]) -> T:
        """Send a call, again where that is safe and may help, and return the answer."""
        return self.run(answered(call, self.patience))

    def run(self, flow: Flow[T], on_progress: OnProgress | None = None) -> T:
        """Take the steps of a flow, and return its value."""
        with _Talk(self._core, self._http, self._sleep, on_progress) as talk, closing(flow):
            return talk.hold(flow)


class Images:
    """The caller's images."""

    def __init__(self, client: Pixorly) -> None:
        self._client = client

    def list(self, **filters: Unpack[ImageFilters]) -> Page[Image]:
        """Return a page of the caller's images, newest first."""
        return self._client.ask(calls.list_images(filters))

    def get(self, image_id: str, *, expires_in: int | None = None) -> Image:
        """Return an image, with fresh links that are good for so many seconds."""
        return self._client.ask(calls.get_image(image_id, expires_in))

    def change(self, image_id: str, *, visibility: Literal["private", "public"]) -> Image:
        """Make an image public or private; it moves soon after, as its `moving` tells."""
        return self._client.ask(calls.change_image(image_id, visibility))

    def delete_many(self, image_ids: Sequence[str]) -> DeletedImages:
        """Delete up to 100 images."""
        return self._client.ask(calls.delete_images(image_ids))

    def delete(self, image_id: str) -> None:
        """Delete an image."""
        self._client.ask(calls.delete_image(image_id))

    def download(self, image: Image | str, *, thumbnail: int | None = None) -> bytes:
        """Return the bytes of an image, checked, or of its thumbnail with this long side in pixels.

        Raises:
            DamagedDownload: What arrived is not the image.
        """
        return self._client.run(downloaded(image, self._client.patience, thumbnail))


class _Talk:
    """Takes the steps of one flow; at most one stream is open, and none is left open."""

    def __init__(
        self, core: Core, http: httpx.Client, sleep: Callable[[float], None], on_progress: OnProgress | None
    ) -> None:
        self._core = core
        self._http = http
        self._sleep = sleep
        self._on_progress = on_progress
        self._stream = ExitStack()
        self._chunks: Iterator[bytes] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def hold(self, flow: Flow[T]) -> T:
        """Take all steps of a flow, and return its value."""
        try:
            step = next(flow)
            while True:
                try:
                    result = self.take(step)
                except httpx.RequestError as trouble:
                    step = flow.throw(trouble)
                else:
                    step = flow.send(result)
        except StopIteration as end:
            return cast("T", end.value)

    def take(self, step: Step) -> object:
        """Take a step, and return its result."""
        match step:
            case Send(call, within_s):
                return self._http.send(self._core.request(call, within_s), follow_redirects=call.is_link)
            case Pause(delay_s):
                self._sleep(delay_s)
            case Listen(call, silence_s):
                return self._listen(self._core.stream(call, silence_s))
            case Hear():
                return next(self._chunks, None)
            case Tell(job) if self._on_progress is not None:
                self._on_progress(job)
            case _:
                pass
        return None

    def _listen(self, request: httpx.Request) -> httpx.Response:
        self._stream.close()
        response = self._http.send(request, stream=True)
        self._stream.callback(response.close)
        if response.is_error:
            response.read()
        self._chunks = response.iter_bytes()
        return response
