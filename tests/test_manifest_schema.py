"""The manifest's JSON Schema, held against a validator, against `load_manifest`, and against every example."""

from __future__ import annotations

import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from oxenbatch.catalog import Catalog
from oxenbatch.cli.start import STARTER
from oxenbatch.errors import ManifestError, Problem
from oxenbatch.manifest import Overrides, load_manifest
from oxenbatch.manifest.head import KEYS
from oxenbatch.manifest.schema import manifest_schema
from oxenbatch.manifest.yaml12 import scalar
from oxenbatch.sandbox.models import CATALOGUE

EXAMPLES = Path(__file__).parents[1] / "manifests"
MANIFESTS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".yaml", ".json"))
CATALOG = Catalog.from_answer({"data": [model.shown() for model in CATALOGUE.values()]})
PLAIN = jsonschema_rs.Draft7Validator(manifest_schema())
FULL = jsonschema_rs.Draft7Validator(manifest_schema(CATALOG))


class Editor(yaml.SafeLoader):
    """YAML as an editor's server reads it: by the 1.2 core schema."""


Editor.yaml_implicit_resolvers = {}


def plain(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    return node.value if node.style else scalar(str(node.value))


Editor.add_constructor("tag:yaml.org,2002:str", plain)


def as_read(text: str) -> Any:
    return yaml.load(text, Loader=Editor)  # noqa: S506 - a SafeLoader


def is_loaded(text: str) -> bool:
    """Whether the program itself takes it, every row of it."""
    try:
        manifest = load_manifest("-", overrides=Overrides(format="yaml"), stdin=io.BytesIO(text.encode()))
        return not [one for one in manifest.rows(dt.date(2026, 11, 22), CATALOG) if isinstance(one, Problem)]
    except ManifestError:
        return False


@pytest.mark.parametrize("schema", [manifest_schema(), manifest_schema(CATALOG)])
def test_the_schema_is_a_schema(schema: dict[str, Any]) -> None:
    jsonschema_rs.meta.validate(schema)
    assert schema["$schema"].startswith("http://json-schema.org/draft-07/")
    json.dumps(schema)


def test_the_schema_knows_every_field_of_the_head() -> None:
    head = manifest_schema()["definitions"]["head"]["properties"]
    assert set(head) == set(KEYS)
    assert all("description" in inner or "$ref" in inner for inner in head.values())


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_example_is_right_by_the_schema(path: Path) -> None:
    PLAIN.validate(as_read(path.read_text("utf-8")))
    FULL.validate(as_read(path.read_text("utf-8")))


def test_the_starter_manifest_is_right_by_the_schema() -> None:
    FULL.validate(as_read(STARTER.format(file="manifest.yaml", model="nano-banana-2")))


@pytest.mark.parametrize(
    "text",
    [
        "- {prompt: b, model: nano-banana-2, samples: 4, metadata: {split: train}}\n",
        "model: nano-banana-2\nprompts: [a, 2026, true, 0.5]\n",
        "model: nano-banana-2\nprompts: [{id: 7, prompt: 12}]\n",
        "model: nano-banana-2\nname: 2026\nprompts: [a]\n",
        "model: nano-banana-2\nmax_cost: 12.50\nconcurrency: 3\nprompts: [a]\n",
        "model: nano-banana-2\nmax_cost: '12.50'\nprompts: [a]\n",
        "model: nano-banana-2\nmodels: {nano-banana-2: {concurrency: 4}}\nprompts: [a]\n",
        "model: nano-banana-2\ntarget: {namespace: me, repo: set, directory: a/b}\nprompts: [a]\n",
        "model: nano-banana-2\nvariables: {place: [reef, 2]}\nprompt: '{place}'\n",
        "model: bytedance-seedream-4-5\nmatrix: {seed: [1, 2]}\nprompts: [a]\n",
        "model: nano-banana-2\nmatrix: {aspect_ratio: '1:1'}\nprompts: [a]\n",
        "model: bytedance-seedream-4-5\ndefaults: {seed: auto, samples: 2}\nprompts: [a, {prompt: b, seed: null}]\n",
        "model: nano-banana-2\nrows: [a, b]\n",
        "- {model: kling-video-v2-6-pro-text-to-video, prompt: a, duration: 5, cfg_scale: 0.5}\n",
        "- {model: kling-video-v3-pro-text-to-video, multi_prompt: [{prompt: a, duration: 3}]}\n",
    ],
)
def test_what_the_program_takes_the_schema_takes(text: str) -> None:
    assert is_loaded(text)
    for validator in (PLAIN, FULL):
        assert [error.message for error in validator.iter_errors(as_read(text))] == []


@pytest.mark.parametrize(
    ("text", "full_only"),
    [
        ("prompt_list: [a]\nmodel: nano-banana-2\n", False),
        ("model: nano-banana-2\nduration: 5\nprompts: [a]\n", False),
        ("model: nano-banana-2\nconcurrency: 0\nprompts: [a]\n", False),
        ("model: nano-banana-2\nconcurrency: many\nprompts: [a]\n", False),
        ("model: nano-banana-2\nmax_cost: -1\nprompts: [a]\n", False),
        ("model: nano-banana-2\nmax_cost: lots\nprompts: [a]\n", False),
        ("model: nano-banana-2\nmodels: {nano-banana-2: {concurrencies: 4}}\nprompts: [a]\n", False),
        ("model: nano-banana-2\ntarget: {repos: x}\nprompts: [a]\n", False),
        ("model: nano-banana-2\nname: a/b\nprompts: [a]\n", False),
        ("model: nano-banana-2\nprompts: a\n", False),
        ("model: nano-banana-2\nprompts: [[a]]\n", False),
        ("model: nano-banana-2\nprompts: [{prompt: [a]}]\n", False),
        ("model: nano-banana-2\nprompts: [{prompt: a, samples: 0}]\n", False),
        ("model: nano-banana-2\nprompts: [{prompt: a, samples: two}]\n", False),
        ("model: nano-banana-2\nprompts: [{prompt: a, metadata: x}]\n", False),
        ("model: nano-banana-2\nprompts: [{prompt: a, num_generations: 2}]\n", False),
        ("model: nano-banana-2\ndefaults: {target_repo: x}\nprompts: [a]\n", False),
        ("model: nano-banana-2\ndefaults: {id: x}\nprompts: [a]\n", False),
        ("model: nano-banana-2\nvariables: [a]\nprompt: x\n", False),
        ("model: nano-banana-2\nmatrix: {seed: []}\nprompts: [a]\n", False),
        ("model: nano-banana-2\nmatrix: {samples: [1]}\nprompts: [a]\n", False),
        ("just text\n", False),
        ("- {model: kling-video-v2-6-pro-text-to-video, prompt: a, duration: 7}\n", True),
        ("- {model: nano-banana-2, prompt: a, aspect_ratio: 16:10}\n", True),
    ],
)
def test_what_the_schema_refuses_the_program_refuses(text: str, *, full_only: bool) -> None:
    value = as_read(text)
    assert not FULL.is_valid(value)
    assert PLAIN.is_valid(value) is full_only
    assert not is_loaded(text)
