"""The quick reading of common rows is the full one's, row for row and problem for problem."""

from __future__ import annotations

import datetime as dt
from dataclasses import astuple
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxenbatch.catalog import Catalog
from oxenbatch.errors import ManifestError
from oxenbatch.jobs import Row
from oxenbatch.manifest import Overrides, load_manifest
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


def test_a_plain_table_is_read_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,prompt,seed\n" + "".join(f"r{n},picture {n},{n}\n" for n in range(50)))
    asked: list[Row | None] = []
    real = Quick.row
    monkeypatch.setattr(Quick, "row", lambda *arguments: asked.append(real(*arguments)) or asked[-1])
    rows = _read(path, KNOWN, Overrides(model=MODEL))

    assert len(rows) == 50
    assert sum(row is not None for row in asked) == 49  # the first was read in full
