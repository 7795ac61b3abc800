"""Every fault by name, and the tags by which a prompt asks for them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pixorly_emulator.errors import ERRORS
from pixorly_emulator.latency import Latency, parse_latency

CONTENT_FAULTS: Final[dict[str, str]] = {
    "missing": "missing:K   K images too few (1 if left out)",
    "more": "more:K   K images too many",
    "empty": "no images, an empty list",
    "text": "text instead of images",
    "jpeg": "JPEG, whatever was asked for",
    "mediatype": "a media type that is not the bytes'",
    "nomediatype": "no media type",
    "badbase64": "base64 that is none",
    "dataurl": "a data URL where base64 belongs",
    "garbage": "bytes that are no image",
    "truncated": "images cut in half",
    "wrongsize": "images 3 % wider than asked for",
    "svg": "SVG instead of pixels",
    "heavy": "heavy:MB   PNG files of that many megabytes (20 if left out), which decode",
    "url": "url:URL   addresses instead of bytes",
    "nousage": "no usage, so no cost",
    "badusage": "usage of the wrong types",
    "noid": "no X-Generation-Id header",
}
"""A 200 that is billed, but for `empty` and `text`."""

BODY_FAULTS: Final[dict[str, str]] = {
    "200error": "200error:NAME   HTTP 200 with the error NAME in the body (502 if left out)",
    "200choice": "HTTP 200 with the error inside the choice (chat route)",
    "200finish": "HTTP 200 with the finish reason `error` (chat route)",
    "filtered": "HTTP 200 with the finish reason `content_filter` (chat route)",
    "codestring": "codestring:NAME   the error NAME with its code as a string (503 if left out)",
    "notjson": "notjson:STATUS   a body that is no JSON (200 if left out)",
    "html": "html:STATUS   an HTML page (502 if left out)",
    "nothing": "nothing:STATUS   an empty body (502 if left out)",
    "deep": "JSON 100,000 levels deep",
}
"""Not billed."""

WIRE_FAULTS: Final[dict[str, str]] = {
    "timeout": "no answer, until the client goes away",
    "cut": "cut:before, cut:after, cut:body   the connection is cut before the bill (as if left out), after the bill "
    "with no answer, or after the bill in the middle of the answer",
    "drip": "drip:BYTES   the answer comes with so many bytes a second (1 if left out); billed",
    "endless": "an answer that never ends",
    "huge": "huge:MB   a billed answer of that many megabytes (100 if left out)",
    "gzip": "gzip:MB   a gzip bomb of that many megabytes (200 if left out)",
    "headers": "headers:MB   that many megabytes of headers (10 if left out)",
    "redirect": "redirect:URL   a redirect",
}

_TAG: Final = re.compile(r"\[\[(fault|latency):([^\]]{1,400})\]\]")
_SPEC: Final = re.compile(
    r"(?P<name>[a-z0-9]+?)(?::(?P<argument>[^,]*?))?(?P<options>(?:,[a-z-]+=[^,]*?)*)(?:x(?P<times>\d+))?"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, as asked for.

    Attributes:
        name: In one of the tables.
        argument: What stands behind the colon.
        options: `retry-after` and `resets`.
    """

    name: str
    argument: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def number(self, default: int) -> int:
        """Return the argument as a number."""
        return int(self.argument) if self.argument else default

    def __str__(self) -> str:
        options = "".join(f",{name}={value}" for name, value in self.options.items())
        return f"{self.name}{f':{self.argument}' if self.argument else ''}{options}"


@dataclass(frozen=True, slots=True)
class Tag:
    """What a prompt asks for: a fault, so many times, or a latency."""

    fault: Fault | None = None
    latency: Latency | None = None
    times: int | None = None


def parse_fault(text: str) -> tuple[Fault, int | None]:
    """Return the fault that `text` describes, and how many times; None is every time.

    Raises:
        ValueError: There is no such fault.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None or not _known(match["name"]):
        raise ValueError(f"there is no fault {text!r}; see pixorly-emulator --help")
    options = dict(pair.split("=", 1) for pair in match["options"].split(",") if pair)
    fault = Fault(match["name"], match["argument"] or None, options)
    if fault.name not in {"url", "redirect", "cut", "200error", "codestring"}:
        fault.number(0)
    return fault, int(match["times"]) if match["times"] else None


def _known(name: str) -> bool:
    return any(name in table for table in (ERRORS, CONTENT_FAULTS, BODY_FAULTS, WIRE_FAULTS))


def find_tags(prompt: str) -> list[Tag]:
    """Return what the tags in a prompt ask for, in their order.

    Raises:
        ValueError: One of them asks for what there is not.
    """
    tags = []
    for kind, text in _TAG.findall(prompt):
        if kind == "latency":
            tags.append(Tag(latency=parse_latency(text)))
        else:
            fault, times = parse_fault(text)
            tags.append(Tag(fault=fault, times=times))
    return tags


def help_text() -> str:
    """Return every fault with one line on it."""
    parts = ["errors (OpenRouter's body; OpenAI's on its own route), none is billed:"]
    parts += [f"  {name:<14}{shape.about}" for name, shape in ERRORS.items()]
    for title, table in (
        ("an answer that is not what was asked for; billed, but for `empty` and `text`:", CONTENT_FAULTS),
        ("an answer that is no answer; not billed:", BODY_FAULTS),
        ("trouble on the wire:", WIRE_FAULTS),
    ):
        parts += ["", title, *(f"  {name:<14}{about}" for name, about in table.items())]
    return "\n".join(parts)
