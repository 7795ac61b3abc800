"""How long an answer takes: fixed, even within a range, or with a long tail."""

import math
from collections.abc import Callable
from random import Random

Latency = Callable[[Random], float]
"""Draws a number of seconds."""


def parse_latency(text: str) -> Latency:
    """Return the latency that `text` describes.

    `2` and `fixed:2` are two seconds, `1-3` and `uniform:1-3` lie evenly between, `lognormal:8,0.4` has the median 8 s
    and a long tail that 0.4 makes longer or shorter.

    Raises:
        ValueError: The text describes none.
    """
    kind, _, rest = text.strip().partition(":") if ":" in text else ("", "", text.strip())
    try:
        if kind == "lognormal":
            median, sigma = (float(part) for part in rest.split(","))
            return _lognormal(median, sigma)
        if kind in {"", "uniform", "fixed"}:
            low, _, high = rest.partition("-")
            return _uniform(float(low), float(high or low))
    except ValueError as error:
        raise ValueError(_refusal(text)) from error
    raise ValueError(_refusal(text))


def _refusal(text: str) -> str:
    return f"{text!r} is no latency: write 2, 1-3 or lognormal:MEDIAN,SIGMA, in seconds"


def _uniform(low: float, high: float) -> Latency:
    if not 0 <= low <= high < math.inf:
        raise ValueError(low, high)
    return lambda chance: chance.uniform(low, high)


def _lognormal(median: float, sigma: float) -> Latency:
    if not (0 < median < math.inf and 0 <= sigma < math.inf):
        raise ValueError(median, sigma)
    return lambda chance: chance.lognormvariate(math.log(median), sigma)
