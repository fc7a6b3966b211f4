"""The quick reading of common rows is the full one's, row for row and problem for problem."""

from __future__ import annotations

import csv
import datetime as dt
import json
from dataclasses import astuple
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from world import picture

from oxenbatch.catalog import Catalog
from oxenbatch.errors import ManifestError, Problem
from oxenbatch.jobs import Row
from oxenbatch.manifest import Overrides, load_manifest, yaml12, yaml_file
from oxenbatch.manifest.quick import Quick
from oxenbatch.sandbox.models import CATALOGUE

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "kling-video-v2-6-pro-text-to-video"
DAY = dt.date(2026, 11, 24)
KNOWN = Catalog.from_answer({"object": "list", "data": [model.shown() for model in CATALOGUE.values()]})
COLUMNS = ("prompt", "id", "seed", "duration", "cfg_scale", "model", "samples", "meta.split", "Prompt", "strange")
CELLS = ("", " ", "a cat", "7", "x", "5", "10", "0.5", "auto", MODEL, "nano-banana-2", "null", "true", "é\u202e", "3.0")


def _read(path: Path, catalog: Catalog | None, overrides: Overrides) -> list[object]:
    try:
        manifest = load_manifest(path, overrides=overrides)
    except ManifestError as error:
        return [str(error)]
    return [astuple(found) if isinstance(found, Row) else str(found) for found in manifest.rows(DAY, catalog)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_quick_reading_is_the_full_one(data: st.DataObject, tmp_path: Path) -> None:
    columns = data.draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4, unique_by=str.casefold))
    records = data.draw(
        st.lists(st.lists(st.sampled_from(CELLS), min_size=len(columns), max_size=len(columns)), min_size=1, max_size=6)
    )
    path = tmp_path / "m.csv"
    path.write_text("\n".join(",".join(line) for line in [columns, *records]) + "\n")
    overrides = Overrides(model=MODEL, extra_columns=data.draw(st.sampled_from(["error", "metadata", "ignore"])))
    catalog = data.draw(st.sampled_from([KNOWN, None]))
    with pytest.MonkeyPatch.context() as patch:
        quick = _read(path, catalog, overrides)
        patch.setattr(Quick, "row", lambda *_: None)
        full = _read(path, catalog, overrides)

    assert quick == full


FILES = ("", "refs/a.png", "refs/none.png", "https://x.example/y.png", "a", '["refs/a.png"]')


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_with_files_and_large_ones_are_read_alike_too(data: st.DataObject, tmp_path: Path) -> None:
    (tmp_path / "refs").mkdir(exist_ok=True)
    (tmp_path / "refs" / "a.png").write_bytes(picture(b"a"))
    form = data.draw(st.sampled_from(["csv", "jsonl"]))
    prompts = st.sampled_from(["a cat", "x" * 5000, "é" * 90_000, ""])
    fields = {
        "prompt": prompts,
        "input_image": st.sampled_from(FILES),
        "aspect_ratio": st.sampled_from(["1:1", "", "z"]),
    }
    names = ["prompt", *data.draw(st.lists(st.sampled_from(["input_image", "aspect_ratio"]), unique=True))]
    found = [{name: data.draw(fields[name]) for name in names} for _ in range(data.draw(st.integers(1, 4)))]
    if form == "jsonl" and data.draw(st.booleans()):
        found[-1]["input_image"] = data.draw(
            st.sampled_from([["refs/a.png"], {"a": 1}, None, 7, ["x" * 4_500_000] * 2])
        )
    with (tmp_path / f"m.{form}").open("w", newline="") as file:
        if form == "csv":
            table = csv.DictWriter(file, names)
            table.writeheader()
            table.writerows(found)
        else:
            file.writelines(json.dumps(one) + "\n" for one in found)
    under = data.draw(
        st.sampled_from(["", "defaults: {input_image: refs/a.png}\n", "defaults: {aspect_ratio: '1:1'}\n"])
    )
    head = f"model: nano-banana-2\ninputs: {{namespace: ox, repo: refs}}\n{under}rows: m.{form}\n"
    (tmp_path / "m.yaml").write_text(head)
    catalog = data.draw(st.sampled_from([KNOWN, None]))
    with pytest.MonkeyPatch.context() as patch:
        quick = _read(tmp_path / "m.yaml", catalog, Overrides())
        patch.setattr(Quick, "row", lambda *_: None)
        full = _read(tmp_path / "m.yaml", catalog, Overrides())

    assert quick == full


def test_a_plain_table_is_read_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,prompt,seed\n" + "".join(f"r{n},picture {n},{n}\n" for n in range(50)))
    asked: list[Row | None] = []
    real = Quick.row
    monkeypatch.setattr(Quick, "row", lambda *arguments: asked.append(real(*arguments)) or asked[-1])
    rows = _read(path, KNOWN, Overrides(model=MODEL))

    assert len(rows) == 50
    assert sum(row is not None for row in asked) == 49  # the first was read in full


# -- where a list ends --------------------------------------------------------------------------------------------

LINES = st.lists(
    st.sampled_from(["- a", "- {prompt: b, seed: 1}", "  - c", "- |", "  text", "-", "- 'open", "close'", "# r", "",
                     "name: late", "seed: 5", " name: in", "rows:", "prompts:", "---", "...", "- at {date}", "-key: 1",
                     "]", "\tx", "? y", '- "x\\', "- &a x", "- *a", "%TAG", "- >", "- [d, e]", "- prompt: f",
                     "  seed: 2"]),
    max_size=7,
)  # fmt: skip
HEADS = st.sampled_from(["prompts:", "rows:", "# r\nseed: 3\nprompts:", "name: n\rprompts:", "{prompts:", " prompts:",
                         "seed: 1\nrows: # r", "- x", "prompts: ["])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(head=HEADS, lines=LINES, end=st.sampled_from(["\n", "\n", "\r\n", "\r"]), chunk=st.sampled_from([3, 2**20]))
@example(head="name: n\r\r\rprompts:", lines=["- a", "seed: 5"], end="\n", chunk=2**20)
def test_a_head_whose_list_is_last_is_what_the_whole_file_says(
    tmp_path_factory: pytest.TempPathFactory, head: str, lines: list[str], end: str, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "whole.yaml"
    path.write_bytes((head + "\n" + end.join(lines)).encode())

    def told() -> object:
        try:
            manifest = load_manifest(path, overrides=Overrides(model="m"))
        except ManifestError as error:
            return {str(problem) for problem in error.problems}
        found = list(manifest.rows(DAY))
        wrong = {str(one) for one in found if isinstance(one, Problem)}
        return wrong or (manifest.name, [astuple(one) for one in found if isinstance(one, Row)], manifest.uses_date)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml12, "_CHUNK", chunk)
        quick = told()
        patch.setattr(yaml_file, "is_last", lambda *_: False)
        whole = told()

    # Of a file that is broken further on, the head or the rows before that are told about first.
    assert quick == whole or (isinstance(quick, set) and isinstance(whole, set))
