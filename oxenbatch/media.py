"""What a file really is, and whether it is whole, by its bytes alone.

Nothing here trusts a length that it read: each is held against the file's own size before anything is asked of
the memory, so a hostile file costs a sentence. What comes after the end that an image itself declares (PNG's IEND,
JPEG's EOI, GIF's trailer) is tolerated: every viewer ignores it, the picture is whole and paid for, and fetching it
again would bring the same bytes. WebP and MP4 declare the whole file's length, so there more is as wrong as less.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from array import array
from dataclasses import dataclass, field
from operator import mul
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOCK: Final = 1 << 18  # 256 KiB a read: larger ones are no faster, and memory stays flat
READS: Final = 2_000_000  # as many as a GIF of 500 MB needs (255 bytes a block); ends a file of empty parts in seconds
TABLE_BYTES: Final = 1 << 24  # 16 MiB: four million samples, which is 19 hours at 60 a second


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


def inspect(path: Path) -> Media:
    """The file's type and measures; `Damaged` where it is empty, an error page, of no known type, or cut short."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(64)  # more than any signature; an error page's first tag is in it too
        file.seek(0)
        return _reader_for(head)(_File(file, size))


class _File:
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


def _reader_for(head: bytes) -> Callable[[_File], Media]:
    """The function that reads files that begin like this; `Damaged` where none does."""
    if not head:
        raise Damaged("it is empty")
    for pattern, reader in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return reader
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        raise Damaged("it is a web page or an XML message, not an image or video")
    if text.startswith((b"{", b"[", b'"')):
        raise Damaged("it is a JSON message, not an image or video")
    if len(head) < 12:
        raise Damaged(f"it is cut short: no image or video has only {len(head)} bytes")
    raise Damaged(f"it is of no known type (its first bytes are {head[:12].hex(' ')})")


def _image(extension: str, width: int | None = None, height: int | None = None) -> Media:
    if width == 0 or height == 0:
        raise Damaged(f"it says that it is {width}×{height} pixels")
    return Media(extension, "image", width, height)


def _png(f: _File) -> Media:
    """Every chunk's length and checksum, from IHDR through IDAT to IEND."""
    f.go(8)
    width = height = 0
    pixels = False
    while True:
        start = f.at
        head = f.take(8)
        name, end = head[4:], f.at + int.from_bytes(head[:4])
        if not name.isalpha() or (name == b"IHDR") != (start == 8) or (start == 8 and end != f.at + 13):
            raise Damaged(f"it is no PNG chunk that stands at byte {start}")
        f.needs(end + 4)
        body, crc = b"", zlib.crc32(name)
        while f.at < end:
            body = f.take(min(end - f.at, BLOCK))
            crc = zlib.crc32(body, crc)
        if int.from_bytes(f.take(4)) != crc:
            raise Damaged(f"its {name.decode()} chunk at byte {start} does not match its checksum")
        if name == b"IHDR":
            width, height = int.from_bytes(body[:4]), int.from_bytes(body[4:8])
        pixels = pixels or (name == b"IDAT" and end > start + 8)
        if name == b"IEND":
            break
    if not pixels:
        raise Damaged("it is a PNG without any pixels")
    return _image("png", width, height)


# In a scan's data 0xFF 0x00 is a plain 0xFF, D0 to D7 are restarts, and 0xFF may be repeated; all else is a marker.
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def _jpeg(f: _File) -> Media:
    """Every segment and every scan, up to the EOI marker; measures from the frame header (SOF)."""
    f.go(2)
    size: tuple[int, int] | None = None
    scanned = False
    while True:
        start = f.at
        mark = f.take(2)
        while mark == b"\xff\xff":
            mark = mark[:1] + f.take(1)
        code = mark[1]
        if mark[0] != 0xFF or code in (0x00, 0xD8):
            raise Damaged(f"it is no JPEG marker that stands at byte {start}")
        if code == 0xD9:
            break
        if code == 0x01 or 0xD0 <= code <= 0xD7:
            continue  # the markers that stand alone
        length = int.from_bytes(f.take(2))
        end = f.at - 2 + length
        frame = 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)  # those three are tables
        if length < (8 if frame else 2):
            raise Damaged(f"its JPEG segment at byte {start} has an impossible length")
        if frame:
            body = f.take(5)
            size = int.from_bytes(body[3:5]), int.from_bytes(body[1:3])
        f.go(end)
        if code == 0xDA:
            _to_jpeg_marker(f)
            scanned = True
    if size is None or not scanned:
        raise Damaged("it is a JPEG without any pixels")
    return _image("jpg", *size)


def _to_jpeg_marker(f: _File) -> None:
    """Stand at the marker that ends this scan's data."""
    step = 1 << 12  # small at first, then doubling: a file of a million empty scans must not cost 256 KiB for each
    while f.at < f.size:
        start = f.at
        block = f.take(min(step, f.size - start))
        if found := _JPEG_MARKER.search(block):
            return f.go(start + found.start())
        if block.endswith(b"\xff") and f.at < f.size:
            f.go(f.at - 1)  # the other half of it is in the next block
        step = min(step * 2, BLOCK)
    raise Damaged(f"it is cut short: {f.size} bytes, and a JPEG's end marker is not among them")


def _gif(f: _File) -> Media:
    """Every block, up to the trailer."""

    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0  # three bytes a colour

    screen = f.take(13)
    f.go(13 + table(screen[10]))
    frames = 0
    while (kind := f.take(1)) != b";":
        if kind == b",":
            flags = f.take(9)[8]
            f.go(f.at + table(flags) + 1)
            frames += 1
        elif kind == b"!":
            f.take(1)
        else:
            raise Damaged(f"it is no GIF block that stands at byte {f.at - 1}")
        while length := f.take(1)[0]:
            f.go(f.at + length)
    if not frames:
        raise Damaged("it is a GIF without any pixels")
    return _image("gif", int.from_bytes(screen[6:8], "little"), int.from_bytes(screen[8:10], "little"))


def _webp(f: _File) -> Media:
    """Every chunk, up to the length that RIFF declares, which must be the file's; measures from the first chunk."""
    end = 8 + int.from_bytes(f.take(12)[4:8], "little")
    f.needs(end)
    if f.size not in (end, end + end % 2):  # the pad byte of an odd length may or may not be counted
        raise Damaged(f"it is {f.size} bytes, and says that it is {end}")
    size: tuple[int, int] | None = None
    pixels = False
    while f.at < end:
        head = f.take(8)
        name, start = head[:4], f.at
        stop = start + int.from_bytes(head[4:], "little")
        if stop > end:
            raise Damaged(f"its chunk at byte {start - 8} reaches behind its end")
        pixels = pixels or (name in (b"VP8 ", b"VP8L", b"ANMF") and stop > start)
        if size is None:
            body = f.take(min(10, stop - start)).ljust(10, b"\0")
            bits = int.from_bytes(body[1:5], "little")
            if name == b"VP8X":
                size = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
            elif name == b"VP8L" and body[0] == 0x2F:
                size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
            elif name == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
                size = int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:], "little") & 0x3FFF
            else:
                raise Damaged("it is a WebP whose first chunk describes no picture")
        f.go(min(stop + stop % 2, end))
    if size is None or not pixels:
        raise Damaged("it is a WebP without any pixels")
    return _image("webp", *size)


def _bmp(f: _File) -> Media:
    f.needs(int.from_bytes(f.take(6)[2:], "little"))
    return _image("bmp")


def _webm(f: _File) -> Media:
    """A WebM header, then a segment that ends inside the file; a live stream's has no length, and may end anywhere."""
    head = f.take(min(f.size, 1 << 10))  # the header is some 40 bytes
    header, found, _ = head.partition(b"\x18\x53\x80\x67")
    if b"\x42\x82\x84webm" not in header or not found:
        raise Damaged("it is cut short in its first bytes, or another kind of Matroska file than WebM")
    f.go(len(header) + 4)
    first = f.take(1)
    width = 9 - first[0].bit_length()  # the first bit that is set says how many bytes the length has
    unknown = (1 << 7 * width) - 1
    length = int.from_bytes(first + f.take(width - 1)) & unknown
    f.needs(f.at + (1 if length == unknown else length))
    return Media("webm", "video")


# The major brand decides, else the first compatible one that is here: `mif1` and its like only say "some picture".
_BRANDS: Final = {
    "avif": "avif avis",
    "heic": "heic heix heim heis hevc hevx",
    "mov": "qt__",
    "m4v": "M4V_ M4VH M4VP",
    "mp4": "isom iso2 iso3 iso4 iso5 iso6 iso7 iso8 iso9 mp41 mp42 avc1 hvc1 av01 dash cmfc MSNV f4v_ 3gp4 3gp5 3gp6",
}


def _iso(f: _File) -> Media:
    """Every box, up to the file's end, and every sample inside it; measures from the first track with pictures."""
    film = _Film()
    for name, stop in _boxes(f):
        film.read(f, name, stop)
    return film.media()


def _boxes(f: _File) -> Iterator[tuple[bytes, int]]:
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
    number: int = 0
    scale: int = 0
    ticks: int = 0
    frames: int = 0
    size: tuple[int, int] = (0, 0)
    each: int = 0
    """Bytes of every sample, where they are all alike."""
    tables: dict[bytes, array[int]] = field(default_factory=dict)
    """`stsz`: bytes of each sample. `stco`: where each chunk of samples begins. `stsc`: triples, from this chunk on
    (1-based), so many samples a chunk, and which description."""

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
    tracks: list[_Track] = field(default_factory=list)
    defaults: dict[int, int] = field(default_factory=dict)
    """Ticks of a sample that does not say, by track number; `part` is the track of the fragment being read, and its."""
    part: tuple[_Track, int] = field(default_factory=lambda: (_Track(), 0))

    def read(self, f: _File, name: bytes, stop: int) -> None:
        """Take over what one box says; what a short box lacks reads as zero, which these fields take for "not said"."""
        track = self.tracks[-1] if self.tracks else _Track()
        match name:
            case b"ftyp":
                self.brands = self.brands or f.take(min(stop - f.at, 1 << 10))  # a list of a few brands
            case b"moov" | b"moof" | b"mdat" | b"meta":
                self.seen.add(name)
                self.owed = name == b"moof" or (self.owed and name != b"mdat")
            case b"mvhd":
                scale, ticks = _clock(_head(f, stop, 32))
                self.seconds = ticks / scale if scale else 0.0
            case b"trak":
                self.tracks.append(_Track())
            case b"mdhd":
                track.scale, _ = _clock(_head(f, stop, 32))
            case b"hdlr":
                track.pictures = track.pictures or _head(f, stop, 12)[8:] == b"vide"
            case b"tkhd":
                body = _head(f, stop, 96)
                track.number = int.from_bytes(body[20:24] if body[0] else body[12:16])
                a, b, d, wide, high = struct.unpack_from(">2i8xi16xHxxH", body, 52 if body[0] else 40)
                turned = b and a == d == 0  # by a quarter
                track.size = (high, wide) if turned else (wide, high)
            case b"stts":
                table = _words(f, stop, 2 * _count(f, 8))
                track.frames, track.ticks = sum(table[0::2]), sum(map(mul, table[0::2], table[1::2]))
            case b"stsz":
                track.each = _count(f, 8)
                track.tables[b"stsz"] = _words(f, stop, 0 if track.each else _count(f, 4))
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
            return _image(extension)
        if self.owed or not {b"moov", b"mdat"} <= self.seen:
            raise Damaged(f"it is cut short: its {'pictures are' if b'moov' in self.seen else 'index is'} not in it")
        track = next((track for track in self.tracks if track.pictures), None)
        if track is None or not track.frames:
            raise Damaged("it is a video without any pictures")
        length = track.ticks / track.scale if track.scale else 0.0
        # The head of a fragmented video does not know how long it became.
        seconds = round(length if b"moof" in self.seen else self.seconds or length, 3)
        fps = round(track.frames / length, 3) if length else 0.0
        return Media(extension, "video", track.size[0] or None, track.size[1] or None, seconds or None, fps or None)


def _head(f: _File, stop: int, count: int) -> bytes:
    return f.take(min(stop - f.at, count)).ljust(count, b"\0")


def _count(f: _File, width: int) -> int:
    """The number at the end of the next `width` bytes, which begin with what nobody needs."""
    return int.from_bytes(f.take(width)[-4:])


def _clock(body: bytes) -> tuple[int, int]:
    """Ticks a second and ticks in all, 0 where unknown; version 1 has 64-bit times."""
    scale, ticks = (body[20:24], body[24:32]) if body[0] else (body[12:16], body[16:20])
    return int.from_bytes(scale), int.from_bytes(ticks) if ticks.strip(b"\xff") else 0


def _words(f: _File, stop: int, count: int, code: Literal["I", "Q"] = "I") -> array[int]:
    """The next `count` numbers of a table; `Damaged` where they are not all in its box."""
    length = count * (8 if code == "Q" else 4)
    if length > min(stop - f.at, TABLE_BYTES):
        raise Damaged("its index is larger than the box that it is in, or than any real video's")
    words = array(code, f.take(length))
    if sys.byteorder == "little":
        words.byteswap()
    return words


_SIGNATURES: Final[tuple[tuple[bytes, Callable[[_File], Media]], ...]] = (
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"\xff\xd8\xff", _jpeg),
    (rb"GIF8[79]a", _gif),
    (rb"RIFF....WEBP", _webp),
    (rb"....ftyp", _iso),
    (rb"\x1a\x45\xdf\xa3", _webm),
    (rb"BM.{12}[\x0c-\x7c]\0\0\0", _bmp),  # with its second header's size, as two letters alone would be too little
    (rb"II[*+]\0|MM\0[*+]", lambda _: _image("tiff")),
)
