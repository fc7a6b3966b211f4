"""The stand-in hub itself: a plain object with a clock argument, which answers requests and keeps the oracle's record.

It is driven in process by tests in virtual time, and over real HTTP by `server`, which only carries bytes. Whatever it
remembers is an entry of its journal: an entry is written first and obeyed then, so that a hub which is started again
on the same journal obeys the same entries and has become the same hub.

The oracle is what tests and rehearsals trust, instead of anything that the client says: `posts`, `generations`,
`peak_active`, `requests`, `calls`, `served`, `key_leaks`; and `GET /_sandbox/record` for other processes.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter, deque
from dataclasses import dataclass, field
from decimal import Decimal
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit
from uuid import UUID

from .calls import find
from .clockwork import Clockwork, Generation
from .events import KEEP_ALIVE_S, LEAST_KEEP_ALIVE_S, Broadcast, Subscription
from .faults import Faults
from .files import address_of
from .journal import Journal
from .messages import Answer, Received, Request, short
from .mishaps import KINDS, Scene
from .models import CATALOGUE
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .calls import Call
    from .faults import Rule
    from .lives import Life

REMEMBERED: Final = 100_000  # requests kept one by one; the counters know of all


@dataclass(frozen=True, slots=True)
class Post:
    """One accepted enqueue."""

    at: float
    body: dict[str, Any]
    """The JSON, exactly as it came."""
    generation_ids: list[str] = field(default_factory=list)


class HubState:
    """A hub: its queue, its users' money, its listeners, and the record of what was asked of it."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        speed: float = 1.0,
        keys: set[str] | None = None,
        credits: Decimal | None = None,  # noqa: A002  the hub's own word
        journal: Path | None = None,
        base_url: str = "http://hub.test",
        files_url: str = "http://files.test",
        workers: int = 64,
        faults: Faults | None = None,
        max_generations: int = 4,
        seed: str | None = None,
        life: Life | None = None,
        file_bytes: int = 0,
    ) -> None:
        if not speed > 0:
            raise ValueError(f"the hub's speed is {speed}, expected more than 0")
        self.clock = clock
        """Unix seconds. `speed` divides durations only: the clock is never scaled."""
        self.speed = speed
        self.keys = {"sandbox"} if keys is None else keys
        self.credits = credits
        """Dollars at the beginning; None: endless."""
        self.base_url = base_url
        self.files_url = files_url
        self.max_generations = max_generations
        self.life = life
        """How long generations take at speed 1; None: as long as the real hub's do."""
        self.file_bytes = file_bytes
        """Results are filled up to so many bytes; 0: they are as large as what they show."""
        self.faults = faults or Faults()
        self.now = self.started_at = clock()
        """`now`: the time of the request that is being answered."""

        self.clockwork = Clockwork(workers=workers, on_end=self._ended)
        self.generations = self.clockwork.generations
        self.posts: list[Post] = []
        self.requests: deque[Received] = deque(maxlen=REMEMBERED)
        self.calls: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        """Downloads by generation."""
        self.key_leaks: list[dict[str, Any]] = []
        """Requests that carried an Authorization header to the files' origin, where the key must never go."""
        self.charged = Decimal(0)
        self.reserved = Decimal(0)
        """What the active generations will cost."""
        self.store = Store(None if journal is None else journal.with_name(f"{journal.name}.stored"))
        self.stored: dict[str, tuple[str, str]] = {}
        """Files in users' repositories by their paths: what they are, and the hash of their bytes."""

        # Drawn at random by default: two hubs that never heard of each other must not give the same ids.
        self._seed = seed if seed is not None else secrets.token_hex(16)
        self._ids = 0
        self._seen: set[str] = set()
        self.broadcast = Broadcast()
        self._journal = Journal(journal) if journal is not None else None
        if self._journal is not None:
            for entry in self._journal.entries:
                self.clockwork.advance(entry["at"])
                self._obey(entry)
            self._journal.entries.clear()
        self.advance()  # with the workers of then
        self.write({"do": "start", "at": self.now, "workers": workers})

    def __repr__(self) -> str:
        ended = len(self.generations) - len(self.clockwork.active)
        return f"<HubState: {len(self.posts)} posts, {len(self.clockwork.active)} active, {ended} ended>"

    # --- the record -------------------------------------------------------------------------------------------------

    @property
    def peak_active(self) -> int:
        """The most generations that were ever queued or processing at once, across restarts."""
        return self.clockwork.peak_active

    @property
    def elapsed(self) -> float:
        """Seconds since this hub started, by its clock."""
        return self.now - self.started_at

    def record(self) -> dict[str, Any]:
        """The oracle's word in numbers, as `GET /_sandbox/record` gives it."""
        return {
            "posts": len(self.posts),
            "generations": len(self.generations),
            "active": len(self.clockwork.active),
            "peak_active": self.peak_active,
            "statuses": dict(Counter(generation.status for generation in self.generations.values())),
            "calls": dict(self.calls),
            "served": self.served.total(),
            "stored": len(self.stored),
            "key_leaks": len(self.key_leaks),
            "listeners": len(self.broadcast.listeners),
            "charged": str(self.charged),
        }

    # --- time -------------------------------------------------------------------------------------------------------

    def advance(self) -> float:
        """Everything that was due by the clock has happened; the time it is."""
        self.now = self.clock()
        self.clockwork.advance(self.now)
        return self.now

    def next_change_at(self) -> float | None:
        """When something happens next without anybody asking."""
        return self.clockwork.next_change_at()

    # --- answering --------------------------------------------------------------------------------------------------

    def handle(self, request: Request) -> Answer:
        """The hub's answer, and how the connection is to misbehave while it is given."""
        self.advance()
        self.faults.refresh()
        call = self._note(request)
        answer = self._answer(request, *call)
        answer.headers.setdefault("date", formatdate(self.now, usegmt=True))
        if request.method == "HEAD":
            answer.body = b""
        return answer

    def _note(self, request: Request) -> tuple[Call, str]:
        origin = request.origin
        if origin is None:
            origin = "files" if request.headers.get("host") == urlsplit(self.files_url).netloc else "api"
        call, rest = find(request, origin)
        authorized = "authorization" in request.headers
        self.calls[call.kind] += 1
        self.requests.append(Received(self.now, call.kind, request.method, request.path, origin, authorized))
        if authorized and origin == "files":
            self.write({"do": "leak", "at": self.now, "path": request.path})
        return call, rest

    def _answer(self, request: Request, call: Call, rest: str) -> Answer:
        if call.kind == "GET /_sandbox/record":  # the oracle is beyond any fault
            return call.run(self, request, rest)
        replacing, changing = self.faults.struck(call.kind, self.elapsed, self._model_of(request, rest))
        if replacing is not None and not replacing["landed"]:
            return self._replaced(replacing, request)
        if call.needs_key and self._key_of(request) not in self.keys:
            return short(401, "unauthenticated")
        answer = call.run(self, request, rest)
        if replacing is not None:
            return self._replaced(replacing, request)
        for rule in changing:
            change = KINDS[rule.do].change
            answer = change(rule, answer) if change and answer.cut is None else answer
        return answer

    def _replaced(self, rule: Rule, request: Request) -> Answer:
        replace = KINDS[rule.do].replace
        assert replace is not None  # noqa: S101  `Faults.struck` chose it for having one
        query = f"?{urlencode(request.query)}" if request.query else ""
        return replace(rule, Scene(self.now, quote(request.path) + query, self.base_url, self.files_url))

    def _key_of(self, request: Request) -> str | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None

    def _model_of(self, request: Request, rest: str) -> str | None:
        """The model that a call is about, for the rules that name one."""
        if not any(rule.model for rule in self.faults.rules):
            return None
        if generation := self.generations.get(rest):
            return generation.model
        try:
            return str(json.loads(request.body)["model"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return None

    # --- what the calls ask of the hub ------------------------------------------------------------------------------

    def next_id(self) -> str:
        """An id that this hub has never given and never will again."""
        while True:
            drawn = hashlib.sha256(f"{self._seed}/{self._ids}".encode()).digest()[:16]
            self._ids += 1
            generation_id = str(UUID(bytes=drawn, version=4))
            if generation_id not in self.generations:  # the same seed on an old journal
                return generation_id

    def write(self, entry: dict[str, Any]) -> None:
        """The entry is in the journal, and then obeyed."""
        if self._journal is not None:
            self._journal.write(entry)
        self._obey(entry)

    def has_seen(self, model_id: str, asked: dict[str, Any]) -> bool:
        """The same request was accepted before."""
        return _print(model_id, asked) in self._seen

    def strikes(self, do: str, on: str, model: str | None = None) -> bool:
        """A fault of that name strikes now."""
        return bool(self.faults.rules) and self.faults.strike(do, on, self.elapsed, model) is not None

    def marked(self, do: str, on: str, generation: Generation) -> bool:
        """A fault of that name is about this generation, however often one looks."""
        if not self.faults.rules:
            return False
        return any(rule.marks(generation.id) for rule in self.faults.about(do, on, self.elapsed, generation.model))

    def too_fresh(self, do: str, on: str, generation: Generation) -> bool:
        """A fault of that name hides this generation, for as long as it is younger than the rule says."""
        if not self.faults.rules:
            return False
        age_s = self.now - generation.enqueued_at
        rules = self.faults.about(do, on, self.elapsed, generation.model)
        return any(age_s < rule["seconds"] and rule.marks(generation.id) for rule in rules)

    # --- obeying the journal ----------------------------------------------------------------------------------------

    def _obey(self, entry: dict[str, Any]) -> None:
        if entry["do"] == "start":
            self.clockwork.employ(entry["workers"], entry["at"])
        elif entry["do"] == "cancel":
            self.clockwork.cancel(self.generations[entry["id"]], entry["at"])
        elif entry["do"] == "store":
            self.stored[entry["path"]] = (entry["type"], entry["sha256"])
        elif entry["do"] == "leak":
            self.key_leaks.append(entry)
        elif entry["born"] <= entry["at"]:
            self._accept(entry, entry["born"])
        else:
            self.clockwork.schedule(entry["born"], partial(self._accept, entry))

    def _accept(self, entry: dict[str, Any], at: float) -> None:
        """The generations of an enqueue are in the queue."""
        body = entry["body"]
        model = CATALOGUE[body["model"]]
        targets = ("target_namespace", "target_repo", "target_directory")
        parameters = {name: value for name, value in body.items() if name not in ("model", *targets)}
        self._seen.add(_print(model.id, parameters))
        self.posts.append(Post(at, body, [fate["id"] for fate in entry["generations"]]))
        for fate in entry["generations"]:
            generation = Generation(
                id=fate["id"],
                model=model.id,
                media_type="video" if model.output == "video" else "image",
                parameters=parameters,
                target_namespace=_text(body.get("target_namespace")),
                target_repo=_text(body.get("target_repo")),
                target_directory=_text(body.get("target_directory")),
                enqueued_at=at,
                wait_s=fate["wait_s"],
                work_s=fate["work_s"],
                error=fate["error"],
                price=None if fate["price"] is None else Decimal(fate["price"]),
                place=fate["place"],
            )
            self.reserved += generation.price or 0
            self.clockwork.admit(generation)
            if fate["cancel_after_s"] is not None:
                self.clockwork.schedule(at + fate["cancel_after_s"], partial(self.clockwork.cancel, generation))

    # --- events -----------------------------------------------------------------------------------------------------

    def subscribe(self, key: str) -> Subscription:
        """A listener, from now on; PermissionError where the key is not one of this hub's."""
        if key not in self.keys:
            raise PermissionError("unauthenticated")
        self.advance()
        return self.listen()

    def listen(self) -> Subscription:
        """A listener, from now on."""
        cut = self.faults.strike("cut_events", "GET /events", self.elapsed)
        return Subscription(
            now=self.now,
            keep_alive_s=max(LEAST_KEEP_ALIVE_S, KEEP_ALIVE_S / self.speed),
            advance=self.advance,
            hub_changes_at=self.next_change_at,
            among=self.broadcast.listeners,
            silent=self.strikes("silent_events", "GET /events"),
            closes_at=self.now + cut["seconds"] if cut else None,
        )

    def _ended(self, generation: Generation) -> None:
        """What follows from a generation's end: the bill, and the news to whoever listens."""
        self.reserved -= generation.price or 0
        self.charged += generation.cost or 0
        if generation.status == "cancelled" or not self.broadcast.listeners:
            return
        if not self.strikes("lose_event", "event", generation.model):
            self.broadcast.tell(self._news(generation), generation.completed_at or self.now)

    def _news(self, generation: Generation) -> dict[str, Any]:
        about = {"generation_id": generation.id, "status": generation.status, "media_type": generation.media_type}
        if generation.status == "failed":
            return about | {"error": generation.error}
        url = None if generation.place == "nested" else address_of(self, generation)
        return about | {"model": generation.model, "url": url}

    def close(self) -> None:
        """The journal is closed; the hub must not be asked any more."""
        self.broadcast.end()
        if self._journal is not None:
            self._journal.close()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _print(model_id: str, asked: dict[str, Any]) -> str:
    text = json.dumps([model_id, asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
