"""Rows that are recorded together are recorded as one by one; few are held, and few commits are made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import Book, check_all, made_by_version, row

from oxenbatch.errors import ManifestError
from oxenbatch.jobs import InputFile
from oxenbatch.ledger import bulk, schema, staging
from oxenbatch.ledger.book import Ledger
from oxenbatch.shards import Shard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oxenbatch.jobs import Row

ROWS = st.lists(
    st.builds(
        lambda prompt, row_id, samples, seed, file: (prompt, row_id, samples, seed, file),
        st.sampled_from(["a cat", "a dog", "A cat!", "é", ""]),
        st.sampled_from([None, None, None, "x", "X", "y"]),
        st.integers(1, 3),
        st.sampled_from([None, 1, "auto"]),
        st.sampled_from([None, None, 1, 2]),
    ),
    min_size=1,
    max_size=8,
)


def _file(number: int) -> InputFile:
    return InputFile(f"{number}" * 64, "png", 10 * number, f"refs/{number}.png", (10 * number, 7, number))


def _rows(drawn: list[Any]) -> list[Row]:
    found = []
    for number, (prompt, row_id, samples, seed, file) in enumerate(drawn, 1):
        parameters: dict[str, Any] = {} if seed is None else {"seed": seed}
        sent = {} if file is None else {"image": _file(file).reference}
        made = row(prompt, number=number, id=row_id, samples=samples, parameters=parameters | sent)
        if file is not None:
            made = replace(made, inputs=(_file(file),), written={"image": f"refs/{file}.png"})
        found.append(made)
    return found


def _staged(folder: Path, name: str, manifests: list[list[Row]], shard: Shard | None) -> tuple[Any, list[str]]:
    book = Book(folder / f"{name}.db")
    told = []
    for rows in manifests:
        try:
            book.stage(*rows, shard=shard)
        except ManifestError as error:
            told += [str(problem) for problem in error.problems]
    check_all(book.ledger)
    columns = "key, occurrence, request_hash, prompt, parameters, metadata, samples, position, wanted, written"
    found = (
        book.all(f"select {columns} from jobs order by key"),
        book.all("select j.key, s.number, s.seed, s.request_hash, s.wanted, s.state, s.name, s.name_key, s.length_s"
                 " from samples s join jobs j on j.id = s.job_id order by s.id"),
        book.all("select i.sha256, j.key from job_inputs u join inputs i on i.id = u.input_id"
                 " join jobs j on j.id = u.job_id order by 1, 2"),
        book.all("select path, sha256, wanted from input_files f join inputs i on i.id = f.input_id order by 1"),
        book.all("select * from shared_requests order by 1"),
    )  # fmt: skip
    book.close()
    return found, told


@settings(max_examples=80, deadline=None)
@given(first=ROWS, second=ROWS, chunk=st.integers(1, 4), shard=st.sampled_from([None, None, Shard(1, 2), Shard(2, 2)]))
def test_rows_that_are_recorded_together_are_recorded_as_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, first: list[Any], second: list[Any], chunk: int, shard: Shard | None
) -> None:
    folder = tmp_path_factory.mktemp("bulk")
    manifests = [_rows(first), _rows(second)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "CHUNK", chunk)
        together = _staged(folder, "together", manifests, shard)
        patch.setattr(bulk, "add", lambda *_: 0)
        patch.setattr(staging, "is_fresh", lambda _: False)
        one_by_one = _staged(folder, "one", manifests, shard)

    assert together == one_by_one


def test_no_more_rows_are_held_than_a_chunk(tmp_path: Path) -> None:
    ahead: list[int] = []
    with Ledger.open(tmp_path / "ledger.db", create=True) as ledger:
        book = Book(tmp_path / "ledger.db")
        book.close()

        def rows() -> Iterator[Row]:
            for number in range(1, 3 * staging.CHUNK):
                ahead.append(number - ledger.conn.execute("select count(*) from jobs").fetchone()[0])
                yield row(f"picture {number}", number=number)

        terms = staging.Terms(at=1.0, attempts=3, price=lambda _: None, takes_seed=lambda _: True)
        staging.stage(ledger, rows(), "f", terms)
        assert ledger.conn.execute("select count(*) from samples").fetchone()[0] == 3 * staging.CHUNK - 1

    assert max(ahead) <= staging.CHUNK


def test_a_chunk_of_rows_that_hold_pictures_is_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "CHUNK_SIZE", 1000)
    sizes: list[int] = []
    real = bulk.load
    monkeypatch.setattr(bulk, "load", lambda *asked: sizes.append(len(asked[1])) or real(*asked))
    book = Book(tmp_path / "ledger.db")
    large = {"image": "data:" + "x" * 400}, {"images": ["data:" + "x" * 400]}
    book.stage(*(row(f"{n}", number=n, parameters=dict(large[n % 2])) for n in range(1, 10)))
    assert book.one("select count(*) from jobs") == 9
    book.close()

    assert max(sizes) == 3


def test_the_indexes_are_back_when_all_is_recorded_and_when_it_is_not(tmp_path: Path) -> None:
    book = Book(tmp_path / "ledger.db")
    names = "select name from sqlite_master where type = 'index' order by 1"
    before = book.all(names)
    with pytest.raises(ManifestError):
        book.stage(row(id="a"), row(id="a", number=2))
    assert book.all(names) == before
    book.stage(row(id="a"), row(id="b", number=2))
    assert book.all(names) == before
    book.close()


def test_a_new_ledger_is_what_sqlite_utils_would_have_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def schema_of(path: Path) -> list[tuple[str, ...]]:
        with Ledger.open(path, create=True) as ledger:
            tables = ledger.conn.execute("select type, name, tbl_name, sql from sqlite_master order by 1, 2").fetchall()
            steps = ledger.conn.execute("select id, migration_set, name from _sqlite_migrations").fetchall()
        return [tuple(str(value) for value in entry) for entry in [*tables, *steps]]

    ours = schema_of(tmp_path / "ours.db")
    monkeypatch.setattr("oxenbatch.ledger.book.create", schema.migrate)

    assert [" ".join(" ".join(entry).split()) for entry in ours] == [
        " ".join(" ".join(entry).split()) for entry in schema_of(tmp_path / "theirs.db")
    ]


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_a_ledger_of_any_version_becomes_what_a_new_one_is(tmp_path: Path, version: int) -> None:
    def tables(ledger: Ledger) -> dict[str, str]:
        found = ledger.conn.execute("select name, sql from sqlite_master where sql is not null").fetchall()
        return {name: schema.normal(statement) for name, statement in found}

    with made_by_version(version):
        Ledger.open(tmp_path / "old.db", create=True).close()
    with Ledger.open(tmp_path / "old.db") as old, Ledger.open(tmp_path / "new.db", create=True) as new:
        assert tables(old) == tables(new)
        steps = "select migration_set, name from _sqlite_migrations order by id"
        assert [tuple(row) for row in old.conn.execute(steps)] == [tuple(row) for row in new.conn.execute(steps)]
