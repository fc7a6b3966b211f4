"""The stand-in hub's files: real ones, each generation's own, behind addresses that expire."""

from __future__ import annotations

import json
import struct
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from sandbox_kit import IMAGE, NESTED, OWN_HOST, VIDEO, Bench, words_of

from oxenbatch.media import inspect
from oxenbatch.sandbox import Answer, Faults
from oxenbatch.sandbox.clockwork import Generation
from oxenbatch.sandbox.media import render, size_of

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = "A sunset timelapse over the ocean"


def _boxes(data: bytes) -> list[tuple[str, bytes]]:
    """An MP4 file's top-level boxes; they must fill it to the last byte."""
    boxes, at = [], 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        assert size >= 8
        assert at + size <= len(data)
        boxes.append((name.decode(), data[at + 8 : at + size]))
        at += size
    return boxes


# --- what is in them ------------------------------------------------------------------------------------------------


def test_an_image_is_a_png_that_knows_what_it_was_asked_for() -> None:
    bench = Bench()
    row = bench.finished(prompt=PROMPT, seed=7, aspect_ratio="16:9")
    answer = bench.fetch(row["result_url"])
    image = Image.open(BytesIO(answer.body))
    image.load()

    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert image.format == "PNG"
    assert image.size == (448, 252)
    assert image.text == {"generation_id": row["generation_id"], "model": IMAGE, "prompt": PROMPT, "seed": "7"}


def test_an_image_shows_its_prompt() -> None:
    bench = Bench()
    bare, worded = (
        Image.open(BytesIO(bench.fetch(bench.finished(prompt=prompt)["result_url"]).body)) for prompt in (".", PROMPT)
    )
    ink = [
        sum(image.convert("L").crop((0, 0, 448, 300)).point(lambda v: v > 200).histogram()[1:])
        for image in (bare, worded)
    ]

    assert ink[1] > ink[0] + 500


@pytest.mark.parametrize("model", [IMAGE, VIDEO])
def test_each_generations_bytes_are_its_own_and_the_same_every_time(model: str) -> None:
    bench = Bench()
    rows = [bench.finished(model) for _ in range(2)]
    first, second = (bench.fetch(bench.row(row["generation_id"])["result_url"]).body for row in rows)
    render.cache_clear()

    assert first != second
    assert bench.fetch(bench.row(rows[0]["generation_id"])["result_url"]).body == first


def test_a_video_is_a_whole_mp4_with_the_index_in_front() -> None:
    bench = Bench()
    row = bench.finished(VIDEO, prompt=PROMPT)
    answer = bench.fetch(row["result_url"])
    boxes = _boxes(answer.body)
    names = [name for name, _ in boxes]

    assert answer.headers["content-type"] == "video/mp4"
    assert names[0] == "ftyp"
    assert names.index("moov") < names.index("mdat")
    assert names[-1] == "uuid"
    assert row["generation_id"].encode() in boxes[-1][1]


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        ({}, (448, 448)),
        ({"aspect_ratio": "16:9"}, (448, 252)),
        ({"aspect_ratio": "9:16"}, (252, 448)),
        ({"width": 1024, "height": 512}, (448, 224)),
        ({"size": "1024x1536"}, (299, 448)),
        ({"size": "2K", "aspect_ratio": "auto"}, (448, 448)),
        ({"width": "wide", "height": None}, (448, 448)),
        ({"width": 0, "height": 10**400}, (448, 448)),
        ({"width": 2048, "height": 1}, (448, 96)),
    ],
)
def test_an_image_is_drawn_in_the_proportions_that_were_asked_for(
    parameters: dict[str, object], size: tuple[int, int]
) -> None:
    assert size_of(parameters) == size


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        ({}, (448, 448)),
        ({"aspect_ratio": "16:9"}, (448, 252)),
        ({"width": 1024, "height": 512}, (1024, 512)),
        ({"size": "1024x1536"}, (1024, 1536)),
        ({"size": "2K", "aspect_ratio": "16:9"}, (2048, 1152)),
        ({"resolution": "1K"}, (1024, 1024)),
        ({"width": 2048, "height": 1}, (2048, 96)),
        ({"width": 10**5, "height": 10**5}, (448, 448)),
    ],
)
def test_an_image_is_as_large_as_was_asked_for(parameters: dict[str, object], size: tuple[int, int]) -> None:
    generation = Generation("0" * 36, IMAGE, "image", parameters, None, None, None, 0, 0, 0, None, None)
    assert Image.open(BytesIO(render(generation)[1])).size == size


@pytest.mark.parametrize(
    ("parameters", "seconds", "size", "audio"),
    [
        ({}, 5.0, (1280, 720), False),
        ({"duration": 10, "aspect_ratio": "9:16", "generate_audio": True}, 10.0, (720, 1280), True),
        ({"duration": 10, "resolution": "480p"}, 10.0, (853, 480), False),
        ({"duration": "auto", "aspect_ratio": "99999:1"}, 5.0, (4096, 720), False),
        ({"duration": 0}, 0.1, (1280, 720), False),
    ],
)
def test_a_video_is_as_long_and_as_large_as_was_asked_for(
    tmp_path: Path, parameters: dict[str, object], seconds: float, size: tuple[int, int], audio: bool
) -> None:
    generation = Generation("0" * 36, VIDEO, "video", parameters, None, None, None, 0, 0, 0, None, None)
    (tmp_path / "x.mp4").write_bytes(render(generation)[1])
    media = inspect(tmp_path / "x.mp4")
    assert (media.seconds, (media.width, media.height), media.audio) == (seconds, size, audio)


@pytest.mark.parametrize("prompt", ["", "x" * 5000, "\ud800 lone", "a\x00b\nc\u202e", "夕暮れの海", "🌊" * 50])
def test_any_prompt_can_be_drawn(prompt: str) -> None:
    generation = Generation("0" * 36, IMAGE, "image", {"prompt": prompt}, None, None, None, 0, 0, 0, None, None)
    _, body = render(generation)
    Image.open(BytesIO(body)).load()


def test_sixteen_hundred_images_take_seconds_not_minutes() -> None:
    prompt = "A very long description of clouds that drift slowly over the ocean, with waves " * 2
    bench = Bench()
    addresses = [bench.finished(prompt=prompt)["result_url"] for _ in range(5)]
    started = time.process_time()
    for n in range(50):
        render.cache_clear()
        bench.fetch(bench.row(list(bench.hub.generations)[n % len(addresses)])["result_url"])

    # Ten seconds for 1,632 are 6 ms each; twice that is granted to a slow machine.
    assert (time.process_time() - started) / 50 < 0.012


# --- addresses ------------------------------------------------------------------------------------------------------


def test_a_presigned_address_is_on_another_origin_and_needs_no_key() -> None:
    bench = Bench()
    address = bench.finished()["result_url"]

    assert urlsplit(address).netloc != urlsplit(bench.hub.base_url).netloc
    assert bench.fetch(address).status == 200
    assert bench.hub.key_leaks == []


def test_a_key_that_arrives_at_the_files_origin_is_on_record() -> None:
    bench = Bench()
    address = bench.finished()["result_url"]
    bench.fetch(address, authorization="Bearer x")

    assert len(bench.hub.key_leaks) == 1
    assert bench.hub.record()["key_leaks"] == 1


def test_an_address_expires_and_asking_again_yields_a_fresh_one() -> None:
    bench = Bench()
    row = bench.finished()
    bench.clock.pass_by(3602)
    answer = bench.fetch(row["result_url"])
    assert (answer.status, b"expired" in answer.body) == (403, True)

    assert bench.fetch(bench.row(row["generation_id"])["result_url"]).status == 200


def test_an_address_is_good_for_a_minute_at_least_whatever_the_speed() -> None:
    bench = Bench(speed=1000)
    address = bench.finished()["result_url"]
    bench.clock.pass_by(58)
    assert bench.fetch(address).status == 200
    bench.clock.pass_by(4)
    assert bench.fetch(address).status == 403


def test_an_address_that_was_tampered_with_is_refused() -> None:
    bench = Bench()
    first, second = bench.finished(), bench.finished()
    address = bench.row(first["generation_id"])["result_url"]
    swapped = address.replace(first["generation_id"], second["generation_id"])
    longer = address.replace("expires=1", "expires=2")
    bare = address.partition("?")[0]

    assert [bench.fetch(wrong).status for wrong in (swapped, longer, bare, address + "%C3%A9")] == [403] * 4


def test_a_file_on_the_hubs_own_host_needs_the_key() -> None:
    bench = Bench()
    address = bench.finished(OWN_HOST)["result_url"]
    path = address.removeprefix(bench.hub.base_url)

    assert path.startswith("/api/files/")
    assert words_of(bench.ask("GET", path, key=None)) == "unauthenticated"
    assert bench.ask("GET", path).headers["content-type"] == "image/png"


def test_an_address_may_be_nested_where_result_url_is_null() -> None:
    bench = Bench()
    film = bench.finished(NESTED)
    assert film["result_url"] is None
    assert bench.fetch(film["videos"][0]["url"]).status == 200


@pytest.mark.parametrize(("fault", "place"), [("own_host", "/api/files/"), ("nested_url", "images")])
def test_where_files_lie_can_be_asked_for(fault: str, place: str) -> None:
    row = Bench(faults=Faults([{"do": fault}])).finished()

    assert place in row or place in row["result_url"]


def test_what_has_not_succeeded_has_no_file() -> None:
    bench = Bench()
    (made,) = bench.enqueue()

    assert bench.row(made)["result_url"] is None
    assert bench.ask("GET", f"/api/files/{made}").status == 404


def test_downloads_are_counted_by_generation() -> None:
    bench = Bench()
    row = bench.finished()
    bench.fetch(row["result_url"])
    bench.fetch(row["result_url"])
    bench.fetch(row["result_url"], "HEAD")

    assert bench.hub.served == {row["generation_id"]: 2}


# --- ranges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=100-", 100, -1),
        ("bytes=-7", -7, -1),
        ("bytes=5-999999", 5, -1),
        ("bytes=0-0", 0, 0),
    ],
)
def test_a_part_of_a_file_can_be_had(asked: str, first: int, last: int) -> None:
    bench = Bench()
    address = bench.finished()["result_url"]
    whole = bench.fetch(address).body
    start, stop = first % len(whole), last % len(whole) + 1
    answer = bench.fetch(address, range=asked)

    assert (answer.status, answer.body) == (206, whole[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=9-3", "nonsense"])
def test_a_range_that_is_none_is_ignored(asked: str) -> None:
    bench = Bench()

    assert bench.fetch(bench.finished()["result_url"], range=asked).status == 200


def test_a_range_beyond_the_end_is_refused_with_the_size() -> None:
    bench = Bench()
    address = bench.finished()["result_url"]
    size = len(bench.fetch(address).body)
    answer = bench.fetch(address, range=f"bytes={size}-")

    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{size}")


def test_a_resumed_download_gets_the_rest_of_the_same_file_or_all_of_another() -> None:
    bench = Bench()
    address = bench.finished()["result_url"]
    whole = bench.fetch(address)
    same = bench.fetch(address, range="bytes=10-", if_range=whole.headers["etag"])
    other = bench.fetch(address, range="bytes=10-", if_range='"something else"')

    assert (same.status, same.body) == (206, whole.body[10:])
    assert (other.status, other.body) == (200, whole.body)


def test_head_tells_everything_but_the_bytes() -> None:
    bench = Bench()
    address = bench.finished()["result_url"]
    whole, head = bench.fetch(address), bench.fetch(address, "HEAD")

    assert head.headers == whole.headers
    assert (head.status, head.body) == (200, b"")


def test_a_host_without_ranges_sends_everything() -> None:
    bench = Bench(faults=Faults([{"do": "no_range"}]))
    answer = bench.fetch(bench.finished()["result_url"], range="bytes=5-")

    assert answer.status == 200
    assert "accept-ranges" not in answer.headers


# --- files that users store -----------------------------------------------------------------------------------------


def put(bench: Bench, path: str, content: bytes, content_type: str = "image/png") -> Answer:
    """The answer to a form with this file in it."""
    form = (
        b'--cut\r\ncontent-disposition: form-data; name="message"\r\n\r\nours\r\n'
        b'--cut\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n'
        b"content-type: " + content_type.encode() + b"\r\n\r\n" + content + b"\r\n--cut--\r\n"
    )
    return bench.ask("PUT", path, form, headers={"content-type": "multipart/form-data; boundary=cut"})


STORED = "/api/repos/ox/set/file/main/images/a.png"


def test_a_file_that_was_stored_is_served_from_the_same_address() -> None:
    bench = Bench()
    content = bytes(range(256)) + b"\r\n--not-the-boundary\r\n"
    stored = put(bench, STORED, content)
    served, head = bench.ask("GET", STORED), bench.ask("HEAD", STORED)

    assert stored.json()["status"] == "success"
    assert (served.status, served.headers["content-type"], served.body) == (200, "image/png", content)
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(content)), b"")
    assert bench.hub.record()["stored"] == 1


def test_stored_files_outlive_the_hub_with_its_journal(tmp_path: Path) -> None:
    bench = Bench(journal=tmp_path / "journal")
    put(bench, STORED, b"one")
    put(bench, STORED, b"two")
    put(bench, STORED, b"two")
    again = Bench(journal=tmp_path / "journal")

    assert again.ask("GET", STORED).body == b"two"
    assert (tmp_path / "journal").read_text().count('"do":"store"') == 2


def test_a_repository_may_be_missing_and_a_file_too_large() -> None:
    bench = Bench(faults=Faults([{"do": "no_repository", "times": 1}, {"do": "small_store", "bytes": 3}]))

    assert (put(bench, STORED, b"four").status, bench.hub.stored) == (404, {})
    assert put(bench, STORED, b"four").status == 413
    assert put(bench, STORED, b"one").status == 200


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{base}" + STORED, None),
        (["{base}" + STORED, "https://example.com/elsewhere.png"], None),
        ("data:image/png;base64,AAAA", None),
        ("http://hub.test:9999" + STORED, None),
        ("{base}/api/repos/ox/set/file/main/b.png", "Could not fetch input_image"),
        ("refs/ox.png", "'refs/ox.png' is not the address of a file"),
        (["input:" + "0" * 64 + ".png"], "is not the address of a file"),
    ],
)
def test_a_model_fetches_its_inputs_when_it_runs(value: Any, words: str | None) -> None:
    bench = Bench()
    put(bench, STORED, b"bytes")
    named = json.loads(json.dumps(value).replace("{base}", bench.hub.base_url))
    (made,) = bench.enqueue("nano-banana-2", input_image=named)
    bench.clock.pass_by(60)

    assert (words or "None") in str(bench.row(made)["error_message"])


def test_a_form_without_a_file_is_refused() -> None:
    bench = Bench()
    path = "/api/repos/ox/set/file/main/a.png"

    assert bench.ask("PUT", path, b"bytes").status == 400
    assert bench.ask("GET", path).status == 404
