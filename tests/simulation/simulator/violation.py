"""What is raised where something does not hold."""


class Violation(AssertionError):
    """An invariant does not hold."""


def must(holds: object, what: str) -> None:
    """Raise where an invariant does not hold."""
    if not holds:
        raise Violation(what)
