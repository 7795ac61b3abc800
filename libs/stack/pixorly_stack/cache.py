"""Where downloads that outlive a checkout are kept.

Standard library only: the set-up runs it before anything is installed.
"""

import os
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
"""The folder that holds `libs/`, when the stack runs from a checkout."""


def cache_folder(environment: Mapping[str, str], checkout: Path = CHECKOUT) -> Path:
    """Return the folder for downloads: the user's, or one in the checkout where that cannot be written to."""
    if chosen := environment.get("PIXORLY_CACHE_DIR"):
        return Path(chosen).absolute()
    base = environment.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        home = environment.get("HOME", "")
        base = f"{home}/.cache" if home.startswith("/") and home != "/" else ""
    if base and _can_write(Path(base)):
        return Path(base) / "pixorly"
    return checkout / ".cache"


def _can_write(folder: Path) -> bool:
    """Tell whether this user could make `folder`, or write to it if it is there."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


if __name__ == "__main__":
    print(cache_folder(os.environ))  # noqa: T201, TID251 - the set-up asks, before the settings can be imported
