"""Results on their way into a data set: whole, as they were recorded, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from oxenbatch.dataset.replacing import replaced
from oxenbatch.errors import MachineError, printable
from oxenbatch.names import inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxenbatch.dataset.selection import Entry


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self.digest.update(data)
        return data


@contextmanager
def hashed(entry: Entry) -> Iterator[_Hashing]:
    """The result's bytes, to be read to their end; `MachineError` where they are not those that were recorded."""
    path = _path(entry)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != entry.line["bytes"]:
                raise _changed(path)
            hashing = _Hashing(file)
            yield hashing
            if hashing.digest.hexdigest() != entry.line["sha256"]:
                raise _changed(path)
    except FileNotFoundError:
        raise MachineError(f"{printable(path)} is gone: `oxenbatch verify --repair` fetches it again") from None


def _path(entry: Entry) -> Path:
    """Where the result is; `MachineError` where the ledger (a stranger's, say) names a place outside its folder."""
    try:
        return inside(Path(entry.folder), entry.file or "")
    except ValueError as error:
        raise MachineError(str(error)) from error


def _changed(path: Path) -> MachineError:
    return MachineError(f"{printable(path)} is not as it was: `oxenbatch verify --repair` fetches it again")


def bring(entry: Entry, to: Path, *, link: bool) -> None:
    """The result lies at `to` as well: a copy, or with `link` the same file under another name, where that goes."""
    source = _path(entry)
    if link:
        try:
            to.unlink(missing_ok=True)
            os.link(source, to)
            return
        except FileNotFoundError:
            raise MachineError(f"{printable(source)} is gone: `oxenbatch verify --repair` fetches it again") from None
        except OSError:
            pass  # another file system, or one without links: a copy does it too
    with replaced(to) as file, hashed(entry) as hashing:
        shutil.copyfileobj(hashing, file, 1 << 20)
