"""What an export may write over: what an earlier export has written, and nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from oxenbatch.dataset.replacing import replaced
from oxenbatch.errors import MachineError, printable
from oxenbatch.names import inside

if TYPE_CHECKING:
    from pathlib import Path

LIST: Final = ".oxenbatch-export"
"""In the folder of an export: the names of its files, a line each. Readers of data sets skip what begins with a dot."""


def refused(path: Path) -> MachineError:
    """The error that says that somebody's file is in the way."""
    return MachineError(f"{printable(path)} is in the way: no export has made it; move it, or choose another -o")


class OwnedFolder:
    """A folder with the files of one export; those of the one before are replaced, a stranger's stay as they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._list = path / LIST
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._before = set(self._list.read_text("utf-8").splitlines()) if self._list.is_file() else set()
        except (OSError, UnicodeDecodeError) as error:
            raise MachineError(f"cannot write into {printable(path)}: {error}") from error
        self._now: dict[str, None] = {}

    def claim(self, name: str) -> Path:
        """Where the file of that name belongs; `MachineError` where somebody else's is there."""
        try:
            path = inside(self.path, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path) and name not in self._before:
                raise refused(path)
            if name not in self._before:  # before the file: an export that breaks off may be done again
                with self._list.open("a", encoding="utf-8") as file:
                    file.write(f"{name}\n")
        except (OSError, ValueError) as error:
            raise MachineError(f"cannot write into {printable(self.path)}: {error}") from error
        self._before.add(name)
        self._now[name] = None
        return path

    def finish(self) -> None:
        """Files of an earlier export that are no part of this one are gone, and the list is of this one."""
        for name in sorted(self._before - self._now.keys()):
            try:
                inside(self.path, name).unlink(missing_ok=True)
            except (OSError, ValueError) as error:
                raise MachineError(f"cannot remove {printable(name)} of an earlier export: {error}") from error
        with replaced(self._list) as file:
            file.writelines(f"{name}\n".encode() for name in sorted(self._now))
