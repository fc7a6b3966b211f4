"""Leases, money and what a worker is told: who may work on a shard, and that no key travels."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import time
import urllib.request
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_kit import IMAGE

from oxenbatch import __version__, cluster
from oxenbatch.cluster import leases, purse, worker
from oxenbatch.cluster.conductor import Conductor
from oxenbatch.cluster.leases import Lease
from oxenbatch.cluster.worker import Job, run_shard
from oxenbatch.errors import MachineError, TryAgain
from oxenbatch.folder import LEDGER, locked
from oxenbatch.jobs import JobState, Row
from oxenbatch.ledger import runs, sends
from oxenbatch.ledger.book import Ledger
from oxenbatch.manifest import Overrides, load_manifest
from oxenbatch.plan import Facts, Limits
from oxenbatch.runner import Mood
from oxenbatch.sandbox import Sandbox
from oxenbatch.shards import FOLDER, LEASE, Shard, all_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY = "the-workers-own-key-3141"


# -- money --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**11), min_size=1, max_size=20))
def test_first_grants_cover_what_was_committed_and_share_the_rest_to_the_last_nanodollar(
    whole: int, spent: list[int]
) -> None:
    committed = dict(zip(all_of(len(spent)), spent, strict=True))
    grants = purse.first_grants(whole, committed)
    assert all(grants[shard] >= amount for shard, amount in committed.items())
    assert sum(grants.values()) == max(whole, sum(spent))


@given(
    whole=st.integers(0, 10**6),
    others=st.integers(0, 10**6),
    hungry=st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 10**5)), max_size=8),
)
def test_what_is_given_on_never_exceeds_what_is_left_and_is_enough_for_a_sample(
    whole: int, others: int, hungry: list[tuple[int, int]]
) -> None:
    asking = [purse.Hungry(Shard(n + 1, 8), spent, cheapest) for n, (spent, cheapest) in enumerate(hungry)]
    taken = others + sum(one.committed for one in asking)
    grants = purse.more(whole, taken, asking)
    more = {one.shard: grants[one.shard] - one.committed for one in asking if one.shard in grants}
    assert sum(more.values()) <= max(0, whole - taken)
    assert all(more[one.shard] >= one.cheapest for one in asking if one.shard in more)
    affordable = [one for one in asking if one.cheapest <= whole - taken]
    assert bool(grants) == bool(affordable and whole > taken)


# -- leases -------------------------------------------------------------------------------------------------------


def test_a_lease_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert leases.read(tmp_path) is None
    for lease in (Lease(1, None), Lease(2, Decimal("0.000000001"), "host, process 7"), Lease(3, Decimal(1000000))):
        leases.write(tmp_path, lease)
        assert leases.read(tmp_path) == lease


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"epoch": 1}', '{"epoch": 1, "max_cost": "much", "holder": ""}'])
def test_a_lease_that_cannot_be_read_is_the_machines_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / LEASE).write_text(text)
    with pytest.raises(MachineError, match="cannot be read"):
        leases.read(tmp_path)


# -- one shard on a worker ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub() -> Iterator[Sandbox]:
    with Sandbox(speed=200, key=KEY) as served:
        yield served


@pytest.fixture
def job(tmp_path: Path, hub: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Shard 1 of 1 of three pictures, leased with epoch 1."""
    monkeypatch.setenv("OXEN_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.txt").write_text("a\nb\nc\n")
    overrides = Overrides(model=IMAGE)
    date = dt.date(2026, 11, 24)
    shard = Shard(1, 1)
    folder = tmp_path / "out" / FOLDER / shard.folder
    folder.mkdir(parents=True)
    leases.write(folder, Lease(1, None))
    fingerprint = load_manifest(tmp_path / "m.txt", overrides=overrides).fingerprint(date)
    return Job(__version__, str(tmp_path / "m.txt"), overrides, fingerprint, str(tmp_path / "out"), date, shard, 1,
               hub.url, Limits())  # fmt: skip


def folder_of(job: Job) -> Path:
    return Path(job.folder) / FOLDER / job.shard.folder


def made(hub: Sandbox) -> int:
    return int(hub.record()["generations"])


def test_a_shard_runs_with_its_lease_and_says_what_became_of_it(job: Job, hub: Sandbox) -> None:
    before = made(hub)
    outcome = run_shard(job)
    assert (outcome.exit_code, outcome.counts["downloaded"], outcome.sends) == (0, 3, 3)
    assert "process" in (leases.read(folder_of(job)) or Lease(0, None)).holder
    assert run_shard(job).sends == 0, "dask may well run it once more"
    assert made(hub) == before + 3


def test_whoever_was_sent_before_the_lease_was_given_anew_steps_back(job: Job, hub: Sandbox) -> None:
    leases.write(folder_of(job), Lease(2, None))
    before = made(hub)
    outcome = run_shard(job)
    assert "was leased anew (epoch 2, this one was sent with 1)" in outcome.stepped_back
    assert outcome.exit_code == 75
    assert made(hub) == before
    assert not (folder_of(job) / LEDGER).exists()


def test_of_two_starts_the_second_finds_the_lock_and_steps_back(job: Job, hub: Sandbox) -> None:
    before = made(hub)
    with locked(folder_of(job), folder_of(job) / LEDGER):
        assert "another run works on" in run_shard(job).stepped_back
    assert made(hub) == before
    assert run_shard(job).exit_code == 0


def test_a_ledger_that_another_machine_may_have_open_is_not_opened_to_see_who_works(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's log does not bear two machines; who works there stands in the lease."""
    assert run_shard(job).exit_code == 0
    folder, said = folder_of(job), []
    leases.write(folder, Lease(1, None, "worker-7, process 12"))
    conductor = Conductor(None, job, Path(job.folder), [job.shard], say=said.append)
    opened: list[Path] = []
    with locked(folder, folder / LEDGER):
        real = Ledger.open.__func__  # type: ignore[attr-defined]  # a classmethod's own function

        def noted(kind: type[Ledger], path: Path, **more: Any) -> Ledger:
            opened.append(Path(path))
            return real(kind, path, **more)  # type: ignore[no-any-return]

        monkeypatch.setattr(Ledger, "open", classmethod(noted))
        with (
            pytest.raises(
                TryAgain, match=r"another run works on .* \(worker-7, process 12\); this one leaves it alone$"
            ),
            locked(folder, folder / LEDGER),
        ):
            pass
        conductor._was_killed(job.shard)
        assert opened == []
        assert list(conductor._busy) == [job.shard], "it is asked again until it is free"


def test_the_leases_money_is_the_shards_limit(job: Job, hub: Sandbox) -> None:
    leases.write(folder_of(job), Lease(1, Decimal("0.03")))
    before = made(hub)
    outcome = run_shard(replace(job, limits=Limits(max_cost=Decimal(100))))
    assert outcome.starved
    assert (outcome.exit_code, made(hub) - before) == (5, 2)


def test_limited_sends_are_counted_over_all_lives_of_one_run(job: Job, hub: Sandbox) -> None:
    limited = replace(job, limits=Limits(limit_sends=2))
    before = made(hub)
    assert [run_shard(limited).exit_code for _ in range(2)] == [5, 5]
    assert made(hub) == before + 2
    assert run_shard(replace(limited, sends_before=2)).exit_code == 0


def bad_jobs(job: Job) -> dict[str, Any]:
    return {
        "a worker has oxenbatch": replace(job, version="0.0.9"),
        "on a folder that all workers share": replace(job, folder=f"{job.folder}-not-mounted"),
        "is not the file that was meant": replace(job, fingerprint="m1:other"),
        "does not exist": replace(job, manifest=f"{job.manifest}-not-mounted.txt"),
    }


@pytest.mark.parametrize("words", ["a worker has oxenbatch", "on a folder that all workers share",
                                   "is not the file that was meant", "does not exist"])  # fmt: skip
def test_a_worker_that_sees_something_else_says_so_and_sends_nothing(words: str, job: Job, hub: Sandbox) -> None:
    before = made(hub)
    outcome = run_shard(bad_jobs(job)[words])
    assert words in " ".join(outcome.reasons)
    assert outcome.exit_code in (2, 74, 78)
    assert made(hub) == before


def test_a_worker_without_a_key_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OXEN_API_KEY")
    outcome = run_shard(job)
    assert outcome.exit_code == 77
    assert "no key for" in outcome.reasons[0]


def test_what_travels_holds_no_key(job: Job) -> None:
    there = pickle.dumps(job)
    back = pickle.dumps(run_shard(job))
    assert KEY.encode() not in there + back


def test_a_manifest_that_is_wrong_comes_back_as_its_problems(job: Job) -> None:
    Path(job.manifest).write_text("a\n")
    overrides = Overrides(model="no-such-model-at-all")
    fingerprint = load_manifest(job.manifest, overrides=overrides).fingerprint(job.date)
    outcome = run_shard(replace(job, overrides=overrides, fingerprint=fingerprint))
    assert outcome.exit_code == 65
    assert "is not in the hub's catalogue" in outcome.problems[0]


# -- a shard that waits for another -------------------------------------------------------------------------------


class Run:
    """What the watcher sees of a run, set by hand."""

    def __init__(self) -> None:
        self.facts = Facts(pending=False, submitting=0, uncertain=1, at_the_hub=0, succeeded=0)
        self.moved: Mapping[JobState, int] = {}
        self.mood = Mood()


def test_a_shard_is_stuck_when_only_unanswered_sends_are_left_and_nothing_moves_for_long(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, run = [1000.0], Run()
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    watcher = worker._Watcher(replace(job, limits=Limits(settle_s=10.0)), Path("stop"))

    def after(seconds: float) -> bool:
        now[0] += seconds
        return watcher._is_stuck(run)  # type: ignore[arg-type]  # it has all that is looked at

    long = 10.0 + worker.STUCK_S
    assert not after(long)
    assert after(1.0)
    for moves in (
        {"moved": {"downloaded": 1}},
        {"facts": replace(run.facts, submitting=1)},
        {"facts": replace(run.facts, at_the_hub=1)},
        {"facts": replace(run.facts, succeeded=1)},
        {"facts": replace(run.facts, uncertain=0)},
        {"mood": Mood(unreachable_s=5.0)},
    ):
        before = dict(vars(run))
        vars(run).update(moves)
        assert not after(long), moves
        vars(run).update({name: value for name, value in before.items() if name != "moved"})
        assert not after(long)
        assert after(1.0), moves


def die_over_a_post(path: Path) -> None:
    """The ledger is as a worker leaves it that is killed while its POST is open."""
    with Ledger.open(path) as ledger:
        kinds, now = sends.kinds_due(ledger), time.time()
        due = sends.due(ledger, [kinds], {kind.model: 1 for kind in kinds}, now)
        run_id = runs.begin_run(ledger, version="0", at=now)
        (_,) = sends.authorise(ledger, [due], sends.Caps(concurrency=1), at=now, run_id=run_id).intents


def post(hub: Sandbox, row: dict[str, str]) -> None:
    """The request has reached the hub."""
    body = json.dumps({name: row[name] for name in ("model", "prompt")}).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{hub.url}/api/ai/queue", body, headers)) as answer:  # noqa: S310 - of this machine
        assert answer.status == 200


def by_owner(total: int) -> dict[int, str]:
    """An id of a row for each shard."""
    ids: dict[int, str] = {}
    for n in range(1000):
        row = Row(IMAGE, {"prompt": "the same picture"}, f"row-{n}")
        for shard in all_of(total):
            if shard.owns(row):
                ids.setdefault(shard.number, f"row-{n}")
    return ids


def test_a_stuck_shard_frees_its_worker_for_the_one_that_it_waits_for(
    tmp_path: Path, hub: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shards have sent the same request when their workers die, and one of the two has landed; one worker is left.

    Whichever it takes cannot tell whose the generation is while the other's send counts as under way.
    """
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("OXEN_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(worker, "STUCK_S", 2.0)  # two scans that agree are a second apart
    monkeypatch.setattr(worker, "LOOK_S", 0.1)
    ids, date = by_owner(2), dt.date(2026, 11, 24)
    rows = [{"id": name, "prompt": "the same picture", "model": IMAGE} for name in ids.values()]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, before = tmp_path / "out", made(hub)
    manifest = load_manifest(tmp_path / "m.jsonl")
    limits = Limits(concurrency=2, settle_s=0.5)
    request = cluster.Request(manifest, Overrides(), out, date, hub.url, limits, "stop", False, False, 2)
    outcomes: list[worker.Outcome] = []
    came_back = Conductor._came_back

    def noting(self: Conductor, shard: Shard, future: Any) -> None:
        outcomes.append(future.result())
        came_back(self, shard, future)

    told: list[str] = []

    def say(words: str) -> None:
        told.append(words)
        if sum("are under way" in one for one in told) > 3:  # every half minute: nobody comes back
            (out / FOLDER / worker.STOP).touch()
            raise AssertionError(told)

    monkeypatch.setattr(Conductor, "_came_back", noting)
    with distributed.LocalCluster(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None,
                                  scheduler_kwargs=cluster.OF_ITS_OWN) as one:  # fmt: skip
        nothing_sent = replace(request, limits=replace(limits, limit_sends=0))
        cluster.run(one.scheduler_address, nothing_sent, say)
        assert [outcome.sends for outcome in outcomes] == [0, 0]
        for shard in all_of(2):
            die_over_a_post(out / FOLDER / shard.folder / LEDGER)
        post(hub, rows[0])
        outcomes.clear()
        _, summary = cluster.run(one.scheduler_address, request, say)

    assert summary.exit_code == 0, summary.reasons
    assert made(hub) == before + 2, "one was found, one was proved absent, and sent"
    assert summary.counts[JobState.DOWNLOADED] == 2
    assert [outcome.yielded for outcome in outcomes].count(True) >= 1, "else this test proves nothing"
    assert {outcome.shard.number: outcome.exit_code for outcome in outcomes} == {1: 0, 2: 0}
