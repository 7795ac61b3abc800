"""The sandbox: a provider that paints on this machine. It costs nothing, needs no network and does real work."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Final, Literal

from pixorly.errors import ProviderTimeout
from pixorly_generator.providers import GeneratedImage, ProviderAnswer, ProviderRequest
from pixorly_generator.providers.drawing import Brief, paint

_DETAIL: Final = {"low": 1, "high": 3}


class Sandbox:
    """Paints from model, prompt, seed and index: the same request gives the same bytes.

    Args:
        latency_s: How long a call takes before it paints: a number of seconds, or the least and the most.
        threads: How many pictures are painted at once; as many as there are cores where nothing is said.
    """

    name = "sandbox"

    def __init__(self, *, latency_s: float | tuple[float, float] = 0.0, threads: int | None = None) -> None:
        self._latency_s = latency_s if isinstance(latency_s, tuple) else (latency_s, latency_s)
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="sandbox")

    async def generate(self, request: ProviderRequest) -> ProviderAnswer:
        """Wait as long as a provider would, then paint.

        Raises:
            ProviderTimeout: It took longer than `request.timeout_s`.
        """
        image_format = request.params.output_format or "png"
        try:
            async with asyncio.timeout(request.timeout_s):
                await asyncio.sleep(self._latency_of(request))
                images = [await self._paint(request, index, image_format) for index in request.indexes]
        except TimeoutError as error:
            raise ProviderTimeout from error
        return ProviderAnswer(images=images, provider=self.name, model=request.model.id)

    async def close(self) -> None:
        """Stop painting; what is begun is finished unseen."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _paint(
        self, request: ProviderRequest, index: int, image_format: Literal["png", "jpeg", "webp"]
    ) -> GeneratedImage:
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._pool, paint, _brief(request, index), image_format)
        return GeneratedImage(data=data, content_type=f"image/{image_format}")

    def _latency_of(self, request: ProviderRequest) -> float:
        """Return this call's latency: within the range, and the same if it is tried again."""
        chance = Random(f"{request.job_id}/{request.call_no}")  # noqa: S311 - a waiting time is no secret
        return chance.uniform(*self._latency_s)


def _brief(request: ProviderRequest, index: int) -> Brief:
    params = request.params
    return Brief(
        style="mosaic" if request.model.id.endswith("/mosaic") else "aurora",
        prompt=request.prompt,
        seed=params.seed,
        index=index,
        width=params.width,
        height=params.height,
        detail=_DETAIL.get(params.quality or "", 2),
        transparent=params.background == "transparent",
    )
