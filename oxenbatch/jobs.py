"""The record of what is wanted, its identity, and the table of its states.

Rules of residence: plain values and functions only; no I/O, no clock, no randomness, no SQL. Every legal
move of a sample is an entry of `MOVES`; late and repeated news are entries too, so nobody needs an `if` for
them. What must always hold: a sample that may have cost money never returns to `pending` except by an event
whose name says why that is safe.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PER_POST: Final = 4  # the reference allows 1 to 4 generations a POST, the OpenAPI description 12: take what both allow


class JobState(StrEnum):
    """Where one wanted file stands. The hub's five words, with ours around them; these are the only public states."""

    PENDING = "pending"
    """Not sent yet, or proved never to have reached the hub."""
    SUBMITTING = "submitting"
    """Recorded and sent; the hub's answer is not recorded yet."""
    UNCERTAIN = "uncertain"
    """Sent, and nobody knows yet whether it landed; never sent again before that is known."""
    HELD = "held"
    """It could not be found out whether it landed: a person decides."""
    QUEUED = "queued"
    """Waiting at the hub."""
    PROCESSING = "processing"
    """Being made by the hub."""
    SUCCEEDED = "succeeded"
    """Made and paid; its file is not on disk yet."""
    FAILED = "failed"
    """Refused or failed for good; nothing more is tried by itself."""
    CANCELLED = "cancelled"
    """Cancelled at the hub, or before it was sent."""
    DOWNLOADED = "downloaded"
    """On disk, checked."""
    UNFETCHABLE = "unfetchable"
    """Paid, but its file cannot be had; every later run tries again, since that costs nothing."""


class Event(StrEnum):
    """What can happen to a sample. States and events meet only in `MOVES`."""

    AUTHORISED = "authorised"
    """The intent to send it is on disk."""
    ACCEPTED = "accepted"
    """The hub answered with its generation_id."""
    REFUSED = "refused"
    """The hub refused the request for what it says; the same request would be refused again."""
    TURNED_AWAY = "turned_away"
    """The hub refused the run (key, credits, rate), not this request."""
    NOT_SENT = "not_sent"
    """The request never left this machine."""
    UNANSWERED = "unanswered"
    """The request may have landed; no usable answer came."""
    FOUND = "found"
    """Its generation was found in the hub's own list."""
    ABSENT = "absent"
    """It is proved that the request never landed."""
    UNDECIDABLE = "undecidable"
    """It cannot be found out whether the request landed."""
    DROPPED = "dropped"
    """A person gave a held send up."""
    SEEN_QUEUED = "seen_queued"
    SEEN_PROCESSING = "seen_processing"
    SEEN_SUCCEEDED = "seen_succeeded"
    SEEN_FAILED = "seen_failed"
    """The generation failed, and the same request would fail again."""
    SEEN_FAILED_IN_PASSING = "seen_failed_in_passing"
    """The generation failed for a reason that is not the request's; another attempt is due."""
    SEEN_CANCELLED = "seen_cancelled"
    VANISHED = "vanished"
    """The hub no longer knows a generation_id that it gave us."""
    FETCHED = "fetched"
    """The file is on disk, fsynced, checked and renamed into place."""
    FETCH_GIVEN_UP = "fetch_given_up"
    """The file could not be had, after every try."""
    FETCH_AGAIN = "fetch_again"
    """The file is to be had once more: it is gone, damaged, or a new run tries again."""
    CANCELLED_HERE = "cancelled_here"
    """The user cancelled it before it was sent."""
    RETRIED = "retried"
    """The user put it back."""
    REUSED = "reused"
    """An older batch had bought the same request: its file is here, and nothing was sent for it."""
    SET_ASIDE = "set_aside"
    """The user rejected its result, or its request changed."""


_S = JobState
_E = Event

_NEWS: Final[dict[Event, JobState]] = {
    _E.SEEN_QUEUED: _S.QUEUED,
    _E.SEEN_PROCESSING: _S.PROCESSING,
    _E.SEEN_SUCCEEDED: _S.SUCCEEDED,
    _E.SEEN_FAILED: _S.FAILED,
    _E.SEEN_FAILED_IN_PASSING: _S.PENDING,
    _E.SEEN_CANCELLED: _S.CANCELLED,
}


def _late(state: JobState) -> dict[Event, JobState]:
    """News about a generation whose end is known changes nothing."""
    return dict.fromkeys(_NEWS, state)


MOVES: Final[dict[JobState, dict[Event, JobState]]] = {
    # FOUND: a ledger that was lost is rebuilt from the hub's history.
    _S.PENDING: {
        _E.AUTHORISED: _S.SUBMITTING,
        _E.CANCELLED_HERE: _S.CANCELLED,
        _E.FOUND: _S.QUEUED,
        _E.REUSED: _S.DOWNLOADED,
    },
    _S.SUBMITTING: {
        _E.ACCEPTED: _S.QUEUED,
        _E.REFUSED: _S.FAILED,
        _E.TURNED_AWAY: _S.PENDING,
        _E.NOT_SENT: _S.PENDING,
        _E.UNANSWERED: _S.UNCERTAIN,
    },
    _S.UNCERTAIN: {_E.FOUND: _S.QUEUED, _E.ABSENT: _S.PENDING, _E.UNDECIDABLE: _S.HELD},
    _S.HELD: {_E.FOUND: _S.QUEUED, _E.ABSENT: _S.PENDING, _E.DROPPED: _S.CANCELLED},
    _S.QUEUED: _NEWS | {_E.VANISHED: _S.HELD},
    # The hub's lists may lag behind its events: `queued` after `processing` is old news.
    _S.PROCESSING: _NEWS | {_E.SEEN_QUEUED: _S.PROCESSING, _E.VANISHED: _S.HELD},
    _S.SUCCEEDED: _late(_S.SUCCEEDED) | {_E.FETCHED: _S.DOWNLOADED, _E.FETCH_GIVEN_UP: _S.UNFETCHABLE},
    _S.FAILED: _late(_S.FAILED) | {_E.RETRIED: _S.PENDING, _E.SET_ASIDE: _S.PENDING},
    _S.CANCELLED: _late(_S.CANCELLED) | {_E.RETRIED: _S.PENDING, _E.SET_ASIDE: _S.PENDING},
    _S.DOWNLOADED: _late(_S.DOWNLOADED) | {_E.FETCH_AGAIN: _S.SUCCEEDED, _E.SET_ASIDE: _S.PENDING},
    _S.UNFETCHABLE: _late(_S.UNFETCHABLE) | {_E.FETCH_AGAIN: _S.SUCCEEDED, _E.SET_ASIDE: _S.PENDING},
}

ACTIVE: Final = (_S.SUBMITTING, _S.UNCERTAIN, _S.QUEUED, _S.PROCESSING)
"""States that hold, or may hold, one of the hub's places: what the concurrency limit counts."""
AT_THE_HUB: Final = (_S.QUEUED, _S.PROCESSING)
SETTLED: Final = (_S.DOWNLOADED, _S.FAILED, _S.CANCELLED, _S.UNFETCHABLE, _S.HELD)
"""States that a run leaves alone."""


class IllegalMove(ValueError):
    """An event came that the table does not allow in this state."""


def after(state: JobState, event: Event) -> JobState:
    """The state that follows; `IllegalMove` where the table has no entry."""
    try:
        return MOVES[state][event]
    except KeyError:
        raise IllegalMove(f"a sample that is {state} cannot be {event}") from None


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of this machine that a row sends along, as it was when the manifest was read."""

    sha256: str
    extension: str
    """What its bytes are, without the dot."""
    bytes: int
    path: str
    """As the manifest has it: under its `inputs.root`."""
    mark: tuple[int, int, int]
    """Size, modification time in nanoseconds, inode: what changes when the file does."""

    @property
    def name(self) -> str:
        """The file's name at the hub: equal bytes have equal names, wherever they come from."""
        return f"{self.sha256}.{self.extension}"

    @property
    def reference(self) -> str:
        """What stands for it in a row's parameters, so that the row's identity follows the bytes alone."""
        return INPUT + self.name


INPUT: Final = "input:"
_REFERENCE: Final = re.compile(r"input:[0-9a-f]{64}\.[a-z0-9]{1,8}")


def with_addresses(value: Any, address: Callable[[str], str | None]) -> Any:
    """The value with every reference to an input file replaced by the address of that name, where there is one."""
    if isinstance(value, str):
        return (address(value.removeprefix(INPUT)) or value) if _REFERENCE.fullmatch(value) else value
    if isinstance(value, list):
        return [with_addresses(inner, address) for inner in value]
    if isinstance(value, dict):
        return {name: with_addresses(inner, address) for name, inner in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of a manifest, after expansion: what the user wants of one request."""

    model: str
    parameters: dict[str, Any]
    """What is sent beside the model's name, `prompt` among it."""
    id: str | None = None
    samples: int = 1
    """How many files are wanted, at least 1."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Kept in the dataset, never sent."""
    number: int = 0
    """1-based place in the manifest, after expansion."""
    where: str = ""
    """`file:line` for messages."""
    inputs: tuple[InputFile, ...] = ()
    """The files that `parameters` refer to."""
    written: dict[str, Any] = field(default_factory=dict)
    """Those parameters that refer to files, as the manifest has them: for the dataset, not for the hub."""

    @property
    def prompt(self) -> str:
        """The text that the user would know the row by; `multi_prompt` models have it in parts."""
        return prompt_of(self.parameters)


def prompt_of(parameters: dict[str, Any]) -> str:
    """The prompt's text, or the parts of a `multi_prompt` joined, or nothing."""
    prompt = parameters.get("prompt")
    if isinstance(prompt, str):
        return prompt
    parts = parameters.get("multi_prompt")
    if isinstance(parts, list):
        return " / ".join(str(part.get("prompt", "")) for part in parts if isinstance(part, dict))
    return ""


def canonical(value: Any) -> str:
    """One text for all spellings of the same JSON value: sorted keys, no spaces, whole floats as integers."""
    flat = type(value) is dict and _FLAT.issuperset(map(type, value.values())) and _TEXT.issuperset(map(type, value))
    return _encode(value if flat else _plain(value))


_encode: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode  # made once: json.dumps makes one for every call
_FLAT: Final = frozenset({str, int, bool, type(None)})
"""Values of one spelling."""
_TEXT: Final = frozenset({str})


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def length_of(parameters: dict[str, Any]) -> int:
    """The whole seconds of video that a request asks for, at most 1,000; 0 where it does not say."""
    asked = parameters.get("duration", parameters.get("seconds"))
    if asked is None:
        parts = parameters.get("multi_prompt")
        if not isinstance(parts, list):
            return 0
        return min(LONGEST, sum(length_of(part) for part in parts if isinstance(part, dict)))
    try:
        seconds = float(asked.removesuffix("s") if isinstance(asked, str) else asked)
        return round(min(LONGEST, max(0.0, seconds)))
    except (TypeError, ValueError):  # `auto` and the like, and what is no number at all
        return 0


LONGEST: Final = 1000  # seconds: sends are ordered by this, and each length is looked for by itself


def request_hash(model: str, parameters: dict[str, Any]) -> str:
    """The hash that equal requests share; its tag `r1` names this way of hashing, lest a later be mistaken for it."""
    return hash_of_text(model, canonical(parameters))


def hash_of_text(model: str, parameters: str) -> str:
    """The `request_hash` of a request whose parameters have this `canonical` text."""
    text = f'{{"model":{_encode(model)},"parameters":{parameters}}}'  # canonical, as its two names are in order
    return "r1:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def job_key(row_id: str | None, hashed: str, occurrence: int) -> str:
    """The row's identity in its batch: its id, else its request and which of the equal ones it is (1-based)."""
    return f"id:{row_id}" if row_id is not None else f"{hashed}#{occurrence}"


def short_key(key: str) -> str:
    """Eight hexadecimal characters of a key, for file names."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def auto_seed(key: str, sample: int) -> int:
    """The recorded seed of one sample of a row with `seed: auto`: the same every time, 0 to 2**31 - 1."""
    return int.from_bytes(hashlib.sha256(f"{key}/{sample}".encode("utf-8", "surrogatepass")).digest()[:4], "big") >> 1


# -- a send that is on disk ---------------------------------------------------------------------------------------

_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class Intent:
    """One POST that the ledger has recorded and fsynced: what `Hub.enqueue` takes, and nothing else can be posted.

    Only `ledger.sends.authorise` makes one (a test of the shape holds that true); the seal keeps anybody else from
    making one in passing.
    """

    submission_id: int
    model: str
    parameters: dict[str, Any]
    count: int
    """How many generations are asked for, 1 to `PER_POST`."""
    token: str
    """Unique to this submission; the last part of its target directory, where the manifest sets a target."""
    seal: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise RuntimeError("an Intent is made by ledger.sends.authorise, when its record is on disk")


def sealed(submission_id: int, model: str, parameters: dict[str, Any], count: int, token: str) -> Intent:
    """An Intent; for `ledger.sends.authorise` alone."""
    return Intent(submission_id, model, parameters, count, token, _SEAL)
