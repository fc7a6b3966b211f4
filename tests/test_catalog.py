"""The catalogue: foreign answers, what rows may say, what a generation is estimated to cost, and the kept copy."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxenbatch.catalog import Catalog
from oxenbatch.kept import load_cached, save

if TYPE_CHECKING:
    from pathlib import Path


def catalog(schema: object = None, pricing: object = None, **more: Any) -> Catalog:
    entry = {"id": "m", "request_schema": schema, "pricing": pricing, "capabilities": {"output": ["image"]}}
    return Catalog.from_answer({"object": "list", "data": [entry | more]})


def price(pricing: object, parameters: dict[str, Any], **properties: Any) -> Decimal | None:
    model = catalog({"properties": properties} if properties else None, pricing).get("m")
    assert model is not None
    return model.price(parameters)


# The answer


@pytest.mark.parametrize("payload", [None, 5, "x", {}, {"data": None}, {"data": {"a": 1}}])
def test_an_answer_without_a_list_is_an_empty_catalogue_with_a_warning(payload: object) -> None:
    found = Catalog.from_answer(payload)
    assert (len(found), len(found.warnings)) == (0, 1)


def test_an_entry_that_cannot_be_used_is_left_out_and_the_rest_is_kept() -> None:
    data = [
        None,
        5,
        {},
        {"id": 7},
        {"id": ""},
        {"id": "a", "pricing": 5, "request_schema": [1], "capabilities": "x"},
        {"id": "b"},
    ]
    found = Catalog.from_answer({"data": data})
    assert [model.id for model in found] == ["a", "b"]
    assert len(found.warnings) == 6
    assert found.check("a", {"x": 1}) == []


@pytest.mark.parametrize(
    ("entry", "media", "text_only"),
    [
        ({"capabilities": {"output": ["video", "audio"]}}, "video", False),
        ({"capabilities": {"output": ["image"]}}, "image", False),
        ({"capabilities": {"output": ["text"]}}, None, True),
        ({"capabilities": {"output": []}, "endpoint": "/api/ai/videos/generate"}, "video", False),
        ({"endpoint": "/images/generate"}, "image", False),
        ({"endpoint": "/chat/completions"}, None, True),
        ({"pricing": {"method": "per_video_output_second"}}, "video", False),
        ({}, None, False),
    ],
)
def test_what_a_model_makes_is_read_from_what_the_hub_says_of_it(
    entry: dict[str, Any], media: str, text_only: bool
) -> None:
    (model,) = Catalog.from_answer({"data": [{"id": "m"} | entry]})
    assert (model.media_type, model.text_only) == (media, text_only)


@pytest.mark.parametrize(
    ("said", "most"), [({"maximum": 2}, 2), ({"maximum": 12}, 4), ({}, 4), ({"maximum": "x"}, 4), ({"maximum": 0}, 1)]
)
def test_a_post_asks_for_no_more_than_hub_and_model_allow(said: dict[str, Any], most: int) -> None:
    model = catalog({"properties": {"num_generations": said}}).get("m")
    assert model is not None
    assert model.max_generations == most


def test_a_model_takes_what_its_schema_lists_unless_it_welcomes_others() -> None:
    listed = {"properties": {"seed": {}}}
    for schema, seed, other in [
        (None, None, None),
        ({}, None, None),
        (listed, True, False),
        (listed | {"additionalProperties": False}, True, False),
        (listed | {"additionalProperties": True}, True, None),
        (listed | {"additionalProperties": {}}, True, None),
        ({"anyOf": [listed, {"properties": {"other": {}}}]}, True, True),
    ]:
        model = catalog(schema).get("m")
        assert model is not None
        assert (model.takes("seed"), model.takes("other")) == (seed, other), schema


def test_a_model_is_found_by_its_words_and_a_misspelt_one_is_suggested() -> None:
    data = [{"id": "kling-video-v2", "display_name": "Kling 2", "summary": "Fast video"}, {"id": "nano-banana"}]
    found = Catalog.from_answer({"data": data})
    assert found.suggest("klng-video-v2") == ["kling-video-v2"]
    assert found.suggest("Nano-Bananna") == ["nano-banana"]
    assert found.suggest("zzz") == []
    assert [model.id for model in found.search("FAST kling")] == ["kling-video-v2"]


# What rows may say

SCHEMA = {
    "type": "object",
    "properties": {
        "duration": {"enum": [5, 10]},
        "length": {"enum": ["5", "10"]},
        "guidance": {"type": "number", "minimum": 0, "maximum": 20},
        "seed": {"type": "integer"},
        "style": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
        "images": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "size": {"oneOf": [{"type": "integer"}, {"enum": ["auto"]}]},
        "image": {"type": "string"},
    },
    "required": ["prompt", "model", "num_generations", "image", "seed"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"duration": 7}, "duration is 7, expected one of 5, 10"),
        ({"length": 5}, "length is 5, expected one of '5', '10'"),
        ({"guidance": 21.5}, "guidance is 21.5, expected at most 20"),
        ({"guidance": "x"}, "guidance is 'x', expected a number"),
        ({"style": "AB"}, "style is 'AB', expected text that matches ^[a-z]+$"),
        ({"style": "abcdef"}, "style is 'abcdef', expected at most 5 characters"),
        ({"images": ["a", 5]}, "images[1] is 5, expected text"),
        ({"images": ["a", "b", "c"]}, 'images is ["a", "b", "c"], expected at most 2 entries'),
        ({"size": 1.5}, "size is 1.5, expected a whole number, or one of 'auto'"),
        ({"durations": 5}, "durations is not a parameter of m; did you mean duration?"),
    ],
)
def test_what_the_schema_has_against_a_row_is_said_in_our_words(parameters: dict[str, Any], sentence: str) -> None:
    faults = catalog(SCHEMA).check("m", {"prompt": "p", "image": "u"} | parameters)
    assert [str(fault) for fault in faults] == [sentence]


def test_the_schema_asks_a_row_for_nothing_that_is_ours() -> None:
    found = catalog(SCHEMA)
    assert found.check("m", {"prompt": "p", "image": "u"}) == []
    assert found.check("m", {"prompt": "p", "image": "u", "seed": "auto"}) == []
    assert [str(fault) for fault in found.check("m", {"prompt": "p"})] == ["image is missing, and the model needs it"]
    assert found.check("unknown", {"x": 1}) == []


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert len(catalog(SCHEMA).check("m", {"duration": 7, "guidance": -1, "x": 1})) == 4


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"}, {"properties": []}, {"properties": {"a": {"pattern": "(("}}}, {"$ref": "#/nowhere"},
        {"$ref": "http://localhost:1/x"}, {"$ref": "file:///etc/passwd"}, {"$schema": "http://foo/bar"},
        {"properties": {"a": {"$ref": "https://example.invalid/schema.json"}}},
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_compiled_is_a_warning_and_fetches_nothing(schema: dict[str, Any]) -> None:
    found = catalog(schema)
    assert found.check("m", {"a": 1}) == []
    assert found.check("m", {"a": 1}) == []
    assert len(found.warnings) == 1


def test_no_pattern_of_the_hub_s_can_hold_us_up() -> None:
    found = catalog({"properties": {"a": {"pattern": "^(?=(a+)+$)(a|aa)+$"}}})
    began = time.process_time()
    found.check("m", {"a": "a" * 5000 + "b"})
    assert time.process_time() - began < 2


KEYS = st.sampled_from(
    ["type", "enum", "properties", "required", "default", "maximum", "anyOf",
     "duration", "seconds", "resolution",
     "method", "cost_per_second", "cost_per_image", "cost_per_image_grid",
     "cost_per_second_by_resolution", "prompt", "seed"]
)  # fmt: skip
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(KEYS, JSON),
    JSON,
    st.dictionaries(KEYS, JSON),
    st.sampled_from(["per_image", "per_video_output_second"]),
)
def test_a_mutated_catalogue_never_fails_a_row(schema: Any, pricing: Any, parameters: Any, method: str) -> None:
    found = catalog(schema, (pricing if isinstance(pricing, dict) else {}) | {"method": method})
    assert isinstance(found.check("m", parameters), list)
    estimated = found.models[0].price(parameters)
    assert estimated is None or estimated >= 0
    assert Catalog.from_json(found.to_json()).digest() == found.digest()


# Prices


def test_an_image_costs_what_the_list_says() -> None:
    assert price({"method": "per_image", "cost_per_image": 0.039}, {}) == Decimal("0.039")
    assert price({"method": "per_image", "cost_per_image": 0.1}, {"num_images": 3}) == Decimal("0.3")
    assert price({"method": "per_image"}, {}) is None
    assert price({"method": "per_image", "cost_per_image": True}, {}) is None
    assert price({"method": "per_image", "cost_per_image": -1}, {}) is None
    assert price({"method": "token", "input_cost_per_token": 1}, {}) is None
    assert price({"method": "time", "cost_per_second": 1}, {}) is None
    assert price(None, {}) is None


GRID = {
    "method": "per_image",
    "cost_per_image_grid": {"low": {"1K": 0.01, "4K": 0.05}, "high": {"1K": 0.2, "4K": 1.47}},
}


@pytest.mark.parametrize(
    ("parameters", "dollars"),
    [
        ({"quality": "low", "resolution": "1K"}, "0.01"),
        ({"quality": "LOW", "resolution": "4k"}, "0.05"),
        ({"quality": "low"}, "0.05"),
        ({"resolution": "1K"}, "0.2"),
        ({"quality": "auto", "resolution": "1K"}, "0.2"),
        ({"quality": "low", "size": "999x999"}, "0.05"),
        ({}, "1.47"),
    ],
)
def test_where_a_grid_leaves_a_choice_the_dearest_that_could_apply_is_taken(
    parameters: dict[str, Any], dollars: str
) -> None:
    assert price(GRID, parameters) == Decimal(dollars)


def test_a_grid_goes_by_the_schema_s_defaults() -> None:
    assert price(GRID, {}, quality={"default": "low"}, resolution={"default": "1K"}) == Decimal("0.01")


BY_LINES = {"cost_per_second_by_resolution": {"480p": 0.05, "720p": 0.1}}
SECOND = {"method": "per_video_output_second", "cost_per_second": 0.07}


@pytest.mark.parametrize(
    ("parameters", "properties", "dollars"),
    [
        ({"duration": 5}, {}, "0.35"),
        ({"duration": "8"}, {}, "0.56"),
        ({"duration": "8s"}, {}, "0.56"),
        ({"seconds": 2.5}, {"seconds": {}}, "0.175"),
        ({}, {"duration": {"default": 5, "maximum": 10}}, "0.35"),
        ({}, {"duration": {"default": "auto", "enum": ["auto", "4", "8"]}}, "0.56"),
        ({"duration": "auto"}, {"duration": {"default": 5, "maximum": 10}}, "0.70"),
        ({"duration": "auto"}, {"duration": {"anyOf": [{"enum": ["auto"]}, {"maximum": 15}]}}, "1.05"),
        ({"duration": "auto"}, {"duration": {}}, None),
        ({}, {}, None),
        ({"multi_prompt": [{"prompt": "a", "duration": 5}, {"prompt": "b", "duration": "3"}]}, {}, "0.56"),
        ({"duration": -5}, {}, None),
        ({"duration": True}, {}, None),
    ],
)
def test_a_video_costs_its_seconds(parameters: dict[str, Any], properties: dict[str, Any], dollars: str | None) -> None:
    found = price(SECOND, parameters, **properties)
    assert found == (None if dollars is None else Decimal(dollars))


@pytest.mark.parametrize(
    ("more", "parameters", "properties", "rate"),
    [
        (BY_LINES, {"resolution": "480p"}, {}, "0.05"),
        (BY_LINES, {}, {}, "0.1"),
        (BY_LINES, {}, {"resolution": {"default": "480p"}}, "0.05"),
        ({"cost_per_second_high_res": 0.5}, {"resolution": "1080p"}, {}, "0.5"),
        ({"cost_per_second_high_res": 0.5}, {"resolution": "4K"}, {}, "0.5"),
        ({"cost_per_second_high_res": 0.5}, {"resolution": "720p"}, {}, "0.07"),
        ({"cost_per_second_high_res": 0.5}, {"resolution": "1280x720"}, {}, "0.07"),
        ({"cost_per_second_high_res": 0.5}, {}, {}, "0.5"),
        ({"cost_per_second_with_audio": 0.2}, {"generate_audio": True}, {}, "0.2"),
        ({"cost_per_second_with_audio": 0.2}, {"generate_audio": False}, {}, "0.07"),
        ({"cost_per_second_with_audio": 0.2}, {}, {"generate_audio": {"default": False}}, "0.07"),
        ({"cost_per_second_with_audio": 0.2}, {}, {"generate_audio": {"default": True}}, "0.2"),
        ({"cost_per_second_with_audio": 0.2}, {}, {}, "0.2"),
    ],
)  # fmt: skip
def test_a_second_s_price_is_never_estimated_too_low(
    more: dict[str, Any], parameters: dict[str, Any], properties: dict[str, Any], rate: str
) -> None:
    assert price(SECOND | more, {"duration": 1} | parameters, duration={}, **properties) == Decimal(rate)


# The kept copy


def test_a_kept_answer_comes_back_with_its_time_and_for_its_own_hub_only(tmp_path: Path) -> None:
    payload = {"data": [{"id": "m", "request_schema": SCHEMA, "pricing": SECOND}]}
    folder = tmp_path / "deep" / "cache"
    assert load_cached(folder, "https://hub.oxen.ai") is None
    path = save(folder, "https://hub.oxen.ai", payload, now=1_795_000_000.5)
    assert path.parent == folder
    kept = load_cached(folder, "https://hub.oxen.ai")
    assert kept is not None
    assert kept.fetched_at == 1_795_000_000.5
    assert kept.digest() == Catalog.from_answer(payload).digest()
    assert load_cached(folder, "https://hub-oxen.ai") is None
    assert load_cached(folder, "../../etc/passwd") is None
    assert save(folder, "../../etc/passwd", payload).parent == folder
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"version": 1}', '{"version": 2, "origin": "h", "payload": []}', "[" * 100_000]
)
def test_a_damaged_copy_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    save(tmp_path, "h", {"data": []}).write_text(text)
    assert load_cached(tmp_path, "h") is None


def test_a_digest_goes_by_what_rows_are_read_by() -> None:
    first = catalog(SCHEMA, SECOND)
    assert first.digest().startswith("c1:")
    assert catalog(SCHEMA, GRID, summary="new words").digest() == first.digest()
    assert catalog({**SCHEMA, "required": []}).digest() != first.digest()
    assert first.digest(["m"]) != first.digest(["other"])
    assert Catalog.from_json(first.to_json()).digest() == first.digest()
    with pytest.raises(ValueError, match="Expecting"):
        Catalog.from_json("{")
    assert json.loads(first.to_json())["data"][0]["id"] == "m"
