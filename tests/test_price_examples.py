"""Worked examples in dollars, by hand, for every method and grid of the price list; and what the stand-in charges."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sandbox_kit import VIDEO_LIFE_S, Bench

from oxenbatch.catalog import Catalog
from oxenbatch.prices import estimate, span
from oxenbatch.sandbox.models import CATALOGUE

CATALOG = Catalog.from_answer({"data": [model.shown() for model in CATALOGUE.values()]})
KLING, SHOTS, VEO = "kling-video-v2-6-pro-text-to-video", "kling-video-v3-pro-text-to-video", "google-veo-3-1-fast"
SORA, WAN = "openai-sora-2-pro", "wan-v2-6-text-to-video"
FLUX, BANANA, GPT = "black-forest-labs-flux-2-klein-4b", "nano-banana-2", "openai-gpt-image-1-5"
PARTS = [{"prompt": "a", "duration": 4}, {"prompt": "b", "duration": 6}]

EXAMPLES = [
    # model, parameters, dollars: how they come about
    (FLUX, {}, "0.014"),  # per_image, cost_per_image
    ("bytedance-seedream-4-5", {"size": "4K"}, "0.04"),  # one price, whatever the size
    (BANANA, {}, "0.067"),  # cost_per_image_grid: the default resolution, 1K
    (BANANA, {"resolution": "2K"}, "0.101"),
    (BANANA, {"resolution": "4K"}, "0.151"),
    (GPT, {}, "0.034"),  # medium, 1024x1024 by default
    (GPT, {"quality": "low"}, "0.009"),
    (GPT, {"quality": "low", "size": "1024x1536"}, "0.013"),
    (GPT, {"size": "1536x1024"}, "0.05"),
    (GPT, {"quality": "high"}, "0.133"),
    (GPT, {"quality": "high", "size": "1536x1024"}, "0.2"),
    (KLING, {}, "0.35"),  # 5 s by default x 0.07, no sound by default
    (KLING, {"duration": 10}, "0.70"),  # 10 x 0.07
    (KLING, {"duration": 5, "generate_audio": True}, "0.70"),  # 5 x 0.14, cost_per_second_with_audio
    (KLING, {"duration": 10, "generate_audio": True}, "1.40"),
    (SHOTS, {"duration": 7}, "0.784"),  # 7 x 0.112
    (SHOTS, {"generate_audio": True}, "0.84"),  # 5 x 0.168
    (SHOTS, {"multi_prompt": PARTS}, "1.12"),  # (4 + 6) x 0.112
    (VEO, {}, "1.2"),  # 8 s by default x 0.15: sound is on unless it is switched off
    (VEO, {"duration": 4}, "0.6"),
    (VEO, {"duration": 6, "generate_audio": False}, "0.6"),  # 6 x 0.1
    (SORA, {}, "1.2"),  # "4" seconds by default x 0.3
    (SORA, {"seconds": "12"}, "3.6"),
    (SORA, {"seconds": "12", "resolution": "1080p"}, "6.0"),  # 12 x 0.5, cost_per_second_high_res
    (WAN, {}, "0.5"),  # 5 s x 0.1: cost_per_second_by_resolution, 720p by default
    (WAN, {"resolution": "480p", "duration": 3}, "0.15"),
    (WAN, {"resolution": "1080p", "duration": 15}, "2.25"),
]


@pytest.mark.parametrize(("model_id", "parameters", "dollars"), EXAMPLES)
def test_an_estimate_is_what_a_person_reckons_and_what_the_stand_in_charges(
    model_id: str, parameters: dict[str, Any], dollars: str
) -> None:
    model = CATALOG.get(model_id)
    assert model is not None
    assert model.price({"prompt": "x", **parameters}) == Decimal(dollars)

    bench = Bench()
    asked = {"model": model_id, **({} if "multi_prompt" in parameters else {"prompt": "x"}), **parameters}
    answer = bench.ask("POST", "/api/ai/queue", asked)
    assert answer.status == 200, answer.body
    bench.clock.pass_by(VIDEO_LIFE_S + 1)
    (row,) = bench.get("/api/ai/generations")["generations"]
    assert (row["status"], Decimal(row["cost"])) == ("succeeded", Decimal(dollars))


def test_every_priced_model_of_the_stand_in_has_an_example() -> None:
    known = {model_id for model_id, _, _ in EXAMPLES}
    assert {model.id for model in CATALOG if model.price({}) is not None} == known


@pytest.mark.parametrize(
    ("model_id", "parameters"),
    [
        ("qwen-image", {}),  # priced by the time it takes, which nobody knows beforehand
        ("qwen-3-5-instruct", {}),  # by tokens
    ],
)
def test_what_cannot_be_known_is_unknown_and_never_nothing(model_id: str, parameters: dict[str, Any]) -> None:
    model = CATALOG.get(model_id)
    assert model is not None
    assert model.price(parameters) is None
    assert span(model.pricing)[:2] == (None, None)


@pytest.mark.parametrize(
    ("pricing", "properties", "parameters", "dollars"),
    [
        # Where the parameters leave a choice, the dearest that could apply: `--max-cost` must hold.
        ({"method": "per_image", "cost_per_image_grid": {"low": {"1K": 1}, "high": {"1K": 3, "2K": 5}}}, {}, {}, "5"),
        ({"method": "per_image", "cost_per_image_grid": {"low": {"1K": 1}, "high": {"1K": 3, "2K": 5}}}, {},
         {"quality": "high", "resolution": "1k"}, "3"),
        ({"method": "per_image", "cost_per_image_grid": {"standard": 0.02}}, {}, {}, "0.02"),
        ({"method": "per_image", "cost_per_image": "0.030"}, {}, {"num_images": 4}, "0.12"),
        ({"method": "per_video_output_second", "cost_per_second": 0.1}, {"duration": {"enum": [4, 8, "auto"]}},
         {"duration": "auto"}, "0.8"),  # a word may mean the longest
        ({"method": "per_video_output_second", "cost_per_second": 0.1}, {"duration": {"maximum": 15}}, {}, "1.5"),
        ({"method": "per_video_output_second", "cost_per_second": 0.1}, {}, {}, None),  # no seconds to go by
        ({"method": "per_video_output_second"}, {}, {"duration": 5}, None),
        ({"method": "per_video_output_second", "cost_per_second_by_resolution": {"480p": 0.05, "720p": 0.1}}, {},
         {"duration": 4, "resolution": "999p"}, "0.4"),
        ({"method": "per_video_output_second", "cost_per_second": 0.1, "cost_per_second_with_audio": 0.2}, {},
         {"duration": 4}, "0.8"),  # nothing rules the sound out
        ({"method": "time", "cost_per_second": 0.001}, {}, {}, None),
        ({"method": "token", "output_cost_per_token": 0.001}, {}, {}, None),
        ({"method": "a new one", "cost_per_image": 1}, {}, {}, None),
        ({}, {}, {}, None),
    ],
)  # fmt: skip
def test_a_list_that_leaves_a_choice_is_read_so_that_a_limit_holds(
    pricing: dict[str, Any], properties: dict[str, Any], parameters: dict[str, Any], dollars: str | None
) -> None:
    assert estimate(pricing, properties, parameters) == (None if dollars is None else Decimal(dollars))
