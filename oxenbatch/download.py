"""A paid result becomes a file on disk: whole, checked and in its place, or not there at all.

The order: `.part`, created anew and never through a link; every byte hashed as it is written; fsync; length, type and
structure checked; rename; fsync of the folder. Only then may the ledger say that it is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from oxenbatch.errors import MachineError, printable
from oxenbatch.hub import FileAnswer, FileTrouble, Hub
from oxenbatch.ledger.news import Fetch, Kept
from oxenbatch.media import HEAD, Damaged, inspect, sniff
from oxenbatch.media.blank import is_blank
from oxenbatch.names import inside
from oxenbatch.place import Place
from oxenbatch.reserve import LEAST_FREE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oxenbatch.clock import Clock

SIZE_MAX: Final = 8 * 1024**3  # bytes; an hour of 4K video is smaller
PICTURE_MAX: Final = 1024**3  # bytes; a picture of a gigapixel is smaller
ROOM_EVERY: Final = 64 * 1024**2  # bytes, after each of which the disk is asked for room: whoever sends for ever is met
LEAST_RATE: Final = 2048  # bytes a second over a whole minute: slower is stalled, and another try is better
RATE_WINDOW_S: Final = 60.0
DEADLINE_S: Final = 3600.0
MEDIA_TYPES: Final = {"jpg": "image/jpeg", "mov": "video/quicktime", "m4v": "video/x-m4v"}

R = TypeVar("R")


class Blocking:
    """Runs what waits for the disk beside the event loop."""

    async def do(self, function: Callable[..., R], *args: object) -> R:
        """What the function returns."""
        return await asyncio.to_thread(function, *args)


@dataclass(slots=True)
class Part:
    """A file that has arrived in part, in this run: its rest is asked for, where the hub has marked its bytes."""

    etag: str | None = None
    size: int = 0
    inode: tuple[int, int] = (0, 0)
    """Which file it is: what lies at its name by now may be a link to somebody's work."""
    most: int = SIZE_MAX
    """How many bytes a file that begins like this has, at most."""


class Downloads:
    """Fetches files into one output folder; remembers between tries what has arrived."""

    def __init__(self, hub: Hub, folder: Path, clock: Clock, blocking: Blocking) -> None:
        self.hub = hub
        self.folder = folder
        self.place = Place.of(folder)
        self.clock = clock
        self.blocking = blocking
        self._parts: dict[str, Part] = {}

    async def fetch(self, fetch: Fetch, url: str) -> Kept:
        """The generation's file is in its place, fsynced, checked and hashed.

        Raises `AddressExpired` (ask for a fresh one), `AddressRefused`, `FileTrouble` (another try may help), and
        `MachineError` where this machine cannot hold it or a foreign file is in the way.
        """
        path = self._part_path(fetch.name)
        known = self._parts.pop(fetch.generation_id, Part())
        part = Part()
        digest = hashlib.sha256()
        async with self.hub.open_file(url, offset=known.size if known.etag else 0, etag=known.etag) as answer:
            self.place.check()  # the answer may have been long in coming
            file = _open_part(path, known.inode if answer.offset else None)
            try:
                if answer.offset:
                    await self.blocking.do(_rehash, file, digest, answer.offset)
                part = Part(answer.etag, answer.offset, _which(os.fstat(file)))
                await self._receive(answer, file, digest, part)
                return await self.blocking.do(self._finish, file, path, fetch, digest.hexdigest(), part.size)
            except TooLarge:
                with suppress(OSError):
                    path.unlink()  # nothing of it will ever be of use
                raise
            except FileTrouble:
                if part.etag and part.size and path.exists():
                    self._parts[fetch.generation_id] = part
                raise
            except OSError as error:
                raise MachineError(f"cannot write {printable(path)}: {error}") from error
            finally:
                os.close(file)

    async def _receive(self, answer: FileAnswer, file: int, digest: hashlib._Hash, part: Part) -> None:
        """Every byte that was announced is in the part and in the digest."""
        begun = window = self.clock.monotonic()
        in_window = 0
        head = b"" if not part.size else None
        asked_at = part.size
        _refuse_more(part.size + (answer.length or 0), SIZE_MAX)
        async for chunk in answer.chunks:
            _write_all(file, chunk)
            digest.update(chunk)
            part.size += len(chunk)
            in_window += len(chunk)
            if head is not None and len(head := head + chunk[:HEAD]) >= HEAD:
                part.most = _most_of(head)
                head = None
            _refuse_more(part.size, min(part.most, SIZE_MAX))
            if part.size - asked_at >= ROOM_EVERY:
                asked_at = part.size
                self._refuse_full_disk()
            now = self.clock.monotonic()
            if now - begun > DEADLINE_S:
                raise FileTrouble(f"the file did not arrive within {DEADLINE_S:.0f} s")
            if now - window > RATE_WINDOW_S:
                if in_window < LEAST_RATE * RATE_WINDOW_S:
                    raise FileTrouble(f"slower than {LEAST_RATE} bytes a second")
                window, in_window = now, 0
        if answer.length is not None and part.size != answer.offset + answer.length:
            raise FileTrouble(f"{part.size} of {answer.offset + answer.length} bytes arrived")

    def _refuse_full_disk(self) -> None:
        if shutil.disk_usage(self.folder).free < LEAST_FREE:
            raise MachineError(f"the disk of {printable(self.folder)} is nearly full")

    def _part_path(self, name: str) -> Path:
        self.place.check()
        try:
            return inside(self.folder, name + ".part")
        except ValueError as error:
            raise MachineError(f"cannot write into {printable(self.folder)}: {error}") from error

    def _finish(self, file: int, path: Path, fetch: Fetch, sha256: str, size: int) -> Kept:
        """The part is durable, sound, and under its final name."""
        os.fsync(file)
        self.place.check()
        if _which(os.lstat(path)) != _which(os.fstat(file)):
            raise FileTrouble("another file was put in the place of what had arrived")
        try:
            media = inspect(path)
            blank = is_blank(path, media, size)
        except Damaged as error:
            path.unlink()
            raise FileTrouble(str(error)) from None
        name = f"{fetch.name}.{media.extension}"
        try:
            final = inside(self.folder, name)
        except ValueError as error:
            raise MachineError(f"{error}: it is not ours; move it elsewhere, and run again") from None
        if os.path.lexists(final) and not _same_file(final, sha256):
            raise MachineError(f"{printable(final)} is in the way: it is not ours; move it elsewhere, and run again")
        path.rename(final)
        fsync_folder(final.parent)
        media_type = MEDIA_TYPES.get(media.extension, f"{media.kind}/{media.extension}")
        measures = (media.width, media.height, media.seconds, media.fps, media.audio)
        return Kept(name, sha256, size, media_type, *measures, blank)


class TooLarge(FileTrouble):
    """The file is larger than any that we keep."""


def _refuse_more(size: int, most: int) -> None:
    if size > most:
        raise TooLarge(f"the file is larger than {most} bytes")


def _most_of(head: bytes) -> int:
    """How many bytes a file may have that begins like this; `FileTrouble` at once where it is no picture or video."""
    try:
        return PICTURE_MAX if sniff(head) == "image" else SIZE_MAX
    except Damaged as error:
        raise TooLarge(str(error)) from None


def _which(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _open_part(path: Path, known: tuple[int, int] | None) -> int:
    """The part, made anew, or the one that is known, and nothing else that lies at its name."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if known is not None:
            file = os.open(path, flags | os.O_APPEND | os.O_NONBLOCK)
            found = os.fstat(file)
            if _which(found) == known and found.st_nlink == 1:
                return file
            os.close(file)
            raise FileTrouble("another file was put in the place of what had arrived")
        anew = flags | os.O_CREAT | os.O_EXCL
        try:
            return os.open(path, anew, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            path.unlink(missing_ok=True)
        return os.open(path, anew, 0o666)
    except OSError as error:
        raise MachineError(f"cannot write {printable(path)}: {error}") from error


def _rehash(file: int, digest: hashlib._Hash, size: int) -> None:
    """The digest holds the first `size` bytes of the part, and the part no more than those."""
    os.ftruncate(file, size)
    os.lseek(file, 0, os.SEEK_SET)
    while chunk := os.read(file, 1 << 20):
        digest.update(chunk)


def _write_all(file: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(file, view) :]


def _same_file(path: Path, sha256: str) -> bool:
    """Whether the file is the one that a killed run had put there before it could say so."""
    if path.is_symlink() or not path.is_file():
        return False
    return hash_of(path) == sha256


def hash_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """The folder's names are durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
