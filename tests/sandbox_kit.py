"""What the tests of the stand-in hub share: a clock to turn by hand, short ways to ask, a judge of its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs

from oxenbatch.sandbox import Answer, HubState, Request

KEY = "sandbox"
IMAGE = "black-forest-labs-flux-2-klein-4b"
VIDEO = "kling-video-v2-6-pro-text-to-video"
NESTED = "google-veo-3-1-fast"
OWN_HOST = "bytedance-seedream-4-5"
TEXT = "qwen-3-5-instruct"
UNKNOWN_ID = "11111111-2222-4333-8444-555555555555"
IMAGE_LIFE_S = 30.0
VIDEO_LIFE_S = 600.0

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "hub.json").read_text())


class Clock:
    """Unix seconds that only move when told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.5

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Bench:
    """A hub in virtual time, and short ways to ask it."""

    def __init__(self, **options: Any) -> None:
        self.clock = options.pop("clock", None) or Clock()
        self.hub = HubState(clock=self.clock, keys={KEY}, **({"seed": "bench"} | options))

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = KEY,
        headers: dict[str, str] | None = None,
        origin: Any = "api",
    ) -> Answer:
        """The answer to a call; `path` may carry a query."""
        path, _, query = path.partition("?")
        pairs = [tuple(pair.split("=", 1)) for pair in query.split("&") if pair]
        sent = dict(headers or {}) | ({"authorization": f"Bearer {key}"} if key else {})
        raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        return self.hub.handle(Request(method, path, pairs, sent, raw, origin))

    def get(self, path: str) -> Any:
        """The value that a call answers 200 with."""
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.json()

    def enqueue(self, model: str = IMAGE, **parameters: Any) -> list[str]:
        """The ids of an accepted request."""
        answer = self.ask("POST", "/api/ai/queue", {"model": model, "prompt": "A red cube"} | parameters)
        assert answer.status == 200, answer.body
        return [entry["generation_id"] for entry in answer.json()["generations"]]

    def until_next_change(self) -> None:
        """The clock stands where something happens next."""
        at = self.hub.next_change_at()
        assert at is not None
        self.clock.now = at

    def row(self, generation_id: str) -> Any:
        return self.get(f"/api/ai/queue/{generation_id}")

    def finished(self, model: str = IMAGE, **parameters: Any) -> Any:
        """The row of a generation whose time is over."""
        (generation_id,) = self.enqueue(model, **parameters)
        self.clock.pass_by(VIDEO_LIFE_S + 1)
        return self.row(generation_id)

    def fetch(self, address: str, method: str = "GET", **headers: str) -> Answer:
        """The file at an address of the files' origin."""
        assert address.startswith(self.hub.files_url)
        path = address.removeprefix(self.hub.files_url)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(method, path, key=None, headers=named, origin="files")


def judge(kind: str, value: Any) -> None:
    """The value is what the hub's facts say about answers of this kind."""
    validator = jsonschema_rs.validator_for({"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{kind}"})
    wrong = [f"{list(error.instance_path)}: {error.message}" for error in validator.iter_errors(value)]
    assert not wrong, "\n".join(wrong)


def words_of(answer: Answer) -> str:
    """An error's useful words, looked for in the documented order."""
    value = answer.json()
    error = value.get("error")
    if isinstance(error, dict):
        return str(error.get("detail") or error.get("message") or error.get("title"))
    return str(error or value.get("status_message"))


def news(taken: bytes) -> list[tuple[str, Any]]:
    """What a listener heard, without the comments."""
    return [(name, data) for name, data in frames(taken) if name]


def frames(taken: bytes) -> list[tuple[str, Any]]:
    """What a listener heard: each event's name and data; a comment is an event without a name."""
    heard = []
    for block in taken.decode().split("\n\n"):
        if block.startswith(":"):
            heard.append(("", block[1:].strip()))
        elif block:
            name, data = block.split("\n")
            heard.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return heard
