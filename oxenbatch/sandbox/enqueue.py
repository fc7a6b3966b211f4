"""Enqueueing: what is refused at once, and what is decided then and there about how a generation will end.

Two words in a prompt let a user rehearse failure without a faults file: `[fail]` fails for its content, for good;
`[fail once]` fails in passing, and succeeds when the same request is sent again.
"""

from __future__ import annotations

import hashlib
import json
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NoReturn
from uuid import UUID

from .lives import usual_s
from .media import prompt_of
from .messages import Answer, json_answer, message, problem
from .models import CATALOGUE, Model
from .parameters import complaint, price
from .store import unfetchable

if TYPE_CHECKING:
    from .messages import Request
    from .state import HubState

CONTENT_POLICY: Final = "The prompt was rejected by the content policy"
IN_PASSING: Final = "The provider is temporarily overloaded, please try again"
_TARGET: Final = ("target_namespace", "target_repo", "target_directory")


def enqueue(hub: HubState, request: Request, _path: str) -> Answer:
    """The request's generations are queued and their ids are told; or nothing happened, and the answer says why."""
    body = parse(request.body)
    if body is None:
        return problem(400, "Bad request", "The request body is not a JSON object", "bad_request")
    model = CATALOGUE.get(str(body.get("model")))
    wanted = body.get("num_generations", 1)
    refusal = _refusal(hub, body, model, wanted)
    if refusal is not None:
        return refusal
    assert model is not None  # noqa: S101  an unknown one was refused

    asked = {name: value for name, value in body.items() if name not in ("model", *_TARGET)}
    fates = [_fate(hub, model, asked) for _ in range(wanted)]
    if hub.credits is not None:
        left = hub.credits - hub.charged - hub.reserved
        if left <= 0 or left < sum((price(model, asked, fate["work_s"]) or 0) for fate in fates if not fate["error"]):
            return problem(402, "Insufficient credits", "Insufficient credits", "insufficient_credits")

    late = hub.faults.strike("late_insertion", "POST /ai/queue", hub.elapsed, model.id)
    born = hub.now + (late["seconds"] if late else 0.0)
    hub.write({"do": "enqueue", "at": hub.now, "born": born, "body": body, "generations": fates})
    if late:
        return Answer(0, cut="after")
    return json_answer({"generations": [{"generation_id": fate["id"], "status": "queued"} for fate in fates]})


def parse(body: bytes) -> dict[str, Any] | None:
    """The JSON object that the bytes spell, if they do."""
    try:
        value = json.loads(body, parse_constant=_no_number, parse_float=_number)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _number(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):  # 1e999 would be echoed as `Infinity`, which no other program reads
        _no_number(digits)
    return value


def _refusal(hub: HubState, body: dict[str, Any], model: Model | None, wanted: Any) -> Answer | None:
    """The few things that are checked at once; everything else is when the generation runs."""
    if model is None:
        detail = f"Model not found: {body.get('model')}"
        return problem(404, "Model not found", detail, "model_not_found")
    if model.output == "text":
        return message(400, ":unsupported_media_type")
    most = hub.max_generations
    if type(wanted) is not int or not 1 <= wanted <= most:  # True is an int to isinstance
        return message(400, f"num_generations must be an integer between 1 and {most}")
    if "multi_prompt" in body and "prompt" in body:
        return message(400, "prompt and multi_prompt cannot be used together")
    if not body.get("prompt") and not body.get("multi_prompt"):
        return message(400, "prompt is required")
    return None


def _fate(hub: HubState, model: Model, asked: dict[str, Any]) -> dict[str, Any]:
    """One generation's id, its times, how it will end, and where its file will be: drawn from the id alone."""
    generation_id = hub.next_id()
    drawn = hashlib.sha256(generation_id.encode()).digest()
    life_s = (
        hub.life.seconds(asked, (int.from_bytes(drawn[2:6]) + 0.5) / 2**32)
        if hub.life
        else usual_s(model.output, drawn[0] / 255)
    )
    slow = hub.faults.strike("slow_work", "generation", hub.elapsed, model.id)
    wait_s = life_s * (0.05 + 0.2 * drawn[1] / 255)
    work_s = (life_s - wait_s) * (slow["factor"] if slow else 1.0)
    error = complaint(model.request_schema, asked) or unfetchable(hub, model, asked) or _rehearsed(hub, model.id, asked)
    if error is None and (rule := hub.faults.strike("fail", "generation", hub.elapsed, model.id)):
        error = rule["words"]
    cancelled = hub.faults.strike("cancel", "generation", hub.elapsed, model.id)
    cost = None if error else price(model, asked, work_s)
    place = model.place
    if hub.strikes("own_host", "result", model.id):
        place = "hub"
    elif hub.strikes("nested_url", "result", model.id):
        place = "nested"
    return {
        "id": generation_id,
        "wait_s": wait_s / hub.speed,
        "work_s": work_s / hub.speed,
        "error": error,
        "price": None if cost is None else str(cost),
        "place": place,
        "cancel_after_s": cancelled["seconds"] if cancelled else None,
    }


def _rehearsed(hub: HubState, model_id: str, asked: dict[str, Any]) -> str | None:
    prompt = prompt_of(asked)
    if "[fail]" in prompt:
        return CONTENT_POLICY
    if "[fail once]" in prompt and not hub.has_seen(model_id, asked):
        return IN_PASSING
    return None


def uuid_of(text: str) -> str | None:
    """The id in its usual spelling, if the text is one."""
    try:
        return str(UUID(text)) if len(text) == 36 else None
    except ValueError:
        return None
