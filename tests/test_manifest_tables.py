"""CSV and TSV: quotes, columns, lines, and the types of cells."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path
from typing import Any

import pytest

from oxenbatch.catalog import Catalog
from oxenbatch.errors import ManifestError, Problem
from oxenbatch.jobs import Row
from oxenbatch.manifest import Overrides, load_manifest
from oxenbatch.manifest.tables import TsvRecords

DAY = dt.date(2026, 11, 22)
PARTI = Path(__file__).parents[2] / "shared" / "data" / "PartiPrompts.tsv"
SCHEMA = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string"},
        "negative_prompt": {"type": "string"},
        "seed": {"type": ["integer", "null"]},
        "guidance": {"type": "number", "minimum": 0},
        "loop": {"type": "boolean"},
        "style": {"type": "string"},
        "size": {"type": ["integer", "string"]},
        "images": {"type": "array", "items": {"type": "string"}},
        "camera": {"type": "object"},
        "aspect_ratio": {"enum": ["16:9", "9:16"]},
        "either": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
    },
}
CATALOG = Catalog.from_answer(
    {
        "data": [
            {"id": "m", "capabilities": {"output": ["image"]}, "request_schema": SCHEMA},
            {"id": "free", "capabilities": {"output": ["image"]}, "request_schema": None},
            {
                "id": "other",
                "capabilities": {"output": ["video"]},
                "request_schema": {"properties": {"prompt": {}, "fps": {"type": "integer"}}},
            },
        ]
    }
)


def read(text: str, form: str = "csv", catalog: Catalog | None = CATALOG, **flags: Any) -> list[Row | Problem]:
    overrides = Overrides(model=flags.pop("model", "m"), format=form, **flags)
    return list(load_manifest("-", overrides=overrides, stdin=io.BytesIO(text.encode())).rows(DAY, catalog))


def rows(text: str, form: str = "csv", catalog: Catalog | None = CATALOG, **flags: Any) -> list[Row]:
    found = read(text, form, catalog, **flags)
    assert not [one for one in found if isinstance(one, Problem)], found
    return [one for one in found if isinstance(one, Row)]


def complaint(text: str, form: str = "csv", catalog: Catalog | None = CATALOG, **flags: Any) -> str:
    try:
        return "\n".join(str(one) for one in read(text, form, catalog, **flags) if isinstance(one, Problem))
    except ManifestError as error:
        return str(error)


def test_csv_lines_are_counted_as_an_editor_counts_them() -> None:
    found = read('prompt,style\r\n\r\n"two\r\nlines",x\r\nlast,y\r\na,b,c\r\n')
    assert [one.where for one in found] == ["stdin:3", "stdin:5", "stdin:6:5"]
    assert isinstance(found[0], Row)
    assert found[0].prompt == "two\r\nlines"
    assert "row 3: has 3 cells, expected at most 2" in str(found[2])


def test_csv_is_strict_about_quotes_and_reads_on() -> None:
    found = read('prompt\n"a"b\nc\n"never closed\nd\n')
    assert [type(one).__name__ for one in found] == ["Problem", "Row", "Problem"]
    assert "goes on after its closing quote" in str(found[0])
    assert "stdin:4:1: row 3: is not strict CSV: a quoted cell is opened and never closed" in str(found[2])


def test_too_few_cells_and_too_many_are_a_problem_and_the_next_record_is_read() -> None:
    found = read("prompt,seed,style\na prompt cut\nin two,5,x\nb,5\nc,,\n")
    assert [type(one).__name__ for one in found] == ["Problem", "Row", "Problem", "Row"]
    assert "stdin:2:1: row 1: has 1 cell, expected 3 as in the header" in str(found[0])
    assert "row 3: has 2 cells, expected 3" in str(found[2])
    assert "keeps its tab" in complaint("prompt\tseed\na\n", "tsv")
    assert "has 4 cells" in complaint("prompt,seed,style\na,1,x,\n")


def test_header_names_match_without_case_and_outer_spaces() -> None:
    (row,) = rows("Prompt, Aspect_Ratio ,ID,Samples,META.Split,Model\na,16:9,x,3,train,m\n")
    assert row == Row("m", {"prompt": "a", "aspect_ratio": "16:9"}, "x", 3, {"Split": "train"}, 1, "stdin:2")


@pytest.mark.parametrize("header", ["prompt,prompt", "prompt,Prompt", "seed,prompt,SEED"])
def test_two_columns_of_one_name_are_an_error(header: str) -> None:
    assert "two columns are named" in complaint(f"{header}\na,b,c\n")


def test_a_column_without_a_name_must_be_empty() -> None:
    assert rows("prompt,\na,\n")[0].parameters == {"prompt": "a"}
    assert "column without a name" in complaint("prompt,\na,b\n")


def test_another_delimiter_is_named_with_a_remedy() -> None:
    assert "separated by commas" in complaint("prompt;seed\na;1\n")
    assert "--format tsv" in complaint("prompt\tseed\na\t1\n")
    assert "separated by tabs" in complaint("prompt,seed\na,1\n", "tsv")


def test_a_table_without_a_prompt_column_says_which_columns_it_has() -> None:
    assert "has no column 'prompt', its columns are style, seed" in complaint("style,seed\na,1\n")


@pytest.mark.parametrize(
    ("column", "cell", "value"),
    [
        ("seed", "5", 5), ("seed", " -5 ", -5), ("seed", "5.0", 5), ("guidance", "7", 7), ("guidance", "7.5", 7.5),
        ("guidance", "1e1", 10.0), ("loop", "TRUE", True), ("loop", "false", False), ("style", "123", "123"),
        ("style", "0123", "0123"), ("style", "true", "true"), ("style", "null", "null"), ("style", "[1]", "[1]"),
        ("size", "1024", 1024), ("size", "1024x1024", "1024x1024"), ("images", '"[""a"", ""b""]"', ["a", "b"]),
        ("camera", '"{""x"": 1}"', {"x": 1}), ("aspect_ratio", "16:9", "16:9"), ("either", "true", True),
        ("either", "5", 5), ("negative_prompt", "5", "5"), ("seed", "auto", "auto"),
    ],
)  # fmt: skip
def test_a_cell_takes_the_type_that_the_model_gives(column: str, cell: str, value: object) -> None:
    (row,) = rows(f"prompt,{column}\na,{cell}\n")
    assert row.parameters[column] == value
    assert type(row.parameters[column]) is type(value)


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("seed", "abc", "row 1, seed: 'abc', expected a whole number"),
        ("seed", "1.5", "expected a whole number"),
        ("guidance", "inf", "expected a number"),
        ("guidance", "1_000", "expected a number"),
        ("loop", "yes", "expected true or false"),
        ("images", "https://a", "expected a list as JSON"),
        ("images", "[NaN]", "expected a list as JSON; it NaN is not JSON"),
        ("guidance", "-1", "guidance: -1, expected at least 0"),
        ("aspect_ratio", "4:3", "aspect_ratio: '4:3', expected one of 16:9, 9:16"),
        ("samples", "0", "samples: 0, expected a whole number from 1"),
        ("samples", "two", "samples: 'two', expected a whole number"),
        ("samples", "1000000", "expected a whole number from 1"),
        ("metadata", "x", "expected a mapping; in a table each has its own column, meta.NAME"),
        ("num_generations", "4", "say how many files are wanted with 'samples'"),
    ],
)
def test_a_cell_that_cannot_be_is_a_problem_with_row_and_field(column: str, cell: str, words: str) -> None:
    found = complaint(f"prompt,{column}\na,{cell}\n")
    assert words in found
    assert found.startswith("stdin:1:8: row 1" if column == "num_generations" else "stdin:2:3: row 1")


@pytest.mark.parametrize(
    ("cell", "value"),
    [("5", 5), ("1.5", 1.5), ("true", True), ("16:9", "16:9"), ("NaN", "NaN"), ("0123", "0123"), ('"[1, 2]"', [1, 2]),
     ("x", "x"), ('"""q"""', "q")],
)  # fmt: skip
@pytest.mark.parametrize("catalog", [None, CATALOG])
def test_without_a_schema_a_cell_is_json_where_it_parses(cell: str, value: object, catalog: Catalog | None) -> None:
    (row,) = rows(f"prompt,x\n5,{cell}\n", catalog=catalog, model="free")
    assert row.parameters == {"prompt": "5", "x": value}


def test_an_empty_cell_is_absent_and_leaves_the_default() -> None:
    assert rows("prompt,seed\na,\nb,2\n", parameters={"seed": 1})[0].parameters == {"prompt": "a", "seed": 1}


def test_metadata_cells_stay_text_so_that_no_zip_code_loses_its_zero() -> None:
    (row,) = rows('prompt,meta.zip,metadata\na,0123,"{""split"": 1}"\n')
    assert row.metadata == {"zip": "0123", "split": 1}


def test_columns_that_nobody_knows_are_one_problem_with_its_remedy() -> None:
    found = read("Prompt,Category,Note,Sede\na,x,y,z\nb,x,y,z\n")
    told = [str(one) for one in found if isinstance(one, Problem)]
    assert len(told) == 1
    assert "Category, Note, Sede (did you mean seed?) are columns that m does not take" in told[0]
    assert "--extra-columns metadata" in told[0]


def test_unknown_columns_are_kept_under_their_own_spelling_or_dropped() -> None:
    text = "Prompt,Category,Art Style\na,0x,y\n"
    assert rows(text, extra_columns="metadata")[0].metadata == {"Category": "0x", "Art Style": "y"}
    (row,) = rows(text, extra_columns="ignore")
    assert (row.metadata, row.parameters) == ({}, {"prompt": "a"})


def test_a_column_is_judged_by_the_model_of_the_row_and_only_where_it_is_filled() -> None:
    assert [r.parameters for r in rows("prompt,model,seed,fps\na,m,5,\nb,other,,24\n")] == [
        {"prompt": "a", "seed": 5},
        {"prompt": "b", "fps": 24},
    ]
    assert "fps is a column that m does not take" in complaint("prompt,model,seed,fps\na,m,5,30\n")


def test_a_metadata_column_may_not_have_a_name_that_is_taken() -> None:
    assert "also the name of a parameter of m" in complaint("prompt,meta.seed\na,1\n")
    assert "a column that every dataset has" in complaint("prompt,meta.sha256\na,1\n")
    assert "a column that every dataset has" in complaint("prompt,cost\na,1\n", extra_columns="metadata")


# TSV

TSV = [
    ('a\t"b"\tc\n', [["a", "b", "c"]]),
    ('"A" big "B"\tx\n', [['"A" big "B"', "x"]]),
    ('x\t"A" big\n', [["x", '"A" big']]),
    ('"hello\tx\ny\tz\n', [['"hello', "x"], ["y", "z"]]),
    ('"a\tb"\tc\n', [["a\tb", "c"]]),
    ('"a\nb"\tc\n', [["a\nb", "c"]]),
    ('"a\r\nb"\tc\r\n', [["a\r\nb", "c"]]),
    ('"a ""q"" b"\tc\n', [['a "q" b', "c"]]),
    ('""\tc\n', [["", "c"]]),
    ('"""\tc\n', [['"""', "c"]]),
    ('""""\tc\n', [['"', "c"]]),
    ('a"b\tc"\n', [['a"b', 'c"']]),
    ('"a"', [["a"]]),
    ('"a', [['"a']]),
    ('"', [['"']]),
    ('"a" \tb\n', [['"a" ', "b"]]),
    ("a\t\n\n\tb\n", [["a", ""], ["", "b"]]),
    ('"x" y\t"a\nb"\n"q" z\n', [['"x" y', "a\nb"], ['"q" z']]),
    ('"open\n"x" y\tb\n', [['"open'], ['"x" y', "b"]]),
]


@pytest.mark.parametrize(("text", "cells"), TSV)
def test_a_tsv_cell_is_quoted_only_if_its_closing_quote_ends_the_cell(text: str, cells: list[list[str]]) -> None:
    assert [record for record, _, _ in TsvRecords(io.StringIO(text, newline="\n"))] == cells


def test_tsv_records_begin_on_the_lines_where_they_do() -> None:
    lines = io.StringIO('h\tk\n"a\nb"\tc\n"lone\td\n\ne\tf\n', newline="\n")
    assert [line for _, line, _ in TsvRecords(lines)] == [1, 2, 4, 6]


def test_a_stray_quote_does_not_swallow_the_rows_up_to_the_next_one() -> None:
    text = "prompt\tstyle\n" + '"hello\tx\n' + "row\ty\n" * 900 + 'five 5"\tz\n'
    assert len(rows(text, "tsv")) == 902
    long_one = "prompt\tstyle\n" + '"hello\n' + "line\n" * 200 + 'end"\tz\n'
    assert len(rows(long_one, "tsv")) == 1  # its lines are no rows, so it is one cell


def test_a_million_quotes_that_are_never_closed_take_no_longer() -> None:
    assert len(rows("prompt\tstyle\n" + '"a\t"b\n' * 20_000, "tsv")) == 20_000
    assert len(rows("prompt\tstyle\n" + '"a\tb\n' + "c\td\n" * 20_000, "tsv")) == 20_001


@pytest.mark.skipif(not PARTI.exists(), reason="the published prompts are not on this machine")
def test_published_prompts_come_out_character_for_character() -> None:
    flags = Overrides(model="m", extra_columns="metadata")
    found = list(load_manifest(PARTI, overrides=flags).rows(DAY, CATALOG))
    lines = PARTI.read_text("utf-8").removesuffix("\n").split("\n")[1:]
    assert len(found) == len(lines) == 1632
    for row, line in zip(found, lines, strict=True):
        prompt, category, challenge, note = line.split("\t")
        assert isinstance(row, Row)
        assert row.prompt == prompt
        expected = {"Category": category, "Challenge": challenge, "Note": note}
        assert row.metadata == {name: value for name, value in expected.items() if value}
    told = [str(one) for one in load_manifest(PARTI, overrides=Overrides(model="m")).rows(DAY, CATALOG)]
    assert "Category, Challenge, Note are columns that m does not take" in told[0]
