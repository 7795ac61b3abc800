"""docs/performance.md, from what was found."""

from figures import Store


def write(store: Store) -> None:
    """Write the document."""
