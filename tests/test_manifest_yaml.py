"""YAML manifests: scalars by the 1.2 core schema, what is refused, and where every problem is."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import pytest

from oxenbatch.errors import ManifestError, Problem
from oxenbatch.jobs import Row
from oxenbatch.manifest import Overrides, load_manifest

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.date(2026, 11, 22)


def read(tmp_path: Path, text: str | bytes, name: str = "m.yaml", **flags: Any) -> list[Row | Problem]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    manifest = load_manifest(path, overrides=Overrides(model=flags.pop("model", "m"), **flags))
    return list(manifest.rows(DAY))


def rows(tmp_path: Path, text: str | bytes, name: str = "m.yaml", **flags: Any) -> list[Row]:
    found = read(tmp_path, text, name, **flags)
    assert not [one for one in found if isinstance(one, Problem)], found
    return [one for one in found if isinstance(one, Row)]


def problems(tmp_path: Path, text: str | bytes, name: str = "m.yaml", **flags: Any) -> str:
    try:
        found = read(tmp_path, text, name, **flags)
    except ManifestError as error:
        return str(error)
    return "\n".join(str(one) for one in found if isinstance(one, Problem))


REFUSED = object()
YAML_1_2 = [
    # written, what a parameter becomes, what a prompt becomes, why: YAML 1.1, as most parsers speak it, says otherwise
    ("16:9", "16:9", "16:9", "a text; 1.1 reads base sixty, 969"),
    ("1:1", "1:1", "1:1", "a text; 1.1 reads 61"),
    ("12:30:00", "12:30:00", "12:30:00", "a text; 1.1 reads 45000"),
    ("no", "no", "no", "a text; 1.1 reads false"),
    ("on", "on", "on", "a text; 1.1 reads true"),
    ("yes", "yes", "yes", "a text; 1.1 reads true"),
    ("0123", 123, "0123", "the core schema's decimal; 1.1 reads octal, 83. As a prompt it is its own characters"),
    ("1_000", "1_000", "1_000", "a text: digits alone are a number; 1.1 reads 1000"),
    ("1e3", 1000.0, "1e3", "a number without a point too; 1.1 reads a text"),
    ("2026-11-22", "2026-11-22", "2026-11-22", "a text: the core schema knows no dates"),
    ("~", None, "~", "nothing: the parameter is not sent. As a prompt it is its own character"),
    ("null", None, "null", "nothing, likewise"),
    (".nan", REFUSED, ".nan", "a number that JSON cannot hold"),
    (".inf", REFUSED, ".inf", "likewise"),
    ("0o17", 15, "0o17", "the core schema's octal"),
    ("0x1F", 31, "0x1F", "hexadecimal"),
    ("0b11", "0b11", "0b11", "a text: the core schema has no binary; 1.1 reads 3"),
    ("-7", -7, "-7", "a number"),
    ("1.50", 1.5, "1.50", "a number"),
    ("true", True, "true", "the only words for it are true, True and TRUE"),
    ("FALSE", False, "FALSE", "likewise"),
    ("190:20:30", "190:20:30", "190:20:30", "a text; 1.1 reads base sixty"),
    ("'5'", "5", "5", "quoted is text"),
    ('"true"', "true", "true", "quoted is text"),
    ("=", "=", "=", "a text; 1.1 has a type for it"),
    ("18446744073709551615", 2**64 - 1, "18446744073709551615", "seeds have 64 bits"),
]


@pytest.mark.parametrize(("written", "value", "prompt", "why"), YAML_1_2)
def test_a_plain_scalar_is_what_yaml_1_2_says(
    tmp_path: Path, written: str, value: object, prompt: str, why: str
) -> None:
    assert why
    as_prompt, as_entry = rows(tmp_path, f"- {{prompt: {written}}}\n- {written}\n")
    assert (as_prompt.prompt, as_entry.prompt) == (prompt, prompt)
    if value is REFUSED:
        assert "m.yaml:1:18: row 1: " in problems(tmp_path, f"- {{prompt: a, x: {written}}}\n")
        return
    (row,) = rows(tmp_path, f"- {{prompt: a, x: {written}}}\n")
    assert row.parameters.get("x") == value
    assert type(row.parameters.get("x")) is type(value)


def test_lists_and_mappings_and_plain_tags_are_what_they_seem(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, "- prompt: a\n  x: [1, no, {a: 16:9}]\n  y: !!str 5\n")
    assert (row.parameters["x"], row.parameters["y"]) == ([1, "no", {"a": "16:9"}], "5")


@pytest.mark.parametrize("written", ["~", "null", "Null", ""])
def test_a_null_parameter_is_absent_and_removes_a_default(tmp_path: Path, written: str) -> None:
    (row,) = rows(tmp_path, f"defaults: {{x: 5, y: 6}}\nprompts:\n- prompt: a\n  x: {written}\n")
    assert row.parameters == {"prompt": "a", "y": 6}


def test_where_text_is_expected_a_plain_scalar_is_its_own_characters(tmp_path: Path) -> None:
    text = "- 0123\n- null\n- 1.50\n- {id: 007, prompt: 2026, negative_prompt: no}\n- {prompt: null}\n- true\n"
    found = rows(tmp_path, text)
    assert [row.prompt for row in found] == ["0123", "null", "1.50", "2026", "null", "true"]
    assert found[3].id == "007"
    assert found[3].parameters["negative_prompt"] == "no"


def test_the_same_holds_under_prompts_and_in_the_parts_of_a_multi_prompt(tmp_path: Path) -> None:
    text = "prompts:\n- 0123\n- multi_prompt: [{prompt: 0815, duration: 5}]\n"
    first, second = rows(tmp_path, text)
    assert first.prompt == "0123"
    assert second.parameters == {"multi_prompt": [{"prompt": "0815", "duration": 5}]}


@pytest.mark.parametrize("text", ["- a\n-\n", "- a\n- ''\n", "- a\n- '  '\n", "- a\n- {x: 1}\n", "- a\n- prompt:\n"])
def test_a_row_without_a_prompt_is_a_problem_with_its_number(tmp_path: Path, text: str) -> None:
    assert re.search(r"m\.yaml:2:[23]: row 2: has no prompt", problems(tmp_path, text))
    assert "has no prompt" in problems(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- &a x\n- y\n", "anchor"),
        ("- x\n- *a\n", "alias"),
        ("- {prompt: a, <<: b}\n", "merge key"),
        ("- prompt: !!python/object/apply:os.system [x]\n", "!!python/object/apply:os.system"),
        ("- prompt: !foo x\n", "!foo"),
        ("- !!binary aGk=\n", "!!binary"),
        ("- prompt: a\n  x: .inf\n", "JSON can hold"),
        ("- prompt: a\n  x: -.INF\n", "JSON can hold"),
        ("- prompt: a\n  x: .nan\n", "JSON can hold"),
        ("- prompt: a\n  x: 1e999\n", "too large"),
        ("- prompt: a\n  x: 99999999999999999999999\n", "too large"),
        ("- prompt: a\n  prompt: b\n", "twice, on lines 1 and 2"),
        ("a: 1\nprompts: [x]\nprompts: [y]\n", "twice, on lines 2 and 3"),
        ("- x\n---\n- y\n", "more than one document"),
        ("prompts: [x]\n--- \nz\n", "more than one document"),
        ("- {[a]: b}\n", "list or a mapping"),
        ("- {? : b}\n", "without a name"),
        ("- [a, b]\n", "expected text (a prompt) or a mapping"),
        ('- "\\ud800"\n', "Unicode"),
        ('- "a\\0b"\n', "NUL"),
        ("just text\n", "expected a list of prompts"),
        ("- " + "[" * 5000 + "\n", "nested deeper than 64"),
        ("x: " + "{a: " * 5000 + "\n", "nested deeper than 64"),
    ],
)
def test_what_could_surprise_is_refused_with_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    assert words in problems(tmp_path, text)
    assert "m.yaml:" in problems(tmp_path, text)


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    assert "anchor" in problems(tmp_path, "\n".join(lines) + "\nprompts: [x]\n")


def test_a_syntax_error_names_file_line_and_column(tmp_path: Path) -> None:
    assert "m.yaml:3:1: is not YAML" in problems(tmp_path, "- a\n- [b\n")
    assert "m.yaml:4:1: is not YAML" in problems(tmp_path, "prompts:\n- a\n- [b\n")


def test_a_key_that_is_not_text_is_its_own_characters(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, "- prompt: a\n  1: x\n  true: y\n")
    assert row.parameters == {"prompt": "a", "1": "x", "true": "y"}


def test_one_bad_row_hides_no_other(tmp_path: Path) -> None:
    found = read(tmp_path, "- &x a\n- b\n- {prompt: c, x: .nan}\n- {prompt: d, d: 1, d: 2}\n-\n")
    assert [one.row for one in found if isinstance(one, Problem)] == [1, 3, 4, 5]
    assert [(one.prompt, one.number) for one in found if isinstance(one, Row)] == [("b", 2)]


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\u0085"])
def test_a_character_that_the_parser_would_take_for_a_line_end_is_refused_with_its_remedy(
    tmp_path: Path, odd: str
) -> None:
    assert f"m.yaml:2: holds the character U+{ord(odd):04X}" in problems(tmp_path, f'- a\n- "b{odd}c"\n')
    (row,) = rows(tmp_path, f'- "b\\u{ord(odd):04x}c"\n')
    assert row.prompt == f"b{odd}c"


def test_the_head_may_come_after_the_rows(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, "prompts: [a]\ndefaults: {x: 1}\nname: late\n")
    assert row.parameters == {"prompt": "a", "x": 1}


def test_prompts_and_rows_come_in_the_order_in_which_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("b\nc\n")
    assert [r.prompt for r in rows(tmp_path, "rows: more.txt\nprompts: [a]\n")] == ["b", "c", "a"]
    assert [r.prompt for r in rows(tmp_path, "prompts: [a]\nrows: more.txt\n")] == ["a", "b", "c"]
    assert [r.prompt for r in rows(tmp_path, "rows: [z]\nprompts: [a]\n")] == ["z", "a"]


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    assert [r.prompt for r in rows(tmp_path, b"\xef\xbb\xbf- a\r\n- b\r\n")] == ["a", "b"]
