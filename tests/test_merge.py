"""Shards become one batch: no money is forgotten, every file is checked, and a kill anywhere is mended."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from ledgers import NOW, Book, check_all, new_id, recomputed, row

from oxenbatch import merge as merging
from oxenbatch.dataset.metadata import NAME as METADATA
from oxenbatch.errors import ConfigProblem, MachineError, TryAgain, UsageProblem
from oxenbatch.folder import check_files, locked, lost_files
from oxenbatch.handover import refuse_mixture, shards_in, take_over
from oxenbatch.jobs import InputFile, JobState, job_key, request_hash
from oxenbatch.ledger import decisions, inputs, news, parts, reads, staging
from oxenbatch.ledger import merging as rows
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.news import Kept
from oxenbatch.merge import merge
from oxenbatch.shards import LEASE, Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from oxenbatch.jobs import Row

MONEY = ("submissions", "generations", "samples", "jobs", "events", "runs")


class Batch(Book):
    """A shard's ledger with files beside it."""

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        folder.mkdir(parents=True)
        super().__init__(folder / "ledger.db")
        self.folder = folder
        parts.begin(self.ledger, shard)

    def finish(self, count: int = 1) -> None:
        """The next samples are downloaded, each with bytes of its own."""
        for generation_id in [i for _ in range(count) for i in self.accept()]:
            self.hear(generation_id, "succeeded", cost=None)
            self.fetch_file(generation_id)

    def fetch_file(self, generation_id: str) -> None:
        fetch = self.fetch(generation_id)
        path = self.folder / f"{fetch.name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(generation_id.encode())
        sha256 = hashlib.sha256(generation_id.encode()).hexdigest()
        kept = Kept(f"{fetch.name}.png", sha256, len(generation_id), "image/png")
        news.keep(self.ledger, [(fetch, kept)], at=self.tick())

    def reject(self, sample_id: int) -> None:
        """A person sets the sample's result aside."""
        for aside in decisions.set_aside(self.ledger, [sample_id], attempts=3, at=self.tick()):
            (self.folder / aside.becomes).parent.mkdir(exist_ok=True)
            (self.folder / aside.was).rename(self.folder / aside.becomes)

    def counts(self) -> dict[str, int]:
        return {table: self.one(f"select count(*) from {table}") for table in MONEY}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "out")
    yield made
    for batch in made.shards:
        batch.close()


class Home:
    """A batch's folder with its shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: list[Batch] = []

    def shard(self, number: int, total: int, *wanted: Row) -> Batch:
        shard = Shard(number, total)
        batch = Batch(self.folder / "shards" / shard.folder, shard)
        if wanted:
            batch.stage(*wanted)
        self.shards.append(batch)
        return batch

    @property
    def ledgers(self) -> list[Path]:
        return [batch.path for batch in self.shards]

    def merge(self) -> merging.Merged:
        return merge(self.ledgers, self.folder, at=NOW)

    def merged(self) -> Ledger:
        return Ledger.open(self.folder / "ledger.db")


def two_shards(home: Home) -> None:
    """Two shards with samples in every state, a rejected result, and a row that was changed and made anew."""
    prompts = [row(f"first {n}", number=2 * n) for n in range(len(JobState) + 3)]
    first = home.shard(1, 2, row("changed", id="changed"), *prompts)
    first.finish(3)
    first.reject(2)
    for state in JobState:
        first.bring(state)
    (sample,) = [s for s, state in first.all("select id, state from samples where name like '%first-2%'")]
    assert sample
    first.ledger.conn.execute("update generations set cost = '0.041' where state = 'downloaded'")
    first.ledger.conn.execute("update batch set committed_nanos = ?", (recomputed(first.ledger),))
    first.stage(row("changed by its author", id="changed"), *prompts, changed="rerun", move_aside=_mover(first))
    second = home.shard(2, 2, *(row(f"second {n}", number=2 * n + 1) for n in range(4)))
    second.finish(2)
    second.reject(1)
    second.finish(1)


def _mover(batch: Batch) -> Callable[[list[decisions.Aside]], None]:
    def move(moves: list[decisions.Aside]) -> None:
        for one in moves:
            (batch.folder / one.becomes).parent.mkdir(exist_ok=True)
            (batch.folder / one.was).rename(batch.folder / one.becomes)

    return move


# -- nothing is lost ----------------------------------------------------------------------------------------------


def test_of_the_money_record_nothing_is_lost(home: Home) -> None:
    two_shards(home)
    before = Counter[str]()
    for batch in home.shards:
        check_all(batch.ledger)
        before.update(batch.counts())
    committed = sum(batch.committed() for batch in home.shards)
    charged = sum(reads.charged(batch.ledger) for batch in home.shards)

    merged = home.merge()

    with home.merged() as ledger:
        check_all(ledger)
        after = {table: ledger.conn.execute(f"select count(*) from {table}").fetchone()[0] for table in MONEY}
        assert after == before
        assert reads.committed_nanos(ledger) == committed == recomputed(ledger)
        assert reads.charged(ledger) == merged.charged == charged
        states = sum((Counter(reads.counts(batch.ledger)) for batch in home.shards), Counter())
        assert Counter(reads.counts(ledger)) == states


def test_every_table_of_a_ledger_is_copied_or_left_out_for_a_reason(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        tables = {row[0] for row in ledger.conn.execute(
            "select name from sqlite_master where type = 'table' and name not like '%sqlite%'")}  # fmt: skip
        named = {
            (table, row["from"]) for table in rows.COPIED
            for row in ledger.conn.execute(f"pragma foreign_key_list({table})") if row["to"] == "id"
        }  # fmt: skip
    assert tables == rows.COPIED.keys() | rows.LEFT_OUT.keys() | set(rows.BY_CONTENT)
    assert named <= {(table, column) for table, columns in rows.COPIED.items() for column in columns}


def test_a_file_that_several_shards_send_along_is_one_and_its_address_stays(home: Home) -> None:
    ox, field = (InputFile(letter * 64, "png", 9, f"refs/{letter}.png", (9, 1, 1)) for letter in "ab")
    for number, files in ((1, [ox]), (2, [field, ox])):
        shard = home.shard(number, 2, row(f"of shard {number}"))
        inputs.Staging(shard.ledger).add(1, files)
    inputs.stored(home.shards[1].ledger, 2, "http://hub/ox.png", at=NOW)

    home.merge()

    with home.merged() as ledger:
        check_all(ledger)
        assert sorted(path for path, _ in inputs.files(ledger)) == ["refs/a.png", "refs/b.png"]
        used = ledger.conn.execute(
            "select j.prompt, substr(i.sha256, 1, 1), i.address from job_inputs join inputs i on i.id = input_id"
            " join jobs j on j.id = job_id order by 1, 2"
        ).fetchall()
    assert [tuple(one) for one in used] == [
        ("of shard 1", "a", "http://hub/ox.png"), ("of shard 2", "a", "http://hub/ox.png"), ("of shard 2", "b", None)
    ]  # fmt: skip


def test_every_result_lies_in_the_merged_folder_as_its_ledger_says(home: Home) -> None:
    two_shards(home)
    merged = home.merge()

    with home.merged() as ledger:
        files = {row[0]: row[1] for row in ledger.conn.execute(
            "select file, sha256 from generations where file is not null and state in ('downloaded', 'set_aside')"
            " and sha256 <> ?", ("a" * 64,))}  # fmt: skip
        assert len(files) == 6
        for file, sha256 in files.items():
            assert hashlib.sha256((home.folder / file).read_bytes()).hexdigest() == sha256
        assert sum(file.startswith("set-aside/") for file in files) == 3
        listed = (home.folder / METADATA).read_text().count("\n")
        assert listed == reads.counts(ledger)[JobState.DOWNLOADED]
    assert merged.files == {"linked": 6}
    assert len(merged.lost) == 1, "the file that only the ledger knows of"


def test_a_merged_batch_lists_its_rows_in_the_manifests_order(home: Home) -> None:
    rows_ = [row(f"p {n}", number=n) for n in range(20)]
    for number in (2, 1, 3):
        home.shard(number, 3, *(one for one in rows_ if one.number % 3 == number - 1))
    home.merge()
    with home.merged() as ledger:
        assert [one["prompt"] for one in reads.listing(ledger)] == [one.prompt for one in rows_]


# -- files --------------------------------------------------------------------------------------------------------


def test_where_there_are_no_links_files_are_copied_and_checked(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.shard(1, 1, row("a"), row("b")).finish(2)

    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    assert home.merge().files == {"copied": 2}
    with home.merged() as ledger:
        assert check_files(ledger, home.folder) == []
    assert not list(home.folder.glob("*.part"))
    assert home.merge().files == {"there": 2}


@pytest.mark.parametrize("harm", ["missing", "damaged", "a link"])
def test_a_file_that_a_shard_has_no_longer_is_told_and_not_merged(home: Home, harm: str, tmp_path: Path) -> None:
    batch = home.shard(1, 1, row("a"), row("b"))
    batch.finish(2)
    (path,) = batch.folder.glob("a-*.png")
    content = path.read_bytes()
    path.unlink()
    if harm == "damaged":
        path.write_bytes(b"x" * len(content))
    elif harm == "a link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    if harm == "a link":
        with pytest.raises(MachineError, match="through a link"):
            home.merge()
        return

    assert home.merge().lost == [str(path)]
    with home.merged() as ledger:
        assert [file for _, file in lost_files(ledger, home.folder)] == [path.name], "a run fetches it for nothing"


def test_a_strangers_file_is_never_replaced(home: Home) -> None:
    batch = home.shard(1, 1, row("a"))
    batch.finish()
    (name,) = [path.name for path in batch.folder.glob("*.png")]
    (home.folder / name).write_text("mine")
    with pytest.raises(MachineError, match="holds results"):
        home.merge()
    (home.folder / name).unlink()
    home.merge()
    (home.folder / name).unlink()
    (home.folder / name).write_text("mine")
    with pytest.raises(MachineError, match="in the way: it is not ours"):
        home.merge()
    assert (home.folder / name).read_text() == "mine"


def test_five_times_as_many_results_take_five_times_the_work(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in steps of SQLite's own machine. Where rows are looked for among all others, it is 25 times as many."""

    def steps(count: int) -> int:
        home = Home(tmp_path / str(count))
        shard = home.shard(1, 1, *(row(f"p {n}", number=n) for n in range(count)))
        with shard.ledger.immediate():
            shard.finish(count)
        shard.close()
        taken, begin = 0, rows.Merging.__init__

        def counting(self: rows.Merging, ledger: Ledger, earlier: Path | None) -> None:
            def hundred_more() -> None:
                nonlocal taken
                taken += 1

            ledger.conn.set_progress_handler(hundred_more, 100)
            begin(self, ledger, earlier)

        with monkeypatch.context() as patch:
            patch.setattr(rows.Merging, "__init__", counting)
            assert home.merge().files == {"linked": count}
        return taken

    assert 0 < steps(1000) < 7 * steps(200)


# -- again, and again ---------------------------------------------------------------------------------------------


def dump(folder: Path) -> tuple[list[str], dict[str, bytes]]:
    with Ledger.open(folder / "ledger.db") as ledger:
        lines = [line for line in ledger.conn.iterdump() if "_sqlite_migrations" not in line]  # has the time of day
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
             if path.suffix == ".png" and "shards" not in path.parts}  # fmt: skip
    return lines, files


def test_merging_again_changes_nothing(home: Home) -> None:
    two_shards(home)
    home.merge()
    before = dump(home.folder)
    assert home.merge().files == {"there": 6}
    assert dump(home.folder) == before


def test_merging_again_brings_what_the_shards_have_done_since(home: Home) -> None:
    first = home.shard(1, 2, row("a"), row("b"))
    home.shard(2, 2, row("c"))
    first.finish()
    home.merge()
    (old,) = home.folder.glob("a-*.png")
    content = old.read_bytes()

    first.reject(1)
    first.finish(2)
    home.merge()

    with home.merged() as ledger:
        check_all(ledger)
        assert check_files(ledger, home.folder) == []
        assert reads.counts(ledger)[JobState.DOWNLOADED] == 2
    assert old.read_bytes() != content, "the new result has the name"
    (aside,) = (home.folder / "set-aside").iterdir()
    assert aside.read_bytes() == content


def test_a_merge_that_is_killed_anywhere_is_made_whole_by_the_next(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    two_shards(home)
    home.merge()
    expected = dump(home.folder)
    effects = [(os, "link"), (os, "fsync"), (merging, "write_metadata"), (merging, "_install"),
               (rows.Merging, "absorb"), (rows.Merging, "finish"), (os, "mkdir"), (os, "rename")]  # fmt: skip
    for again in (False, True):
        crash = 0
        while True:
            crash += 1
            if not again:
                for path in [p for p in home.folder.iterdir() if p.name != "shards"]:
                    _remove(path)
            with monkeypatch.context() as patch:
                calls = 0

                def counted(real: Any) -> Any:
                    def effect(*args: Any, **more: Any) -> Any:
                        nonlocal calls
                        calls += 1
                        if calls == crash:  # noqa: B023 - called in this turn of the loop
                            raise Killed
                        return real(*args, **more)

                    return effect

                for where, name in effects:
                    patch.setattr(where, name, counted(getattr(where, name)))
                try:
                    home.merge()
                except Killed:
                    pass
                else:
                    assert calls < crash
                    break
            home.merge()
            assert dump(home.folder) == expected, f"killed at effect {crash}"
        assert crash > (8 if again else 14)


def _remove(path: Path) -> None:
    if path.is_dir():
        for inner in path.iterdir():
            _remove(inner)
        path.rmdir()
    else:
        path.unlink()


def test_names_that_two_shards_have_given_are_told_apart_and_stay(home: Home) -> None:
    first = home.shard(1, 2, row("x", id="Hero"))
    second = home.shard(2, 2, row("y", id="hero"))
    first.finish()
    second.finish()
    home.merge()
    with home.merged() as ledger:
        before = dict(ledger.conn.execute("select generation_id, file from generations").fetchall())
    assert "Hero.png" in before.values()
    assert len({name.casefold() for name in before.values()}) == 2

    home.shards.reverse()
    home.merge()
    with home.merged() as ledger:
        assert dict(ledger.conn.execute("select generation_id, file from generations").fetchall()) == before


def test_more_results_than_one_folder_should_hold_are_spread(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oxenbatch.names.ROOT_RESULTS", 2)
    home.shard(1, 2, *(row(f"a {n}") for n in range(3))).finish(3)
    home.shard(2, 2, *(row(f"b {n}") for n in range(2))).finish(2)
    home.merge()
    with home.merged() as ledger:
        assert check_files(ledger, home.folder) == []
        folders = Counter(name.rpartition("/")[0] for (name,) in ledger.conn.execute("select file from samples"))
    assert folders == {"": 2, "0001": 2, "0002": 1}


# -- what is refused ----------------------------------------------------------------------------------------------


def test_batches_of_different_hubs_dates_and_cuts_are_refused(home: Home) -> None:
    first, second = home.shard(1, 2, row("a")), home.shard(2, 2, row("b"))
    second.ledger.conn.execute("update batch set hub = 'http://other'")
    with pytest.raises(UsageProblem, match="of another hub"):
        home.merge()
    second.ledger.conn.execute("update batch set hub = 'http://hub', created_on = '2027-01-16'")
    with pytest.raises(UsageProblem, match="of another date"):
        home.merge()
    second.ledger.conn.execute("update batch set created_on = '2027-01-15'")
    second.ledger.conn.execute("update shard set total = 3")
    with pytest.raises(UsageProblem, match="shards of 2 and of 3"):
        home.merge()
    assert not (home.folder / "ledger.db").exists()
    assert first


def test_a_generation_that_two_of_them_have_is_refused_by_its_name(home: Home) -> None:
    first, second = home.shard(1, 2, row("a")), home.shard(2, 2, row("b"))
    shared = new_id()
    for batch in (first, second):
        (other,) = batch.accept()
        with batch.ledger.immediate():
            batch.ledger.conn.execute(
                "update generations set generation_id = ? where generation_id = ?", (shared, other)
            )
            batch.ledger.conn.execute("update samples set generation_id = ?", (shared,))
    with pytest.raises(UsageProblem, match=f"both have the generation {shared}"):
        home.merge()


def test_a_job_that_two_of_them_have_is_refused_by_its_name(home: Home) -> None:
    home.shard(1, 2, row("a", id="hero"))
    home.shard(2, 2, row("b", id="hero"))
    with pytest.raises(
        UsageProblem, match=re.escape("2-of-2 and ") + ".*" + re.escape("1-of-2 both have the job 'hero'")
    ):
        home.merge()


def test_a_shard_that_is_at_work_is_waited_for(home: Home) -> None:
    batch = home.shard(1, 1, row("a"))
    with locked(batch.folder, batch.path), pytest.raises(TryAgain, match="another run works on"):
        home.merge()


def test_a_batch_of_its_own_is_not_merged_into(home: Home, tmp_path: Path) -> None:
    home.shard(1, 1, row("a"))
    other = Batch(tmp_path / "other")
    other.stage(row("b"))
    other.close()
    with pytest.raises(UsageProblem, match="holds a batch of its own"):
        merge(home.ledgers, other.folder, at=NOW)
    with pytest.raises(UsageProblem, match="is one of the batches"):
        merge([*home.ledgers, other.path], other.folder, at=NOW)


# -- who goes on --------------------------------------------------------------------------------------------------


def test_once_the_merged_batch_goes_on_its_shards_do_not(home: Home) -> None:
    first = home.shard(1, 2, row("a"))
    home.shard(2, 2, row("b")).finish()
    home.merge()
    refuse_mixture(home.folder, Shard(1, 2))
    with home.merged() as ledger:
        assert parts.is_view(ledger)
        take_over(ledger, at=NOW)
        assert not parts.is_view(ledger)

    with pytest.raises(ConfigProblem, match="which has gone on with its rows"):
        parts.begin(first.ledger, Shard(1, 2))
    with pytest.raises(UsageProblem, match="has gone on as one batch"):
        refuse_mixture(home.folder, Shard(1, 2))
    with pytest.raises(UsageProblem, match="has gone on since it was merged, and is a batch of its own"):
        home.merge()


def test_a_merged_batch_that_is_not_up_to_date_does_not_go_on(home: Home) -> None:
    first = home.shard(1, 3, row("a"), row("c"))
    home.shard(2, 3, row("b"))
    home.merge()
    first.finish()
    with home.merged() as ledger:
        with pytest.raises(UsageProblem, match="1-of-3 has gone on since it was merged"):
            take_over(ledger, at=NOW)
        assert parts.is_view(ledger)
    home.merge()
    first.stage(row("a"), row("c"), row("new"), fingerprint="g")
    with home.merged() as ledger, pytest.raises(UsageProblem, match="has gone on since"):
        take_over(ledger, at=NOW)
    home.merge()
    home.shard(3, 3, row("d"))
    with home.merged() as ledger, pytest.raises(UsageProblem, match="3-of-3 is not in this batch yet"):
        take_over(ledger, at=NOW)
    assert parts.superseded_by(first.ledger) is None


def test_a_person_who_decides_something_in_the_merged_batch_makes_it_one_of_its_own(home: Home) -> None:
    home.shard(1, 1, row("a")).finish()
    home.merge()
    with home.merged() as ledger:
        decisions.set_aside(ledger, [1], attempts=3, at=NOW)
        assert not parts.is_view(ledger)
        assert parts.is_merged(ledger)
    with pytest.raises(UsageProblem, match="has gone on as one batch"):
        refuse_mixture(home.folder, Shard(1, 1))


def test_a_batch_is_not_begun_in_two_ways(home: Home, tmp_path: Path) -> None:
    home.shard(3, 10, row("a"))
    assert shards_in(home.folder) == [Shard(3, 10)]
    refuse_mixture(home.folder, Shard(4, 10))
    with pytest.raises(UsageProblem, match="was begun in 10 shards, and rows would change their shard"):
        refuse_mixture(home.folder, Shard(4, 12))
    with pytest.raises(UsageProblem, match="run as a whole it would pay for their rows again"):
        refuse_mixture(home.folder, None)
    whole = Batch(tmp_path / "whole")
    whole.stage(row("b"))
    whole.close()
    refuse_mixture(whole.folder, None)
    with pytest.raises(UsageProblem, match="has gone on as one batch"):
        refuse_mixture(whole.folder, Shard(1, 2))


def test_a_shards_folder_is_no_other_shards_nor_a_whole_batchs(home: Home) -> None:
    batch = home.shard(1, 2, row("a"))
    parts.begin(batch.ledger, Shard(1, 2))
    for other in (Shard(2, 2), Shard(1, 3), None):
        with pytest.raises(ConfigProblem, match="is shard 1/2, and this run is for"):
            parts.begin(batch.ledger, other)


# -- requests that two shards have --------------------------------------------------------------------------------


def stage_shard(batch: Batch, shard: Shard, *wanted: Row) -> frozenset[str]:
    staging.stage(batch.ledger, wanted, "f", batch.terms(shard=shard))
    hashes = {request_hash(one.model, one.parameters) for one in wanted}
    return parts.unseen(batch.ledger, [], hashes)


def by_owner(total: int, prompt: dict[str, Any]) -> dict[int, Row]:
    """A row with this request in each shard, told apart by its id."""
    found: dict[int, Row] = {}
    for n in range(1000):
        one = row("", id=f"id-{n}", parameters=prompt)
        for shard in (Shard(k, total) for k in range(1, total + 1)):
            if shard.owns(one):
                found.setdefault(shard.number, one)
    return found


def test_a_shard_makes_jobs_of_its_own_rows_and_checks_all(home: Home) -> None:
    rows_ = [row(f"p {n}", number=n) for n in range(40)]
    keys: set[str] = set()
    for number in (1, 2, 3):
        shard = Shard(number, 3)
        batch = home.shard(number, 3)
        stage_shard(batch, shard, *rows_)
        mine = {key for (key,) in batch.all("select key from jobs")}
        assert mine == {job_key(None, request_hash(one.model, one.parameters), 1) for one in rows_ if shard.owns(one)}
        keys |= mine
    assert len(keys) == 40


def test_a_request_that_other_shards_have_too_is_known_for_one(home: Home) -> None:
    same = by_owner(2, {"prompt": "the same"})
    shared = stage_shard(home.shard(1, 2), Shard(1, 2), same[1], same[2], row("mine alone", id="q"))
    assert shared == {request_hash(same[1].model, same[1].parameters)}


def test_requests_that_differ_in_a_value_are_told_apart_and_those_that_name_less_are_not(home: Home) -> None:
    seeded = by_owner(2, {"prompt": "p", "seed": 1})
    other = by_owner(2, {"prompt": "p", "seed": 2})
    plain = by_owner(2, {"prompt": "p"})
    assert not stage_shard(home.shard(1, 2), Shard(1, 2), seeded[1], other[2])
    assert stage_shard(home.shard(2, 2), Shard(2, 2), other[2], plain[1])


def test_where_all_shards_can_be_asked_no_request_is_in_doubt(home: Home) -> None:
    same = by_owner(3, {"prompt": "the same"})
    one, two, three = (home.shard(n, 3) for n in (1, 2, 3))
    hashed = request_hash(same[1].model, same[1].parameters)
    assert stage_shard(one, Shard(1, 3), *same.values()) == {hashed}
    assert parts.unseen(one.ledger, [two.path], [hashed]) == {hashed}
    assert parts.unseen(one.ledger, [two.path, three.path], [hashed]) == frozenset()
    three.close()
    three.path.write_bytes(b"garbage")
    assert parts.unseen(one.ledger, [two.path, three.path], [hashed]) == {hashed}
    three.path.unlink()
    assert parts.unseen(one.ledger, [two.path, three.path], [hashed]) == {hashed}


def test_a_shard_that_a_cluster_has_not_begun_has_sent_nothing(home: Home) -> None:
    same = by_owner(2, {"prompt": "the same"})
    batch = home.shard(1, 2)
    (hashed,) = stage_shard(batch, Shard(1, 2), *same.values())
    (home.folder / "shards" / "2-of-2").mkdir()
    assert parts.unseen(batch.ledger, [], [hashed]) == {hashed}, "it may run on another machine, and on its disk"
    (home.folder / "shards" / "2-of-2" / LEASE).write_text("{}")
    assert parts.unseen(batch.ledger, [], [hashed]) == frozenset()


def test_a_lost_ledger_is_not_rebuilt_from_what_may_be_another_shards(home: Home) -> None:
    same = by_owner(2, {"prompt": "the same"})
    batch = home.shard(1, 2)
    stage_shard(batch, Shard(1, 2), *same.values())
    with pytest.raises(ConfigProblem, match="whose results are whose cannot be told"):
        parts.refuse_rebuild(batch.ledger, [])
    parts.refuse_rebuild(batch.ledger, [home.shard(2, 2).path])
