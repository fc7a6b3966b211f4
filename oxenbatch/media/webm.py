"""WebM: known by its head and length, measured by what stands before its first pictures."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from oxenbatch.media.file import Damaged, File, Media

if TYPE_CHECKING:
    from collections.abc import Iterator

SEGMENT: Final = 0x18538067
CLUSTER: Final = 0x1F43B675
TRACK: Final = 0xAE
_PARENTS: Final = (0x1549A966, 0x1654AE6B, TRACK, 0xE0)  # Info, Tracks, one track, its Video
_SCALE, _LENGTH, _KIND, _EACH, _WIDTH, _HEIGHT = 0x2AD7B1, 0x4489, 0x83, 0x23E383, 0xB0, 0xBA
_VIDEO, _AUDIO = 1, 2  # what a track may be


def read_webm(f: File) -> Media:
    """A WebM header, then a segment that ends inside the file; a live stream's has no length, and may end anywhere."""
    head = f.take(min(f.size, 1 << 10))  # the header is some 40 bytes
    header, found, _ = head.partition(SEGMENT.to_bytes(4))
    if b"\x42\x82\x84webm" not in header or not found:
        raise Damaged("it is cut short in its first bytes, or another kind of Matroska file than WebM")
    f.go(len(header) + 4)
    length = _length(f)
    f.needs(f.at + (1 if length is None else length))
    return _measured(f, f.size if length is None else f.at + length)


def _measured(f: File, end: int) -> Media:
    """What the elements before the first pictures say; what none of them says is None."""
    scale, length = 1_000_000, 0.0  # nanoseconds a tick, and ticks
    tracks: list[dict[int, int]] = []
    for name, stop in _elements(f, end):
        if name == TRACK:
            tracks.append({})
        elif name == _SCALE:
            scale = _number(f, stop)
        elif name == _LENGTH:
            length = _real(f.take(min(8, stop - f.at)))
        elif name in (_KIND, _EACH, _WIDTH, _HEIGHT) and tracks:
            tracks[-1][name] = _number(f, stop)
    pictures = next((track for track in tracks if track.get(_KIND) == _VIDEO), {})
    seconds = round(length * scale / 1e9, 3) if 0 < length < 1e15 else 0.0
    each = pictures.get(_EACH, 0)
    sound = any(track.get(_KIND) == _AUDIO for track in tracks) if pictures else None
    return Media("webm", "video", pictures.get(_WIDTH) or None, pictures.get(_HEIGHT) or None, seconds or None,
                 round(1e9 / each, 3) if each else None, sound)  # fmt: skip


def _elements(f: File, end: int) -> Iterator[tuple[int, int]]:
    """Each element's name and end, up to the first pictures; what a parent holds follows it. Nonsense ends them."""
    while f.at < end - 2:
        first = f.take(1)
        width = 9 - first[0].bit_length()
        if width > 4 or f.at + width + 8 > end:
            return
        name = int.from_bytes(first + f.take(width - 1))
        length = _length(f)
        if name == CLUSTER or length is None or f.at + length > end:
            return
        stop = f.at if name in _PARENTS else f.at + length
        yield name, stop
        f.go(stop)


def _length(f: File) -> int | None:
    """How many bytes follow; None where the file does not know."""
    first = f.take(1)
    width = 9 - first[0].bit_length()  # the first bit that is set says how many bytes the length has
    unknown = (1 << 7 * width) - 1
    length = int.from_bytes(first + f.take(width - 1)) & unknown
    return None if length == unknown else length


def _number(f: File, stop: int) -> int:
    return int.from_bytes(f.take(min(8, stop - f.at)))


def _real(body: bytes) -> float:
    kinds = {4: ">f", 8: ">d"}
    return float(struct.unpack(kinds[len(body)], body)[0]) if len(body) in kinds else 0.0
