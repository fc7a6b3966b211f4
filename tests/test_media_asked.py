"""What was asked for is held against what came, with the room that models take, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from oxenbatch.media import Media
from oxenbatch.media.asked import JUDGES, mismatches


def image(width: int | None = 1024, height: int | None = 1024, extension: str = "png") -> Media:
    return Media(extension, "image", width, height)


def video(
    width: int = 1280, height: int = 720, seconds: float | None = 5.0, fps: float = 24.0, audio: Any = None
) -> Media:
    return Media("mp4", "video", width, height, seconds, fps, audio)


FITS: list[tuple[dict[str, Any], Media]] = [
    ({"aspect_ratio": "16:9"}, image(1344, 768)),
    ({"aspect_ratio": "21:9"}, image(1536, 640)),
    ({"aspect_ratio": "4:3"}, image(1152, 896)),
    ({"aspect_ratio": "3:2"}, image(1216, 832)),
    ({"aspect_ratio": "9:16"}, video(1080, 1920)),
    ({"aspect_ratio": "auto"}, image(100, 900)),
    ({"aspect_ratio": "16:9"}, image(None, None)),
    ({"width": 1024, "height": "1024"}, image()),
    ({"size": "1024x1536"}, image(1024, 1536)),
    ({"size": "auto"}, image(3, 4)),
    ({"resolution": "720p"}, video()),
    ({"resolution": "720p"}, video(960, 960)),
    ({"resolution": "480p"}, video(832, 480)),
    ({"resolution": "1080P"}, video(1080, 1920)),
    ({"resolution": "1K"}, image(1584, 672)),
    ({"resolution": "2K"}, image(2048, 1152)),
    ({"resolution": "4K"}, image(3840, 2160)),
    ({"resolution": "4k"}, video(3840, 2160)),
    ({"duration": 5}, video(seconds=5.04)),
    ({"duration": "6"}, video(seconds=5.88)),
    ({"seconds": "8s"}, video(seconds=8.0)),
    ({"duration": "auto"}, video(seconds=7.0)),
    ({"duration": 5}, image()),
    ({"fps": 24}, video(fps=23.976)),
    ({"generate_audio": True}, video(audio=True)),
    ({"generate_audio": True}, video(audio=None)),
    ({"generate_audio": False}, video(audio=False)),
    ({"audio": "https://example.com/song.mp3"}, video(audio=False)),
    ({"output_format": "jpeg"}, image(extension="jpg")),
    ({"output_format": "image/webp"}, image(extension="webp")),
    ({"output_format": "best"}, image()),
    ({"width": None, "aspect_ratio": None}, image(5, 9)),
    ({"prompt": "16:9", "steps": 4}, image()),
]


@pytest.mark.parametrize(("asked", "media"), FITS)
def test_what_fits_is_not_told(asked: dict[str, Any], media: Media) -> None:
    assert mismatches(asked, media) == []


@pytest.mark.parametrize(
    ("asked", "media", "got"),
    [
        ({"aspect_ratio": "16:9"}, image(), "1024×1024"),
        ({"aspect_ratio": "5:4"}, image(1024, 768), "1024×768"),
        ({"ratio": "9/16"}, video(), "1280×720"),
        ({"width": 1000}, image(), "1024"),
        ({"height": "512"}, image(), "1024"),
        ({"size": "1024x1536"}, image(1536, 1024), "1536×1024"),
        ({"image_size": "512*512"}, image(), "1024×1024"),
        ({"resolution": "1080p"}, video(), "1280×720"),
        ({"resolution": "480p"}, video(), "1280×720"),
        ({"resolution": "2K"}, image(), "1024×1024"),
        ({"resolution": "1K"}, image(2048, 2048), "2048×2048"),
        ({"duration": 10}, video(), "5 s"),
        ({"seconds": "4"}, video(seconds=8.0), "8 s"),
        ({"fps": 30}, video(), "24 frames a second"),
        ({"generate_audio": True}, video(audio=False), "no sound"),
        ({"generate_audio": False}, video(audio=True), "sound"),
        ({"output_format": "png"}, image(extension="jpg"), "jpg"),
    ],
)
def test_what_does_not_fit_is_told(asked: dict[str, Any], media: Media, got: str) -> None:
    ((field, value),) = asked.items()
    assert mismatches(asked, media) == [(field, value, got)]


@pytest.mark.parametrize("field", JUDGES)
@pytest.mark.parametrize(
    "value", ["", "x", "0:0", "1:0", "99999999999x9", [], {}, ["16:9"], -1, 0, 1e300, float("inf"), "5" * 5000]
)
@pytest.mark.parametrize("media", [image(), image(None, None), video(), video(seconds=None)])
def test_nonsense_is_not_judged(field: str, value: Any, media: Media) -> None:
    for one in mismatches({field: value}, media):
        assert field in ("width", "height", "size")
        assert isinstance(one.got, str)


def test_several_are_told_in_the_requests_order() -> None:
    asked = {"duration": 10, "prompt": "p", "aspect_ratio": "1:1", "fps": 60}
    assert [one.field for one in mismatches(asked, video())] == ["duration", "aspect_ratio", "fps"]
