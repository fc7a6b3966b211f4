"""Files are judged by their bytes: whole, cut at every place, and mutated."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from oxenbatch.media import Damaged, Media, inspect


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IHDR = _chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 8, 2, 0, 0, 0))
_IDAT = _chunk(b"IDAT", zlib.compress(bytes(4 * (1 + 6 * 3))))
_IEND = _chunk(b"IEND", b"")
PNG = _SIGNATURE + _IHDR + _IDAT + _IEND


def _picture(format_: str, mode: str = "RGB", frames: int = 1, **options: Any) -> bytes:
    """Noise of 37 × 21 pixels, so that widths and heights cannot be mistaken for each other."""
    noise = random.Random(7)
    images = [Image.frombytes(mode, (37, 21), noise.randbytes(37 * 21 * len(mode))) for _ in range(frames)]
    out = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:], "duration": 40} if frames > 1 else {}
    images[0].save(out, format_, **more, **options)
    return out.getvalue()


def _box(name: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I", 8 + len(body)) + name + body


def _long_box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4sQ", 1, name, 16 + len(body)) + body


_UPRIGHT = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
_TURNED = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
_FTYP = _box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")


def _table(name: bytes, *rows: tuple[int, ...], code: str = "I") -> bytes:
    return _box(name, struct.pack(">II", 0, len(rows)), *(struct.pack(f">{len(row)}{code}", *row) for row in rows))


def _clock(name: bytes, scale: int, ticks: int, *, wide: bool = False) -> bytes:
    if wide:
        return _box(name, struct.pack(">B3xQQIQ", 1, 0, 0, scale, ticks), bytes(4))
    return _box(name, struct.pack(">IIIII", 0, 0, 0, scale, ticks), bytes(4))


def _trak(handler: bytes, chunks: list[int], sizes: list[int], **kind: Any) -> bytes:
    """A track of one tick a sample, 24 ticks a second, and two samples a chunk."""
    wide, matrix = kind.get("wide", False), kind.get("matrix", _UPRIGHT)
    times = struct.pack(">B3xQQI4xQ", 1, 0, 0, 1, 0) if wide else struct.pack(">IIII4xI", 0, 0, 0, 1, 0)
    each = kind.get("each", 0)
    rows = [] if each else [(size,) for size in sizes]
    stsz = _box(b"stsz", struct.pack(">III", 0, each, len(sizes)), *(struct.pack(">I", *row) for row in rows))
    runs = [(1, 2, 1)] if chunks else []
    stco = _table(b"co64" if wide else b"stco", *((at,) for at in chunks), code="Q" if wide else "I")
    stts = _table(b"stts", *([(len(sizes), 1)] if sizes else []))
    stbl = _box(b"stbl", stts, _table(b"stsc", *runs), stsz, stco)
    hdlr = _box(b"hdlr", bytes(8), handler, bytes(13))
    mdia = _box(b"mdia", _clock(b"mdhd", 24, len(sizes), wide=wide), hdlr, _box(b"minf", stbl))
    tkhd = _box(b"tkhd", times, bytes(16), matrix, struct.pack(">II", 64 << 16, 48 << 16))
    return _box(b"trak", tkhd, mdia)


_SIZES = [10, 20, 30, 40]


def _mp4(*, faststart: bool = False, sound: bool = False, ftyp: bytes = _FTYP, shift: int = 0, **kind: Any) -> bytes:
    """Four frames of video (100 bytes in two chunks) and, if wanted, sound in two chunks of its own behind them."""
    wide = kind.get("wide", False)
    data = bytes(range(100)) + bytes(100 if sound else 0)

    def moov(begin: int) -> bytes:
        tracks = [_trak(b"vide", [begin, begin + 30], _SIZES, **kind)]
        if sound:
            tracks.insert(0, _trak(b"soun", [begin + 100, begin + 150], [25] * 4, each=25))
        return _box(b"moov", _clock(b"mvhd", 600, 100, wide=wide), *tracks)

    mdat = _long_box(b"mdat", data) if wide else _box(b"mdat", data)
    begin = len(ftyp) + (len(moov(0)) if faststart else 0) + len(mdat) - len(data) + shift
    return ftyp + moov(begin) + mdat if faststart else ftyp + mdat + moov(begin)


def _fragment(number: int, *, own: bool) -> bytes:
    """Three samples of two ticks each: said by each of them, or by the fragment."""
    rows = [(2, 10)] * 3 if own else [(10,)] * 3
    flags = 0x301 if own else 0x201
    tfhd = _box(b"tfhd", struct.pack(">II", 0x20000 if own else 0x20008, 1), b"" if own else struct.pack(">I", 2))
    columns = [struct.pack(f">{len(row)}I", *row) for row in rows]
    run = _box(b"trun", struct.pack(">IIi", flags, 3, 0), *columns)  # codespell:ignore trun
    tfdt = _box(b"tfdt", struct.pack(">II", 0, 6 * number))
    return _box(b"moof", _box(b"traf", tfhd, tfdt, run)) + _box(b"mdat", bytes(30))


_FRAGMENTED_HEAD = _FTYP + _box(
    b"moov",
    _clock(b"mvhd", 600, 0),
    _trak(b"vide", [], []),
    _box(b"mvex", _box(b"trex", struct.pack(">6I", 0, 1, 1, 2, 0, 0))),
)
FRAGMENTED = _FRAGMENTED_HEAD + _fragment(0, own=True) + _fragment(1, own=False)
WEBM = b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm" + b"\x18\x53\x80\x67\x40\x20" + bytes(32)
BMP = b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + struct.pack("<I2i", 40, 6, -4) + bytes(34)

_STILL = {"width": 37, "height": 21}
_FILM = {"width": 64, "height": 48, "seconds": 0.167, "fps": 24.0, "audio": False}
WHOLE: dict[str, tuple[bytes, Media]] = {
    "png": (PNG, Media("png", "image", 6, 4)),
    "png by pillow": (_picture("PNG", "RGBA"), Media("png", "image", **_STILL, plain=False)),
    "jpeg": (_picture("JPEG"), Media("jpg", "image", **_STILL)),
    "jpeg, progressive": (_picture("JPEG", progressive=True, quality=95), Media("jpg", "image", **_STILL)),
    "jpeg, grey, restarts": (_picture("JPEG", "L", restart_marker_blocks=1), Media("jpg", "image", **_STILL)),
    "gif": (_picture("GIF"), Media("gif", "image", **_STILL)),
    "gif, animated": (_picture("GIF", frames=3), Media("gif", "image", **_STILL)),
    "webp": (_picture("WEBP"), Media("webp", "image", **_STILL)),
    "webp, lossless": (_picture("WEBP", lossless=True), Media("webp", "image", **_STILL)),
    "webp, alpha": (_picture("WEBP", "RGBA"), Media("webp", "image", **_STILL)),
    "webp, animated": (_picture("WEBP", frames=3), Media("webp", "image", **_STILL)),
    "mp4": (_mp4(), Media("mp4", "video", **_FILM)),
    "mp4, index first": (_mp4(faststart=True), Media("mp4", "video", **_FILM)),
    "mp4, sound": (_mp4(sound=True), Media("mp4", "video", **{**_FILM, "audio": True})),
    "mp4, 64 bits": (_mp4(wide=True), Media("mp4", "video", **_FILM)),
    "mp4, turned": (_mp4(matrix=_TURNED), Media("mp4", "video", **{**_FILM, "width": 48, "height": 64})),
    "mov": (_mp4(ftyp=_box(b"ftyp", b"qt  \0\0\2\0qt  ")), Media("mov", "video", **_FILM)),
    "m4v": (_mp4(ftyp=_box(b"ftyp", b"M4V \0\0\2\0M4V isom")), Media("m4v", "video", **_FILM)),
    "webm": (WEBM, Media("webm", "video")),
    "bmp": (BMP, Media("bmp", "image", 6, 4)),
}


@pytest.fixture
def judge(tmp_path: Path) -> Any:
    def of(data: bytes) -> Media:
        path = tmp_path / "result.part"
        path.write_bytes(data)
        return inspect(path)

    return of


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_known_by_its_bytes(name: str, judge: Any) -> None:
    data, expected = WHOLE[name]

    assert judge(data) == expected


@pytest.mark.parametrize("name", WHOLE)
def test_every_beginning_of_a_whole_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "result.part"
    path.write_bytes(WHOLE[name][0])
    for end in reversed(range(path.stat().st_size)):
        os.truncate(path, end)
        with pytest.raises(Damaged):
            inspect(path)


def test_a_file_cut_short_is_told_so(judge: Any) -> None:
    for name in ("png", "jpeg", "gif", "webp", "mp4, index first", "webm"):
        data, _ = WHOLE[name]
        for end in (11, len(data) // 2, len(data) - 1):
            with pytest.raises(Damaged, match="cut short"):
                judge(data[:end])


# Made with PyAV 18.1 (ffmpeg's muxers), which says of each: 48 frames, 2 seconds, 64 × 48.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x264-aac-faststart.mp4", Media("mp4", "video", 64, 48, 2.0, 24.0, audio=True)),
        ("x264-fragmented.mp4", Media("mp4", "video", 64, 48, 2.0, 24.0, audio=False)),
        ("vp9.webm", Media("webm", "video", 64, 48, 2.0, 24.0, audio=False)),
    ],
)
def test_a_real_encoders_file_is_understood(name: str, expected: Media) -> None:
    assert inspect(Path(__file__).parent / "data" / name) == expected


def test_a_fragmented_video_is_as_long_as_its_fragments(judge: Any) -> None:
    assert judge(FRAGMENTED) == Media("mp4", "video", 64, 48, 0.5, 12.0, audio=False)


def test_a_fragmented_video_may_only_end_between_fragments(judge: Any) -> None:
    # There its bytes are those of a shorter whole video; the length that the server gave tells them apart.
    whole_ends = {len(FRAGMENTED) - len(_fragment(1, own=False))}
    for end in range(len(FRAGMENTED)):
        if end in whole_ends:
            assert judge(FRAGMENTED[:end]).seconds == 0.25
        else:
            with pytest.raises(Damaged):
                judge(FRAGMENTED[:end])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b'\xef\xbb\xbf\n <?xml version="1.0"?><Error/>', "XML"),
        (b'{"error": "expired"}', "JSON"),
        (b"%PDF-1.7 and so on", "no known type"),
        (bytes(4096), "no known type"),
        (b"BMW builds cars, and this is a text about them", "no known type"),
        (b"\x1a\x45\xdf\xa3\x8b\x42\x82\x88matroska\x18\x53\x80\x67\x80", "Matroska"),
        (_mp4(ftyp=_box(b"ftyp", b"crx \0\0\0\1crx ")), "foreign brand"),
    ],
)
def test_what_is_not_media_is_named(data: bytes, words: str, judge: Any) -> None:
    with pytest.raises(Damaged, match=words):
        judge(data)


@pytest.mark.parametrize(
    "data",
    [
        _SIGNATURE + _IDAT + _IHDR + _IEND,
        _SIGNATURE + _IHDR + _IEND,
        _SIGNATURE + _IHDR + _IHDR + _IDAT + _IEND,
        _SIGNATURE + _IHDR + _chunk(b"IDAT", b"") + _IEND,
        _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 4, 8, 2, 0, 0, 0)) + _IDAT + _IEND,
        b"\xff\xd8\xff\xd9" + bytes(20),
        b"GIF89a" + bytes(7) + b";" + bytes(20),
        b"RIFF\x10\0\0\0WEBPXMP \4\0\0\0abcd",
        _FTYP + _box(b"mdat", bytes(9)) + _box(b"moov", _clock(b"mvhd", 1, 1)),
        _FTYP + _box(b"mdat", bytes(99)) + _box(b"moov", _trak(b"soun", [], [])),
        _FTYP + _box(b"mdat", bytes(99)) + _box(b"moov", _trak(b"vide", [], [])),
        _FTYP + _box(b"moov", struct.pack(">I4s", 100, b"trak")) + bytes(200),
    ],
)
def test_a_file_whose_parts_make_no_picture_is_refused(data: bytes, judge: Any) -> None:
    with pytest.raises(Damaged):
        judge(data)


def test_every_changed_byte_of_a_png_is_seen(judge: Any) -> None:
    for at in range(len(PNG)):
        with pytest.raises(Damaged):
            judge(PNG[:at] + bytes([PNG[at] ^ 0x20]) + PNG[at + 1 :])


@pytest.mark.parametrize("name", ["png", "jpeg", "gif"])
def test_bytes_behind_a_pictures_end_are_tolerated(name: str, judge: Any) -> None:
    data, expected = WHOLE[name]

    assert judge(data + b"trailing") == expected


@pytest.mark.parametrize("name", ["webp", "mp4", "mp4, index first"])
def test_bytes_behind_a_declared_length_are_refused(name: str, judge: Any) -> None:
    with pytest.raises(Damaged):
        judge(WHOLE[name][0] + b"\0\0\0\1junk")


@pytest.mark.parametrize("kind", [{}, {"wide": True}, {"sound": True}])
def test_a_video_whose_sizes_were_rewritten_to_hide_a_cut_is_seen(kind: dict[str, Any], judge: Any) -> None:
    data = _mp4(faststart=True, **kind)
    at = data.index(b"mdat") - 4
    field = slice(at + 8, at + 16) if kind.get("wide") else slice(at, at + 4)
    cut = bytearray(data[:-1])
    cut[field] = (len(cut) - at).to_bytes(field.stop - field.start)

    with pytest.raises(Damaged, match="cut short"):
        judge(bytes(cut))


def test_a_last_box_without_a_length_goes_to_the_end_and_hides_no_cut(judge: Any) -> None:
    data = bytearray(_mp4(faststart=True))
    at = data.index(b"mdat") - 4
    data[at : at + 4] = bytes(4)

    assert judge(bytes(data)).seconds == 0.167
    for end in range(len(data)):
        with pytest.raises(Damaged):
            judge(bytes(data[:end]))


def test_a_thumbnail_inside_a_jpeg_ends_nothing(judge: Any) -> None:
    data = _picture("JPEG")
    thumb = _picture("JPEG", "L")
    nested = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(thumb)) + thumb + data[2:]

    assert judge(nested) == Media("jpg", "image", 37, 21)


def test_a_jpeg_marker_is_found_wherever_the_blocks_of_reading_divide_it(judge: Any) -> None:
    head, tail = b"\xff\xd8\xff\xc0\0\x0b\x08\0\x05\0\x07\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0", b"\xff\xd9"
    for length in (*range(4090, 4100), *range(12280, 12300), 500_000):
        for filler in (b"\xab" * length, b"\xff\0" * (length // 2) + b"a" * (length % 2)):
            assert judge(head + filler + tail) == Media("jpg", "image", 7, 5)


@pytest.mark.parametrize("name", [*WHOLE, "fragmented"])
def test_no_mutation_brings_another_error_than_ours(name: str, judge: Any) -> None:
    whole = FRAGMENTED if name == "fragmented" else WHOLE[name][0]
    place = st.integers(0, min(len(whole), 2000) - 1)
    value = st.sampled_from(
        [b"\0", b"\1", b"\xff", b"\x7f", b"\xff" * 4, b"\0" * 4, b"\0\0\0\1", b"\xff" * 8]
    ) | st.binary(max_size=9)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(place, value), min_size=1, max_size=4), st.integers(0, len(whole)))
    def mutate(changes: list[tuple[int, bytes]], end: int) -> None:
        data = bytearray(whole if end % 3 else whole[:end])
        for at, new in changes:
            data[at : at + len(new)] = new
        try:
            media = judge(bytes(data))
        except Damaged:
            return
        assert media.kind in ("image", "video")

    mutate()


@pytest.mark.parametrize(
    "data",
    [
        _SIGNATURE + _IHDR + struct.pack(">I", 0xFFFFFFF0) + b"IDAT" + bytes(100),
        b"RIFF\xff\xff\xff\x7fWEBPVP8X" + b"\xff" * 100,
        _FTYP + struct.pack(">I4sQ", 1, b"moov", 1 << 62) + bytes(100),
        _FTYP + _box(b"moov", _box(b"trak", _box(b"stsz", struct.pack(">III", 0, 0, 0xFFFFFFFF)))),
        _FTYP + _box(b"moov", _box(b"trak", _box(b"stco", struct.pack(">II", 0, 0x3FFFFFFF)))),
        b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm\x18\x53\x80\x67\x01" + b"\xff" * 6 + b"\xf0",
    ],
)
def test_a_length_that_a_file_only_claims_costs_no_memory(data: bytes, judge: Any) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Damaged):
            judge(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1 << 20


def test_a_file_of_empty_parts_is_given_up_before_long(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oxenbatch.media.file.READS", 1000)
    for data in (
        b"GIF89a\7\0\5\0\0\0\0" + b"!\xfe\0" * 9999 + b";",
        b"\xff\xd8" + b"\xff" * 99999,
        b"\xff\xd8" + b"\xff\xe0\0\2" * 9999,
        _FTYP + _box(b"mdia") * 9999,
        _FTYP + b"".join(struct.pack(">I4s", 8 * n, b"mdia") for n in range(9999, 0, -1)),
    ):
        with pytest.raises(Damaged, match="more parts"):
            judge(data)


def test_a_large_video_is_judged_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    head = _FTYP + struct.pack(">I4sQ", 1, b"mdat", 16 + (1 << 32))
    with path.open("wb") as file:
        file.write(head)
        file.seek(len(head) + (1 << 32))  # a hole: 4 GiB that take no place on the disk
        begin = len(head) + (1 << 32) - 100
        file.write(_box(b"moov", _clock(b"mvhd", 600, 100), _trak(b"vide", [begin, begin + 30], _SIZES, wide=True)))
    tracemalloc.start()
    try:
        assert inspect(path) == Media("mp4", "video", 64, 48, 0.167, 24.0, audio=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1 << 20


def test_an_avif_is_measured_by_its_index(judge: Any) -> None:
    assert judge(_picture("AVIF")) == Media("avif", "image", **_STILL)


@pytest.mark.parametrize("at", range(0, 400, 3))
def test_a_webm_that_lies_about_itself_is_known_all_the_same(judge: Any, at: int) -> None:
    """Its measures are its own word; a wrong one leaves the file as whole as it was."""
    data = bytearray((Path(__file__).parent / "data" / "vp9.webm").read_bytes())
    data[at] ^= 0xFF
    with contextlib.suppress(Damaged):
        assert judge(bytes(data)).extension == "webm"
