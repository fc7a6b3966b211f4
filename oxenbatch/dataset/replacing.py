"""Files that are replaced whole: a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, BinaryIO

from oxenbatch.download import fsync_folder
from oxenbatch.errors import MachineError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def replaced(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """What the block writes is the file at `path`, durably, once the block has ended well; before that, nothing is.

    Never written through a link. `MachineError` where it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, mode), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        fsync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise MachineError(f"cannot write {printable(path)}: {error}") from error
