"""One run: its stages look at the ledger, act, and ring one bell; nothing that happens between two looks is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from world import VIDEO, World, rows, scratch

from oxenbatch.errors import MachineError, TryAgain
from oxenbatch.folder import locked
from oxenbatch.ledger import reads, runs
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.clerk import ThreadClerk
from oxenbatch.plan import Limits
from oxenbatch.reserve import NAME as RESERVE
from oxenbatch.reserve import Reserve
from oxenbatch.runner import fetching
from oxenbatch.runner.bell import Bell, Tone
from oxenbatch.sandbox.lives import Life

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oxenbatch.runner import Runner


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as path:
        yield path


def test_a_cancellation_of_which_no_event_tells_does_not_leave_the_run_waiting_for_ever(folder: Path) -> None:
    world = World(
        folder,
        rows(2, samples=2),
        faults=[{"do": "cancel", "seconds": 2.0}],
        limits=Limits(concurrency=4, attempts=1, settle_s=20.0),
        latency_s=0.4,
    )

    summary = world.run(within_s=600.0)

    assert summary is not None
    assert (summary.exit_code, world.states()) == (3, {"cancelled": 4})


def test_rows_that_are_due_and_may_not_be_sent_now_are_not_looked_at_twenty_times_a_second(folder: Path) -> None:
    broken = {"do": "fail", "words": "Upstream provider error", "between": [0.0, 2000.0]}
    world = World(
        folder, rows(8, model=VIDEO), faults=[broken], limits=Limits(concurrency=8, attempts=9, settle_s=20.0)
    )

    world.run(within_s=24 * 3600.0)

    world.assert_whole()
    assert world.asked["_authorise"] < 400


def test_a_download_under_way_does_not_make_the_others_be_looked_for_twenty_times_a_second(folder: Path) -> None:
    world = World(
        folder,
        rows(2),
        faults=[{"do": "cut_body", "times": 2}, {"do": "slow_answer", "on": "GET /files/ID", "seconds": 25.0}],
    )

    world.run()

    world.assert_whole()
    assert world.asked["fetchable"] < 60


def test_an_outage_uses_up_no_try_at_a_file(folder: Path) -> None:
    world = World(folder, rows(4), faults=[{"do": "server_error", "on": "*", "between": [10.0, 610.0]}])

    summary = world.run()

    assert summary is not None
    assert (summary.exit_code, world.states()) == (0, {"downloaded": 4})


# -- the bell -------------------------------------------------------------------------------------------------------


def test_a_ring_between_the_look_and_the_wait_is_not_lost() -> None:
    async def story() -> None:
        bell = Bell()
        mark = bell.mark(Tone.LOOK)
        bell.ring()
        async with asyncio.timeout(1.0):
            await bell.wait(mark)

    asyncio.run(story())


def test_a_ring_wakes_everyone_who_waits_and_nobody_twice() -> None:
    async def story() -> list[int]:
        bell = Bell()
        woken: list[int] = []

        async def wait(number: int) -> None:
            await bell.wait(bell.mark(Tone.LOOK))
            woken.append(number)

        waiting = [asyncio.create_task(wait(number)) for number in range(3)]
        await asyncio.sleep(0)
        bell.ring()
        bell.ring()
        await asyncio.gather(*waiting)
        return woken

    assert sorted(asyncio.run(story())) == [0, 1, 2]


def test_a_wait_ends_by_itself_after_its_time_and_leaves_nothing_behind() -> None:
    async def story() -> int:
        bell = Bell()
        await bell.wait(bell.mark(Tone.LOOK), 0.0)
        waiting = asyncio.create_task(bell.wait(bell.mark(Tone.LOOK)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return len(bell._waiting)

    assert asyncio.run(story()) == 0


# -- what the hub tells ---------------------------------------------------------------------------------------------


def _calls(world: World, kind: str) -> int:
    return world.hub.calls[kind]


def _looks(world: World) -> int:
    """Lists and pages of the history, which tell of everything at once."""
    return _calls(world, "GET /ai/queue") + _calls(world, "GET /ai/generations")


def test_while_events_bring_every_end_the_list_is_asked_seldom(folder: Path) -> None:
    with scratch() as other:
        heard, deaf = World(folder, rows(40)), World(other, rows(40), faults=[{"do": "silent_events"}])
        for world in (heard, deaf):
            world.run()
            world.assert_whole()

    assert _looks(heard) * 3 < _looks(deaf)
    assert _calls(heard, "GET /ai/queue/ID") == 0


ROWS_COUNTED = 60
AT_ONCE = {"life": Life.parse("2")}
"""All that is made at once is made for equally long."""


def _counted(folder: Path, **more: Any) -> World:
    """A run of many rows, all of which come well."""
    world = World(folder, rows(ROWS_COUNTED), limits=Limits(concurrency=16), **more)
    world.run()
    world.assert_whole()
    return world


def _hub_calls(world: World) -> int:
    return sum(count for kind, count in world.hub.calls.items() if "files" not in kind)


def test_while_events_tell_all_a_generation_costs_one_call_and_the_batch_ten(folder: Path) -> None:
    world = _counted(folder)

    assert _calls(world, "POST /ai/queue") == ROWS_COUNTED
    assert _hub_calls(world) <= ROWS_COUNTED + 10


def test_without_events_pages_of_the_history_tell_and_no_id_is_asked_for_by_itself(folder: Path) -> None:
    world = _counted(folder, faults=[{"do": "silent_events"}])

    assert _calls(world, "GET /ai/queue/ID") <= 6  # the last few, which are no page's worth
    assert _hub_calls(world) < 1.6 * ROWS_COUNTED  # the stand-in's images take ten looks each


def test_the_ledger_is_asked_a_handful_of_times_for_each_row(folder: Path) -> None:
    world = _counted(folder)
    each = {name: count / ROWS_COUNTED for name, count in world.asked.items()}

    assert each["_record"] == 1
    assert max(each["hear"], each["_authorise"], each["fetchable"]) <= 3, each
    assert sum(each.values()) <= 13, each


def test_files_that_come_into_their_places_together_are_recorded_together(folder: Path) -> None:
    world = World(folder, rows(32), limits=Limits(concurrency=32), hub_options=AT_ONCE)
    world.run()

    world.assert_whole()
    assert world.asked["keep"] <= 32 / 4


def test_the_last_file_under_way_waits_for_no_other_to_be_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TOGETHER_S", 3600.0)
    world = World(folder, rows(8), limits=Limits(concurrency=8))
    world.run(within_s=600.0)

    world.assert_whole()


def test_whoever_leaves_at_once_records_the_files_that_waited_for_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TOGETHER_S", 3600.0)
    slow = {"do": "slow_answer", "on": "GET /files/ID", "seconds": 50.0, "after": 1}
    world = World(folder, rows(2), limits=Limits(concurrency=2), faults=[slow], hub_options=AT_ONCE)

    async def leave(runner: Runner, world: World) -> None:
        while not list(world.folder.glob("*.png")):  # noqa: ASYNC110 - virtual time: a look costs nothing
            await asyncio.sleep(0.5)
        runner.abandon()

    with contextlib.suppress(asyncio.CancelledError):
        world.run(during=leave)

    assert world.states() == {"downloaded": 1, "succeeded": 1}


def test_an_end_that_overtakes_its_posts_answer_costs_no_call(folder: Path) -> None:
    late = [{"do": "slow_answer", "on": "POST /ai/queue", "seconds": 20.0}]
    world = World(folder, rows(4), faults=[*late, {"do": "slow_work", "factor": 0.01}])
    world.run()

    world.assert_whole()
    assert _calls(world, "GET /ai/queue/ID") == 0
    assert _calls(world, "GET /ai/queue") <= 3


def test_events_that_never_come_make_a_run_slower_and_not_wrong(folder: Path) -> None:
    with scratch() as other:
        took = []
        for where, faults in ((folder, []), (other, [{"do": "lose_event"}])):
            world = World(where, rows(40), faults=faults)
            began = world.now
            world.run()
            world.assert_whole()
            took.append(world.now - began)

    assert took[0] <= took[1] < 3 * took[0]


def test_events_of_others_are_not_ours(folder: Path) -> None:
    world = World(folder, rows(30))  # the stand-in's stream brings strangers' ends, now and then
    world.run()

    world.assert_whole()
    assert len(world.query("select 1 from generations")) == 30


def test_a_fresh_generation_that_the_list_does_not_show_yet_is_not_taken_for_gone(folder: Path) -> None:
    world = World(folder, rows(12), faults=[{"do": "list_lag", "seconds": 8.0}, {"do": "silent_events"}])

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 0
    world.assert_whole()


def test_an_older_hub_that_forgets_what_has_ended_is_asked_for_its_history(folder: Path) -> None:
    world = World(folder, rows(6), faults=[{"do": "forget_ended"}, {"do": "silent_events"}])

    world.run()

    world.assert_whole()


def _forgetful(folder: Path, seconds: float) -> World:
    """A hub whose lists and addresses do not know its generations for so long after they were made."""
    faults = [
        {"do": "unknown_id", "seconds": seconds},
        {"do": "list_lag", "seconds": seconds},
        {"do": "silent_events"},
    ]
    return World(folder, rows(3), faults=faults, limits=Limits(concurrency=4, settle_s=20.0))


def test_an_id_that_the_hub_does_not_know_for_a_minute_is_waited_for(folder: Path) -> None:
    world = _forgetful(folder, 90.0)

    world.run()

    world.assert_whole()


def test_an_id_that_the_hub_never_knows_again_is_held_and_not_bought_again(folder: Path) -> None:
    world = _forgetful(folder, 1e9)

    for _ in range(3):
        summary = world.run()
        assert summary is not None
        assert (summary.exit_code, world.states()) == (4, {"held": 3})

    assert world.posts() == 3
    assert world.query("select distinct state from generations") == [("vanished",)]


# -- this machine ---------------------------------------------------------------------------------------------------


class _Full(Reserve):
    """A disk that is full once so many generations are under way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.full = False

    def is_short(self, active: int) -> bool:
        return self.full


def test_nothing_is_sent_that_the_disk_could_not_hold_and_what_is_paid_is_kept(folder: Path) -> None:
    reserve = _Full(folder)
    world = World(folder, rows(20), reserve=reserve)
    world.on_request = lambda _: setattr(reserve, "full", len(world.hub.posts) >= 6)

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 74
    assert len(world.hub.posts) <= 8
    world.assert_known()
    reserve.full = False
    world.on_request = lambda _: None
    world.run()
    world.assert_whole()


def test_on_a_full_disk_the_outcome_of_a_post_is_still_written_thanks_to_the_reserve(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger.open(folder / "ledger.db", create=True).close()
    immediate = Ledger.immediate
    with Reserve(folder) as reserve:
        kept = folder / RESERVE

        @contextlib.contextmanager
        def full(self: Ledger) -> Iterator[None]:
            with immediate(self):
                yield
                if kept.exists():
                    raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(Ledger, "immediate", full)

        async def story(clerk: ThreadClerk) -> None:
            await clerk.do(runs.begin_batch, name="n", hub="h", at=1.0, on="2026-11-22")

        with ThreadClerk(folder / "ledger.db", reserve) as clerk:
            asyncio.run(story(clerk))
        assert not kept.exists()
    monkeypatch.undo()
    with Ledger.open(folder / "ledger.db") as ledger:
        assert reads.batch(ledger) is not None


def test_without_a_reserve_a_full_disk_is_this_machines_trouble(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger.open(folder / "ledger.db", create=True).close()

    def full(_ledger: Ledger) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async def story() -> None:
        with ThreadClerk(folder / "ledger.db") as clerk:
            await clerk.do(full)

    with pytest.raises(MachineError, match="full"):
        asyncio.run(story())


def test_a_second_run_leaves_at_once_and_says_who_works(folder: Path) -> None:
    with Ledger.open(folder / "ledger.db", create=True) as ledger:
        runs.begin_batch(ledger, name="n", hub="h", at=1.0, on="2026-11-22")
        runs.begin_run(ledger, version="1", at=1_800_000_000.0)

    with (
        locked(folder, folder / "ledger.db"),
        pytest.raises(TryAgain, match=f"process {os.getpid()} on") as raised,
        locked(folder, folder / "ledger.db"),
    ):
        pass
    assert raised.value.exit_code == 75
    with locked(folder, folder / "ledger.db"):
        pass  # the lock is gone with its holder
