"""The client for asynchronous code: `AsyncPixorly`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from inspect import isawaitable
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
OnProgress = Callable[[Generation], Awaitable[None] | object]
"""Told of every change of a job; what it returns is awaited where it can be."""


class AsyncPixorly:
    """Talks to Pixorly's API from asynchronous code; use it in an `async with` block, or close it.

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
        transport: httpx.AsyncBaseTransport | None = None,
        trust_env: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._core = Core(base_url, api_key, timeout_s, patience or Patience())
        self._http = httpx.AsyncClient(transport=transport, trust_env=trust_env)
        self._sleep = sleep
        self.images = AsyncImages(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @property
    def patience(self) -> Patience:
        """How often and how long it tries."""
        return self._core.patience

    async def create(
        self,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        wait_s: float | None = None,
        **wishes: Unpack[Wishes],
    ) -> Generation:
        """Create a job, and return it at once, or as it is when it is settled or `wait_s` are over."""
        return await self.ask(calls.create_generation(prompt, wishes, idempotency_key, wait_s))

    async def generate(
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
        return await self.run(generated(call, self.patience, timeout_s), on_progress)

    async def wait(
        self, job_id: str, timeout_s: float = WAIT_TIMEOUT_S, *, on_progress: OnProgress | None = None
    ) -> Generation:
        """Return the job when it is settled, whatever came of it.

        Raises:
            NotSettledYet: The time is up; the job goes on.
        """
        return await self.run(waited(job_id, self.patience, timeout_s), on_progress)

    async def get(self, job_id: str) -> Generation:
        """Return a job."""
        return await self.ask(calls.get_generation(job_id))

    async def list(self, **filters: Unpack[Filters]) -> Page[Generation]:
        """Return a page of the caller's jobs, newest first."""
        return await self.ask(calls.list_generations(filters))

    async def cancel(self, job_id: str) -> Generation:
        """Cancel a job that was not started.

        Raises:
            Conflict: It was.
        """
        return await self.ask(calls.cancel_generation(job_id))

    async def receipt(self, job_id: str) -> Receipt:
        """Return who paid what for a job."""
        return await self.ask(calls.get_receipt(job_id))

    async def timeline(self, job_id: str) -> Timeline:
        """Return what happened to a job, and when."""
        return await self.ask(calls.get_timeline(job_id))

    async def account(self) -> Account:
        """Return the caller's account."""
        return await self.ask(calls.get_account())

    async def usage(self, from_: When | None = None, to: When | None = None, group_by: str | None = None) -> Usage:
        """Return what the caller used, by `day` or by `model`."""
        return await self.ask(calls.get_usage(from_, to, group_by))

    async def transactions(self, **paging: Unpack[Paging]) -> Page[Transaction]:
        """Return a page of the movements of the caller's credits, newest first."""
        return await self.ask(calls.list_transactions(paging))

    async def models(self) -> Sequence[Model]:
        """Return the models on offer."""
        return await self.ask(calls.list_models())

    async def ask(self, call: Call[T]) -> T:
        """Send a call, again where that is safe and may help, and return the answer."""
        return await self.run(answered(call, self.patience))

    async def run(self, flow: Flow[T], on_progress: OnProgress | None = None) -> T:
        """Take the steps of a flow, and return its value."""
        async with _Talk(self._core, self._http, self._sleep, on_progress) as talk:
            with closing(flow):
                return await talk.hold(flow)


class AsyncImages:
    """The caller's images."""

    def __init__(self, client: AsyncPixorly) -> None:
        self._client = client

    async def list(self, **filters: Unpack[ImageFilters]) -> Page[Image]:
        """Return a page of the caller's images, newest first."""
        return await self._client.ask(calls.list_images(filters))

    async def get(self, image_id: str, *, expires_in: int | None = None) -> Image:
        """Return an image, with fresh links that are good for so many seconds."""
        return await self._client.ask(calls.get_image(image_id, expires_in))

    async def change(self, image_id: str, *, visibility: Literal["private", "public"]) -> Image:
        """Make an image public or private; it moves soon after, as its `moving` tells."""
        return await self._client.ask(calls.change_image(image_id, visibility))

    async def delete_many(self, image_ids: Sequence[str]) -> DeletedImages:
        """Delete up to 100 images."""
        return await self._client.ask(calls.delete_images(image_ids))

    async def delete(self, image_id: str) -> None:
        """Delete an image."""
        await self._client.ask(calls.delete_image(image_id))

    async def download(self, image: Image | str, *, thumbnail: int | None = None) -> bytes:
        """Return the bytes of an image, checked, or of its thumbnail with this long side in pixels.

        Raises:
            DamagedDownload: What arrived is not the image.
        """
        return await self._client.run(downloaded(image, self._client.patience, thumbnail))


class _Talk:
    """Takes the steps of one flow; at most one stream is open, and none is left open."""

    def __init__(
        self,
        core: Core,
        http: httpx.AsyncClient,
        sleep: Callable[[float], Awaitable[None]],
        on_progress: OnProgress | None,
    ) -> None:
        self._core = core
        self._http = http
        self._sleep = sleep
        self._on_progress = on_progress
        self._stream = AsyncExitStack()
        self._chunks: AsyncIterator[bytes] = _nothing()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.aclose()

    async def hold(self, flow: Flow[T]) -> T:
        """Take all steps of a flow, and return its value."""
        try:
            step = next(flow)
            while True:
                try:
                    result = await self.take(step)
                except httpx.RequestError as trouble:
                    step = flow.throw(trouble)
                else:
                    step = flow.send(result)
        except StopIteration as end:
            return cast("T", end.value)

    async def take(self, step: Step) -> object:
        """Take a step, and return its result."""
        match step:
            case Send(call, within_s):
                return await self._http.send(self._core.request(call, within_s), follow_redirects=call.is_link)
            case Pause(delay_s):
                await self._sleep(delay_s)
            case Listen(call, silence_s):
                return await self._listen(self._core.stream(call, silence_s))
            case Hear():
                return await anext(self._chunks, None)
            case Tell(job) if self._on_progress is not None:
                told = self._on_progress(job)
                if isawaitable(told):
                    await told
            case _:
                pass
        return None

    async def _listen(self, request: httpx.Request) -> httpx.Response:
        await self._stream.aclose()
        response = await self._http.send(request, stream=True)
        self._stream.push_async_callback(response.aclose)
        if response.is_error:
            await response.aread()
        self._chunks = response.aiter_bytes()
        return response


async def _nothing() -> AsyncIterator[bytes]:
    """Return the chunks of no stream."""
    return
    yield b""
