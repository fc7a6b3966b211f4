"""What goes in and what comes out of the stand-in hub: plain values, so that a server or a test can carry them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .events import Subscription

Origin = Literal["api", "files"]
Cut = Literal["before", "after", "midway", "stall"]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, as it arrived."""

    method: str
    path: str
    """Percent-decoded, from its first slash, without the query."""
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    origin: Origin | None = None
    """Which of the hub's two addresses it came to; None: as its `host` header says."""

    def asked(self, name: str) -> str | None:
        """The query's last value of that name."""
        return next((value for key, value in reversed(self.query) if key == name), None)


@dataclass(slots=True)
class Answer:
    """One HTTP answer, and how the connection is to misbehave while it is given."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    """Names in lower case. A `content-length` here is what is said; what is true is `len(body)`."""
    body: bytes = b""
    cut: Cut | None = None
    """`before`: the connection dies and nothing was done; `after`: it dies and all was done, no byte of an answer
    leaves in either; `midway`: it dies when `cut_at` bytes of the body have left; `stall`: then it falls silent."""
    cut_at: int = 0
    delay_s: float = 0.0
    """How long the hub keeps the answer to itself before its first byte."""
    stream: Subscription | None = None
    """For `GET /api/events`: the body goes on in here."""

    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Received:
    """One line of the oracle's log: a request that arrived."""

    at: float
    kind: str
    """The call's name with its variable parts as words: `GET /ai/queue/ID`."""
    method: str
    path: str
    origin: Origin
    authorized: bool
    """It carried an Authorization header, right or wrong."""


def json_answer(value: Any, status: int = 200) -> Answer:
    """`value` as a JSON answer."""
    # Escaped to ASCII: prompts may hold lone surrogates, which UTF-8 cannot.
    body = json.dumps(value, separators=(",", ":")).encode()
    return Answer(status, {"content-type": "application/json; charset=utf-8", "content-length": str(len(body))}, body)


def text_answer(text: str, status: int, content_type: str = "text/html") -> Answer:
    """`text` as a page, an XML document or the like."""
    body = text.encode()
    return Answer(status, {"content-type": f"{content_type}; charset=utf-8", "content-length": str(len(body))}, body)


def problem(status: int, title: str, detail: str, status_message: str) -> Answer:
    """An error in the longest of the hub's shapes."""
    kind = title.lower().replace(" ", "_")
    error = {"type": kind, "title": title, "detail": detail}
    return json_answer({"error": error, "status": "error", "status_message": status_message}, status)


def message(status: int, words: str) -> Answer:
    """An error in the shape with one message."""
    return json_answer({"error": {"message": words}}, status)


def short(status: int, words: str) -> Answer:
    """An error in the shape with a bare `status_message`."""
    return json_answer({"status": "error", "status_message": words}, status)


def page(status: int, title: str) -> Answer:
    """An error as a proxy in front of the hub words it: a page, not JSON."""
    return text_answer(
        f"<html><head><title>{status} {title}</title></head><body><h1>{title}</h1></body></html>", status
    )
