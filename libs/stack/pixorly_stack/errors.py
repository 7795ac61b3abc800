"""What can go wrong with the local stack, in words for the person who started it."""


class StackError(Exception):
    """The local stack cannot go on.

    ├── PartMissingError   a part cannot be had on this machine: the message says what to do
    └── StartError         a part was started and did not become ready
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class PartMissingError(StackError):
    """A part cannot be had on this machine."""

    def __init__(self, part: str, reason: str, advice: tuple[str, ...]) -> None:
        self.part = part
        self.reason = reason
        self.advice = advice
        ways = "\n".join(f"  - {way}" for way in advice)
        super().__init__(f"{part} cannot be had here: {reason}\nAny one of these helps:\n{ways}")


class StartError(StackError):
    """A process of the stack was started and did not become ready."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"{name} did not become ready: {reason}")
