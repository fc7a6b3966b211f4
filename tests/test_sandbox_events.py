"""The stand-in hub's event stream: nothing is buffered, and not everything on it is ours."""

from __future__ import annotations

import pytest
from sandbox_kit import IMAGE_LIFE_S, KEY, NESTED, VIDEO_LIFE_S, Bench, frames, news

from oxenbatch.sandbox import Faults


def _ours(bench: Bench, taken: bytes) -> list[str]:
    return [
        data["generation_id"]
        for name, data in frames(taken)
        if name == "media_generation_completed" and data["generation_id"] in bench.hub.generations
    ]


def test_what_ends_while_somebody_listens_is_told_once() -> None:
    bench = Bench()
    listener = bench.hub.subscribe(KEY)
    (made,) = bench.enqueue()
    bench.clock.pass_by(IMAGE_LIFE_S)

    assert _ours(bench, listener.take()) == [made]
    assert listener.take() == b""


def test_what_fires_while_nobody_listens_is_lost() -> None:
    bench = Bench()
    bench.enqueue()
    bench.clock.pass_by(IMAGE_LIFE_S)

    assert bench.hub.subscribe(KEY).take() == b""


def test_every_listener_hears_everything_and_a_closed_one_nothing() -> None:
    bench = Bench()
    first, second, gone = (bench.hub.subscribe(KEY) for _ in range(3))
    gone.close()
    bench.enqueue()
    bench.clock.pass_by(IMAGE_LIFE_S)

    assert first.take() == second.take() != b""
    assert gone.take() == b""


def test_the_address_in_an_event_can_be_fetched() -> None:
    bench = Bench()
    listener = bench.hub.subscribe(KEY)
    bench.enqueue()
    bench.clock.pass_by(IMAGE_LIFE_S)
    ((_, data),) = news(listener.take())

    assert bench.fetch(data["url"]).status == 200


def test_where_result_url_is_null_so_is_the_events_url() -> None:
    bench = Bench()
    listener = bench.hub.subscribe(KEY)
    bench.enqueue(NESTED)
    bench.clock.pass_by(VIDEO_LIFE_S)

    assert [data["url"] for name, data in frames(listener.take()) if name] == [None]


def test_failures_are_told_in_their_words_and_cancelled_ones_not_at_all() -> None:
    bench = Bench()
    listener = bench.hub.subscribe(KEY)
    (failing,) = bench.enqueue(prompt="[fail]")
    (cancelled,) = bench.enqueue()
    bench.ask("DELETE", f"/api/ai/queue/{cancelled}")
    bench.clock.pass_by(IMAGE_LIFE_S)
    heard = news(listener.take())

    assert [data.get("generation_id") for _, data in heard] == [failing]
    assert heard[0][1] == {
        "generation_id": failing,
        "status": "failed",
        "media_type": "image",
        "error": "The prompt was rejected by the content policy",
    }


def test_other_events_and_other_programs_generations_are_on_the_stream_too() -> None:
    bench = Bench()
    listener = bench.hub.subscribe(KEY)
    for n in range(20):
        bench.enqueue(prompt=f"cube {n}")
    bench.clock.pass_by(IMAGE_LIFE_S)
    heard = frames(listener.take())

    assert any(name not in ("", "media_generation_completed") for name, _ in heard)
    ids = {data["generation_id"] for name, data in heard if name == "media_generation_completed"}
    assert len(ids - set(bench.hub.generations)) == 1
    assert set(bench.hub.generations) <= ids


def test_a_comment_comes_every_fifteen_seconds_when_idle() -> None:
    bench = Bench()
    listener = bench.hub.subscribe(KEY)
    assert listener.next_change_at() == bench.clock.now + 15
    bench.clock.pass_by(14.9)
    assert listener.take() == b""
    bench.clock.pass_by(0.1)
    assert frames(listener.take()) == [("", "keep-alive")]
    assert listener.next_change_at() == bench.clock.now + 15


def test_an_event_puts_the_next_comment_off() -> None:
    bench = Bench()
    listener = bench.hub.subscribe(KEY)
    (made,) = bench.enqueue()
    while bench.hub.generations[made].active:
        bench.until_next_change()
        bench.hub.advance()
    listener.take()

    assert listener.next_change_at() == bench.clock.now + 15


def test_the_comment_comes_faster_at_a_higher_speed_but_never_in_a_flood() -> None:
    assert Bench(speed=60).hub.subscribe(KEY).next_own_at() == Bench().clock.now + 0.25
    assert Bench(speed=1e6).hub.subscribe(KEY).next_own_at() == Bench().clock.now + 0.05


def test_a_listener_knows_when_to_look_again() -> None:
    bench = Bench()
    listener = bench.hub.subscribe(KEY)
    (made,) = bench.enqueue()
    heard: list[str] = []
    looks = 0
    while not heard:
        at = listener.next_change_at()
        assert at is not None
        bench.clock.now = at
        heard = _ours(bench, listener.take())
        looks += 1

    assert heard == [made]
    assert looks <= 5
    assert bench.clock.now == bench.hub.generations[made].completed_at


def test_a_listener_is_woken_when_something_has_come() -> None:
    bench = Bench()
    listener = bench.hub.subscribe(KEY)
    woken: list[bool] = []
    listener.wake = lambda: woken.append(True)
    bench.enqueue()
    bench.clock.pass_by(IMAGE_LIFE_S)
    assert woken == []
    bench.hub.advance()

    assert woken == [True]


def test_a_wrong_key_hears_nothing() -> None:
    with pytest.raises(PermissionError):
        Bench().hub.subscribe("wrong")


def test_the_stream_over_http_is_the_same_stream() -> None:
    bench = Bench()
    answer = bench.ask("GET", "/api/events")
    bench.enqueue()
    bench.clock.pass_by(IMAGE_LIFE_S)

    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.stream is not None
    assert len(news(answer.stream.take())) == 1


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_silent_stream_stays_open_and_says_nothing() -> None:
    bench = Bench(faults=Faults([{"do": "silent_events"}]))
    listener = bench.hub.subscribe(KEY)
    bench.enqueue()
    bench.clock.pass_by(100)

    assert listener.take() == b""
    assert not listener.closed


def test_a_cut_stream_ends_after_so_long_and_what_comes_later_is_lost() -> None:
    bench = Bench(faults=Faults([{"do": "cut_events", "seconds": 4, "times": 1}]))
    listener = bench.hub.subscribe(KEY)
    bench.enqueue()
    assert listener.next_own_at() == bench.clock.now + 4
    bench.clock.pass_by(IMAGE_LIFE_S)

    assert listener.take() == b""
    assert listener.closed
    assert not bench.hub.subscribe(KEY).closed


def test_a_lost_event_leaves_the_row_as_it_is() -> None:
    bench = Bench(faults=Faults([{"do": "lose_event", "times": 1}]))
    listener = bench.hub.subscribe(KEY)
    first, second = bench.enqueue(num_generations=2)
    bench.clock.pass_by(IMAGE_LIFE_S)

    assert len(_ours(bench, listener.take())) == 1
    assert {bench.row(made)["status"] for made in (first, second)} == {"succeeded"}
