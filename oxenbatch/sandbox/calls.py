"""Every call of the hub, as a table from address to function, and the functions that only read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from . import files, store
from .enqueue import enqueue, uuid_of
from .messages import Answer, Origin, json_answer, message, problem
from .models import CATALOGUE, search
from .parameters import defaults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .clockwork import Generation
    from .messages import Request
    from .state import HubState

USER: Final = {"user_id": "0b0e6a5c-0000-4000-8000-000000000001", "username": "sandbox", "user_image": None}
_STATUSES: Final = ("queued", "processing", "succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: how it is named, what answers it, and whether it asks for the key."""

    kind: str
    run: Callable[[HubState, Request, str], Answer]
    """The hub, the request, and what the address holds where the kind says ID (or the rest of the path)."""
    needs_key: bool = True


# --- rows -----------------------------------------------------------------------------------------------------------


def _whole(at: float | None) -> int | None:
    return None if at is None else int(at)


def row(hub: HubState, generation: Generation, kind: str) -> dict[str, Any]:
    """The generation as its row in the queue, with the request's own parameters at the top level."""
    shown: dict[str, Any] = {}
    if not hub.marked("no_echo", kind, generation):
        shown |= generation.parameters
        if hub.marked("echo_defaults", kind, generation):
            shown = defaults(CATALOGUE[generation.model]) | shown
    shown |= {
        "generation_id": generation.id,
        "model_name": generation.model,
        "media_type": generation.media_type,
        "status": generation.status,
        "result_url": None,
        "error_message": generation.error if generation.status == "failed" else None,
        "enqueued_at": _whole(generation.enqueued_at),
        "started_at": _whole(generation.started_at),
        "completed_at": _whole(generation.completed_at),
        "target_namespace": generation.target_namespace or USER["username"],
        "target_repo": generation.target_repo,
        "target_directory": generation.target_directory,
    }
    if generation.status == "succeeded":
        address = files.address_of(hub, generation)
        if generation.place == "nested":
            shown["videos" if generation.media_type == "video" else "images"] = [{"url": address}]
        else:
            shown["result_url"] = address
    return shown


def history_row(hub: HubState, generation: Generation, kind: str) -> dict[str, Any]:
    """The generation as its row in the history: what it cost and whose it is besides."""
    cost = generation.cost
    return row(hub, generation, kind) | USER | {"cost": None if cost is None else str(cost)}


# --- lists ----------------------------------------------------------------------------------------------------------


def _misfiltered(request: Request) -> Answer | None:
    for name, allowed in (("status", _STATUSES), ("media_type", ("image", "video"))):
        value = request.asked(name)
        if value is not None and value not in allowed:
            return message(400, f"Invalid value for {name}: expected one of {', '.join(allowed)}")
    return None


def _filtered(hub: HubState, request: Request, kind: str, among: Iterator[Generation]) -> Iterator[Generation]:
    """Those that the query's filters let through, and that the lists have caught up with.

    `folder` matches by prefix and `repo` exactly: the reference leaves that open, and a client must filter again.
    """
    wanted = [
        (field, value)
        for name, field in (
            ("status", "status"),
            ("model", "model"),
            ("media_type", "media_type"),
            ("repo", "target_repo"),
        )
        if (value := request.asked(name)) is not None
    ]
    namespace, folder = request.asked("namespace"), request.asked("folder")
    for generation in among:
        if any(getattr(generation, field) != value for field, value in wanted):
            continue
        if namespace is not None and (generation.target_namespace or USER["username"]) != namespace:
            continue
        if folder is not None and not (generation.target_directory or "").startswith(folder):
            continue
        if not hub.too_fresh("list_lag", kind, generation):
            yield generation


def list_queue(hub: HubState, request: Request, _path: str) -> Answer:
    """What is active, or what has the asked-for status, in one answer."""
    if refusal := _misfiltered(request):
        return refusal
    kind = "GET /ai/queue"
    # Whoever asks for one status may mean one that has ended: then all rows are looked at, newest first.
    among = hub.clockwork.active.values() if request.asked("status") is None else reversed(hub.generations.values())
    rows = [row(hub, generation, kind) for generation in _filtered(hub, request, kind, iter(among))]
    return json_answer({"count": len(rows), "generations": rows})


def list_history(hub: HubState, request: Request, _path: str) -> Answer:
    """One page of everything there ever was, newest first."""
    number, size = _page(request.asked("page"), 1), _page(request.asked("page_size"), 50)
    if number is None or size is None or size > 1000:
        return message(400, "page must be at least 1, and page_size from 1 to 1000")
    if refusal := _misfiltered(request):
        return refusal
    kind = "GET /ai/generations"
    found = list(_filtered(hub, request, kind, reversed(hub.generations.values())))
    costs = [generation.cost for generation in found if generation.cost is not None]
    rows = [history_row(hub, generation, kind) for generation in found[(number - 1) * size : number * size]]
    return json_answer(
        {
            "count": len(rows),
            "generations": rows,
            "page_number": number,
            "page_size": size,
            "total_pages": ceil(len(found) / size),
            "total_entries": len(found),
            "total_cost": str(sum(costs, Decimal(0))) if costs else None,
        }
    )


def _page(text: str | None, default: int) -> int | None:
    if text is None:
        return default
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,8}", text) else None


# --- one generation -------------------------------------------------------------------------------------------------


def _not_found(what: str) -> Answer:
    return problem(404, "Resource not found", f"{what} could not be found", "resource_not_found")


def _find(hub: HubState, kind: str, text: str) -> Generation | None:
    generation = hub.generations.get(uuid_of(text) or "")
    if generation is None or hub.too_fresh("unknown_id", kind, generation):
        return None
    return generation


def show_queued(hub: HubState, _request: Request, text: str) -> Answer:
    """One generation, whether it has ended or not."""
    kind = "GET /ai/queue/ID"
    generation = _find(hub, kind, text)
    if generation is None or (not generation.active and hub.marked("forget_ended", kind, generation)):
        return _not_found(f"Generation {text}")
    return json_answer(row(hub, generation, kind))


def show_history(hub: HubState, _request: Request, text: str) -> Answer:
    """One row of the history, in its envelope."""
    kind = "GET /ai/generations/ID"
    generation = _find(hub, kind, text)
    if generation is None:
        return _not_found(f"Generation {text}")
    shown = history_row(hub, generation, kind)
    return json_answer({"status": "success", "generation": shown, "status_message": "resource_found"})


def cancel(hub: HubState, _request: Request, text: str) -> Answer:
    """The generation is cancelled; one that has ended stays as it is."""
    generation = _find(hub, "DELETE /ai/queue/ID", text)
    if generation is None:
        return _not_found(f"Generation {text}")
    if generation.active:
        hub.write({"do": "cancel", "at": hub.now, "id": generation.id})
    return json_answer({"status": "success", "generation_id": generation.id})


# --- the catalogue, the stream, the record --------------------------------------------------------------------------


def list_models(_hub: HubState, request: Request, _path: str) -> Answer:
    """The catalogue, or what a search finds in it."""
    found = search(request.asked("search") or "")
    return json_answer({"object": "list", "data": [model.shown() for model in found]})


def show_model(_hub: HubState, _request: Request, model_id: str) -> Answer:
    """One model."""
    model = CATALOGUE.get(model_id)
    return _not_found(f"Model {model_id}") if model is None else json_answer(model.shown())


def listen(hub: HubState, _request: Request, _path: str) -> Answer:
    """A stream of everything that ends from now on."""
    headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
    return Answer(200, headers, stream=hub.listen())


def show_record(hub: HubState, _request: Request, _path: str) -> Answer:
    """The oracle's record; outside the API, and a client under test has no business here."""
    return json_answer(hub.record())


# --- the table ------------------------------------------------------------------------------------------------------

_CALLS: Final[tuple[tuple[Origin, str, str, Call], ...]] = (
    ("api", "POST", r"/api/ai/queue", Call("POST /ai/queue", enqueue)),
    ("api", "GET", r"/api/ai/queue", Call("GET /ai/queue", list_queue)),
    ("api", "GET", r"/api/ai/queue/([^/]+)", Call("GET /ai/queue/ID", show_queued)),
    ("api", "DELETE", r"/api/ai/queue/([^/]+)", Call("DELETE /ai/queue/ID", cancel)),
    ("api", "GET", r"/api/events", Call("GET /events", listen)),
    ("api", "GET", r"/api/ai/generations", Call("GET /ai/generations", list_history)),
    ("api", "GET", r"/api/ai/generations/([^/]+)", Call("GET /ai/generations/ID", show_history)),
    ("api", "GET", r"/api/ai/models", Call("GET /ai/models", list_models, needs_key=False)),
    ("api", "GET", r"/api/ai/models/search", Call("GET /ai/models/search", list_models, needs_key=False)),
    ("api", "GET", r"/api/ai/models/(.+)", Call("GET /ai/models/ID", show_model, needs_key=False)),
    ("api", "PUT", r"/api/repos/([^/]+/[^/]+/file/.+)", Call(store.CALL, store.store)),
    ("api", "GET", r"/api/repos/([^/]+/[^/]+/file/.+)", Call("GET /repos/file", store.serve_stored)),
    ("api", "GET", r"/api/files/([^/]+)", Call("GET /files/ID", files.serve_own)),
    ("files", "GET", r"/files/([^/]+)", Call("GET /files/ID", files.serve_presigned, needs_key=False)),
    ("api", "GET", r"/_sandbox/record", Call("GET /_sandbox/record", show_record, needs_key=False)),
)
_UNKNOWN: Final[dict[Origin, Call]] = {
    "api": Call("unknown", files.no_such_call, needs_key=False),
    "files": Call("unknown", files.no_such_file, needs_key=False),
}


def find(request: Request, origin: Origin) -> tuple[Call, str]:
    """The call that a request makes, and what its address holds beside the call's name."""
    method = "GET" if request.method == "HEAD" else request.method
    for on, verb, pattern, call in _CALLS:
        if verb == method and on == origin and (match := re.fullmatch(pattern, request.path)):
            return call, match[1] if match.re.groups else ""
    return _UNKNOWN[origin], ""
