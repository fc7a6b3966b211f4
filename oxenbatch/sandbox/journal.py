"""The hub's journal: a JSON line for all that must survive `kill -9`, with the operating system before the answer."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Journal:
    """An append-only file of entries; a last line that was torn by a crash is as if never written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.entries = _read(path)
        """What was written before, oldest first."""
        # A bare descriptor: a killed process loses what is in its own buffers, and this has none.
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, entry: dict[str, Any]) -> None:
        """The entry is with the operating system: it outlives this process, though not a power cut."""
        assert self._descriptor is not None  # noqa: S101  a closed hub must not be asked
        os.write(self._descriptor, json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """The file is closed; nothing more can be written."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        # Tests kill a hub by forgetting it: that is its death, and no leak to warn of.
        if hasattr(self, "_descriptor"):
            self.close()


def _read(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    entries = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entries.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}, line {number}: this is not a line of the stand-in hub's journal") from None
    return entries


def hold(path: Path, *, patience_s: float = 10.0) -> IO[bytes]:
    """The journal is this process's alone while the returned file is open.

    A hub whose parent was killed may have one last request in its socket: its successor waits until it is gone, so
    that it cannot be accepted behind the successor's back. The kernel lets go of the lock however the process ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise TimeoutError(f"{path}: another stand-in hub is still writing this journal") from None
            time.sleep(0.02)
