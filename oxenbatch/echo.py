"""Whether a row of the hub was made by a request of ours, by what the row repeats of it. Pure."""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.wire import Generation, as_uuid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HUBS_OWN: Final = frozenset((
    "generation_id", "model_name", "media_type", "status", "result_url", "error_message", "cost", "enqueued_at",
    "started_at", "completed_at", "user_id", "username", "user_image", "images", "videos",
))  # fmt: skip
"""Fields of a row that are the hub's: a parameter of that name cannot be read back from it."""
_HUBS_CHOICE: Final = frozenset(["auto", "automatic", "random", "default", "any"])
_ADDRESS: Final = r"(?i)\s*([a-z][a-z0-9+.-]*://|data:)"
_KEPT: Final = r"(?:input:|[a-z][a-z0-9+.-]*://[^/\s]*(/(?:\S*/)?))([0-9a-f]{64}\.[a-z0-9]{1,8})(?:[?#]|$)"
"""The address of an input file that we stored (its folder, its name), or a reference that was never given one."""
_INVISIBLE: Final = r"[\s\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufffd]+"
CUT_FROM: Final = 64  # characters: nobody cuts a text shorter than that


def echoes(generation: Generation, model: str, parameters: Mapping[str, Any]) -> bool | None:
    """Whether the row was made by this request; None where that cannot be told.

    Only what was sent is compared: the hub may fill in defaults and add fields of its own. A wrong no is paid twice
    (the row is ours, and taken for absent), a wrong None only asks a person: so a no is a difference that the hub
    cannot have made itself by storing the request in its own spelling.
    """
    echo = generation.echo
    same = [_same_model(generation.model, model)]
    same += [_same(None if name in _HUBS_OWN else echo.get(name), value) for name, value in parameters.items()]
    return _all(same)


def _all(answers: Iterable[bool | None]) -> bool | None:
    answers = list(answers)
    if any(answer is False for answer in answers):
        return False
    return None if None in answers else True


def _same_model(theirs: str, ours: str) -> bool | None:
    a, b = ("".join(c for c in name.casefold() if c.isalnum()) for name in (theirs, ours))
    if a and a == b:
        return True
    # A model may be asked for by its UUID or under another provider's prefix, and echoed by its name.
    return None if a in b or b in a or as_uuid(ours) or as_uuid(theirs) else False


def _same(theirs: Any, ours: Any) -> bool | None:
    if ours is None:
        return True  # null is as good as not sent, whatever the hub filled in
    if ours in ("", [], {}):
        return True if theirs in (None, "", [], {}) else None
    if theirs in (None, "", [], {}):
        return None  # the row does not say
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return _all(_same(theirs.get(name), value) for name, value in ours.items())
    if isinstance(ours, list) and isinstance(theirs, list):
        return _all(map(_same, theirs, ours)) if len(ours) == len(theirs) else False
    if isinstance(ours, dict | list) or isinstance(theirs, dict | list):
        one = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in (theirs, ours)]
        return None if any(isinstance(value, dict | list) for value in one) else _same(*one)
    return _same_scalar(theirs, ours)


def _same_scalar(theirs: Any, ours: Any) -> bool | None:
    if isinstance(ours, bool) or isinstance(theirs, bool):
        words = {str(value).strip().lower() for value in (theirs, ours)}
        return True if len(words) == 1 else False if words == {"true", "false"} else None
    if isinstance(ours, str) and isinstance(theirs, str):
        return _sametext(theirs, ours)
    a, b = _number(theirs), _number(ours)
    if a is None or b is None or b == -1:
        return None  # a word for a number (`auto`), or a number for the hub to choose (seed -1)
    whole = a == a.to_integral_value() and b == b.to_integral_value()
    return a == b if whole else math.isclose(a, b, rel_tol=1e-6)  # a hub may keep 0.7 in 32 bits


def _sametext(theirs: str, ours: str) -> bool | None:
    if theirs == ours:
        return True
    a, b = (unicodedata.normalize("NFC", "\n".join(text.splitlines())).strip() for text in (theirs, ours))
    if a == b:
        return True
    if (ours_kept := re.match(_KEPT, b)) and (theirs_kept := re.match(_KEPT, a)):
        # Named by its bytes: the same name is the same file, whatever host or folder the hub serves it from, and
        # another name in the same folder is another file, not ours by another address.
        return True if ours_kept[2] == theirs_kept[2] else False if ours_kept[1] == theirs_kept[1] else None
    if b.casefold() in _HUBS_CHOICE or b == "-1" or re.match(_ADDRESS, b):
        return None  # for the hub to choose; or a file that the hub may keep under an address of its own
    was_cut = len(a) >= CUT_FROM and b.startswith(a.rstrip("… ."))
    return None if was_cut or _loose(a) == _loose(b) else False


def _loose(text: str) -> str:
    """The text without what a storing hub may change: case, compatibility forms, spaces and invisible characters."""
    return re.sub(_INVISIBLE, "", unicodedata.normalize("NFKC", text).casefold())


def _number(value: Any) -> Decimal | None:
    try:
        number = Decimal(str(value).strip())
    except (InvalidOperation, ValueError):
        return None
    return number if number.is_finite() and abs(number.adjusted()) < 300 else None
