"""WebDataset: tar files of samples, each a file, its caption and its row; the same ledger gives the same bytes."""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

from oxenbatch.dataset.copying import hashed
from oxenbatch.dataset.replacing import replaced

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oxenbatch.dataset.selection import Entry

SAMPLES_A_SHARD: Final = 10_000  # as img2dataset has it
SHARD_BYTES: Final = 1 << 30
KEY_DIGITS: Final = 9  # a number: names have dots, and may be longer than the 100 bytes that USTAR allows


class _Tar(tarfile.TarFile):
    members: list[tarfile.TarInfo]
    """What has been written; emptied after each, as it would hold millions."""


class Shards:
    """Writes samples into one shard after another. A context manager."""

    def __init__(self, next_path: Callable[[], Path], *, shard_bytes: int | None = SHARD_BYTES) -> None:
        self._next_path = next_path
        self._limit = shard_bytes
        self._stack = ExitStack()
        self._tar: _Tar | None = None
        self._bytes = self._samples = self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tar is None and error[0] is None and self._limit is None:
            self._open()  # one file was asked for, and is there, with nothing in it
        self._stack.__exit__(*error)  # type: ignore[arg-type]  # as it was given to us

    def add(self, entry: Entry) -> None:
        """One sample more; its file is checked against its hash on the way."""
        line = entry.line
        size = line["bytes"] or 0
        if self._tar is None or self._is_full(size):
            self._open()
        key = f"{self._number:0{KEY_DIGITS}d}"
        row = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")
        extension = line["file_name"].rpartition(".")[2]
        with hashed(entry) as file:
            self._put(f"{key}.{extension}", size, file)
        for name, content in (("json", row), ("txt", str(line["prompt"]).encode("utf-8", "backslashreplace"))):
            self._put(f"{key}.{name}", len(content), io.BytesIO(content))
        self._number += 1
        self._samples += 1
        self._bytes += size + len(row)

    def _is_full(self, coming: int) -> bool:
        if self._limit is None or not self._samples:
            return False
        return self._samples >= SAMPLES_A_SHARD or self._bytes + coming > self._limit

    def _open(self) -> None:
        self._stack.close()
        file = self._stack.enter_context(replaced(self._next_path()))
        # tarfile writes through `file`, which becomes the shard once the archive has its end.
        self._tar = self._stack.enter_context(_Tar(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT))
        self._bytes = self._samples = 0

    def _put(self, name: str, size: int, file: Any) -> None:
        assert self._tar is not None  # noqa: S101 - `add` has opened it
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o644, 0
        self._tar.addfile(info, file)
        self._tar.members.clear()


def is_ours(path: Path) -> bool:
    """Whether the tar file is such a shard, which may be replaced."""
    with path.open("rb") as file:
        head = file.read(KEY_DIGITS + 1)
    return not head.strip(b"\0") or (head[:KEY_DIGITS].isdigit() and head[KEY_DIGITS:] == b".")
