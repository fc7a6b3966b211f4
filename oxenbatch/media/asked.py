"""What a request asked for, held against what the file is. Pure.

Only what was sent is judged, and only where it can be read: a model's own defaults are its own business. The hub names
things in several ways (`duration` and `seconds`, `size` and `resolution`), so each way has its entry in `JUDGES`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oxenbatch.media.file import Media

RATIO_TOLERANCE: Final = (
    0.05  # models round to multiples of 8 to 64 pixels: 21:9 comes as 1536×640; 4:3 and 5:4 differ by 6 %
)
SECONDS_TOLERANCE: Final = 0.5  # Kling's five seconds are 5.04, Hailuo's six are 5.88
LINES_TOLERANCE: Final = 0.1  # 480p comes as 832×480, 4K as 3840 and as 4096 wide
AREA_TOLERANCE: Final = 0.35  # a square "720p" is 960×960: as many pixels, other lines
_EXTENSIONS: Final = {"jpeg": "jpg"}


class Mismatch(NamedTuple):
    """One thing that is not as it was asked for."""

    field: str
    """The parameter's name."""
    asked: Any
    """Its value, as it was sent."""
    got: str
    """What the file is, for people: `5 s`, `1024×1024`, `no sound`."""


def mismatches(parameters: Mapping[str, Any], media: Media) -> list[Mismatch]:
    """Everything that the file is not, although it was asked for, in the parameters' order."""
    found = []
    for field, asked in parameters.items():
        judge = JUDGES.get(field)
        got = judge(asked, media) if judge and asked is not None else None
        if got is not None:
            found.append(Mismatch(field, asked, got))
    return found


def _ratio(asked: Any, media: Media) -> str | None:
    sides = re.fullmatch(r"\s*(\d{1,5}(?:\.\d+)?)\s*[:/x]\s*(\d{1,5}(?:\.\d+)?)\s*", str(asked))
    if not sides or not media.width or not media.height or not float(sides[1]) or not float(sides[2]):
        return None
    wanted, real = float(sides[1]) / float(sides[2]), media.width / media.height
    return None if abs(real / wanted - 1) <= RATIO_TOLERANCE else _pixels(media)


def _side(name: str) -> Callable[[Any, Media], str | None]:
    def judge(asked: Any, media: Media) -> str | None:
        real, wanted = getattr(media, name), _number(asked)
        return f"{real}" if real and wanted and real != wanted else None

    return judge


def _size(asked: Any, media: Media) -> str | None:
    """`1024x768` exactly; `720p` by lines or by area; `2K` by the longer side or by area."""
    text = str(asked).strip().lower()
    if not media.width or not media.height:
        return None
    if exact := re.fullmatch(r"(\d{2,5})\s*[x×*]\s*(\d{2,5})", text):
        return None if (int(exact[1]), int(exact[2])) == (media.width, media.height) else _pixels(media)
    if lines := re.fullmatch(r"(\d{3,4})p", text):
        wanted, side = int(lines[1]), min(media.width, media.height)
        area = wanted * wanted * 16 / 9
    elif thousands := re.fullmatch(r"([1-8])k", text):
        wanted, side = int(thousands[1]) * 1024, max(media.width, media.height)
        area = wanted * wanted if media.kind == "image" else wanted * wanted * 9 / 16
    else:
        return None
    close = abs(side / wanted - 1) <= LINES_TOLERANCE or abs(media.width * media.height / area - 1) <= AREA_TOLERANCE
    return None if close else _pixels(media)


def _seconds(asked: Any, media: Media) -> str | None:
    wanted = _number(asked)
    if not wanted or media.seconds is None or abs(media.seconds - wanted) <= SECONDS_TOLERANCE:
        return None
    return f"{media.seconds:g} s"


def _fps(asked: Any, media: Media) -> str | None:
    wanted = _number(asked)
    return None if not wanted or not media.fps or abs(media.fps - wanted) < 1 else f"{media.fps:g} frames a second"


def _audio(asked: Any, media: Media) -> str | None:
    if not isinstance(asked, bool) or media.audio is None or media.audio == asked:
        return None
    return "sound" if media.audio else "no sound"


def _format(asked: Any, media: Media) -> str | None:
    wanted = str(asked).lower().removeprefix("image/").removeprefix("video/")
    known = re.fullmatch("png|jpe?g|webp|gif|avif|mp4|webm|mov", wanted)
    return None if not known or _EXTENSIONS.get(wanted, wanted) == media.extension else media.extension


def _number(asked: Any) -> float | None:
    """The number of `5`, `"5"` and `"5s"`; None of `auto` and anything else."""
    if isinstance(asked, bool):
        return None
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*s?", str(asked).strip())
    return float(found[1]) if found else None


def _pixels(media: Media) -> str:
    return f"{media.width}×{media.height}"


JUDGES: Final[Mapping[str, Callable[[Any, Media], str | None]]] = {
    **dict.fromkeys(("aspect_ratio", "ratio"), _ratio),
    "width": _side("width"),
    "height": _side("height"),
    **dict.fromkeys(("size", "image_size", "resolution", "video_size"), _size),
    **dict.fromkeys(("duration", "seconds", "video_length", "duration_seconds"), _seconds),
    **dict.fromkeys(("fps", "frames_per_second"), _fps),
    **dict.fromkeys(("generate_audio", "enable_audio", "with_audio", "audio", "sound"), _audio),
    **dict.fromkeys(("output_format", "format"), _format),
}
