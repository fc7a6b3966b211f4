"""Every answer of the stand-in hub, held against the schema that was written from the hub's facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from sandbox_kit import (
    IMAGE,
    IMAGE_LIFE_S,
    NESTED,
    OWN_HOST,
    TEXT,
    UNKNOWN_ID,
    VIDEO,
    VIDEO_LIFE_S,
    Bench,
    frames,
    judge,
)

from oxenbatch.sandbox.models import CATALOGUE

DESCRIPTION = Path(__file__).parents[2] / "shared" / "hub" / "openapi.json"


def _busy() -> Bench:
    """A hub with a generation in every state, of every kind of place."""
    bench = Bench(workers=2)
    bench.enqueue(prompt="[fail]")
    cancelled = bench.enqueue()[0]
    bench.ask("DELETE", f"/api/ai/queue/{cancelled}")
    for model in (IMAGE, OWN_HOST, NESTED):
        bench.enqueue(model)
    bench.clock.pass_by(3 * VIDEO_LIFE_S)
    for n in range(4):
        bench.enqueue(VIDEO, prompt=f"film {n}", target_namespace="org", target_repo="set", target_directory="d")
    bench.clock.pass_by(IMAGE_LIFE_S * 3)
    statuses = {row["status"] for row in bench.get("/api/ai/generations")["generations"]}
    assert statuses == {"queued", "processing", "succeeded", "failed", "cancelled"}
    return bench


def _answers(bench: Bench) -> dict[str, tuple[str, str, Any]]:
    """Each call's answers: our definition's name, the description's name, and the value."""
    ids = list(bench.hub.generations)
    enqueued = bench.ask("POST", "/api/ai/queue", {"model": IMAGE, "prompt": "x", "num_generations": 4}).json()
    found: dict[str, tuple[str, str, Any]] = {
        "enqueue": ("enqueued", "QueueCreateResponse", enqueued),
        "queue": ("queue", "QueueListResponse", bench.get("/api/ai/queue")),
        "history": ("history", "GenerationsListResponse", bench.get("/api/ai/generations")),
        "nothing": ("history", "GenerationsListResponse", bench.get("/api/ai/generations?folder=none")),
        "models": ("models", "ListModelsResponse", bench.get("/api/ai/models")),
        "search": ("models", "ListModelsResponse", bench.get("/api/ai/models/search?search=kling video")),
    }
    for status in ("queued", "processing", "succeeded", "failed", "cancelled"):
        found[status] = ("queue", "QueueListResponse", bench.get(f"/api/ai/queue?status={status}"))
    for made in ids:
        found[f"one {made}"] = ("generation", "QueueGenerationResponse", bench.row(made))
        entry = bench.get(f"/api/ai/generations/{made}")
        found[f"entry {made}"] = ("history_entry", "GenerationsShowResponse", entry)
    for model in CATALOGUE:
        found[f"model {model}"] = ("model", "Model", bench.get(f"/api/ai/models/{model}"))
    last = next(reversed(ids))
    found["cancel"] = ("cancelled", "QueueDeleteResponse", bench.ask("DELETE", f"/api/ai/queue/{last}").json())
    return found


def test_every_answer_is_what_the_facts_say() -> None:
    for kind, _, value in _answers(_busy()).values():
        judge(kind, value)


@pytest.mark.skipif(not DESCRIPTION.exists(), reason="the hub's own description is not at hand")
def test_every_answer_is_what_the_hubs_own_description_says() -> None:
    components = _modern(json.loads(DESCRIPTION.read_text())["components"])
    for name, (_, component, value) in _answers(_busy()).items():
        reference = f"#/components/schemas/{component}"
        validator = jsonschema_rs.validator_for({"$ref": reference, "components": components})
        wrong = [f"{list(error.instance_path)}: {error.message}" for error in validator.iter_errors(_bare(value))]
        assert not wrong, f"{name}: {wrong}"


def _modern(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` as JSON Schema says it."""
    if isinstance(schema, list):
        return [_modern(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _modern(value) for name, value in schema.items() if name != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain


def _bare(value: Any) -> Any:
    """Endpoints without the prefix, which the description does not know and the hub has been seen to write."""
    return json.loads(json.dumps(value).replace('"/api/ai/', '"/'))


def test_both_spellings_of_an_endpoint_are_in_the_catalogue() -> None:
    prefixed = {model.endpoint.startswith("/api/ai/") for model in CATALOGUE.values()}

    assert prefixed == {True, False}


def test_the_catalogue_holds_every_shape_that_a_client_must_read() -> None:
    schemas = [model.request_schema for model in CATALOGUE.values()]
    methods = {model.pricing["method"] for model in CATALOGUE.values()}
    priced = {name for model in CATALOGUE.values() for name, value in model.pricing.items() if value is not None}
    properties = [(schema or {}).get("properties", {}) for schema in schemas]

    assert None in schemas
    assert methods == {"per_image", "per_video_output_second", "time", "token"}
    assert priced >= {
        "cost_per_image",
        "cost_per_image_grid",
        "cost_per_second",
        "cost_per_second_by_resolution",
        "cost_per_second_high_res",
        "cost_per_second_with_audio",
    }
    assert any("seconds" in names for names in properties)
    assert any("multi_prompt" in names for names in properties)
    assert any(names.get("duration", {}).get("type") == ["integer", "string"] for names in properties)
    assert {model.place for model in CATALOGUE.values()} == {"files", "hub", "nested"}


@pytest.mark.parametrize("schema", [model.request_schema for model in CATALOGUE.values() if model.request_schema])
def test_the_catalogues_schemas_are_json_schemas_that_accept_their_own_defaults(schema: dict[str, Any]) -> None:
    validator = jsonschema_rs.validator_for(schema)
    defaults = {name: asked["default"] for name, asked in schema["properties"].items() if "default" in asked}

    assert validator.is_valid({"prompt": "x"} | defaults)


def test_every_refusal_has_one_of_the_known_shapes() -> None:
    bench = Bench()
    shapes = set()
    for answer in (
        bench.ask("POST", "/api/ai/queue", {"model": "none", "prompt": "x"}),
        bench.ask("POST", "/api/ai/queue", {"model": TEXT, "prompt": "x"}),
        bench.ask("POST", "/api/ai/queue", {"model": IMAGE, "prompt": "x", "num_generations": 9}),
        bench.ask("POST", "/api/ai/queue", b"nonsense"),
        bench.ask("GET", "/api/ai/queue", key="wrong"),
        bench.ask("GET", f"/api/ai/queue/{UNKNOWN_ID}"),
        bench.ask("GET", "/api/ai/models/none"),
        bench.ask("GET", "/api/ai/generations?page=0"),
        bench.ask("GET", "/api/nowhere"),
    ):
        value = answer.json()
        judge("error", value)
        shapes.add((*sorted(value), *sorted(value.get("error", ()))))

    assert len(shapes) == 3


def test_every_event_is_what_the_facts_say() -> None:
    bench = Bench()
    listener = bench.hub.subscribe("sandbox")
    for model in (IMAGE, NESTED, OWN_HOST, VIDEO):
        bench.enqueue(model)
        bench.enqueue(model, prompt="[fail]")
    bench.clock.pass_by(VIDEO_LIFE_S)
    heard = [data for name, data in frames(listener.take()) if name == "media_generation_completed"]

    assert {(data["status"], data["media_type"]) for data in heard} >= {
        ("succeeded", "image"),
        ("succeeded", "video"),
        ("failed", "image"),
        ("failed", "video"),
    }
    for data in heard:
        judge("event", data)
