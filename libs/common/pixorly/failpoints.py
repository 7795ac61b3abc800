"""Named points at which a process can be told to die, so that tests can kill it in the middle of anything.

`PIXORLY_FAILPOINTS=generator.call.answered=/some/file` kills the generator with SIGKILL the first time that it comes by
that point: when it could make the file, so it also waits for the file's folder. Without the setting, which production
never has, a point costs one look at an empty dict. Names start with the process's name; commas divide several.
"""

import os
import signal
from pathlib import Path

_armed: dict[str, Path] = {}


def arm(service: str, settings: str) -> None:
    """Arm what `settings` names for this service.

    Raises:
        ValueError: It is not a list of `name=file`.
    """
    for part in filter(None, settings.split(",")):
        name, _, file = part.partition("=")
        if not file:
            raise ValueError(f"a failpoint is name=file, not {part!r}")
        owner, _, point = name.strip().partition(".")
        if owner == service:
            _armed[point] = Path(file.strip())


def failpoint(point: str) -> None:
    """Die here, if this point is armed and nobody has died of it yet."""
    if not _armed or point not in _armed:
        return
    try:
        _armed[point].touch(exist_ok=False)
    except (FileExistsError, FileNotFoundError):
        return
    os.kill(os.getpid(), signal.SIGKILL)
