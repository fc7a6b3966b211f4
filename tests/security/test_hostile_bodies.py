"""The bytes behind an address: kept only where they are a whole picture or video, and taken only as far as one goes."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hostile import MB, PEAK_MB, Asked, Desk, Hub, endless, is_quiet, png, reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUICK = "import oxenbatch.runner.fetching as f; f.FETCH_PAUSE_MAX_S = 0.01; f.FETCH_TRIES = 2\n"
"""Two tries instead of eight, one right after the other."""
SOON = (
    QUICK + "import functools, oxenbatch.hub.bodies as b, oxenbatch.hub.files as h, oxenbatch.download as d\n"
    "h.head_in_time = functools.partial(b.head_in_time, 0.2)\nd.RATE_WINDOW_S = 0.2\n"
)
"""And what takes a minute of a file's time takes a fifth of a second."""
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
ELF = b"\x7fELF\x02\x01\x01" + bytes(57)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as served:
        yield served


@pytest.fixture
def desk(tmp_path: Path, hub: Hub) -> Desk:
    return Desk(tmp_path, hub)


NOT_MEDIA: dict[str, bytes] = {
    "empty": b"",
    "a page": b"<!doctype html><html><script>alert(1)</script>",
    "a page behind spaces": b"\xef\xbb\xbf \n\t<html>",
    "JSON": b'{"error": "gone"}',
    "SVG": SVG,
    "SVG with an XML head": b'<?xml version="1.0"?>' + SVG,
    "a program": ELF,
    "a script": b"#!/bin/sh\ntouch pwned\n",
    "a Windows program": b"MZ" + bytes(62),
    "a ZIP": b"PK\x03\x04" + bytes(60),
    "a PDF": b"%PDF-1.7\n" + bytes(60),
    "a gzip": gzip.compress(png()),
    "a shortcut": b"[Desktop Entry]\nExec=sh\n" + bytes(50),
    "a WebAssembly": b"\0asm\x01\0\0\0" + bytes(56),
    "random bytes": os.urandom(64).replace(b"BM", b"bm"),
    "a PNG's head alone": png()[:8],
    "a PNG cut in its pixels": png(64, 64)[:60],
    "a PNG without its end": png()[:-12],
    "a PNG with a wrong checksum": png()[:-20] + b"\0\0\0\0" + png()[-16:],
    "a PNG of no pixels": png(0, 0),
    "a JPEG without pixels": b"\xff\xd8\xff\xd9" + bytes(60),
    "a GIF without pixels": b"GIF89a" + bytes(7) + b";",
    "a WebP that says it is longer": b"RIFF\xff\xff\xff\x7fWEBPVP8 " + bytes(50),
    "an MP4 without a film": (16).to_bytes(4) + b"ftypisom" + bytes(4),
}


def test_what_is_no_whole_picture_or_video_is_never_kept_whatever_it_is_called(desk: Desk, hub: Hub) -> None:
    hub.bodies = [reply(body, kind="image/png") for body in NOT_MEDIA.values()]

    done = desk.run(rows="".join(f"{what}\n" for what in NOT_MEDIA), setup=QUICK)

    assert done.code == 3, done.said
    assert f"failed={len(NOT_MEDIA)}" in done.said
    assert desk.results() == []


@pytest.mark.parametrize("path", ["/files/evil.html", "/files/x.png.exe", "/files/..%2f..%2fevil.sh", "/files/%00.php"])
def test_an_extension_comes_from_the_bytes_and_from_a_closed_list(desk: Desk, hub: Hub, path: str) -> None:
    hub.row["result_url"] = hub.url + path
    hub.lies[f"GET {path}"] = reply(
        png(), kind="application/x-msdownload", content_disposition='attachment; filename="../../.bashrc"'
    )

    done = desk.run()

    assert done.code == 0, done.said
    assert [file.suffix for file in desk.results()] == [".png"]


def test_a_picture_that_is_a_page_as_well_is_only_a_picture(desk: Desk, hub: Hub) -> None:
    """Bytes behind a picture's end are tolerated: what it is, and is called, comes from its beginning."""
    hub.picture = lambda: png() + b"<script>alert(1)</script>" + b"PK\x05\x06" + bytes(18)

    assert desk.run().code == 0
    assert [file.suffix for file in desk.results()] == [".png"]


def _endless(chunk: bytes, head: bytes, **headers: str) -> Callable[[Asked, socket.socket], None]:
    def answer(_: Asked, connection: socket.socket) -> None:
        endless(connection, threading.Event(), chunk, reply(head, content_length="none", connection="close", **headers))
        connection.close()

    return answer


def test_a_body_without_an_end_is_left_as_soon_as_it_is_no_picture(desk: Desk, hub: Hub) -> None:
    taken: list[int] = []

    def answer(_: Asked, connection: socket.socket) -> None:
        head = reply(b"<html>", content_length="none", connection="close")
        taken.append(endless(connection, hub.over, b"<p>and on " * 6554, head))
        connection.close()

    hub.lies["GET /files/ID"] = answer

    done = desk.run(setup=QUICK)

    assert done.code == 3, done.said
    assert done.peak_mb < PEAK_MB
    assert len(taken) == 2
    assert max(taken) < 16 * MB  # what the kernel's buffers took
    assert not list((desk.folder / "out").rglob("*.part"))


def test_a_picture_without_an_end_does_not_fill_the_disk(desk: Desk, hub: Hub) -> None:
    body = png()[:33] + (1 << 30).to_bytes(4) + b"IDAT"
    hub.lies["GET /files/ID"] = _endless(bytes(MB), body)

    done = desk.run(setup=QUICK + "import oxenbatch.download as d; d.PICTURE_MAX = 32 << 20\n")

    assert done.code == 3, done.said
    assert "larger than 33554432 bytes" in done.said
    assert done.peak_mb < PEAK_MB
    assert not list((desk.folder / "out").rglob("*.part"))


def test_a_file_that_says_it_is_larger_than_any_is_not_begun(desk: Desk, hub: Hub) -> None:
    hub.lies["GET /files/ID"] = reply(png(), content_length=str(1 << 50))

    done = desk.run(setup=QUICK)

    assert done.code == 3, done.said
    assert "larger than" in done.said


def test_a_full_disk_stops_a_download_and_says_so(desk: Desk, hub: Hub) -> None:
    body = png()[:33] + (1 << 30).to_bytes(4) + b"IDAT"
    hub.lies["GET /files/ID"] = _endless(bytes(MB), body)
    setup = "import oxenbatch.download as d; d.ROOM_EVERY = 1 << 20; d.LEAST_FREE = 1 << 60\n"

    done = desk.run(setup=QUICK + setup)

    assert done.code == 74, done.said
    assert "nearly full" in done.said


@pytest.mark.parametrize(("encoding", "packed"), [
    ("gzip", gzip.compress(bytes(64 * MB))),
    ("deflate", zlib.compress(bytes(64 * MB))),
    ("gzip, gzip", gzip.compress(gzip.compress(bytes(64 * MB)))),
    ("br", b"\x1b\xff\xff\xff"),
], ids=["gzip", "deflate", "twice", "br"])  # fmt: skip
def test_a_packed_file_was_not_asked_for_and_is_not_unpacked(
    desk: Desk, hub: Hub, encoding: str, packed: bytes
) -> None:
    hub.lies["GET /files/ID"] = reply(packed, content_encoding=encoding)

    done = desk.run(setup=QUICK)

    assert done.code == 3, done.said
    assert "compressed" in done.said
    assert done.peak_mb < PEAK_MB


def _drip(raw: bytes, every_s: float) -> Callable[[Asked, socket.socket], None]:
    """So many bytes at once, and then one after the other, until the other side hangs up."""

    def answer(_: Asked, connection: socket.socket) -> None:
        over = threading.Event()
        connection.sendall(raw)
        while not over.wait(every_s):
            try:
                connection.sendall(b"x")
            except OSError:
                return

    return answer


ROWS = "".join(f"{n}\n" for n in range(16))
HEADS: dict[str, Callable[[Asked, socket.socket], None]] = {
    "drop by drop": _drip(b"HTTP/1.1 200 OK\r\nx-a: ", 0.02),
    "of early hints": lambda _, connection: endless(
        connection, threading.Event(), b"HTTP/1.1 103 Early Hints\r\n\r\n"
    ) and None,
    "of headers": lambda _, connection: endless(
        connection, threading.Event(), b"x-a: " + b"a" * 1000 + b"\r\n", b"HTTP/1.1 200 OK\r\n"
    ) and None,
}  # fmt: skip


@pytest.mark.parametrize("how", HEADS)
def test_an_answers_head_without_an_end_is_not_waited_for(desk: Desk, hub: Hub, how: str) -> None:
    """Sixteen files, two tries each, through one pool of few connections: none of its places may be lost."""
    hub.lies["GET /files/ID"] = HEADS[how]

    done = desk.run(rows=ROWS, setup=SOON)

    assert done.code == 3, done.said
    assert done.peak_mb < PEAK_MB
    del hub.lies["GET /files/ID"]
    assert desk.run(rows=ROWS).code == 0


def test_a_file_that_comes_drop_by_drop_is_given_up(desk: Desk, hub: Hub) -> None:
    hub.lies["GET /files/ID"] = _drip(reply(png()[:20], content_length="1000000"), 0.05)

    done = desk.run(setup=SOON)

    assert done.code == 3, done.said
    assert "slower than 2048 bytes a second" in done.said


LENGTHS: dict[str, Any] = {
    "too long": {"content_length": "1000"},
    "too short": {"content_length": "40"},
    "no length and cut": {"content_length": "none", "connection": "close", "cut": 30},
    "chunks without an end": {"content_length": "none", "transfer_encoding": "chunked", "chunked": b"20\r\nabc"},
    "a chunk of impossible size": {"content_length": "none", "transfer_encoding": "chunked", "chunked": b"f" * 40},
    "a length that is no number": {"content_length": "abc"},
    "a length below nothing": {"content_length": "-5"},
    "a length of 400 digits": {"content_length": "9" * 400},
}


def test_a_body_whose_length_is_not_what_was_said_is_not_kept(desk: Desk, hub: Hub) -> None:
    for said in LENGTHS.values():
        body = said.pop("chunked", png()[: said.pop("cut", None)])
        hub.bodies.append(reply(body, **said))

    done = desk.run(rows="".join(f"{how}\n" for how in LENGTHS), setup=QUICK)

    assert done.code == 3, done.said
    assert f"failed={len(LENGTHS)}" in done.said
    assert desk.results() == []


def test_a_part_is_not_mended_with_bytes_of_another_place(desk: Desk, hub: Hub) -> None:
    """The first try brings half; the second says that it brings the rest, and brings another part of the file."""
    whole = png(40, 40)

    def answer(asked: Asked, connection: socket.socket) -> None:
        if "range" in asked.headers:
            connection.sendall(reply(whole, 206, content_range=f"bytes 0-{len(whole) - 1}/{len(whole)}"))
            return
        connection.sendall(reply(whole, etag='"one"')[: -len(whole) // 2])
        connection.shutdown(socket.SHUT_RDWR)

    hub.lies["GET /files/ID"] = answer

    done = desk.run(setup=QUICK)

    assert done.code == 3, done.said
    assert any("range" in asked.headers for asked in hub.asked)
    assert desk.results() == []


def test_a_file_is_as_quiet_in_the_dataset_as_its_headers_were_loud(desk: Desk, hub: Hub) -> None:
    hub.lies["GET /files/ID"] = reply(png(), kind="image/png\x1b[2J", etag='"\x1b]0;owned\x07"', server="\x9b31m")

    done = desk.run("-vv")

    assert is_quiet(done.out + done.err)
    assert json.loads((desk.folder / "out/m/metadata.jsonl").read_text())["file_name"].endswith(".png")
