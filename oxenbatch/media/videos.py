"""Videos, walked box by box: MP4 and its relatives."""

from __future__ import annotations

import re
import struct
import sys
from array import array
from dataclasses import dataclass, field
from operator import mul
from typing import TYPE_CHECKING, Final, Literal

from oxenbatch.media.file import Damaged, File, Media
from oxenbatch.media.images import picture

if TYPE_CHECKING:
    from collections.abc import Iterator

# An H.264 key frame of one colour takes 0.00027 bytes a pixel, and its encoder's signature some 700; a red ball on a
# white ground takes twice as much, and any photograph a hundred times. Tiny videos are not told apart by this.
PLAIN_BYTES: Final = 1024
PLAIN_BYTES_A_PIXEL: Final = 0.0003
JUDGED_PIXELS: Final = 100_000
META_BYTES: Final = 1 << 18  # 256 KiB of an AVIF's index: its properties come first, and are some hundred bytes
TABLE_BYTES: Final = 1 << 24  # 16 MiB: four million samples, which is 19 hours at 60 a second


# The major brand decides, else the first compatible one that is here: `mif1` and its like only say "some picture".
_BRANDS: Final = {
    "avif": "avif avis",
    "heic": "heic heix heim heis hevc hevx",
    "mov": "qt__",
    "m4v": "M4V_ M4VH M4VP",
    "mp4": "isom iso2 iso3 iso4 iso5 iso6 iso7 iso8 iso9 mp41 mp42 avc1 hvc1 av01 dash cmfc MSNV f4v_ 3gp4 3gp5 3gp6",
}


def read_iso(f: File) -> Media:
    """Every box, up to the file's end, and every sample inside it; measures from the first track with pictures."""
    film = _Film()
    for name, stop in _boxes(f):
        film.read(f, name, stop)
    return film.media()


def _boxes(f: File) -> Iterator[tuple[bytes, int]]:
    """Each box's name and end; what a container holds simply follows it, so that no nesting can exhaust us."""
    parents = [f.size]
    while f.at < f.size:
        while f.at >= parents[-1]:
            parents.pop()
        start = f.at
        head = f.take(8)
        length, name = int.from_bytes(head[:4]), head[4:]
        if length == 1:  # it has 64 bits, and follows
            length = int.from_bytes(f.take(8))
        stop = start + length if length else f.size
        f.needs(stop)
        if not f.at <= stop <= parents[-1]:
            raise Damaged(f"its box at byte {start} has an impossible length")
        if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"mvex", b"moof", b"traf"):
            parents.append(stop)
            stop = f.at
        yield name, stop
        f.go(stop)


@dataclass(slots=True)
class _Track:
    """What a track says of itself; `scale` is ticks a second."""

    pictures: bool = False
    sound: bool = False
    number: int = 0
    scale: int = 0
    ticks: int = 0
    frames: int = 0
    size: tuple[int, int] = (0, 0)
    each: int = 0
    """Bytes of every sample, where they are all alike."""
    largest: int = 0
    """Bytes of the largest sample; 0 where no table says."""
    pixels: int = 0
    """Of a frame as it is coded, which may be shown larger or smaller."""
    tables: dict[bytes, array[int]] = field(default_factory=dict)
    """`stsz`: bytes of each sample. `stco`: where each chunk of samples begins. `stsc`: triples, from this chunk on
    (1-based), so many samples a chunk, and which description."""

    def plain(self) -> bool | None:
        """Whether all its frames are too small to show anything; None where that cannot be told."""
        if not self.largest or self.pixels < JUDGED_PIXELS:
            return None
        return self.largest <= PLAIN_BYTES + self.pixels * PLAIN_BYTES_A_PIXEL

    def reach(self) -> int:
        """Where the last of its samples ends, 0 while a table is missing; the tables are let go then."""
        if len(self.tables) < 3:
            return 0
        sizes, chunks, runs = (self.tables.pop(name) for name in (b"stsz", b"stco", b"stsc"))
        end = chunk = sample = 0
        for i in range(0, len(runs), 3):
            count, until = runs[i + 1], runs[i + 3] - 1 if i + 3 < len(runs) else len(chunks)
            for begin in chunks[chunk : max(until, 0)]:
                end = max(end, begin + (count * self.each or sum(sizes[sample : sample + count])))
                sample += count
            chunk = max(chunk, until)  # only forwards, or a hostile table would be walked over and over
        return end


@dataclass(slots=True)
class _Film:
    """What is known after the boxes read so far."""

    brands: bytes = b""
    seen: set[bytes] = field(default_factory=set)
    owed: bool = False
    """A fragment's index came, and its pictures have not yet."""
    seconds: float = 0.0
    still: tuple[int, int, int] = (0, 0, 0)
    """Of the largest picture that is no track (a thumbnail and tiles are smaller): area, width and height."""
    tracks: list[_Track] = field(default_factory=list)
    defaults: dict[int, int] = field(default_factory=dict)
    """Ticks of a sample that does not say, by track number; `part` is the track of the fragment being read, and its."""
    part: tuple[_Track, int] = field(default_factory=lambda: (_Track(), 0))

    def read(self, f: File, name: bytes, stop: int) -> None:
        """Take over what one box says; what a short box lacks reads as zero, which these fields take for "not said"."""
        track = self.tracks[-1] if self.tracks else _Track()
        match name:
            case b"ftyp":
                self.brands = self.brands or f.take(min(stop - f.at, 1 << 10))  # a list of a few brands
            case b"moov" | b"moof" | b"mdat" | b"meta":
                self.seen.add(name)
                self.owed = name == b"moof" or (self.owed and name != b"mdat")
                if name == b"meta":
                    self.still = max([self.still, *_extents(f.take(min(stop - f.at, META_BYTES)))])
            case b"mvhd":
                scale, ticks = _clock(_head(f, stop, 32))
                self.seconds = ticks / scale if scale else 0.0
            case b"trak":
                self.tracks.append(_Track())
            case b"mdhd":
                track.scale, _ = _clock(_head(f, stop, 32))
            case b"hdlr":
                handler = _head(f, stop, 12)[8:]
                track.pictures, track.sound = track.pictures or handler == b"vide", track.sound or handler == b"soun"
            case b"tkhd":
                body = _head(f, stop, 96)
                track.number = int.from_bytes(body[20:24] if body[0] else body[12:16])
                a, b, d, wide, high = struct.unpack_from(">2i8xi16xHxxH", body, 52 if body[0] else 40)
                turned = b and a == d == 0  # by a quarter
                track.size = (high, wide) if turned else (wide, high)
            case b"stsd":
                wide, high = struct.unpack_from(">40xHH", _head(f, stop, 44))  # of the first description
                track.pixels = wide * high
            case b"stts":
                table = _words(f, stop, 2 * _count(f, 8))
                track.frames, track.ticks = sum(table[0::2]), sum(map(mul, table[0::2], table[1::2]))
            case b"stsz":
                track.each = _count(f, 8)
                sizes = track.tables[b"stsz"] = _words(f, stop, 0 if track.each else _count(f, 4))
                track.largest = track.each or max(sizes, default=0)
                f.needs(track.reach())
            case b"stsc":
                track.tables[b"stsc"] = _words(f, stop, 3 * _count(f, 8))
                f.needs(track.reach())
            case b"stco" | b"co64":
                track.tables[b"stco"] = _words(f, stop, _count(f, 8), "Q" if name == b"co64" else "I")
                f.needs(track.reach())
            case b"trex":
                number, ticks = struct.unpack(">4xI4xI", _head(f, stop, 16))
                self.defaults[number] = ticks
            case b"tfhd":
                body = _head(f, stop, 24)
                flags, number = struct.unpack_from(">II", body)
                at = 8 + 8 * (flags & 1) + 4 * (flags >> 1 & 1)  # behind two fields that may be there
                ticks = int.from_bytes(body[at : at + 4]) if flags & 8 else self.defaults.get(number, 0)
                self.part = next((track for track in self.tracks if track.number == number), _Track()), ticks
            case b"tfdt":
                body = _head(f, stop, 12)
                self.part[0].ticks = int.from_bytes(body[4:12] if body[0] else body[4:8])  # when the fragment begins
            case b"trun":  # codespell:ignore trun: it is the box's name
                flags, frames = struct.unpack(">II", f.take(8))
                f.go(f.at + 4 * (flags & 1) + 4 * (flags >> 2 & 1))
                columns = (flags >> 8 & 0xF).bit_count()  # ticks, bytes, flags, offset in time: ticks come first
                table = _words(f, stop, frames * columns)
                track, ticks = self.part
                track.frames += frames
                track.ticks += sum(table[0::columns]) if flags & 0x100 else frames * ticks

    def media(self) -> Media:
        """The verdict on the whole file."""
        brands = [
            self.brands[i : i + 4].decode("latin-1").replace(" ", "_") for i in (0, *range(8, len(self.brands), 4))
        ]
        extension = next((ext for brand in brands for ext, known in _BRANDS.items() if brand in known.split()), None)
        if extension is None:
            raise Damaged("it is of no known type (an MP4 of a foreign brand)")
        if extension in ("avif", "heic") and self.seen & {b"meta", b"moov"}:
            return picture(extension, *(self.still[1:] if self.still[0] else ()))
        if self.owed or not {b"moov", b"mdat"} <= self.seen:
            raise Damaged(f"it is cut short: its {'pictures are' if b'moov' in self.seen else 'index is'} not in it")
        track = next((track for track in self.tracks if track.pictures), None)
        if track is None or not track.frames:
            raise Damaged("it is a video without any pictures")
        length = track.ticks / track.scale if track.scale else 0.0
        # The head of a fragmented video does not know how long it became.
        seconds = round(length if b"moof" in self.seen else self.seconds or length, 3)
        fps = round(track.frames / length, 3) if length else 0.0
        width, height = track.size
        sound = any(track.sound for track in self.tracks)
        return Media(
            extension, "video", width or None, height or None, seconds or None, fps or None, sound, track.plain()
        )


def _extents(body: bytes) -> Iterator[tuple[int, int, int]]:
    """(area, width, height) of each still picture that an index of such speaks of."""
    for found in re.finditer(rb"ispe\0{4}(.{4})(.{4})", body, re.DOTALL):
        width, height = int.from_bytes(found[1]), int.from_bytes(found[2])
        yield width * height, width, height


def _head(f: File, stop: int, count: int) -> bytes:
    return f.take(min(stop - f.at, count)).ljust(count, b"\0")


def _count(f: File, width: int) -> int:
    """The number at the end of the next `width` bytes, which begin with what nobody needs."""
    return int.from_bytes(f.take(width)[-4:])


def _clock(body: bytes) -> tuple[int, int]:
    """Ticks a second and ticks in all, 0 where unknown; version 1 has 64-bit times."""
    scale, ticks = (body[20:24], body[24:32]) if body[0] else (body[12:16], body[16:20])
    return int.from_bytes(scale), int.from_bytes(ticks) if ticks.strip(b"\xff") else 0


def _words(f: File, stop: int, count: int, code: Literal["I", "Q"] = "I") -> array[int]:
    """The next `count` numbers of a table; `Damaged` where they are not all in its box."""
    length = count * (8 if code == "Q" else 4)
    if length > min(stop - f.at, TABLE_BYTES):
        raise Damaged("its index is larger than the box that it is in, or than any real video's")
    words = array(code, f.take(length))
    if sys.byteorder == "little":
        words.byteswap()
    return words
