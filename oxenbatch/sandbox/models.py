"""The catalogue: what the stand-in hub can make, and how it words a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from .clockwork import Place

_COSTS: Final = (
    "input_cost_per_token",
    "output_cost_per_token",
    "cost_per_image",
    "cost_per_image_grid",
    "cost_per_second",
    "cost_per_second_by_resolution",
    "cost_per_second_high_res",
    "cost_per_second_with_audio",
)
_REGISTERED_AT: Final = 1_760_000_000  # some day in October 2025; nothing hangs on it


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the catalogue."""

    id: str
    display_name: str
    output: Literal["image", "video", "text"]
    summary: str
    pricing: dict[str, Any]
    request_schema: dict[str, Any] | None
    endpoint: str
    input: tuple[str, ...] = ("text",)
    place: Place = "files"
    """Where its results are, see `Generation.place`."""

    def shown(self) -> dict[str, Any]:
        """The model as the hub's JSON."""
        return {
            "id": self.id,
            "object": "model",
            "created": _REGISTERED_AT,
            "owned_by": "oxen",
            "model_type": "base",
            "display_name": self.display_name,
            "summary": self.summary,
            "description": f"{self.summary} Made by the stand-in hub: its results cost nothing.",
            "developer": {"name": self.display_name.split()[0], "logo": None},
            "endpoint": self.endpoint,
            "capabilities": {"input": list(self.input), "output": [self.output]},
            "pricing": self.pricing,
            "request_schema": self.request_schema,
            "deployments": [],
            "fine_tuning": None,
            "source_model": None,
            "image_url": None,
            "released_at": None,
        }


def _pricing(method: str, **costs: Any) -> dict[str, Any]:
    return {"method": method} | dict.fromkeys(_COSTS) | costs


def _schema(required: tuple[str, ...] = ("prompt",), **properties: dict[str, Any]) -> dict[str, Any]:
    """A request schema as the hub writes it: JSON Schema with its own words about the form that shows it."""
    for order, (name, parameter) in enumerate(properties.items()):
        parameter |= {"title": name.replace("_", " ").capitalize(), "x-order": order}
        parameter.setdefault("basic", order < 4)  # the form shows the first few at once
    return {"type": "object", "properties": properties, "required": list(required)}


def _text(**more: Any) -> dict[str, Any]:
    return {"type": "string", "renderType": "textarea"} | more


def _choice(*values: Any, default: Any = None, kind: Any = "string") -> dict[str, Any]:
    chosen = values[0] if default is None else default
    return {"type": kind, "enum": list(values), "default": chosen, "renderType": "select"}


def _number(low: float, high: float, default: float | None = None, kind: str = "integer") -> dict[str, Any]:
    asked = {"type": kind, "minimum": low, "maximum": high, "renderType": "slider"}
    return asked if default is None else asked | {"default": default}


def _seed() -> dict[str, Any]:
    return {"type": ["integer", "null"], "minimum": 0, "maximum": 2**31 - 1, "renderType": "number", "basic": False}


def _switch(*, default: bool) -> dict[str, Any]:
    return {"type": "boolean", "default": default, "renderType": "switch"}


def _part() -> dict[str, Any]:
    parts = {"prompt": {"type": "string"}, "duration": {"type": ["integer", "string"]}}
    return {"type": "object", "properties": parts, "required": ["prompt"]}


_IMAGES, _VIDEOS = "/images/generate", "/videos/generate"

CATALOGUE: Final[dict[str, Model]] = {
    model.id: model
    for model in (
        Model(
            "kling-video-v2-6-pro-text-to-video",
            "Kling Video 2.6 Pro (text to video)",
            "video",
            "Five or ten seconds of video from a prompt, with sound if wanted.",
            _pricing("per_video_output_second", cost_per_second=0.07, cost_per_second_with_audio=0.14),
            _schema(
                prompt=_text(maxLength=2500),
                duration=_choice(5, 10, kind="integer"),
                aspect_ratio=_choice("16:9", "9:16", "1:1"),
                generate_audio=_switch(default=False),
                negative_prompt=_text(maxLength=2500, default="blur, distort, and low quality"),
                cfg_scale=_number(0, 1, 0.5, "number"),
                seed=_seed(),
            ),
            "/api/ai" + _VIDEOS,
        ),
        Model(
            "kling-video-v3-pro-text-to-video",
            "Kling Video 3 Pro (text to video)",
            "video",
            "Several shots in one video, each with its own prompt.",
            _pricing("per_video_output_second", cost_per_second=0.112, cost_per_second_with_audio=0.168),
            _schema(
                (),
                prompt=_text(maxLength=2500),
                multi_prompt={"type": "array", "items": _part(), "minItems": 1, "maxItems": 6, "renderType": "list"},
                duration=_choice(*range(3, 16), default=5, kind=["integer", "string"]),
                aspect_ratio=_choice("16:9", "9:16", "1:1"),
                generate_audio=_switch(default=False),
            ),
            _VIDEOS,
        ),
        Model(
            "google-veo-3-1-fast",
            "Google Veo 3.1 Fast",
            "video",
            "Short videos with sound.",
            _pricing("per_video_output_second", cost_per_second=0.1, cost_per_second_with_audio=0.15),
            _schema(
                prompt=_text(),
                duration=_choice(4, 6, 8, "auto", default=8, kind=["integer", "string"]),
                aspect_ratio=_choice("16:9", "9:16"),
                generate_audio=_switch(default=True),
                input_image=_text(renderType="image"),
                seed=_seed(),
            ),
            "/api/ai" + _VIDEOS,
            ("text", "image"),
            "nested",
        ),
        Model(
            "openai-sora-2-pro",
            "OpenAI Sora 2 Pro",
            "video",
            "Videos that are asked for in `seconds`, in two resolutions.",
            _pricing("per_video_output_second", cost_per_second=0.3, cost_per_second_high_res=0.5),
            _schema(
                prompt=_text(),
                seconds=_choice("4", "8", "12"),
                resolution=_choice("720p", "1080p"),
                aspect_ratio=_choice("16:9", "9:16"),
            ),
            _VIDEOS,
        ),
        Model(
            "wan-v2-6-text-to-video",
            "Wan 2.6 (text to video)",
            "video",
            "Videos priced by their resolution.",
            _pricing(
                "per_video_output_second",
                cost_per_second_by_resolution={"480p": 0.05, "720p": 0.1, "1080p": 0.15},
            ),
            _schema(
                prompt=_text(maxLength=800),
                duration=_number(2, 15, 5),
                resolution=_choice("480p", "720p", "1080p", default="720p"),
                aspect_ratio=_choice("16:9", "9:16", "1:1", "4:3", "3:4"),
                negative_prompt=_text(maxLength=500),
                seed=_seed(),
            ),
            "/api/ai" + _VIDEOS,
        ),
        Model(
            "black-forest-labs-flux-2-klein-4b",
            "Black Forest Labs FLUX.2 klein 4B",
            "image",
            "Fast and cheap images.",
            _pricing("per_image", cost_per_image=0.014),
            _schema(
                prompt=_text(),
                aspect_ratio=_choice("1:1", "16:9", "9:16", "4:3", "3:4"),
                width=_number(256, 2048),
                height=_number(256, 2048),
                num_inference_steps=_number(1, 50, 4),
                guidance_scale=_number(0, 20, 3.5, "number"),
                output_format=_choice("png"),
                input_images={"type": "array", "items": {"type": "string"}, "maxItems": 4, "renderType": "images"},
                seed=_seed(),
            ),
            _IMAGES,
            ("text", "image"),
        ),
        Model(
            "nano-banana-2",
            "Google Nano Banana 2",
            "image",
            "Images priced by their resolution.",
            _pricing("per_image", cost_per_image_grid={"standard": {"1K": 0.067, "2K": 0.101, "4K": 0.151}}),
            _schema(
                prompt=_text(),
                aspect_ratio=_choice("1:1", "16:9", "9:16", "4:3", "3:4", "21:9"),
                resolution=_choice("1K", "2K", "4K"),
                input_image={"type": ["string", "array"], "items": {"type": "string"}, "renderType": "images"},
            ),
            "/api/ai" + _IMAGES,
            ("text", "image"),
        ),
        Model(
            "openai-gpt-image-1-5",
            "OpenAI GPT Image 1.5",
            "image",
            "Images priced by quality and size.",
            _pricing(
                "per_image",
                cost_per_image_grid={
                    "low": {"1024x1024": 0.009, "1536x1024": 0.013, "1024x1536": 0.013},
                    "medium": {"1024x1024": 0.034, "1536x1024": 0.05, "1024x1536": 0.05},
                    "high": {"1024x1024": 0.133, "1536x1024": 0.2, "1024x1536": 0.2},
                },
            ),
            _schema(
                prompt=_text(),
                quality=_choice("low", "medium", "high", default="medium"),
                size=_choice("1024x1024", "1536x1024", "1024x1536"),
                background=_choice("auto", "opaque", "transparent"),
            ),
            _IMAGES,
        ),
        Model(
            "bytedance-seedream-4-5",
            "ByteDance Seedream 4.5",
            "image",
            "Large images; they stay on the hub's own host, where the key is needed.",
            _pricing("per_image", cost_per_image=0.04),
            _schema(
                prompt=_text(maxLength=4000),
                aspect_ratio=_choice("1:1", "16:9", "9:16", "3:2", "2:3"),
                size=_choice("2K", "4K"),
                seed=_seed(),
            ),
            "/api/ai" + _IMAGES,
            ("text", "image"),
            "hub",
        ),
        Model(
            "qwen-image",
            "Qwen Image",
            "image",
            "An image model that publishes no schema and is priced by the time it takes.",
            _pricing("time", cost_per_second=0.0012),
            None,
            _IMAGES,
        ),
        Model(
            "qwen-3-5-instruct",
            "Qwen 3.5 Instruct",
            "text",
            "Talks, and makes neither images nor video: the queue refuses it.",
            _pricing("token", input_cost_per_token=4e-07, output_cost_per_token=2.4e-06),
            None,
            "/api/ai/chat/completions",
        ),
    )
}


def search(text: str) -> list[Model]:
    """The models whose name or summary holds every word of `text`."""
    words = text.lower().split()
    return [
        model
        for model in CATALOGUE.values()
        if all(word in f"{model.id} {model.display_name} {model.summary}".lower() for word in words)
    ]
