"""The stand-in hub, killed and started again on its journal, is the same hub."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from sandbox_kit import IMAGE, IMAGE_LIFE_S, VIDEO, VIDEO_LIFE_S, Bench, Clock

from oxenbatch.sandbox import Faults
from oxenbatch.sandbox.journal import Journal, hold

if TYPE_CHECKING:
    from pathlib import Path


def _story(bench: Bench) -> list[Any]:
    bench.hub.advance()
    return [
        (g.id, g.status, g.parameters, g.enqueued_at, g.started_at, g.completed_at, g.error, g.price, g.place)
        for g in bench.hub.generations.values()
    ]


def _busy(journal: Path, clock: Clock) -> Bench:
    bench = Bench(clock=clock, journal=journal, workers=3)
    for n in range(6):
        bench.enqueue(prompt=f"cube {n}", num_generations=2)
        clock.pass_by(3)
    bench.enqueue(VIDEO, prompt="[fail once]")
    bench.ask("DELETE", f"/api/ai/queue/{next(reversed(bench.hub.clockwork.active))}")
    bench.enqueue(prompt="[fail once]")
    return bench


def test_a_hub_that_starts_again_has_the_same_generations_with_the_same_ends(tmp_path: Path) -> None:
    clock = Clock()
    before = _busy(tmp_path / "journal", clock)
    again = Bench(clock=clock, journal=tmp_path / "journal", workers=3)
    assert _story(again) == _story(before)
    assert again.hub.posts == before.hub.posts
    assert again.hub.peak_active == before.hub.peak_active > 3
    clock.pass_by(VIDEO_LIFE_S)

    assert _story(again) == _story(before)
    assert again.hub.charged == before.hub.charged > 0
    assert again.hub.reserved == before.hub.reserved == 0


def test_what_was_under_way_goes_on_while_the_hub_is_down(tmp_path: Path) -> None:
    clock = Clock()
    (made,) = Bench(clock=clock, journal=tmp_path / "journal").enqueue()
    clock.pass_by(IMAGE_LIFE_S)

    assert Bench(clock=clock, journal=tmp_path / "journal").row(made)["status"] == "succeeded"


def test_a_hub_with_other_workers_or_speed_does_not_rewrite_what_has_happened(tmp_path: Path) -> None:
    clock = Clock()
    before = _busy(tmp_path / "journal", clock)
    clock.pass_by(60)
    told = _story(before)
    again = Bench(clock=clock, journal=tmp_path / "journal", workers=1, speed=50)
    assert _story(again) == told
    third = Bench(clock=clock, journal=tmp_path / "journal", workers=9)
    assert _story(third) == told


def test_fail_once_fails_once_across_restarts(tmp_path: Path) -> None:
    clock = Clock()
    assert Bench(clock=clock, journal=tmp_path / "journal").finished(prompt="[fail once]")["status"] == "failed"

    assert Bench(clock=clock, journal=tmp_path / "journal").finished(prompt="[fail once]")["status"] == "succeeded"


def test_the_same_seed_on_an_old_journal_gives_no_id_twice(tmp_path: Path) -> None:
    clock = Clock()
    first = Bench(clock=clock, journal=tmp_path / "journal", seed="s").enqueue()

    assert Bench(clock=clock, journal=tmp_path / "journal", seed="s").enqueue() != first


def test_an_entry_is_with_the_system_before_the_answer_is_given(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    (made,) = Bench(journal=journal).enqueue(seed=7)
    entry = json.loads(journal.read_bytes().splitlines()[-1])

    assert entry["body"] == {"model": IMAGE, "prompt": "A red cube", "seed": 7}
    assert entry["generations"][0]["id"] == made


def test_a_torn_last_line_is_as_if_never_written_wherever_it_was_torn(tmp_path: Path) -> None:
    clock = Clock()
    journal = tmp_path / "journal"
    bench = Bench(clock=clock, journal=journal)
    bench.enqueue(prompt="kept")
    bench.enqueue(prompt="torn")
    whole = journal.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(1, len(last)):
        journal.write_bytes(whole[:-cut])
        entries = Journal(journal).entries
        assert [entry["body"]["prompt"] for entry in entries if entry["do"] == "enqueue"] == ["kept"]
        assert journal.read_bytes() == whole[: -len(last)]

    again = Bench(clock=clock, journal=journal)
    again.enqueue(prompt="after")
    third = Bench(clock=clock, journal=journal)
    assert [post.body["prompt"] for post in third.hub.posts] == ["kept", "after"]


def test_a_file_that_is_no_journal_is_refused_with_its_place(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text('{"do":"start","at":1,"workers":1}\nshopping list\n')

    with pytest.raises(ValueError, match="line 2: this is not a line of the stand-in hub's journal"):
        Journal(journal)


def test_key_leaks_are_remembered(tmp_path: Path) -> None:
    bench = Bench(journal=tmp_path / "journal")
    bench.fetch(f"{bench.hub.files_url}/anything", authorization="Bearer x")

    assert Bench(journal=tmp_path / "journal").hub.record()["key_leaks"] == 1


def test_a_late_insertion_still_comes_after_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    bench = Bench(clock=clock, journal=tmp_path / "journal", faults=Faults([{"do": "late_insertion", "seconds": 20}]))
    assert bench.ask("POST", "/api/ai/queue", {"model": IMAGE, "prompt": "late"}).cut == "after"
    again = Bench(clock=clock, journal=tmp_path / "journal")
    assert again.get("/api/ai/generations")["count"] == 0
    clock.pass_by(20)

    assert again.get("/api/ai/generations")["generations"][0]["enqueued_at"] == int(clock.now)


def test_a_journal_has_one_writer_at_a_time(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with hold(journal), pytest.raises(TimeoutError, match="another stand-in hub is still writing this journal"):
        hold(journal, patience_s=0.0)
    hold(journal, patience_s=0.0).close()
