"""Every format: encodings, empty files, JSON's strictness, and that what is read equals what was written."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import io
import json
import os
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxenbatch.errors import ManifestError, OxenbatchError, Problem, UsageProblem
from oxenbatch.jobs import Row
from oxenbatch.manifest import Overrides, load_manifest, parse_parameter

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.date(2026, 11, 22)
FORMATS = ["yaml", "csv", "tsv", "jsonl", "json", "txt"]
FLAGS = Overrides(model="m")


def read(data: bytes, form: str, flags: Overrides = FLAGS) -> list[Row | Problem]:
    overrides = Overrides(model=flags.model, parameters=flags.parameters, format=form)
    return list(load_manifest("-", overrides=overrides, stdin=io.BytesIO(data)).rows(DAY))


def complaint(data: bytes, form: str) -> str:
    try:
        return "\n".join(str(one) for one in read(data, form) if isinstance(one, Problem))
    except ManifestError as error:
        return str(error)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("data", [b"", b"\n", b"  \n\n", b"\xef\xbb\xbf", b"\r\n\r\n"])
def test_a_file_without_rows_is_refused(form: str, data: bytes) -> None:
    with pytest.raises(ManifestError, match="has no rows"):
        read(data, form)


@pytest.mark.parametrize(
    ("form", "data"),
    [("csv", b"prompt,seed\n"), ("tsv", b"prompt\tseed\n\n"), ("yaml", b"prompts: []\n"), ("yaml", b"name: x\n"),
     ("yaml", b"# nothing\n"), ("json", b"[]"), ("json", b"{}"), ("json", b'{"prompts": []}'), ("yaml", b"[]")],
)  # fmt: skip
def test_a_header_or_a_head_alone_has_no_rows(form: str, data: bytes) -> None:
    with pytest.raises(ManifestError, match="has no rows"):
        read(data, form)


@pytest.mark.parametrize("form", FORMATS)
def test_bytes_that_are_not_utf_8_are_refused_with_their_line(form: str) -> None:
    assert complaint(b"a\nb\xe9c\n", form).startswith("stdin:2: is not UTF-8 (byte 0xe9)")
    assert "is not UTF-8" in complaint(b"a\n" + "é".encode()[:1], form)


@pytest.mark.parametrize("form", FORMATS)
def test_utf_16_and_nul_characters_are_refused_with_a_sentence(form: str) -> None:
    assert "is UTF-16, expected UTF-8" in complaint("prompt\nx\n".encode("utf-16"), form)
    assert "is UTF-16, expected UTF-8" in complaint(b"\xfe\xff\0a", form)
    assert "is UTF-32" in complaint("a".encode("utf-32"), form)
    assert "stdin:2: holds a NUL character" in complaint(b"a\nb\0c\n", form)


@pytest.mark.parametrize("form", ["csv", "tsv", "txt", "jsonl"])
def test_a_line_without_end_is_refused_before_it_fills_the_memory(form: str) -> None:
    assert "has a line of more than" in complaint(b"a\n" + b"x" * (17 * 2**20), form)


@pytest.mark.parametrize("form", ["jsonl", "json"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"prompt": "a", "x": NaN}', "NaN is not JSON"),
        ('{"prompt": "a", "x": -Infinity}', "-Infinity is not JSON"),
        ('{"prompt": "a", "x": 1e999}', "too large a number"),
        ('{"prompt": "a", "x": ' + "9" * 5000 + "}", "too large a number"),
        ('{"prompt": "a", "prompt": "b"}', "'prompt' is there twice"),
        ('{"prompt": "a", "x": {"y": 1, "y": 2}}', "'y' is there twice"),
        ('{"prompt": "\\ud800"}', "half a surrogate pair"),
        ('{"prompt": "a", "x": ["\\udfff"]}', "half a surrogate pair"),
        ('{"prompt": "a\\u0000b"}', "NUL"),
        ('{"prompt": "a", "x": ' + "[" * 100 + "]" * 100 + "}", "nested deeper than 64"),
        ('{"prompt": "a", "x": ' + "[" * 100000 + "]" * 100000 + "}", "nested deeper than 64"),
        ('{"prompt": 5}', "expected text"),
        ("5", "expected text (a prompt) or a mapping"),
        ('{"prompt": "a"', "is not JSON"),
        ("{'prompt': 'a'}", "is not JSON"),
    ],
)
def test_json_that_cannot_be_meant_is_refused(form: str, text: str, words: str) -> None:
    found = complaint((f"[\n{text}]" if form == "json" else f"\n{text}\n").encode(), form)
    assert words in found
    assert "stdin:2" in found


def test_a_pair_of_surrogate_escapes_is_one_character() -> None:
    (row,) = read(b'{"prompt": "\\ud83d\\ude00"}', "jsonl")
    assert isinstance(row, Row)
    assert row.prompt == "\U0001f600"


def test_json_s_root_says_everything_once_and_nothing_after() -> None:
    assert "'name' is there twice" in complaint(b'{"name": "a", "prompts": ["x"], "name": "b"}', "json")
    assert "goes on after its value" in complaint(b'["x"] y', "json")
    assert "goes on after its value" in complaint(b'{"prompts": ["x"]} y', "json")
    assert "goes on after its value" in complaint(b'{"prompt": "x"} y', "jsonl")
    assert "expected a list of prompts" in complaint(b'"x"', "json")


def test_money_in_a_json_head_is_read_from_its_characters() -> None:
    text = b'{"max_cost": 25.10, "prompts": ["a"]}'
    manifest = load_manifest("-", overrides=Overrides(format="json"), stdin=io.BytesIO(text))
    assert str(manifest.max_cost) == "25.10"


def test_text_is_a_prompt_a_line_and_nothing_else_is_touched() -> None:
    text = ' a {brace} "quoted"  \r\n\r\n   \n# no comment\nu\u2028v\x0bw\n- last'
    found = [row.prompt for row in read(text.encode(), "txt") if isinstance(row, Row)]
    assert found == [' a {brace} "quoted"  ', "# no comment", "u\u2028v\x0bw", "- last"]


def test_a_json_row_has_the_line_on_which_it_begins() -> None:
    found = read(b'[\n"a",\n\n{"prompt":\n"b"},\n {"x": 1}]', "json")
    assert [one.where for one in found] == ["stdin:2", "stdin:4", "stdin:6:2"]


def test_what_the_command_line_names_must_be_there_and_readable(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="does not exist"):
        load_manifest(tmp_path / "no.yaml")
    (tmp_path / "d.yaml").mkdir()
    (tmp_path / "x.dat").write_text("a")
    with pytest.raises(ManifestError, match="is a folder"):
        load_manifest(tmp_path / "d.yaml")
    with pytest.raises(UsageProblem, match="--format"):
        load_manifest(tmp_path / "x.dat")
    with pytest.raises(UsageProblem, match="format of standard input is not known"):
        load_manifest("-", stdin=io.BytesIO(b"a"))
    with pytest.raises(UsageProblem, match="--format is xml"):
        load_manifest(tmp_path / "x.dat", overrides=Overrides(format="xml"))
    assert len(list(load_manifest(tmp_path / "x.dat", overrides=Overrides(format="txt", model="m")).rows(DAY))) == 1


def test_a_pipe_is_read_once_and_kept(tmp_path: Path) -> None:
    receive, send = os.pipe()
    with os.fdopen(send, "wb") as file:
        file.write(b"prompts: [a]\nname: piped\n")
    try:
        manifest = load_manifest(f"/dev/fd/{receive}", overrides=Overrides(format="yaml", model="m"))
        assert manifest.name == "piped"
        assert len(list(manifest.rows(DAY))) == 1
    finally:
        os.close(receive)


def test_a_file_that_changes_while_it_is_read_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    path.write_text("a\nb\n")
    manifest = load_manifest(path, overrides=FLAGS)
    path.write_text("a\nb\nc\n")
    assert "was changed" in str(list(manifest.rows(DAY))[-1])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("duration=5", ("duration", 5)), ("x=1.5", ("x", 1.5)), ("x=true", ("x", True)), ("x=null", ("x", None)),
        ("x=[1, 2]", ("x", [1, 2])), ("x=16:9", ("x", "16:9")), ("x=NaN", ("x", "NaN")), ("x=", ("x", "")),
        ("prompt=5", ("prompt", "5")), ("negative_prompt=no", ("negative_prompt", "no")), ("x=a=b", ("x", "a=b")),
        ("x=0123", ("x", "0123")),
    ],
)  # fmt: skip
def test_a_parameter_of_the_command_line_is_json_where_it_parses(text: str, found: tuple[str, object]) -> None:
    assert parse_parameter(text) == found


@pytest.mark.parametrize("text", ["x", "=5", "", "x=\udcff"])
def test_a_parameter_without_a_name_is_a_usage_problem(text: str) -> None:
    with pytest.raises(UsageProblem):
        parse_parameter(text)


# What is written is what is read.

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufffe\uffff\ufeff")
    | st.sampled_from(list("\"'\t\n,;{}[]:#&*!|>-%@`\\ ")),
    max_size=40,
)
PROMPT = TEXT.filter(str.strip)
ROWS = st.lists(st.fixed_dictionaries({"prompt": PROMPT, "style": TEXT}), min_size=1, max_size=8)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def back(data: bytes, form: str) -> list[dict[str, object]]:
    found = read(data, form)
    assert all(isinstance(one, Row) for one in found), (data, found)
    return [one.parameters for one in found if isinstance(one, Row)]


@QUICK
@given(ROWS)
def test_json_comes_back_as_it_was_written(written: list[dict[str, str]]) -> None:
    for ascii_only in (True, False):
        text = json.dumps(written, ensure_ascii=ascii_only, indent=1)
        assert back(text.encode(), "json") == written
        lines = "\n".join(json.dumps(one, ensure_ascii=ascii_only) for one in written)
        assert back(lines.encode(), "jsonl") == written
        assert back(f'{{"prompts": {text}}}'.encode(), "json") == written


@QUICK
@given(ROWS)
def test_yaml_comes_back_as_it_was_written(written: list[dict[str, str]]) -> None:
    quoted = [{name: json.dumps(value, ensure_ascii=False) for name, value in one.items()} for one in written]
    block = "".join(f"- prompt: {one['prompt']}\n  style: {one['style']}\n" for one in quoted)
    assert back(block.encode(), "yaml") == written
    flow = ", ".join(f"{{prompt: {one['prompt']}, style: {one['style']}}}" for one in quoted)
    assert back(f"rows: [{flow}]".encode(), "yaml") == written


@QUICK
@given(ROWS, st.sampled_from(["\n", "\r\n"]))
def test_csv_and_tsv_come_back_as_they_were_written(written: list[dict[str, str]], end: str) -> None:
    for form, delimiter in (("csv", ","), ("tsv", "\t")):
        file = io.StringIO()
        writer = csv.DictWriter(
            file, ["prompt", "meta.style"], delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL
        )
        writer.writeheader()
        writer.writerows({"prompt": one["prompt"], "meta.style": one["style"]} for one in written)
        found = read(file.getvalue().encode(), form)
        assert [(one.prompt, one.metadata.get("style", "")) for one in found if isinstance(one, Row)] == [
            (one["prompt"], one["style"]) for one in written
        ]


@QUICK
@given(st.lists(TEXT.filter(lambda t: t.strip() and "\n" not in t), min_size=1))
def test_text_comes_back_as_it_was_written(written: list[str]) -> None:
    assert [p["prompt"] for p in back("\n".join(written).encode(), "txt")] == written


# Whatever the bytes are, it ends in rows and problems, and soon.

NOISE = st.binary(max_size=200) | st.lists(
    st.sampled_from(
        [b"- ", b"\n", b"prompts:", b"rows:", b"[", b"]", b"{", b"}", b'"', b"'", b",", b"\t", b": ", b"a", b"&a ",
         b"*a", b"!!str ", b"!x ", b"prompt", b"? ", b"| ", b"\\u0000", b"\\ud800", b"1e999",
         b"null", b"matrix", b"{x}",
         b"\r",         b"---\n", b"...", b"%YAML 1.2\n", b"<<", b"#", b"\xff", b"\xef\xbb\xbf", b"  "]
    ),
    max_size=40,
).map(b"".join)  # fmt: skip


@settings(max_examples=400, deadline=2000, suppress_health_check=list(HealthCheck))
@given(NOISE, st.sampled_from(FORMATS))
def test_noise_never_ends_in_anything_but_our_own_words(data: bytes, form: str) -> None:
    try:
        for one in read(data, form):
            assert isinstance(one, Row | Problem)
            str(one)
    except OxenbatchError as error:
        str(error)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "piece", [b"[", b"{", b"- ", b"? ", b'"', b"'", b"&a ", b"!", b"{a: ", b"[[],", b'"\n', b'"\t', b'\n"a', b'{"a":']
)
def test_a_piece_repeated_without_end_is_answered_soon(form: str, piece: bytes) -> None:
    began = time.process_time()
    with contextlib.suppress(OxenbatchError):
        sum(1 for _ in read(b"prompt\n" + piece * 30_000, form))
    assert time.process_time() - began < 10  # the worst takes a tenth of it; the time of a quadratic one is minutes


@pytest.mark.parametrize("form", ["yaml", "csv", "jsonl"])
def test_memory_stays_flat_however_many_rows_there_are(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{form}"
    with path.open("w") as file:
        file.write("id,prompt,seed\n" if form == "csv" else "")
        for n in range(20_000):
            line = {
                "csv": f"r{n},A cube {n},{n}",
                "jsonl": json.dumps({"id": f"r{n}", "prompt": f"A cube {n}", "seed": n}),
                "yaml": f"- {{id: r{n}, prompt: A cube {n}, seed: {n}}}",
            }[form]
            file.write(line + "\n")
    manifest = load_manifest(path, overrides=FLAGS)
    tracemalloc.start()
    try:
        count = sum(1 for _ in manifest.rows(DAY))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 3 * 2**20  # of which a third are the ids; the rows themselves would be twelve
