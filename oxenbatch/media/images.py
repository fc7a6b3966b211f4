"""Images, walked from their first part to their last: PNG, JPEG, GIF, WebP, and BMP by its head."""

from __future__ import annotations

import re
import struct
import zlib
from typing import Final

from oxenbatch.media.file import BLOCK, Damaged, File, Media


def picture(extension: str, width: int | None = None, height: int | None = None, *, plain: bool | None = None) -> Media:
    if width == 0 or height == 0:
        raise Damaged(f"it says that it is {width}×{height} pixels")
    return Media(extension, "image", width, height, plain=plain)


_PLAIN: Final = 1024  # bytes that are no pixels: how they are packed, and where each row begins
_PLAIN_A_PIXEL: Final = 0.05  # bytes: one colour packs into a fifth of that, at 16 bits a channel


def read_png(f: File) -> Media:
    """Every chunk's length and checksum, from IHDR through IDAT to IEND."""
    f.go(8)
    width = height = pixels = 0
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
        pixels += end - start - 8 if name == b"IDAT" else 0  # bytes of them
        if name == b"IEND":
            break
    if not pixels:
        raise Damaged("it is a PNG without any pixels")
    return picture("png", width, height, plain=False if pixels > _PLAIN + _PLAIN_A_PIXEL * width * height else None)


# In a scan's data 0xFF 0x00 is a plain 0xFF, D0 to D7 are restarts, and 0xFF may be repeated; all else is a marker.
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def read_jpeg(f: File) -> Media:
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
    return picture("jpg", *size)


def _to_jpeg_marker(f: File) -> None:
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


def read_gif(f: File) -> Media:
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
    return picture("gif", int.from_bytes(screen[6:8], "little"), int.from_bytes(screen[8:10], "little"))


def read_webp(f: File) -> Media:
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
    return picture("webp", *size)


def read_bmp(f: File) -> Media:
    f.needs(int.from_bytes(f.take(6)[2:], "little"))
    head = f.take(20)[8:]  # behind it: the second header, whose first four bytes are its size
    if int.from_bytes(head[:4], "little") < 40:  # OS/2's, with other columns
        return picture("bmp")
    width, height = struct.unpack("<2i", head[4:])
    return picture("bmp", abs(width), abs(height))  # a negative height: from the top down
