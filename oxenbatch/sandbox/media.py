"""The result files: real ones, and each generation's bytes its own, so that a swapped file is seen.

Three words in a prompt let a user rehearse results that are not what they should be: `[blank]` is an image of one
colour, `[twin]` has the same bytes each time, and `[wrong size]` has other proportions, or half the length.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import textwrap
import zlib
from colorsys import hls_to_rgb
from dataclasses import replace
from functools import cache, lru_cache
from io import BytesIO
from random import Random
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from .clips import clip
from .models import CATALOGUE
from .parameters import defaults, seconds

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from .clockwork import Generation

LONGEST_SIDE: Final = 448  # pixels: enough to read the prompt, small enough for 1,600 of them in seconds
LEAST_SIDE: Final = 96  # the words need some room
LARGEST_SIDE: Final = 4096  # as large as any model makes them
_MARGIN: Final = 20
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_OURS: Final = UUID("6f78656e-6261-5463-8873-616e64626f78")  # names the kind of our box in an MP4 file


@lru_cache(maxsize=64)  # a download that was cut is asked for again soon
def render(generation: Generation) -> tuple[str, bytes]:
    """The generation's file: its media type and its bytes, the same every time."""
    prompt = prompt_of(generation.parameters)
    if "[twin]" in prompt:
        generation = replace(generation, id="0" * 36)
    if "[wrong size]" in prompt:
        wrong = {"aspect_ratio": "5:2", "duration": float(seconds(generation.parameters)) / 2}
        generation = replace(generation, parameters={"prompt": prompt} | wrong)
    if generation.media_type == "video":
        return "video/mp4", _video(generation)
    return "image/png", _image(generation)


def filled(generation: Generation, size: int) -> tuple[str, bytes]:
    """A file of at least `size` bytes: the clip and a part nobody looks at, or a picture of noise: none is blank."""
    if generation.media_type == "video":
        body = _video(generation)
        rest = max(0, size - len(body) - 8)
        return "video/mp4", b"".join((body, struct.pack(">I4s", 8 + rest, b"free"), _noise(rest)))
    body = _noisy(size) + _chunk(b"tEXt", b"Comment\0" + json.dumps(_about(generation)).encode())
    return "image/png", b"".join((body, _chunk(b"oxNb", _noise(max(0, size - len(body) - 24))), _chunk(b"IEND", b"")))


@lru_cache(maxsize=2)
def _noisy(size: int) -> bytes:
    """A PNG without its end, nearly so large: what fills it up is noise that it shows, as real pictures have it."""
    width = 1023  # with the byte that begins each row of a PNG, 1,024
    height = max(1, (size - 4096) // (width + 1))
    rows = _noise(width * height)
    pixels = b"".join(b"\0" + rows[at : at + width] for at in range(0, len(rows), width))
    shape = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", shape) + _chunk(b"IDAT", zlib.compress(pixels, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))


def _noise(size: int) -> bytes:
    """Bytes that nothing on their way can make fewer of."""
    return (_block() * (size // len(_block()) + 1))[:size]


@cache
def _block() -> bytes:
    return Random(0).randbytes(1 << 20)  # noqa: S311  nothing secret hangs on it


def _about(generation: Generation) -> dict[str, Any]:
    return {
        "generation_id": generation.id,
        "model": generation.model,
        "prompt": prompt_of(generation.parameters),
        "seed": generation.parameters.get("seed"),
    }


def prompt_of(parameters: dict[str, Any]) -> str:
    """The prompt, or the parts of a `multi_prompt` in a row."""
    parts = parameters.get("multi_prompt")
    if isinstance(parts, list):
        return " / ".join(str(part.get("prompt")) for part in parts if isinstance(part, dict))
    return str(parameters.get("prompt", ""))


def _video(generation: Generation) -> bytes:
    """The clip as it was asked for, and behind it a box of its own that players skip."""
    asked = (defaults(model) if (model := CATALOGUE.get(generation.model)) else {}) | generation.parameters
    film = clip(max(0.1, float(seconds(asked))), _video_size(asked), audio=asked.get("generate_audio") is True)
    payload = _OURS.bytes + json.dumps(_about(generation)).encode()
    return film + struct.pack(">I4s", 8 + len(payload), b"uuid") + payload


def _video_size(asked: dict[str, Any]) -> tuple[int, int]:
    """Width and height in pixels: the asked-for proportions, and 720 lines where no other number is asked for."""
    width, height = _proportions(asked) if "aspect_ratio" in asked else (16.0, 9.0)
    lines = str(asked.get("resolution", "")).removesuffix("p")
    scale = (int(lines) if re.fullmatch("[0-9]{3,4}", lines) else 720) / min(width, height)
    return min(LARGEST_SIDE, round(width * scale)), min(LARGEST_SIDE, round(height * scale))


def _image(generation: Generation) -> bytes:
    """A PNG that shows what it was asked for: the prompt, the model and the seed, on a ground of its own colour."""
    from PIL import Image, ImageDraw  # noqa: PLC0415  a hub that only answers JSON does without
    from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415

    about = _about(generation)
    width, height = size_of(generation.parameters)
    full = _full_size(generation.parameters) or (width, height)
    # Text is drawn as shades of grey, and a palette makes ground and ink of them: half the work of drawing in colour.
    image = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(image)
    small, large = _font(13), _font(19)
    seed = "" if about["seed"] is None else f"seed {about['seed']} · "
    draw.text((_MARGIN, height - 46), generation.model, font=small, fill=190)
    draw.text((_MARGIN, height - 28), f"{seed}{generation.id[:8]}", font=small, fill=190)
    columns = max(8, (width - 2 * _MARGIN) // 10)  # a letter is some ten pixels wide
    for number, line in enumerate(textwrap.wrap(_drawable(about["prompt"]), columns)):
        top = _MARGIN + 25 * number
        if top > height - 75:
            break
        draw.text((_MARGIN, top), line, font=large, fill=255)
    if "[blank]" in about["prompt"]:
        image = Image.new("L", image.size, 0)
    if full != image.size:
        image = image.resize(full, Image.Resampling.NEAREST)
    image.putpalette(_ramp(generation.id))
    words = PngInfo()
    for name, value in about.items():
        words.add_itxt(name, _drawable(str(value)))
    out = BytesIO()
    image.save(out, "PNG", compress_level=1, pnginfo=words)
    return out.getvalue()


def _drawable(text: str) -> str:
    """The text without what cannot be encoded or drawn."""
    return "".join(c if c.isprintable() else " " for c in text[:600])


@cache
def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont  # noqa: PLC0415  as above

    return ImageFont.load_default(size)


def _ramp(generation_id: str) -> list[int]:
    """256 colours from a dark ground, which is the generation's own, to white ink."""
    drawn = hashlib.sha256(generation_id.encode()).digest()
    ground = hls_to_rgb(drawn[0] / 255, 0.22 + drawn[1] / 2550, 0.45)
    return [round(255 * (dark + (1 - dark) * shade / 255)) for shade in range(256) for dark in ground]


def size_of(parameters: dict[str, Any]) -> tuple[int, int]:
    """Width and height in pixels of what is drawn: the asked-for proportions, at a moderate size."""
    width, height = _proportions(parameters)
    scale = LONGEST_SIDE / max(width, height)
    return max(LEAST_SIDE, round(width * scale)), max(LEAST_SIDE, round(height * scale))


def _full_size(parameters: dict[str, Any]) -> tuple[int, int] | None:
    """The size in pixels that was asked for, in any of its three ways; None where none was."""
    width, height = _proportions(parameters)
    found = re.fullmatch("([1-4])[Kk]", str(parameters.get("resolution") or parameters.get("size")))
    if found:
        scale = int(found[1]) * 1024 / max(width, height)
        width, height = width * scale, height * scale
    sides = max(LEAST_SIDE, round(width)), max(LEAST_SIDE, round(height))
    # Smaller numbers are proportions, as 16:9 is; larger ones no model makes.
    return sides if max(width, height) > 64 and max(sides) <= LARGEST_SIDE else None


def _proportions(parameters: dict[str, Any]) -> tuple[float, float]:
    asked: list[tuple[Any, Any]] = [(parameters.get("width"), parameters.get("height"))]
    for name, between in (("aspect_ratio", ":"), ("size", "x")):
        left, _, right = str(parameters.get(name)).partition(between)
        asked.append((left, right))
    for pair in asked:
        try:
            width, height = float(pair[0]), float(pair[1])
        except (TypeError, ValueError, OverflowError):
            continue
        if 0 < width < 1e6 and 0 < height < 1e6:
            return width, height
    return 1.0, 1.0
