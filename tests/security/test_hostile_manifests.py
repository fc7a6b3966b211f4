"""A manifest of a stranger: whatever it holds is refused with a sentence, soon, and in little memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hostile import MB, PEAK_MB, Desk, Hub, is_quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# (file, its bytes, a part of what is said)
GREEDY: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a YAML text without an end": ("m.yaml", lambda: b"- " + b"a " * (32 * MB) + b"\n", "value of more than 8 MB"),
    "a YAML block without an end": ("m.yaml", lambda: b"- |\n" + (b"  " + b"a" * 998 + b"\n") * 50_000, "more than 8"),
    "a YAML list of lists": ("m.yaml", lambda: b"- {prompt: x, a: [" + b"[]," * 3_000_000 + b"]}\n", "200,000 values"),
    "a YAML mapping of too many keys": (
        "m.yaml",
        lambda: b"- {" + b"".join(b"k%d: 1, " % n for n in range(250_000)) + b"}\n",
        "200,000 values",
    ),
    "a YAML abyss": ("m.yaml", lambda: b"- " + b"[" * 5_000_000, "nested deeper"),
    "a YAML alias bomb": (
        "m.yaml",
        lambda: b"a: &a [x, x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (n, n) for n in range(100)),
        "anchor",
    ),
    "a YAML of every combination": (
        "m.yaml",
        lambda: (
            b"prompt: x\nmatrix: {" + b", ".join(b"a%d: [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]" % n for n in range(12)) + b"}"
        ),
        "more than 1,000,000 rows",
    ),
    "a template that becomes a gigabyte": (
        "m.yaml",
        lambda: b"variables: {a: [" + b"x" * 90_000 + b"]}\nprompts: ['" + b"{a}" * 9_000 + b"']\n",
        "when it is filled in",
    ),
    "a template in a list that becomes a gigabyte": (
        "m.yaml",
        lambda: (
            b"variables: {a: [" + b"x" * 90_000 + b"]}\nprompts: [{prompt: x, l: [" + b"'{a}', " * 20_000 + b"]}]\n"
        ),
        "when it is filled in",
    ),
    "a JSON file larger than memory": ("m.json", lambda: b'["' + b"a" * (64 * MB) + b'"]', "larger than 32 MB"),
    "a JSON file of one wide character": (
        "m.json",
        lambda: b'["' + b"a" * (24 * MB) + "😀".encode() + b'"]',
        "larger than 12 MB",
    ),
    "a JSON list of lists": ("m.json", lambda: b"[" + b"[]," * 8_000_000 + b"[]]", "1,000,000 values"),
    "a JSON abyss": ("m.json", lambda: b"[" * 900_000, "nested deeper"),
    "a JSON number without an end": ("m.json", lambda: b'[{"prompt": "x", "seed": ' + b"9" * MB + b"}]", "too large"),
    "a JSONL line of lists": (
        "m.jsonl",
        lambda: b'{"prompt": "x", "a": [' + b"[]," * 2_000_000 + b"[]]}\n",
        "400,000 values",
    ),
    "a JSONL line without an end": ("m.jsonl", lambda: b'{"prompt": "' + b"a" * (200 * MB), "a line of more than 8 MB"),
    "a CSV line of cells": ("m.csv", lambda: b"prompt\n" + b"ab," * 2_500_000 + b"\n", "400,000 cells"),
    "a CSV header of cells": ("m.csv", lambda: b"ab," * 2_500_000 + b"\nx\n", "400,000 cells"),
    "a CSV of columns": ("m.csv", lambda: b"prompt" + b",a" * 5_000 + b"\nx\n", "expected at most 1000"),
    "a CSV quote without an end": ("m.csv", lambda: b'prompt\n"' + b"a" * 99 + b"\n" * 100_000, "never closed"),
    "a TSV line of cells": ("m.tsv", lambda: b"prompt\ta\n" + b"ab\t" * 2_500_000 + b"\n", "400,000 cells"),
    "a text without a line's end": ("m.txt", lambda: b"a" * (200 * MB), "a line of more than 8 MB"),
    "a prompt of a megabyte": ("m.txt", lambda: "😀".encode() * MB + b"\n", "expected at most 100,000"),
    "NUL characters": ("m.txt", lambda: b"a\0b\n", "NUL"),
    "bytes that are no text": ("m.txt", lambda: bytes(range(128, 256)) * 4096, "is not UTF-8"),
    "UTF-16": ("m.txt", lambda: "a red cube\n".encode("utf-16"), "UTF-16"),
    "half a character": ("m.jsonl", lambda: b'{"prompt": "\\ud800"}\n', "half a surrogate"),
    "a number that is none": ("m.jsonl", lambda: b'{"prompt": "x", "seed": NaN}\n', "NaN"),
}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Hub() as hub:
        yield Desk(tmp_path, hub)


@pytest.mark.parametrize("what", GREEDY)
def test_a_manifest_that_asks_for_too_much_is_refused_in_little_memory(desk: Desk, what: str) -> None:
    name, made, words = GREEDY[what]

    done = desk.run(rows=made(), name=name)

    assert done.code == 65, done.said
    assert words in done.said
    assert done.peak_mb < PEAK_MB
    assert not (desk.folder / "out").exists()


def test_a_request_that_the_hub_could_not_tell_back_is_refused_before_it_is_paid(desk: Desk) -> None:
    """The hub's rows repeat the request: one that does not fit an answer would be made, paid for, and never seen."""
    picture = b'{"prompt": "x", "input_image": "data:image/png;base64,'
    desk.write("many.jsonl", b'{"prompt": "x", "seed": [' + b"1," * 60_000 + b"1]}\n")
    too_much = picture + b"\\u00e9" * 1_200_000 + b'"}\n'

    done = desk.run(rows=too_much, name="m.jsonl")
    many = desk.call("run", "many.jsonl", "--model", "picture-maker")

    assert done.code == many.code == 65
    assert "a request of more than 8 MB" in done.said
    assert "a request of more than 50,000 values" in many.said


def test_a_value_is_text_and_never_a_way_into_an_object(desk: Desk) -> None:
    texts = ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>999999999}", "{0}", "{}", "{a.__init__.__globals__}"]
    rows = "variables: {a: [x]}\nprompts:\n" + "".join(f"- '{text}'\n" for text in texts)

    done = desk.run(rows=rows, name="m.yaml")

    assert done.code == 65
    assert done.said.count(", prompt: ") == len(texts)


TAGS = [
    "!!python/object/apply:os.system [touch pwned]",
    "!!python/object/new:os.system [touch pwned]",
    "!!python/name:os.system ''",
    "!!binary aGk=",
    "!!set {a}",
]


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_builds_nothing_and_runs_nothing(desk: Desk, tag: str) -> None:
    done = desk.run(rows=f"- {{prompt: x, seed: {tag}}}\n", name="m.yaml")

    assert done.code == 65
    assert "tag" in done.said
    assert not list(desk.folder.glob("**/pwned"))


def _link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


@pytest.mark.parametrize("kind", ["a link to an endless device", "a pipe that nobody fills", "a folder", "itself"])
def test_a_file_of_rows_is_a_file(desk: Desk, kind: str) -> None:
    rows = desk.folder / "rows.txt"
    {"a link to an endless device": _link("/dev/zero"), "a pipe that nobody fills": os.mkfifo,
     "a folder": os.mkdir, "itself": _link("rows.txt")}[kind](rows)  # fmt: skip

    done = desk.run(rows="rows: rows.txt\n", name="m.yaml")

    assert done.code == 65
    assert not list((desk.folder / "tmp").iterdir())


def test_a_device_is_no_manifest(desk: Desk) -> None:
    (desk.folder / "zero.txt").symlink_to("/dev/zero")

    assert desk.call("run", "zero.txt").code == 65


NAMES: dict[str, Any] = {
    "above": "../above",
    "absolute": "/etc/oxenbatch",
    "dots": "..",
    "dot": ".",
    "backslash": "a\\b",
    "drive": "C:x",
    "NUL": '"a\\0b"',
    "escape": '"a\\eb"',
    "turned round": '"a\\u202eb"',
    "long": "a" * 101,
    "empty": '""',
    "blank": '" a "',
}


@pytest.mark.parametrize("name", NAMES)
def test_a_manifests_name_is_one_part_of_a_path(desk: Desk, name: str) -> None:
    before = sorted(desk.folder.parent.iterdir())

    done = desk.run(rows=f"name: {NAMES[name]}\nprompts: [x]\n", name="m.yaml")

    assert done.code == 65, done.said
    assert is_quiet(done.out + done.err)
    assert sorted(desk.folder.parent.iterdir()) == before


@pytest.mark.parametrize("output", ['"out/\\u202ex"', '"a\\0b"', "'{x}'", "'{name.__class__}'", '""', "[a]"])
def test_an_output_folder_is_named_in_plain_characters(desk: Desk, output: str) -> None:
    assert desk.run(rows=f"output: {output}\nprompts: [x]\n", name="m.yaml").code == 65


@pytest.mark.parametrize("directory", ["/etc", "../x", "a/../../x", "a\\b", '"a\\0"', '"a\\nb"'])
def test_a_target_at_the_hub_stays_inside_its_repository(desk: Desk, directory: str) -> None:
    rows = f"target: {{namespace: a, repo: b, directory: {directory}}}\nprompts: [x]\n"

    assert desk.run(rows=rows, name="m.yaml").code == 65


def test_what_a_manifest_says_is_told_without_being_obeyed(desk: Desk) -> None:
    rows = (
        '- {id: "\\e[2J", prompt: x}\n- {prompt: x, "\\e]0;owned\\a": 1}\n- {prompt: x, model: "\\u202e\\x9b"}\n'
        '- {prompt: x, seed: "\\u2028\\e"}\n- {prompt: x, metadata: {"\\e": 1}}\n'
    )

    done = desk.run(rows=rows, name="m.yaml")

    assert done.code == 65
    assert done.said.count("m.yaml:") >= 5
    assert is_quiet(done.out + done.err)
