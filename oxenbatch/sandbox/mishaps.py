"""The table of faults: for each name what happens, on which call it is meant, its options, and what does it.

A fault that *replaces* gives its own answer instead of the call's; with `landed` the call takes effect all the same,
and only its answer is lost. One that *changes* spoils the call's true answer. The others have no function here: the hub
asks for them at the one place where they matter. Seconds in options are the clock's own; `speed` leaves them alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from .messages import Answer, json_answer, message, page, problem, short, text_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .faults import Rule

_POST: Final = "POST /ai/queue"
_FILE: Final = "GET /files/ID"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault may know of the call that it replaces."""

    now: float
    path: str
    """As in an address, with its query."""
    base_url: str
    files_url: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One entry of the table."""

    says: str
    on: str
    """The call that it is about where a rule names none."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Their names and defaults."""
    replace: Callable[[Rule, Scene], Answer] | None = None
    change: Callable[[Rule, Answer], Answer] | None = None


# --- instead of an answer -------------------------------------------------------------------------------------------


def _die(rule: Rule, _scene: Scene) -> Answer:
    return Answer(0, cut="after" if rule["landed"] else "before")


def _hang(rule: Rule, _scene: Scene) -> Answer:
    return Answer(0, cut="after" if rule["landed"] else "before", delay_s=rule["seconds"])


def _rate_limit(rule: Rule, scene: Scene) -> Answer:
    answer = message(429, "Rate limit exceeded")
    if rule["form"] == "seconds":
        answer.headers["retry-after"] = str(rule["seconds"])
    elif rule["form"] == "date":
        answer.headers["retry-after"] = formatdate(scene.now + rule["seconds"], usegmt=True)
    return answer


def _server_error(rule: Rule, _scene: Scene) -> Answer:
    if rule["html"]:
        return page(rule["status"], "Service Unavailable")
    return problem(rule["status"], "Internal error", rule["words"], "internal_server_error")


def _proxy_page(rule: Rule, _scene: Scene) -> Answer:
    return page(rule["status"], "Please sign in to this network")


def _refuse_key(rule: Rule, _scene: Scene) -> Answer:
    return short(rule["status"], "unauthenticated" if rule["status"] == 401 else "forbidden")


def _no_credits(rule: Rule, _scene: Scene) -> Answer:
    if rule["status"] == 402:
        return problem(402, "Insufficient credits", "Insufficient credits", "insufficient_credits")
    return message(rule["status"], "Insufficient credits")


def _empty_answer(rule: Rule, _scene: Scene) -> Answer:
    return json_answer({"generations": [], "error": rule["words"]})


def _redirect(rule: Rule, scene: Scene) -> Answer:
    to = rule["to"].format(base=scene.base_url, files=scene.files_url, path=scene.path)
    return Answer(rule["status"], {"location": to, "content-length": "0"})


def _expired(_rule: Rule, _scene: Scene) -> Answer:
    return expired_address()


def expired_address() -> Answer:
    """What a store says to a presigned address whose time is over."""
    words = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    return text_answer(f'<?xml version="1.0" encoding="UTF-8"?>\n{words}', 403, "application/xml")


def _words(rule: Rule, _scene: Scene) -> Answer:
    return json_answer(rule["json"], rule["status"])


# --- what becomes of a true answer ----------------------------------------------------------------------------------


def _with_body(answer: Answer, body: bytes) -> Answer:
    return replace(answer, body=body, headers=answer.headers | {"content-length": str(len(body))})


def _broken_json(_rule: Rule, answer: Answer) -> Answer:
    return _with_body(answer, answer.body[: len(answer.body) * 2 // 3])


def _ids(change: Callable[[Rule, list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[Rule, Answer], Answer]:
    """A change to the `generations` of an accepted enqueue; any other answer stays as it is."""

    def changed(rule: Rule, answer: Answer) -> Answer:
        if answer.status != 200 or not answer.body:
            return answer
        value = json.loads(answer.body)
        return json_answer(value | {"generations": change(rule, value.get("generations", []))})

    return changed


def _fewer(rule: Rule, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return made[: -rule["by"]]


def _more(rule: Rule, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    strangers = (f"{number:08x}-0000-4000-8000-0000000000ff" for number in range(rule["by"]))
    return made + [{"generation_id": stranger, "status": "queued"} for stranger in strangers]


def _not_uuids(rule: Rule, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry | {"generation_id": f"{rule['prefix']}{number}"} for number, entry in enumerate(made)]


def _cut_body(rule: Rule, answer: Answer) -> Answer:
    headers = dict(answer.headers)
    if not rule["length"]:  # without it the client cannot tell a cut body from a whole one
        headers.pop("content-length", None)
    return replace(answer, headers=headers, cut="midway", cut_at=int(len(answer.body) * rule["share"]))


def _stall(rule: Rule, answer: Answer) -> Answer:
    return replace(answer, cut="stall", cut_at=int(len(answer.body) * rule["share"]))


def _wrong_length(rule: Rule, answer: Answer) -> Answer:
    return replace(answer, headers=answer.headers | {"content-length": str(len(answer.body) + rule["by"])})


def _no_length(_rule: Rule, answer: Answer) -> Answer:
    return replace(answer, headers={name: value for name, value in answer.headers.items() if name != "content-length"})


def _oversize(rule: Rule, answer: Answer) -> Answer:
    return _with_body(answer, answer.body + bytes(rule["bytes"]))


def _empty_body(_rule: Rule, answer: Answer) -> Answer:
    return _with_body(answer, b"")


def _wrong_type(rule: Rule, answer: Answer) -> Answer:
    spoilt = _with_body(answer, b"<html><body>Not the file that you asked for.</body></html>")
    spoilt.headers["content-type"] = rule["content_type"]
    return spoilt


def _slow_answer(rule: Rule, answer: Answer) -> Answer:
    return replace(answer, delay_s=rule["seconds"])


_LANDED: Final = {"landed": False}
_SECONDS: Final = {"seconds": 10.0}

KINDS: Final[dict[str, Kind]] = {
    # instead of an answer
    "die": Kind("the connection dies; nothing was done", _POST, _LANDED, _die),
    "lose_answer": Kind("all was done; the connection dies without a byte", _POST, {"landed": True}, _die),
    "hang": Kind("silence for so long, then the connection dies", _POST, _LANDED | {"seconds": 3600.0}, _hang),
    "rate_limit": Kind("429; `form` of Retry-After: seconds, date, none", _POST,
                       _LANDED | {"seconds": 2, "form": "seconds"}, _rate_limit),
    "server_error": Kind("5xx, in JSON or as a page", "*",
                         _LANDED | {"status": 503, "html": False, "words": "Something went wrong"}, _server_error),
    "proxy_page": Kind("a 4xx page of something in between", "*", _LANDED | {"status": 403}, _proxy_page),
    "refuse_key": Kind("401 or 403, as for a revoked key", "*", _LANDED | {"status": 401}, _refuse_key),
    "no_credits": Kind("402, or another status with the words", _POST, _LANDED | {"status": 402}, _no_credits),
    "empty_answer": Kind("200, `generations` empty, an `error`", _POST,
                         _LANDED | {"words": "Provider unavailable"}, _empty_answer),
    "redirect": Kind("to {base}, {files} or elsewhere", "*",
                     _LANDED | {"status": 307, "to": "{files}{path}"}, _redirect),
    "expired_address": Kind("403 as for an address whose time is over", _FILE, _LANDED, _expired),
    "words": Kind("any status with any JSON", _POST, _LANDED | {"status": 400, "json": {}}, _words),
    # what becomes of the true answer
    "broken_json": Kind("the JSON stops in the middle", _POST, {}, change=_broken_json),
    "too_few": Kind("`by` ids are missing from the answer", _POST, {"by": 1}, change=_ids(_fewer)),
    "too_many": Kind("`by` ids too many are in the answer", _POST, {"by": 1}, change=_ids(_more)),
    "not_uuids": Kind("the ids are something else", _POST, {"prefix": "../../gen_"}, change=_ids(_not_uuids)),
    "cut_body": Kind("the connection dies within the body", _FILE, {"share": 0.5, "length": True}, change=_cut_body),
    "stall": Kind("silence within the body", _FILE, {"share": 0.5}, change=_stall),
    "wrong_length": Kind("Content-Length is off by so much", _FILE, {"by": 100}, change=_wrong_length),
    "no_length": Kind("no Content-Length", _FILE, {}, change=_no_length),
    "oversize": Kind("so many bytes too many", _FILE, {"bytes": 1 << 20}, change=_oversize),
    "empty_body": Kind("200 with nothing", _FILE, {}, change=_empty_body),
    "wrong_type": Kind("200 with a page", _FILE, {"content_type": "text/html"}, change=_wrong_type),
    "slow_answer": Kind("the answer comes late", "*", {"seconds": 1.0}, change=_slow_answer),
    # asked for by the hub, where they matter
    "late_insertion": Kind("the connection dies; the row appears later", _POST, _SECONDS),
    "fail": Kind("the generation fails in these words", "generation", {"words": "Upstream provider error"}),
    "cancel": Kind("somebody else cancels the generation", "generation", _SECONDS),
    "slow_work": Kind("the generation takes so many times as long", "generation", {"factor": 10.0}),
    "list_lag": Kind("fresh rows are missing from the lists", "GET /ai/*", _SECONDS),
    "unknown_id": Kind("404 for fresh ids", "* /ai/*/ID", _SECONDS),
    "forget_ended": Kind("404 for ids that have ended, as older hubs did", "GET /ai/queue/ID"),
    "no_echo": Kind("the request's parameters are not echoed", "GET /ai/*"),
    "echo_defaults": Kind("the schema's defaults are echoed too", "GET /ai/*"),
    "own_host": Kind("files lie on the hub's own host", "result"),
    "nested_url": Kind("`result_url` is null; the address is nested", "result"),
    "no_range": Kind("Range is ignored", _FILE),
    "silent_events": Kind("the stream is open and says nothing", "GET /events"),
    "cut_events": Kind("the stream ends after so long", "GET /events", _SECONDS),
    "no_repository": Kind("404: there is no such repository", "PUT /repos/file"),
    "small_store": Kind("413 for files of more than so many bytes", "PUT /repos/file", {"bytes": 1 << 20}),
    "lose_event": Kind("one generation's event never fires", "event"),
}  # fmt: skip
