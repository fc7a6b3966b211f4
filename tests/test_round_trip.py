"""What the hub receives is what was written, in every format, byte for byte of every string.

`make test` tries 400 manifests in five formats each; with OXENBATCH_NIGHTLY set it is 10,000.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandbox_kit import Bench

from oxenbatch.catalog import Catalog
from oxenbatch.errors import Problem
from oxenbatch.jobs import Row
from oxenbatch.manifest import Overrides, load_manifest
from oxenbatch.sandbox.models import CATALOGUE
from oxenbatch.wire import enqueue_body

DAY = dt.date(2026, 11, 22)
CATALOG = Catalog.from_answer({"data": [model.shown() for model in CATALOGUE.values()]})
VIDEO, SHOTS = "kling-video-v2-6-pro-text-to-video", "kling-video-v3-pro-text-to-video"
MANIFESTS = 10_000 if os.environ.get("OXENBATCH_NIGHTLY") else 400

# Everything that UTF-8 can hold but NUL, with what formats trip over made likely.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.sampled_from(list("\"'\t\n\r,;{}[]:#&*!|>-%@`\\ \ufeff\u2028\u2029\x85\x7f\x01😀é")),
    min_size=1,
    max_size=30,
)  # fmt: skip
PROMPT = TEXT.filter(str.strip)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).map(lambda name: f"m_{name}")
METADATA = st.dictionaries(NAMES, TEXT, max_size=3)

ROW = st.fixed_dictionaries(
    {"model": st.just(VIDEO), "prompt": PROMPT},
    optional={
        "negative_prompt": TEXT,
        "duration": st.sampled_from([5, 10]),
        "aspect_ratio": st.sampled_from(["16:9", "9:16", "1:1"]),
        "generate_audio": st.booleans(),
        "cfg_scale": st.floats(0, 1),
        "seed": st.integers(0, 2**31 - 1),
    },
)
PART = st.fixed_dictionaries({"prompt": PROMPT}, optional={"duration": st.integers(1, 15)})
SHOT = st.fixed_dictionaries(
    {"model": st.just(SHOTS), "multi_prompt": st.lists(PART, min_size=1, max_size=4)},
    optional={"duration": st.integers(3, 15)},
)
WRITTEN = st.lists(st.tuples(ROW | SHOT, METADATA), min_size=1, max_size=5)


def yaml_quoted(text: str) -> str:
    """A double-quoted scalar; what YAML does not take as it is becomes an escape."""
    raw = json.dumps(text, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", raw)


def as_yaml(value: Any) -> str:
    if isinstance(value, str):
        return yaml_quoted(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml_quoted(name)}: {as_yaml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    return json.dumps(value)


def as_table(rows: list[tuple[dict[str, Any], dict[str, str]]], delimiter: str) -> str:
    lines = [row | {f"meta.{name}": text for name, text in metadata.items()} for row, metadata in rows]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for line in lines:
        writer.writerow({n: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for n, v in line.items()})
    return file.getvalue()


def as_objects(rows: list[tuple[dict[str, Any], dict[str, str]]]) -> list[dict[str, Any]]:
    return [row | ({"metadata": metadata} if metadata else {}) for row, metadata in rows]


def written_as(form: str, rows: list[tuple[dict[str, Any], dict[str, str]]]) -> str:
    """The rows as a manifest of that format."""
    objects = as_objects(rows)
    if form == "yaml":
        return "prompts:\n" + "".join(f"- {as_yaml(one)}\n" for one in objects)
    if form == "json":
        return json.dumps({"prompts": objects}, ensure_ascii=True)
    if form == "jsonl":
        return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    return as_table(rows, {"csv": ",", "tsv": "\t"}[form])


def read(form: str, text: str) -> list[Row]:
    overrides = Overrides(format=form)
    manifest = load_manifest("-", overrides=overrides, stdin=io.BytesIO(text.encode()))
    found = list(manifest.rows(DAY, CATALOG))
    assert not [str(one) for one in found if isinstance(one, Problem)], text
    return [one for one in found if isinstance(one, Row)]


HUB = Bench()


def received(row: Row) -> dict[str, Any]:
    """The row's request as the hub read it from its bytes."""
    body = enqueue_body(row.model, row.parameters, 1, None, "token")
    answer = HUB.ask("POST", "/api/ai/queue", json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())
    assert answer.status == 200, answer.body
    return dict(HUB.hub.posts.pop().body)


@settings(max_examples=MANIFESTS, deadline=None, suppress_health_check=list(HealthCheck))
@given(WRITTEN)
def test_what_the_hub_receives_is_what_was_written_in_every_format(
    rows: list[tuple[dict[str, Any], dict[str, str]]],
) -> None:
    for form in ("yaml", "csv", "tsv", "jsonl", "json"):
        found = read(form, written_as(form, rows))
        assert [row.metadata for row in found] == [metadata for _, metadata in rows], form
        for row, (wanted, _) in zip(found, rows, strict=True):
            body = received(row)
            assert body.pop("num_generations", 1) == 1
            assert body == wanted, form
            assert [type(body[name]) for name in wanted] == [type(value) for value in wanted.values()], form
