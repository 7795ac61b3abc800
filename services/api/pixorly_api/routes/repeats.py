"""Whether a request without a key is one that OpenAI's client sends again, as it does after a time-out.

The client says with `x-stainless-retry-count` how often it has sent a request before, and sends nothing else that tells
one wish from another. So a repeat is known; but its original may have been held up on the way, and arrive after it with
a count of 0, as an honest second wish for the same images does. One thing tells them apart: whoever repeats a request
has hung up on the original before. So a request that its client has hung up on counts as sent more than once.
"""

import asyncio
from contextlib import suppress
from typing import Final

from fastapi import Request

from pixorly_api.creation import Order
from pixorly_api.parts import Parts

_TOGETHER_S: Final = 0.005
"""How long it takes to see the end of a connection that arrived with the request."""
_BEHIND_S: Final = 0.05
"""How much later than a request the end of its connection may arrive, which its client sent before the repeat."""


async def repeats(parts: Parts, request: Request, order: Order, retry_count: str | None) -> bool:
    """Tell whether OpenAI's client has sent an order more than once, this one not necessarily the last."""
    if order.key is not None or retry_count is None:
        return False
    if retry_count != "0":
        return True
    if await _hung_up(request, _TOGETHER_S):
        return True
    return await parts.creation.knows(order) and await _hung_up(request, _BEHIND_S)


async def _hung_up(request: Request, within_s: float) -> bool:
    """Tell whether nobody waits for the answer any more, or so in a moment."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return True
    return False
