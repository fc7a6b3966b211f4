"""Room on the disk that is kept for the day it is full: what a POST has brought can still be written down then."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = ".reserve"
RESERVE_BYTES: Final = 2 * 1024 * 1024  # the outcomes of a thousand open generations, with room to spare
LEAST_FREE: Final = 32 * 1024 * 1024  # below this nothing more is sent: what is under way must still find room
BYTES_A_RESULT: Final = 8 * 1024 * 1024  # what one generation under way may still bring; a 10 s video in full HD


class Reserve:
    """A file of zeros in the output folder, given up when the disk is full. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._kept = False

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):  # a disk that is full already is found by `is_short`
            self._path.unlink(missing_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                os.write(file, bytes(RESERVE_BYTES))  # written out: a hole would keep no room
                self._kept = True
            finally:
                os.close(file)
        return self

    def __exit__(self, *_: object) -> None:
        self.give_up()

    def give_up(self) -> bool:
        """The room is free; whether there was any."""
        kept, self._kept = self._kept, False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        return kept

    def is_short(self, active: int) -> bool:
        """Whether the disk may not hold what `active` generations under way, and one more, will bring."""
        return shutil.disk_usage(self._folder).free < LEAST_FREE + (active + 1) * BYTES_A_RESULT
