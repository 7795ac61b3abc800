"""Names without spaces for folders whose names have some, for RabbitMQ's scripts cannot bear them."""

import hashlib
import os
import tempfile
from pathlib import Path

from pixorly_stack.errors import StackError


class Alias:
    """A folder under a name without spaces: its own, or that of a link in the temporary folder while it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        name = f"pixorly-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
        self._needed = any(character.isspace() for character in str(folder))
        self.path = Path(tempfile.gettempdir()) / name if self._needed else folder

    def make(self) -> None:
        """Make the link where one is needed.

        Raises:
            StackError: Its place is taken by something that is not ours.
        """
        if not self._needed:
            return
        try:
            self.path.symlink_to(self._folder)
        except FileExistsError as error:
            # Everybody may write to the temporary folder.
            if (
                not self.path.is_symlink()
                or self.path.lstat().st_uid != os.getuid()
                or self.path.readlink() != self._folder
            ):
                raise StackError(f"{self.path} is in the way; remove it, or use folders without spaces") from error

    def remove(self) -> None:
        """Remove the link."""
        if self._needed:
            self.path.unlink(missing_ok=True)
