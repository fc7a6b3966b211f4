"""A file of bytes that nobody vouches for, and what a whole one turns out to be."""

from __future__ import annotations

from typing import BinaryIO, Final, Literal, NamedTuple

BLOCK: Final = 1 << 18  # 256 KiB a read: larger ones are no faster, and memory stays flat
READS: Final = 2_000_000  # as many as a GIF of 500 MB needs (255 bytes a block); ends a file of empty parts in seconds


class Damaged(ValueError):
    """The file is not a whole image or video of a known type; the message is a sentence that says why."""


class Media(NamedTuple):
    """What a whole file is; None where its format does not say, or is only recognised."""

    extension: str
    """Without the dot: png jpg gif webp bmp tiff avif heic mp4 m4v mov webm."""
    kind: Literal["image", "video"]
    width: int | None = None
    """Pixels, as shown: a video's rotation is applied."""
    height: int | None = None
    seconds: float | None = None
    """Of a video, to the millisecond."""
    fps: float | None = None
    """Mean frames a second, to three places, so that 24000/1001 is the 23.976 that people know."""
    audio: bool | None = None
    """Whether a video has a sound track; a silent one counts."""
    plain: bool | None = None
    """Whether no frame of a video has the bytes that it takes to show more than one colour; False of a PNG that has."""


class File:
    """A file of known size with a place in it; to ask for a byte behind the end is `Damaged`."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.at, self.size, self._file, self._reads = 0, size, file, 0

    def needs(self, end: int) -> None:
        if end > self.size:
            raise Damaged(f"it is cut short: {self.size} bytes, where at least {end} belong")

    def go(self, at: int) -> None:
        self.needs(at)
        self._file.seek(at)
        self.at = at

    def take(self, count: int) -> bytes:
        """The next `count` bytes, all of them; callers bound `count` where it comes from the file."""
        self.needs(self.at + count)
        self._reads += 1
        if self._reads > READS:
            raise Damaged(f"it has more parts than any real file ({READS})")
        data = self._file.read(count)
        if len(data) < count:
            raise Damaged("it became shorter while it was read")
        self.at += count
        return data
