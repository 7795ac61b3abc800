"""Who goes first where several processes share a machine."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_AUTOGROUP: Final = Path("/proc/self/autogroup")


def give_way(niceness: int) -> None:
    """Let other processes go before this one, as far as the system knows of such a thing."""
    if hasattr(os, "nice"):
        os.nice(niceness)
    # Linux may weigh whole sessions against each other, and niceness only within one.
    with suppress(OSError):
        _AUTOGROUP.write_text(str(os.nice(0)))
