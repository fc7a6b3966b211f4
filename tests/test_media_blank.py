"""A picture of one colour is known by its pixels, and nothing else is taken for one."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from oxenbatch.media import Media, inspect
from oxenbatch.media import blank as blanks
from oxenbatch.media.blank import is_blank


def judge(tmp_path: Path, image: Image.Image, form: str, **more: Any) -> bool | None:
    out = BytesIO()
    image.save(out, form, **more)
    path = tmp_path / "x"
    path.write_bytes(out.getvalue())
    return is_blank(path, inspect(path), len(out.getvalue()))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (12, 130, 200)])
@pytest.mark.parametrize("size", [(64, 48), (1024, 1024)])
def test_one_colour_is_blank_in_every_format(
    tmp_path: Path, form: str, colour: tuple[int, int, int], size: tuple[int, int]
) -> None:
    assert judge(tmp_path, Image.new("RGB", size, colour), form) is True


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16", "CMYK"])
def test_every_kind_of_pixel_is_read(tmp_path: Path, mode: str) -> None:
    form = "JPEG" if mode == "CMYK" else "PNG"
    assert judge(tmp_path, Image.new(mode, (64, 48)), form) is True


def test_what_nobody_can_see_is_blank(tmp_path: Path) -> None:
    image = Image.new("RGBA", (64, 48), (9, 9, 9, 0))
    image.paste((250, 0, 0, 0), (0, 0, 20, 20))
    assert judge(tmp_path, image, "PNG") is True


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_small_thing_on_a_plain_ground_is_a_picture(tmp_path: Path, form: str) -> None:
    image = Image.new("RGB", (512, 512), (240, 240, 240))
    image.paste((200, 30, 30), (250, 250, 262, 262))
    assert judge(tmp_path, image, form) is False


def test_noise_is_a_picture_and_is_not_even_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("it was decoded"))
    assert (
        judge(tmp_path, Image.frombytes("RGB", (256, 256), random.Random(1).randbytes(256 * 256 * 3)), "PNG") is False
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_a_small_picture_is_not_decoded_where_its_own_bytes_tell_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    size = 128 * 128 * {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 2}[mode]
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("it was decoded"))
    assert judge(tmp_path, Image.frombytes(mode, (128, 128), random.Random(1).randbytes(size)), "PNG") is False


def test_where_it_cannot_be_told_it_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"no picture at all")
    assert is_blank(path, Media("png", "image", 9, 9), 17) is None
    assert is_blank(path, Media("mp4", "video", 9, 9), 17) is None
    assert is_blank(path, Media("avif", "image"), 17) is None
    monkeypatch.setattr(blanks, "PIXELS_MAX", 80)
    assert is_blank(path, Media("png", "image", 9, 9), 17) is None


@pytest.mark.parametrize(
    ("name", "blank"),
    [
        ("x264-black-720p.mp4", True),
        ("x265-violet-720p.mp4", True),
        ("x264-ball-720p.mp4", False),  # a red ball that crosses a white ground: as plain as a film gets
        ("x264-aac-faststart.mp4", None),  # 64 × 48: too small to tell
        ("vp9.webm", None),  # has no index of its frames
    ],
)
def test_a_video_is_judged_by_its_largest_frame(name: str, blank: bool | None) -> None:
    path = Path(__file__).parent / "data" / name
    assert is_blank(path, inspect(path), path.stat().st_size) is blank
