"""Videos of any length, size and sound, from one clip: its clocks and its stated size are set, its pictures stay.

Players show the pictures stretched over the asked-for seconds; whoever measures the file finds what was asked for.
"""

from __future__ import annotations

import struct
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIP_S: Final = 5.0  # how long the clip is, as it lies in the package
_PARENTS: Final = (b"moov", b"trak", b"mdia", b"edts")


def clip(seconds: float, size: tuple[int, int], *, audio: bool) -> bytes:
    """A whole MP4 that is so long and so large, with a silent sound track or without any."""
    film = bytearray(_clip())
    track = 0
    for name, at in list(_boxes(film, 0, len(film))):
        body = at + 8
        match name:
            case b"trak":
                track = at
            case b"hdlr":
                if film[body + 8 : body + 12] == b"soun" and not audio:
                    film[track + 4 : track + 8] = b"free"  # players skip such a box, and the sound with it
            case b"mvhd":
                _scale(film, body + 16, seconds / CLIP_S)
            case b"elst":
                _scale(film, body + 8, seconds / CLIP_S)
            case b"tkhd":
                _scale(film, body + 20, seconds / CLIP_S)
                if struct.unpack_from(">I", film, body + 76) != (0,):  # the sound's track has no size
                    struct.pack_into(">II", film, body + 76, *(side << 16 for side in size))
            case b"mdhd":
                _scale(film, body + 12, CLIP_S / seconds)  # fewer ticks a second, so each frame lasts longer
    return bytes(film)


def _scale(film: bytearray, at: int, factor: float) -> None:
    (was,) = struct.unpack_from(">I", film, at)
    struct.pack_into(">I", film, at, max(1, round(was * factor)))


def _boxes(film: bytearray, at: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Each box's name and place; what a parent holds follows it."""
    while at < end:
        length, name = struct.unpack_from(">I4s", film, at)
        yield name, at
        if name in _PARENTS:
            yield from _boxes(film, at + 8, at + length)
        at += length


@cache
def _clip() -> bytes:
    return (files(__package__) / "clip.mp4").read_bytes()
