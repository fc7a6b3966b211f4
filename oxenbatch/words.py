"""What an error's words mean: whom it acts on, and whether the same request would fail again. Pure."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final

from oxenbatch.jobs import Event

TEXT_MAX: Final = 10_000  # characters that are looked at of anything that the hub says in one field
SAID_MAX: Final = 2000  # characters of one field that are looked at: a stranger's megabyte is not searched for meaning


def text(value: Any) -> str | None:
    """The value where it is text with something in it, its beginning; half characters, which no file holds, are `?`."""
    if not isinstance(value, str) or not value:
        return None
    beginning: str = value[:TEXT_MAX]
    return beginning if beginning.isascii() else beginning.encode("utf-8", "replace").decode()


class Cause(StrEnum):
    """Whom a refusal or a failure acts on, where it is not the row."""

    KEY = "key"
    CREDITS = "credits"
    RATE = "rate"
    HUB = "hub"


# What only a refusal needs stands here as text: `re` keeps it compiled from its first use.
_CREDITS: Final = (
    r"(?i)"
    r"insufficient[ _-]*(account[ _-]*)?(credit|fund|balance)|(not|n't)( have)? enough credits|(out of|no|zero) credits"
    r"|credits? ((are|is|have been) )?(exhausted|depleted)|credit balance|payment required|quota exceeded"
    r"|billing (issue|problem|account|limit|hard limit|details)"  # not bare `billing`: a prompt may speak of it
)
RATE_TOO: Final = re.compile(r"quota", re.IGNORECASE)  # on a 429 a quota is one of calls a minute
# `forbidden` and `unauthorized` are the key's only where they are all that is said: "could not fetch input_image:
# 403 Forbidden" and "unauthorized likeness" are the row's, and one row must not stop the batch.
_KEY: Final = (
    r"(?i)"
    r"unauthenticated|invalid (api[ _-]?)?(key|token)|\b(key|token)\b.{0,20}\b(revoked|expired)"
    r"|^\W*(40[13]\W+)?(unauthori[sz]ed|forbidden)\W*$"
)
_LASTING: Final = (
    r"(?i)"
    r"polic|safety|moderat|nsfw|sensitive|prohibit|flagged|blocked|violat|copyright|inappropriate|not allowed|rejected"
    r"|invalid|must be|must have|required|unsupported|not supported|out of range|parameter|validation|expected|unknown"
    r"|too (long|large|short|small|many)|not found|malformed|exceeds|cannot be|bad request|\b4(00|04|22)\b"
)
_PASSING: Final = (
    r"(?i)"
    r"time[d]?[ -]?out|overload|temporar|try again|retry|capacity|unavailable|internal|server error|connection|reset"
    r"|rate limit|too many requests|throttl|busy|upstream|gateway|\b50[0-4]\b|\b429\b"
)


def error_words(payload: Any) -> str:
    """The useful words of an error in any of its shapes, or nothing."""
    if not isinstance(payload, dict):
        return ""
    error = payload.get("error")
    if isinstance(error, dict):
        for name in ("detail", "message", "title"):
            if words := text(error.get(name)):
                return words
    return text(error) or text(payload.get("status_message")) or ""


def all_words(payload: Any) -> str:
    """Everything that an error says, its type too: an account's trouble may stand in any of its fields."""
    if not isinstance(payload, dict):
        return ""
    error = payload.get("error")
    parts = [error.get(name) for name in ("type", "title", "detail", "message")] if isinstance(error, dict) else [error]
    said = (part for part in (*parts, payload.get("status_message")) if isinstance(part, str))
    return " / ".join(part[:SAID_MAX] for part in said)


def cause_of(words: str | None) -> Cause | None:
    """The account's trouble that the words speak of, if they do."""
    if words and re.search(_CREDITS, words):
        return Cause.CREDITS
    if words and re.search(_KEY, words):
        return Cause.KEY
    return None


def fails_again(words: str | None) -> bool:
    """Whether the same request would fail the same way: its content or a parameter is at fault.

    Words that we do not know are taken for passing trouble: another attempt is bounded, and failing costs nothing.
    """
    if not words or re.search(_PASSING, words):
        return False
    return bool(re.search(_LASTING, words))


_VARYING: Final = r"(?i)[0-9a-f]{8}[0-9a-f-]*|\d+"


def alike(words: str) -> str:
    """The words without what differs from one request to the next: its number, its seconds."""
    return re.sub(_VARYING, "#", words)


def failure_event(words: str | None) -> Event:
    """What a `failed` generation means for its sample."""
    return Event.SEEN_FAILED if fails_again(words) else Event.SEEN_FAILED_IN_PASSING
