"""What a file really is, and whether it is whole, by its bytes alone.

Nothing here trusts a length that it read: each is held against the file's own size before anything is asked of
the memory, so a hostile file costs a sentence. What comes after the end that an image itself declares (PNG's IEND,
JPEG's EOI, GIF's trailer) is tolerated: every viewer ignores it, the picture is whole and paid for, and fetching it
again would bring the same bytes. WebP and MP4 declare the whole file's length, so there more is as wrong as less.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

from oxenbatch.media.file import Damaged, File, Media
from oxenbatch.media.images import picture, read_bmp, read_gif, read_jpeg, read_png, read_webp
from oxenbatch.media.videos import read_iso
from oxenbatch.media.webm import read_webm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["HEAD", "VIDEOS", "Damaged", "Media", "inspect", "sniff"]

SIGNATURES: Final[tuple[tuple[bytes, Callable[[File], Media]], ...]] = (
    (rb"\x89PNG\r\n\x1a\n", read_png),
    (rb"\xff\xd8\xff", read_jpeg),
    (rb"GIF8[79]a", read_gif),
    (rb"RIFF....WEBP", read_webp),
    (rb"....ftyp", read_iso),
    (rb"\x1a\x45\xdf\xa3", read_webm),
    (rb"BM.{12}[\x0c-\x7c]\0\0\0", read_bmp),  # with its second header's size, as two letters alone would be too little
    (rb"II[*+]\0|MM\0[*+]", lambda _: picture("tiff")),
)


VIDEOS: Final = frozenset(["mp4", "m4v", "mov", "webm"])
HEAD: Final = 64  # bytes: more than any signature; an error page's first tag is in it too


def inspect(path: Path) -> Media:
    """The file's type and measures; `Damaged` where it is empty, an error page, of no known type, or cut short."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(HEAD)
        file.seek(0)
        return _reader_for(head)(File(file, size))


def sniff(head: bytes) -> Literal["image", "video"]:
    """What a file is that begins like this, by 64 bytes of it or all; `Damaged` where it can be neither."""
    return "video" if _reader_for(head) in (read_iso, read_webm) else "image"


def _reader_for(head: bytes) -> Callable[[File], Media]:
    """The function that reads files that begin like this; `Damaged` where none does."""
    if not head:
        raise Damaged("it is empty")
    for pattern, reader in SIGNATURES:
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
