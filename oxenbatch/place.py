"""The output folder as itself: not a link that somebody has put there meanwhile, and on a disk that keeps its word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from oxenbatch.errors import MachineError, printable

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

MOUNTS: Final = Path("/proc/self/mountinfo")
NETWORKS: Final = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "davfs",
     "ncpfs", "sshfs", "rclone", "s3fs", "gcsfuse", "goofys", "mergerfs", "vboxsf", "virtiofs", "prl_fs"]
)  # fmt: skip
"""File systems that others may share: their locks and their shared memory are not known to hold."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, and which one it is."""

    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The folder that is at this path now."""
        found = _stat(path)
        return cls(path, found.st_dev, found.st_ino)

    def check(self) -> None:
        """`MachineError` where another folder, or a link to one, is at the path by now."""
        found = _stat(self.path)
        if (found.st_dev, found.st_ino) != (self.device, self.inode):
            raise MachineError(
                f"{printable(self.path)} is another folder than when this run began: somebody has put it, or a link, in"
                " the place of ours; nothing is written there"
            )


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise MachineError(f"{printable(path)} cannot be used: {error.strerror or error}") from error


def network_under(path: Path, mounts: Iterable[str] | None = None) -> str | None:
    """The kind of network file system that the path is on; None where it is on none, or that cannot be told.

    `mounts` are the lines of Linux's `mountinfo`.
    """
    if mounts is None:
        try:
            mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:
            return None
    found, deepest = "", -1
    whole = path.resolve()
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        # Of two on one point the later one lies on top.
        if whole.is_relative_to(point) and len(point.parts) >= deepest:
            found, deepest = after.split(" ")[0], len(point.parts)
    kind = found.removeprefix("fuse.")
    return kind if kind in NETWORKS else None
