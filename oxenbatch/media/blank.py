"""Whether a picture shows anything: one colour from edge to edge is what a failed generation often looks like.

A video is judged by its index: no frame of one colour needs more than a few bytes, and none is decoded.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.media.file import Media

# One colour compresses to next to nothing (0.01 bytes a pixel as a JPEG, less as anything else), so a file with more
# bytes than these is not decoded. The rest allows for what programs write beside the pixels: XMP, C2PA, profiles.
BYTES_PER_PIXEL: Final = 0.05
BYTES_BESIDE: Final = 1 << 16
PIXELS_MAX: Final = 64_000_000  # an 8K picture has 33 million; decoded, these take 250 MB
SPREAD: Final = 8  # of 255: what WebP and JPEG make of one colour stays within 6 at their usual quality


def is_blank(path: Path, media: Media, size: int) -> bool | None:
    """Whether the file, of `size` bytes, is of one colour; None where that cannot be told (no Pillow, say)."""
    if media.kind == "video" or media.plain is False:
        return media.plain
    if not media.width or not media.height:
        return None
    pixels = media.width * media.height
    if size > BYTES_PER_PIXEL * pixels + BYTES_BESIDE:
        return False
    if pixels > PIXELS_MAX:
        return None
    try:
        from PIL import Image, ImageStat  # noqa: PLC0415 - 60 ms, and not everybody has it
    except ImportError:
        return None
    with (
        contextlib.suppress(Exception),
        warnings.catch_warnings(),
    ):  # a stranger's bytes: whatever it raises, we cannot tell
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            image.draft("RGB", (512, 512))  # a JPEG is decoded at an eighth of its size, where that is enough
            see_through = "A" in image.getbands() or "transparency" in image.info
            spans = ImageStat.Stat(image.convert("RGBA" if see_through else "RGB")).extrema
        if see_through and spans[3] == (0, 0):
            return True  # nothing of it is seen, whatever its colours
        return all(high - low <= SPREAD for low, high in spans)
    return None
