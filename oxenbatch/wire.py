"""What the hub says, read without trust: its rows, its events, its errors, and what a POST's answer means.

Pure: text and numbers in, values out. The facts are the hub's API page; the outcome table is the money rules'
section 2. Ids are lower-case UUIDs before they go anywhere else.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from oxenbatch.jobs import Event
from oxenbatch.words import RATE_TOO, Cause, all_words, cause_of, error_words, text

if TYPE_CHECKING:
    from collections.abc import Mapping

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
WORDS_MAX: Final = 2000  # characters of a stranger's error: enough for any that a person would read
ADDRESS_MAX: Final = 8192  # characters; what servers take, and ten times the longest signature
RETRY_AFTER_MAX_S: Final = 900.0  # a hub that asks for more than 15 min is asked again after 15 min


def as_uuid(value: Any) -> str | None:
    """The id in lower case, or None where it is no UUID: it may become part of a path, an address or a log line."""
    text = value.lower() if isinstance(value, str) else ""
    return text if _UUID.fullmatch(text) else None


# -- a generation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Generation:
    """One row of the hub's lists. Times are Unix seconds by the hub's clock, `cost` dollars."""

    generation_id: str
    model: str
    status: str
    result_url: str | None = None
    error: str | None = None
    enqueued_at: float | None = None
    started_at: float | None = None
    completed_at: float | None = None
    cost: Decimal | None = None
    directory: str | None = None
    echo: Mapping[str, Any] = field(default_factory=dict)
    """The whole row: the request's parameters are among its top-level fields."""


STATUS_EVENTS: Final[dict[str, Event]] = {
    "queued": Event.SEEN_QUEUED,
    "processing": Event.SEEN_PROCESSING,
    "succeeded": Event.SEEN_SUCCEEDED,
    "failed": Event.SEEN_FAILED,
    "cancelled": Event.SEEN_CANCELLED,
}
_SPELLINGS: Final = {"canceled": "cancelled"}


def read_generation(row: Any) -> Generation | None:
    """The row, or None where it has no usable id.

    A status that we do not know is read as `processing`: the generation is there and may cost, which is all that can
    be said. Were such a row left out, a send that made it would be "proved absent", and paid again.
    """
    generation_id = as_uuid(row.get("generation_id")) if isinstance(row, dict) else None
    if generation_id is None:
        return None
    status = text(row.get("status")) or ""
    status = _SPELLINGS.get(status, status)
    status = status if status in STATUS_EVENTS else "processing"
    return Generation(
        generation_id=generation_id,
        model=text(row.get("model_name")) or text(row.get("model")) or "",
        status=status,
        result_url=_result_url(row),
        error=(text(row.get("error_message")) or "")[:WORDS_MAX] or None,
        enqueued_at=_seconds(row.get("enqueued_at")),
        started_at=_seconds(row.get("started_at")),
        completed_at=_seconds(row.get("completed_at")),
        cost=read_dollars(row.get("cost")),
        directory=text(row.get("target_directory")),
        echo=row,
    )


def read_generations(payload: Any) -> list[Generation]:
    """Every usable row of a list answer; `ValueError` where it is no list answer at all."""
    rows = payload.get("generations") if isinstance(payload, dict) else None
    if not isinstance(rows, list):
        raise ValueError("the answer has no list of generations")
    return [generation for row in rows if (generation := read_generation(row))]


def _result_url(row: Mapping[str, Any]) -> str | None:
    # Seen in the wild: result_url null on success, the address inside images[0] or videos[0].
    files = (row.get(kind) for kind in ("images", "videos"))
    nested = (some[0].get("url") for some in files if isinstance(some, list) and some and isinstance(some[0], dict))
    said = map(text, (row.get("result_url"), *nested))
    return next((url for url in said if url and len(url) <= ADDRESS_MAX), None)


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON knows whole numbers of 400 digits, a float does not
        return None


def read_dollars(value: Any) -> Decimal | None:
    """An amount of dollars, exactly; None where nothing (or nonsense) was said."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        amount = Decimal(str(value))
    except (InvalidOperation, ValueError):
        return None
    return amount if amount.is_finite() and 0 <= amount < 1_000_000 else None  # over a million a piece is nonsense


# -- events -------------------------------------------------------------------------------------------------------


def read_event(kind: str, data: str) -> Generation | None:
    """The news in one server-sent event, or None: other types and broken data are not for us."""
    if kind != "media_generation_completed":
        return None
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    return read_generation(
        {**body, "result_url": body.get("url"), "error_message": body.get("error"), "model_name": body.get("model")}
    )


# -- what a POST's answer means -----------------------------------------------------------------------------------


class Outcome(StrEnum):
    """Could the request have landed? The five classes of the outcome table."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """Nothing was made, and the row's request is why."""
    TURNED_AWAY = "turned_away"
    """Nothing was made, and the row is not why: key, credits or rate."""
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one POST, as far as its answer (or the lack of one) tells."""

    outcome: Outcome
    ids: tuple[str, ...] = ()
    """Every usable generation_id that arrived, even where the rest of the answer cannot be trusted."""
    words: str = ""
    cause: Cause | None = None
    retry_after_s: float | None = None
    status: int | None = None


_REFUSALS: Final = frozenset({400, 401, 402, 403, 404, 413, 415, 422, 429})
_STATUS_CAUSES: Final = {401: Cause.KEY, 402: Cause.CREDITS, 403: Cause.KEY, 429: Cause.RATE}


def read_answer(status: int, headers: Mapping[str, str], body: bytes, wanted: int) -> Answer:
    """The meaning of a complete answer to an enqueue of `wanted` generations; `headers` have lower-case names."""
    payload = _json_object(body)
    words = error_words(payload)[:WORDS_MAX]
    cause_said = cause_of(all_words(payload))
    wait_s = retry_after(headers)
    if 200 <= status < 300:
        return _read_success(status, payload, words, cause_said, wanted)
    if ids := _ids(payload):
        # "Nothing was made" is not to be believed of an answer that names what was made: the ids are kept.
        return Answer(Outcome.UNKNOWN, ids, f"HTTP {status} with {len(ids)} ids", Cause.HUB, wait_s, status)
    if status in _REFUSALS and payload is not None:
        cause = cause_said if status in {400, 404, 413, 415, 422} else _STATUS_CAUSES[status]
        if cause_said is Cause.CREDITS and not (status == 429 and RATE_TOO.search(words)):
            cause = Cause.CREDITS  # an account without credits has been seen to answer 400 and 403
        if status in {400, 404, 413, 415, 422} and cause is Cause.KEY:
            cause = None  # "forbidden words in the prompt" is the row's; only 401 and 403 speak of the key
        outcome = Outcome.TURNED_AWAY if cause else Outcome.REFUSED
        return Answer(outcome, (), words or f"HTTP {status}", cause, wait_s, status)
    # 408 409 425, any 5xx or 3xx, a 4xx in HTML: a proxy may have spoken after the hub had accepted.
    cause = Cause.RATE if status == 429 else Cause.HUB
    return Answer(Outcome.UNKNOWN, (), words or f"HTTP {status}", cause, wait_s, status)


def _read_success(status: int, payload: dict[str, Any] | None, words: str, cause: Cause | None, wanted: int) -> Answer:
    rows = payload.get("generations") if payload else None
    if not isinstance(rows, list):
        return Answer(Outcome.UNKNOWN, (), words or f"HTTP {status} without generations", Cause.HUB, None, status)
    if not rows and payload and payload.get("error"):
        outcome = Outcome.TURNED_AWAY if cause else Outcome.REFUSED
        return Answer(outcome, (), words or "refused without a reason", cause, None, status)
    ids = _ids(payload)
    if len(ids) == len(rows) == wanted:
        return Answer(Outcome.ACCEPTED, ids, status=status)
    return Answer(Outcome.UNKNOWN, ids, f"{len(ids)} usable ids of {len(rows)} for {wanted} wanted", None, None, status)


def _ids(payload: dict[str, Any] | None) -> tuple[str, ...]:
    """Every usable generation_id of an answer, once each, in its order."""
    rows = payload.get("generations") if payload else None
    ids = (
        as_uuid(row.get("generation_id")) for row in (rows if isinstance(rows, list) else ()) if isinstance(row, dict)
    )
    return tuple(dict.fromkeys(u for u in ids if u))


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


@lru_cache(maxsize=8)  # all answers of a second carry the same one
def http_date(text: str | None) -> float | None:
    """Unix seconds of an HTTP date, or None."""
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()  # an HTTP date is always GMT
    except (ValueError, TypeError, OverflowError):
        return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from either form of `Retry-After`, 0 to 15 min; a date counts from the hub's own `Date`."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        wait_s = float(text)
    except ValueError:
        until, sent = http_date(text), http_date(headers.get("date"))
        if until is None or sent is None:
            return None
        wait_s = until - sent
    return min(max(wait_s, 0.0), RETRY_AFTER_MAX_S) if wait_s == wait_s else None  # noqa: PLR0124 - NaN is not itself


# -- what we say --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where at the hub results are kept, and the mark by which a send is found again."""

    namespace: str | None = None
    repo: str | None = None
    directory: str | None = None


@dataclass(frozen=True, slots=True)
class InputPlace:
    """Where at the hub input files are kept: one name for equal bytes, so that nothing is stored twice."""

    namespace: str
    repo: str
    branch: str = "main"
    directory: str = "inputs"

    def path(self, name: str = "") -> str:
        """The file's address at the hub, from its first slash; without a name, that of their folder."""
        parts = (self.namespace, self.repo, "file", self.branch, *self.directory.split("/"))
        return "/repos/" + "/".join(quote(part, safe="") for part in parts if part) + f"/{name}"


def enqueue_body(
    model: str, parameters: Mapping[str, Any], count: int, target: Target | None = None, token: str | None = None
) -> dict[str, Any]:
    """The JSON of one enqueue. With a target, its directory ends in the submission's own `token`."""
    body: dict[str, Any] = {"model": model, **parameters}
    if count != 1:
        body["num_generations"] = count
    if target:
        directory = "/".join(part for part in (target.directory, token) if part)
        names = {"target_namespace": target.namespace, "target_repo": target.repo, "target_directory": directory}
        body |= {name: value for name, value in names.items() if value}
    return body


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the history."""

    generations: list[Generation]
    number: int
    pages: int
    """How many pages there are in all, as far as the hub knew when it answered."""


def read_page(payload: Any) -> Page:
    """One page of the history; `ValueError` where the answer is none."""
    generations = read_generations(payload)
    number, pages = payload.get("page_number"), payload.get("total_pages")
    if not isinstance(number, int) or not isinstance(pages, int):
        raise ValueError("the answer does not say which page it is")
    return Page(generations, number, pages)
