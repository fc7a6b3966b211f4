"""Every problem has its file, line and column, in every format and after expansion."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from oxenbatch.catalog import Catalog
from oxenbatch.errors import ManifestError, Problem
from oxenbatch.manifest import Overrides, load_manifest

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.date(2026, 11, 22)
PROPERTIES = {
    "prompt": {"type": "string"},
    "multi_prompt": {"type": "array", "items": {"type": "object", "properties": {"duration": {"type": "integer"}}}},
    "duration": {"enum": [5, 10]},
    "aspect_ratio": {"enum": ["16:9", "9:16"]},
    "seed": {"type": "integer"},
}
CATALOG = Catalog.from_answer({"data": [{"id": "kling", "request_schema": {"properties": PROPERTIES}}]})


def told(tmp_path: Path, name: str, text: str, **flags: object) -> list[str]:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    try:
        model = {} if "model:" in text else {"model": "kling"}
        manifest = load_manifest(path, overrides=Overrides(**model | flags))  # type: ignore[arg-type]
        found = [one for one in manifest.rows(DAY, CATALOG) if isinstance(one, Problem)]
    except ManifestError as error:
        found = error.problems
    return [str(one).removeprefix(f"{tmp_path}/") for one in found]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        # A wrong value is shown where it stands, a wrong name where the name does.
        ("m.yaml", "- {prompt: a, duration: 7}\n", "m.yaml:1:25: row 1, duration: 7, expected one of 5, 10"),
        ("m.yaml", "- a\n- prompt: b\n  duratoin: 5\n", "m.yaml:3:3: row 2, duratoin: is not a parameter of kling"),
        ("m.yaml", "- multi_prompt:\n  - prompt: x\n    duration: y\n",
         "m.yaml:3:15: row 1, multi_prompt[0].duration: 'y', expected a whole number"),
        ("m.csv", 'prompt,duration\n"a,\nb",7\n', "m.csv:3:4: row 1, duration: 7, expected one of 5, 10"),
        ("m.csv", "prompt,duratoin\na,5\n", "m.csv:1:8: duratoin (did you mean duration?) is a column that"),
        ("m.csv", "prompt,seed\na,1,2\n", "m.csv:2:5: row 1: has 3 cells, expected at most 2"),
        ("m.csv", 'prompt,seed\na,"b\nc,1\n', "m.csv:2:3: row 1: is not strict CSV: a quoted cell is opened and never"),
        ("m.csv", 'prompt,seed\na,1\n"b" c,2\n', "m.csv:3:1: row 2: is not strict CSV: a quoted cell goes on"),
        ("m.csv", "prompt;seed\na;1\n", "m.csv:1:7: the header's only column is 'prompt;seed'"),
        ("m.csv", "prompt,seed,Seed\na,1,1\n", "m.csv:1:13: two columns are named 'seed' and 'Seed'"),
        ("m.tsv", 'prompt\taspect_ratio\n"a\tb"\t16:10\n', "m.tsv:2:7: row 1, aspect_ratio: '16:10', expected"),
        ("m.tsv", 'prompt\tseed\n"x" y\tabc\n', "m.tsv:2:7: row 1, seed: 'abc', expected a whole number"),
        ("m.jsonl", '"a"\n{"prompt": "b", "duration": 7}\n', "m.jsonl:2:29: row 2, duration: 7, expected one of"),
        ("m.jsonl", '{"prompt": "b" "x": 1}\n', "m.jsonl:1:16: row 1: is not JSON"),
        ("m.json", '{"defaults": {"seed": 1},\n "prompts": ["a", {"prompt": "b",\n  "duration": 7}]}',
         "m.json:3:15: row 2, duration: 7, expected one of 5, 10"),
        ("m.json", '[{"multi_prompt": [{"duration": 1}, {"duration": "é"}]}]',
         "m.json:1:50: row 1, multi_prompt[1].duration: 'é', expected a whole number"),
        ("m.txt", "a\n\n" + "x" * 100_001 + "\n", "m.txt:3:1: row 2, prompt: has 100,001 characters"),
    ],
)  # fmt: skip
def test_a_problem_is_shown_at_its_line_and_column(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (found,) = told(tmp_path, name, text)
    assert found.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("defaults:\n  duration: 7\nprompts: [a, b, c]\n", "m.yaml:2:13: row 1, defaults.duration: 7, expected one of"),
        ("matrix: {duration: [5, 7, 10]}\nprompts: [a, b]\n", "m.yaml:1:24: row 2, matrix.duration: 7, expected one"),
        ("matrix: {model: [kling, klnig]}\nprompts: [a, b]\n", "m.yaml:1:25: row 2, matrix.model: model 'klnig'"),
        ("variables: {place: [x]}\nprompt: 'a {plaec}'\n", "m.yaml:2:9: row 1, prompt: {plaec} is not a known name"),
        ("variables: {place: [x, y]}\nprompts:\n- prompt: '{place}'\n  duration: 7\n",
         "m.yaml:4:13: row 1, duration: 7, expected one of 5, 10"),
        ("models: {kling: {concurrency: 0}}\nprompts: [a]\n", "m.yaml:1:31: models.kling.concurrency: 0, expected"),
        ("target: {repo: x, reop: y}\nprompts: [a]\n", "m.yaml:1:19: target.reop: is not known; did you mean repo"),
        ("duration: 5\nprompts: [a]\n", "m.yaml:1:1: duration: is not a field of a manifest"),
        ("name: a/b\nprompts: [a]\n", "m.yaml:1:7: name: 'a/b', expected text of 1 to 100"),
    ],
)  # fmt: skip
def test_what_is_said_above_the_rows_is_shown_there_and_not_with_each_row(
    tmp_path: Path, text: str, expected: str
) -> None:
    found = told(tmp_path, "m.yaml", text)
    assert found[0].startswith(expected)
    assert len([one for one in found if one.startswith(expected[:12])]) <= 2


def test_a_flag_is_blamed_once_for_what_it_says(tmp_path: Path) -> None:
    (found,) = told(tmp_path, "m.yaml", "[a, b, c]", parameters={"duration": 7})
    assert found == "m.yaml: row 1, -p duration: 7, expected one of 5, 10"


def test_a_nearly_right_value_is_suggested(tmp_path: Path) -> None:
    (found,) = told(tmp_path, "m.yaml", "- {prompt: a, aspect_ratio: 19:6}\n")
    assert found.endswith("'19:6', expected one of 16:9, 9:16; did you mean 9:16?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("place,date\nreef,monday\n", "t.csv:1:7: row 1, date: {date} may be this column or what every template"),
        ("place,Light\nreef,dusk\n", "t.csv:1:7: row 1, light: {light} may be this column or a variable; rename"),
    ],
)
def test_a_column_that_a_template_could_mean_as_well_is_ambiguous(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "t.csv").write_text(text, "utf-8")
    head = "variables: {light: [dawn]}\nprompt: '{place}, {light}, {date}'\nrows: t.csv\n"
    found = told(tmp_path, "m.yaml", head, extra_columns="ignore")
    assert [one for one in found if one.startswith(expected)], found


def test_a_row_written_by_hand_may_say_a_variable_s_value_itself(tmp_path: Path) -> None:
    text = "variables: {seed: ['1', '2']}\nprompts: [{prompt: '{seed}', seed: 7}]\n"
    assert told(tmp_path, "m.yaml", text) == []


def test_a_problem_is_data_as_well() -> None:
    assert Problem("is odd", "a:b.csv:3:14", 2, "seed").as_data() == {
        "file": "a:b.csv", "line": 3, "column": 14, "row": 2, "field": "seed", "message": "is odd",
    }  # fmt: skip
    assert Problem("is empty", "m.yaml").as_data()["line"] is None
    assert Problem("has no rows").as_data()["file"] is None
