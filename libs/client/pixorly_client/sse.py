"""Server-sent events, put together from the chunks in which they arrive."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of a stream."""

    name: str
    data: str


@dataclass(slots=True)
class EventReader:
    """Puts chunks together to events, and remembers the last id, with which a stream can be taken up again.

    Lines are split as bytes at their ends only: in text, a line separator within a prompt would count as one, too.
    """

    last_event_id: str | None = None
    _rest: bytes = b""
    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def take(self, chunk: bytes) -> list[ServerEvent]:
        """Take a chunk, and return the events that it completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        found = (self._line(line.removesuffix(b"\r").decode(errors="replace")) for line in lines)
        return [event for event in found if event]

    def start_over(self) -> None:
        """Forget half an event: the stream begins anew."""
        self._rest, self._name, self._data = b"", "", []

    def _line(self, line: str) -> ServerEvent | None:
        if line:
            self._note(line)
            return None
        name, data = self._name or "message", self._data
        self._name, self._data = "", []
        return ServerEvent(name, "\n".join(data)) if data else None

    def _note(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self.last_event_id = value
            case _:  # a comment, which keeps the connection alive, or a field that means nothing here
                pass
