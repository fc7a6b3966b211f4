"""The output folder: who works on it, what lies in it, and whether that is what the ledger says."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from filelock import FileLock, Timeout

from oxenbatch.account import LOCK
from oxenbatch.dataset.metadata import NAME as METADATA
from oxenbatch.download import fsync_folder, hash_of
from oxenbatch.errors import MachineError, OxenbatchError, TryAgain, printable
from oxenbatch.ledger import news, reads
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.decisions import Aside
from oxenbatch.names import inside
from oxenbatch.place import network_under
from oxenbatch.shards import LEASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

log = logging.getLogger(__name__)

LEDGER: Final = "ledger.db"
MEDIA: Final = frozenset({".png", ".jpg", ".gif", ".webp", ".mp4", ".webm", ".mov"})


def make_folder(folder: Path) -> list[Path]:
    """The folder is there, durably, and can be written into; which folders were made for it, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:  # a power cut must not take the folder, with the ledger in it, after a POST has landed
            with suppress(PermissionError):
                fsync_folder(path.parent)
        handle, probe = tempfile.mkstemp(prefix=".oxenbatch-", dir=folder)  # a name that nobody can have laid a link at
        os.close(handle)
        Path(probe).unlink()
    except OSError as error:
        why = error.strerror or error
        raise MachineError(f"cannot write into {printable(folder)}: {why}; choose another with -o") from error
    return missing


def warn_of_network(ledger_path: Path) -> None:
    """Whoever keeps the ledger where other machines can reach it is told what that means."""
    if kind := network_under(ledger_path.parent):
        log.warning(
            "%s is on a network file system (%s), where two machines at once could damage the ledger: run this batch"
            " on one machine only, or put the ledger on a local disk with --ledger",
            ledger_path.parent,
            kind,
        )


@contextmanager
def locked(folder: Path, ledger_path: Path) -> Iterator[None]:
    """Nobody else works on this folder meanwhile; `TryAgain` at once, and who it is, where somebody does."""
    # The kernel's own lock: it goes with the process, however that ends, and no child inherits it.
    lock = FileLock(folder / LOCK, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        who = _who_works(folder, ledger_path)
        raise TryAgain(f"another run works on {printable(folder)}{who}") from None
    except OSError as error:
        raise MachineError(f"cannot lock {printable(folder)}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def _who_works(folder: Path, ledger_path: Path) -> str:
    """Who it is, as far as that can be told, and what that means for us."""
    if (lease := folder / LEASE).is_file() or network_under(ledger_path.parent):
        # It may be at work on another machine, and two machines must never have one ledger open.
        with suppress(OSError, ValueError, KeyError, TypeError):
            who = printable(json.loads(lease.read_text(encoding="utf-8"))["holder"], 200)
            return f" ({who}); this one leaves it alone"
        return "; this one leaves it alone"
    leaves = f"; this one leaves it alone (oxenbatch status {printable(folder)} --watch)"
    with suppress(OxenbatchError), Ledger.open(ledger_path) as ledger:
        run = reads.last_run(ledger)
        if run and run["ended_at"] is None:
            since = dt.datetime.fromtimestamp(run["started_at"]).astimezone().isoformat(" ", "seconds")
            return f" (process {run['pid']} on {printable(run['host'])}, since {since}){leaves}"
    return leaves


def move_aside(folder: Path, moves: Iterable[Aside]) -> None:
    """Results that were put aside lie where the ledger is about to say, durably."""
    touched: set[Path] = set()
    for move in moves:
        try:
            was, becomes = inside(folder, move.was), inside(folder, move.becomes)
        except ValueError as error:
            raise MachineError(f"{error}: nothing was moved") from None
        with suppress(FileNotFoundError):
            if not becomes.parent.exists():
                becomes.parent.mkdir()
                touched.add(folder)
            was.rename(becomes)
            touched |= {was.parent, becomes.parent}
    for parent in touched:
        fsync_folder(parent)


def want_lost_again(ledger: Ledger, folder: Path, *, at: float) -> None:
    """What was paid for, and could not be had or is not here as it was, is to be had once more, for nothing."""
    for sample_id in news.unfetchable(ledger):
        news.fetch_again(ledger, sample_id, at=at, note="a new run tries again")
    for sample_id, file in lost_files(ledger, folder):
        # What lies there instead may be somebody's own work: it is kept, and out of the way of what is fetched.
        if os.path.lexists(folder / file):
            with suppress(OSError, MachineError):
                move_aside(folder, [Aside(file, f"set-aside/{sample_id}-{file.replace('/', '-')}")])
        news.fetch_again(ledger, sample_id, at=at, note="its file is gone, or has another size")


def lost_files(ledger: Ledger, folder: Path) -> list[tuple[int, str]]:
    """Samples whose file is gone, or has another size, than when it was put there; and that file's name."""
    lost: list[tuple[int, str]] = []
    home = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for sample_id, file, size in reads.files(ledger):  # a million: paths that are looked up from here take half
            try:
                found = os.lstat(file, dir_fd=home)
            except (OSError, ValueError):
                lost.append((sample_id, file))
                continue
            if found.st_size != size or not stat.S_ISREG(found.st_mode):
                lost.append((sample_id, file))
    finally:
        os.close(home)
    return lost


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not as it was."""

    sample_id: int
    file: str
    what: Literal["missing", "damaged"]


def check_files(ledger: Ledger, folder: Path) -> list[Damage]:
    """Every file of the batch that is gone, or whose bytes are not those that were put there."""
    damage: list[Damage] = []
    for sample_id, file, sha256 in reads.hashes(ledger):
        try:
            path = inside(folder, file)
            # A pipe in its place would be waited for, for ever.
            if not stat.S_ISREG(path.lstat().st_mode) or hash_of(path) != sha256:
                damage.append(Damage(sample_id, file, "damaged"))
        except FileNotFoundError:
            damage.append(Damage(sample_id, file, "missing"))
        except (OSError, ValueError):
            damage.append(Damage(sample_id, file, "damaged"))
    return damage


def refuse_lost_ledger(folder: Path) -> None:
    """`MachineError` where the folder holds results and no ledger: going on would buy them again."""
    if not folder.is_dir():
        return
    names = [path.name for path in folder.iterdir()]
    strays = [name for name in names if name == METADATA or Path(name).suffix.lower() in MEDIA]
    if strays:
        raise MachineError(
            f"{printable(folder)} holds results ({printable(strays[0])}) and no ledger: going on would pay for them"
            f" again. Put {LEDGER} back from a backup; or add --rebuild, which takes over what the hub has made for"
            " this manifest; or choose another folder with -o"
        )
