"""The stand-in hub's faults: which strikes when, and each of them seen from the other end of a real connection."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sandbox_kit import IMAGE, IMAGE_LIFE_S, KEY, VIDEO, Bench, words_of

from oxenbatch.sandbox import Faults, Sandbox
from oxenbatch.sandbox.mishaps import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POST = {"model": IMAGE, "prompt": "A red cube"}


# --- when they strike -----------------------------------------------------------------------------------------------


def _statuses(bench: Bench, calls: int) -> list[int]:
    return [bench.ask("GET", "/api/ai/queue").status for _ in range(calls)]


def test_a_rule_strikes_every_time_unless_it_says_otherwise() -> None:
    assert _statuses(Bench(faults=Faults([{"do": "server_error"}])), 3) == [503, 503, 503]


def test_a_rule_lets_so_many_pass_and_strikes_at_most_so_often() -> None:
    rule = {"do": "server_error", "after": 2, "times": 3}

    assert _statuses(Bench(faults=Faults([rule])), 7) == [200, 200, 503, 503, 503, 200, 200]


def test_a_rule_strikes_between_two_times() -> None:
    bench = Bench(faults=Faults([{"do": "server_error", "between": [10, 20]}]))
    seen = []
    for _ in range(4):
        seen.extend(_statuses(bench, 1))
        bench.clock.pass_by(8)

    assert seen == [200, 200, 503, 200]


def test_a_rule_is_about_one_call_or_many() -> None:
    for on, expected in (("GET /ai/queue", 503), ("GET /ai/*", 503), ("* /ai/queue", 503), ("POST /ai/queue", 200)):
        assert _statuses(Bench(faults=Faults([{"do": "server_error", "on": on}])), 1) == [expected]


def test_a_rule_is_about_one_model() -> None:
    bench = Bench(faults=Faults([{"do": "server_error", "on": "*", "model": VIDEO}]))
    assert bench.ask("POST", "/api/ai/queue", POST).status == 200
    assert bench.ask("POST", "/api/ai/queue", POST | {"model": VIDEO}).status == 503
    assert bench.ask("GET", "/api/ai/queue").status == 200


def test_chance_is_the_same_every_time_for_the_same_seed() -> None:
    rules = [{"do": "server_error", "chance": 0.3}]
    first, same, other = (_statuses(Bench(faults=Faults(rules, seed=seed)), 200) for seed in (1, 1, 2))

    assert first == same != other
    assert 30 < first.count(503) < 90


def test_the_first_rule_that_replaces_an_answer_wins_and_a_later_one_is_not_used_up() -> None:
    rules = [{"do": "server_error", "status": 500, "times": 1}, {"do": "server_error", "status": 502, "times": 1}]

    assert _statuses(Bench(faults=Faults(rules)), 3) == [500, 502, 200]


def test_the_record_is_beyond_any_fault() -> None:
    bench = Bench(faults=Faults([{"do": "die", "on": "*"}]))

    assert bench.ask("GET", "/_sandbox/record", key=None).status == 200


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"do": "explode"}, "expected one of: broken_json, cancel,"),
        ({}, "'None', expected one of"),
        ({"do": "rate_limit", "second": 3}, "the fault rate_limit has no option 'second', only: do, on,"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Faults([rule])


def test_the_file_is_read_again_when_it_changes_and_rules_that_stayed_keep_their_counts(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    once = {"do": "server_error", "status": 500, "times": 1}
    path.write_text(json.dumps([once]))
    bench = Bench(faults=Faults.from_file(path))
    assert _statuses(bench, 2) == [500, 200]
    path.write_text(json.dumps({"seed": 0, "rules": [once, {"do": "refuse_key", "status": 403}]}))
    assert _statuses(bench, 2) == [403, 403]
    path.write_text("[{half a rule")
    assert _statuses(bench, 1) == [403]
    path.write_text("[]")
    assert _statuses(bench, 1) == [200]


def test_a_file_that_cannot_be_read_at_the_start_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    with pytest.raises(OSError, match="faults"):
        Faults.from_file(path)
    for text in ("{}", "[1]", "5", '[{"do": "die", "after": null}]'):
        path.write_text(text)
        with pytest.raises(ValueError, match="expected a list of rules"):
            Faults.from_file(path)


# --- those that change what the hub does ----------------------------------------------------------------------------


def test_fresh_rows_are_missing_from_the_lists_for_a_while_but_not_by_id() -> None:
    bench = Bench(faults=Faults([{"do": "list_lag", "seconds": 3}]))
    (made,) = bench.enqueue()
    assert bench.row(made)["status"] == "queued"
    assert [bench.get(f"/api/ai/{name}")["count"] for name in ("queue", "generations")] == [0, 0]
    bench.clock.pass_by(3)

    assert [bench.get(f"/api/ai/{name}")["count"] for name in ("queue", "generations")] == [1, 1]


def test_fresh_ids_are_unknown_for_a_while() -> None:
    bench = Bench(faults=Faults([{"do": "unknown_id", "seconds": 3}]))
    (made,) = bench.enqueue()
    assert bench.ask("GET", f"/api/ai/queue/{made}").status == 404
    assert bench.ask("GET", f"/api/ai/generations/{made}").status == 404
    bench.clock.pass_by(3)

    assert bench.ask("GET", f"/api/ai/queue/{made}").status == 200


def test_an_older_hub_forgets_what_has_ended() -> None:
    bench = Bench(faults=Faults([{"do": "forget_ended"}]))
    (made,) = bench.enqueue()
    assert bench.ask("GET", f"/api/ai/queue/{made}").status == 200
    bench.clock.pass_by(IMAGE_LIFE_S)

    assert bench.ask("GET", f"/api/ai/queue/{made}").status == 404
    assert bench.get(f"/api/ai/generations/{made}")["generation"]["status"] == "succeeded"


def test_the_echo_may_be_missing_or_hold_more_than_was_sent() -> None:
    missing = Bench(faults=Faults([{"do": "no_echo"}]))
    missing.enqueue(seed=7)
    more = Bench(faults=Faults([{"do": "echo_defaults"}]))
    more.enqueue(seed=7)

    assert not {"prompt", "seed"} & set(missing.get("/api/ai/generations")["generations"][0])
    assert {"seed": 7, "guidance_scale": 3.5}.items() <= more.get("/api/ai/generations")["generations"][0].items()


def test_a_chance_marks_the_same_rows_every_time_one_looks() -> None:
    bench = Bench(faults=Faults([{"do": "no_echo", "chance": 0.5}]), max_generations=40)
    bench.enqueue(num_generations=40)
    looks = [["prompt" in row for row in bench.get("/api/ai/generations")["generations"]] for _ in range(2)]

    assert looks[0] == looks[1]
    assert {True, False} == set(looks[0])


def test_generations_fail_in_given_words_and_are_not_charged() -> None:
    bench = Bench(faults=Faults([{"do": "fail", "words": "insufficient_credits", "times": 1}]))
    row = bench.finished()
    assert (row["status"], row["error_message"]) == ("failed", "insufficient_credits")
    assert bench.hub.charged == 0
    assert bench.finished()["status"] == "succeeded"


def test_somebody_else_cancels() -> None:
    bench = Bench(faults=Faults([{"do": "cancel", "seconds": 2}]))
    (made,) = bench.enqueue()
    bench.clock.pass_by(2)

    assert bench.row(made)["status"] == "cancelled"


def test_slow_work_takes_so_many_times_as_long() -> None:
    bench = Bench(faults=Faults([{"do": "slow_work", "factor": 1000}]))
    (made,) = bench.enqueue()
    bench.clock.pass_by(600)

    assert bench.row(made)["status"] == "processing"


def test_a_late_insertion_appears_after_the_connection_died() -> None:
    bench = Bench(faults=Faults([{"do": "late_insertion", "seconds": 30}]))
    assert bench.ask("POST", "/api/ai/queue", POST).cut == "after"
    bench.clock.pass_by(29)
    assert bench.get("/api/ai/generations")["count"] == 0
    assert bench.hub.posts == []
    bench.clock.pass_by(1)

    assert bench.get("/api/ai/generations")["count"] == 1
    assert bench.hub.posts[0].body == POST


def test_what_is_refused_anyway_is_not_inserted_late() -> None:
    bench = Bench(faults=Faults([{"do": "late_insertion"}]))

    assert bench.ask("POST", "/api/ai/queue", {"model": "none", "prompt": "x"}).status == 404


@pytest.mark.parametrize(("landed", "posts"), [(False, 0), (True, 1)])
def test_a_replaced_answer_may_hide_a_post_that_landed(landed: bool, posts: int) -> None:
    for do in [name for name, kind in KINDS.items() if kind.replace is not None]:
        bench = Bench(faults=Faults([{"do": do, "on": "POST /ai/queue", "landed": landed}]))
        bench.ask("POST", "/api/ai/queue", POST)
        assert len(bench.hub.posts) == posts, do


# --- each of them over real HTTP ------------------------------------------------------------------------------------


class Rehearsal:
    """A hub in its own process, its faults file, and a client."""

    def __init__(self, hub: Sandbox, path: Path, client: httpx.Client) -> None:
        self.hub, self.path, self.client = hub, path, client
        self._edits = count(1)

    def suffer(self, *rules: dict[str, Any]) -> None:
        self.path.write_text(json.dumps(rules))
        # Two edits within one tick of the file system's clock would look like one.
        os.utime(self.path, ns=(0, next(self._edits) * 1_000_000_000))

    def post(self, **more: Any) -> httpx.Response:
        return self.client.post("/api/ai/queue", json=POST | more)

    def made(self) -> int:
        return int(self.hub.record()["generations"])

    def file_address(self) -> str:
        made = self.post().json()["generations"][0]["generation_id"]
        while not (address := self.client.get(f"/api/ai/queue/{made}").json()["result_url"]):
            pass  # thirty milliseconds at this speed
        return str(address)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    path = tmp_path_factory.mktemp("faults") / "faults.json"
    path.write_text("[]")
    with (
        Sandbox(speed=1000, faults=path) as hub,
        httpx.Client(base_url=hub.url, headers={"authorization": f"Bearer {KEY}"}, timeout=5) as client,
    ):
        yield Rehearsal(hub, path, client)


@pytest.fixture
def rehearsal(shared: Rehearsal) -> Rehearsal:
    shared.suffer()
    return shared


def _disconnects(ask: Callable[[], httpx.Response]) -> bool:
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        ask()
    return True


def _waits(rehearsal: Rehearsal) -> bool:
    with pytest.raises(httpx.ReadTimeout):
        rehearsal.client.post("/api/ai/queue", json=POST, timeout=0.05)
    return True


def _retry_after(answer: httpx.Response) -> str | None:
    assert answer.status_code == 429
    assert words_of(answer) == "Rate limit exceeded"  # type: ignore[arg-type]
    return answer.headers.get("retry-after")


def _page(answer: httpx.Response, status: int) -> bool:
    return answer.status_code == status and answer.headers["content-type"].startswith("text/html")


def _refused(answer: httpx.Response, status: int, words: str) -> bool:
    return answer.status_code == status and words_of(answer) == words  # type: ignore[arg-type]


def _ids(answer: httpx.Response) -> list[str]:
    return [entry["generation_id"] for entry in answer.json()["generations"]]


def _is_no_json(answer: httpx.Response) -> bool:
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    return answer.status_code == 200


# The rule, how many generations a POST of two makes for all that, and what the client sees of it.
POSTS: list[tuple[dict[str, Any], int, Callable[[Rehearsal], bool]]] = [
    ({"do": "die"}, 0, lambda r: _disconnects(lambda: r.post(num_generations=2))),
    ({"do": "lose_answer"}, 2, lambda r: _disconnects(lambda: r.post(num_generations=2))),
    ({"do": "hang"}, 0, _waits),
    ({"do": "hang", "landed": True}, 1, _waits),
    ({"do": "hang", "seconds": 0.01}, 0, lambda r: _disconnects(r.post)),
    ({"do": "rate_limit"}, 0, lambda r: _retry_after(r.post()) == "2"),
    ({"do": "rate_limit", "form": "date"}, 0, lambda r: str(_retry_after(r.post())).endswith("GMT")),
    ({"do": "rate_limit", "form": "none"}, 0, lambda r: _retry_after(r.post()) is None),
    ({"do": "server_error"}, 0, lambda r: _refused(r.post(), 503, "Something went wrong")),
    ({"do": "server_error", "status": 502, "html": True, "landed": True}, 1, lambda r: _page(r.post(), 502)),
    ({"do": "proxy_page", "status": 404}, 0, lambda r: _page(r.post(), 404)),
    ({"do": "refuse_key"}, 0, lambda r: _refused(r.post(), 401, "unauthenticated")),
    ({"do": "refuse_key", "status": 403}, 0, lambda r: _refused(r.post(), 403, "forbidden")),
    ({"do": "no_credits"}, 0, lambda r: _refused(r.post(), 402, "Insufficient credits")),
    ({"do": "no_credits", "status": 400}, 0, lambda r: _refused(r.post(), 400, "Insufficient credits")),
    ({"do": "empty_answer"}, 0, lambda r: r.post().json() == {"generations": [], "error": "Provider unavailable"}),
    ({"do": "words", "status": 422, "json": {"error": "odd"}}, 0, lambda r: _refused(r.post(), 422, "odd")),
    ({"do": "redirect"}, 0, lambda r: r.post().headers["location"] == f"{r.hub.files_url}/api/ai/queue"),
    (
        {"do": "redirect", "status": 302, "to": "{base}/x"},
        0,
        lambda r: r.post().headers["location"] == f"{r.hub.url}/x",
    ),
    ({"do": "broken_json"}, 2, lambda r: _is_no_json(r.post(num_generations=2))),
    ({"do": "too_few"}, 2, lambda r: len(_ids(r.post(num_generations=2))) == 1),
    ({"do": "too_many"}, 2, lambda r: len(_ids(r.post(num_generations=2))) == 3),
    ({"do": "not_uuids"}, 2, lambda r: _ids(r.post(num_generations=2)) == ["../../gen_0", "../../gen_1"]),
    ({"do": "late_insertion", "seconds": 0}, 1, lambda r: _disconnects(r.post)),
    ({"do": "cut_body", "on": "POST /ai/queue"}, 2, lambda r: _disconnects(lambda: r.post(num_generations=2))),
    ({"do": "cut_body", "on": "POST /ai/queue", "length": False}, 1, lambda r: _is_no_json(r.post())),
    ({"do": "slow_answer", "on": "POST /ai/queue", "seconds": 9}, 1, _waits),
    ({"do": "slow_answer", "on": "POST /ai/queue", "seconds": 0.01}, 1, lambda r: len(_ids(r.post())) == 1),
]


@pytest.mark.parametrize(("rule", "made", "seen"), POSTS, ids=[json.dumps(case[0]) for case in POSTS])
def test_a_faulty_post_is_seen_as_it_is_and_makes_what_it_makes(
    rehearsal: Rehearsal, rule: dict[str, Any], made: int, seen: Callable[[Rehearsal], bool]
) -> None:
    before = rehearsal.made()
    rehearsal.suffer(rule)

    assert seen(rehearsal)
    assert rehearsal.made() - before == made


FILES: list[tuple[dict[str, Any], Callable[[str, int], bool]]] = [
    ({"do": "expired_address"}, lambda a, _: b"expired" in httpx.get(a).content),
    ({"do": "die"}, lambda a, _: _disconnects(lambda: httpx.get(a))),
    ({"do": "server_error", "html": True}, lambda a, _: _page(httpx.get(a), 503)),
    ({"do": "redirect", "to": "{base}{path}"}, lambda a, _: httpx.get(a).status_code == 307),
    ({"do": "cut_body"}, lambda a, _: _disconnects(lambda: httpx.get(a))),
    ({"do": "cut_body", "length": False}, lambda a, size: len(httpx.get(a).content) == size // 2),
    ({"do": "wrong_length"}, lambda a, _: _disconnects(lambda: httpx.get(a))),
    ({"do": "wrong_length", "by": -100}, lambda a, size: len(httpx.get(a).content) == size - 100),
    ({"do": "no_length"}, lambda a, size: _plain(httpx.get(a)) == (None, size)),
    ({"do": "oversize", "bytes": 5000}, lambda a, size: len(httpx.get(a).content) == size + 5000),
    ({"do": "empty_body"}, lambda a, _: httpx.get(a).content == b""),
    ({"do": "wrong_type"}, lambda a, _: _page(httpx.get(a), 200)),
    ({"do": "wrong_type", "content_type": "image/png"}, lambda a, _: httpx.get(a).content.startswith(b"<html>")),
    ({"do": "no_range"}, lambda a, _: httpx.get(a, headers={"range": "bytes=5-"}).status_code == 200),
]


def _plain(answer: httpx.Response) -> tuple[str | None, int]:
    return answer.headers.get("content-length"), len(answer.content)


@pytest.mark.parametrize(("rule", "seen"), FILES, ids=[json.dumps(case[0]) for case in FILES])
def test_a_faulty_download_is_seen_as_it_is(
    rehearsal: Rehearsal, rule: dict[str, Any], seen: Callable[[str, int], bool]
) -> None:
    address = rehearsal.file_address()
    size = len(httpx.get(address).content)
    rehearsal.suffer({"on": "GET /files/ID"} | rule)

    assert seen(address, size)


def test_a_redirect_can_be_followed_to_the_file(rehearsal: Rehearsal) -> None:
    address = rehearsal.file_address()
    rehearsal.suffer({"do": "redirect", "on": "GET /files/ID", "times": 1})
    answer = httpx.get(address, follow_redirects=True)

    assert [hop.status_code for hop in answer.history] == [307]
    assert answer.headers["content-type"] == "image/png"


def test_a_download_that_stalls_is_half_there_and_then_silent(rehearsal: Rehearsal) -> None:
    address = rehearsal.file_address()
    whole = httpx.get(address).content
    rehearsal.suffer({"do": "stall"})
    with httpx.stream("GET", address, timeout=0.1) as answer:
        assert answer.headers["content-length"] == str(len(whole))
        chunks = answer.iter_raw(len(whole) // 2)
        assert next(chunks) == whole[: len(whole) // 2]
        with pytest.raises(httpx.ReadTimeout):
            next(chunks)


def test_a_stream_that_is_cut_ends_and_the_next_one_lives(rehearsal: Rehearsal) -> None:
    rehearsal.suffer({"do": "cut_events", "seconds": 0.05, "times": 1})
    with rehearsal.client.stream("GET", "/api/events") as answer:
        assert answer.status_code == 200
        answer.read()
    with rehearsal.client.stream("GET", "/api/events") as answer:
        assert next(answer.iter_lines()) == ": keep-alive"


def test_a_silent_stream_says_nothing(rehearsal: Rehearsal) -> None:
    rehearsal.suffer({"do": "silent_events"})
    with (
        rehearsal.client.stream("GET", "/api/events", timeout=0.2) as answer,
        pytest.raises(httpx.ReadTimeout),
    ):
        answer.read()


def test_every_kind_of_fault_is_in_a_test_and_says_what_it_does() -> None:
    told = Path(__file__).read_text() + (Path(__file__).parent / "test_sandbox_events.py").read_text()
    told += (Path(__file__).parent / "test_sandbox_files.py").read_text()

    for name, kind in KINDS.items():
        assert f'"{name}"' in told, name
        assert kind.says
