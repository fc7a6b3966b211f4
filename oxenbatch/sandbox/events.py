"""Server-sent events: whoever listens hears everything, from the moment of subscribing and not a moment earlier."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

KEEP_ALIVE_S: Final = 15.0  # what the hub does; divided by the hub's speed
LEAST_KEEP_ALIVE_S: Final = 0.05  # at a thousand times the speed nobody wants a thousand comments a second
KEEP_ALIVE: Final = b": keep-alive\n\n"
SOMEBODY_ELSES: Final = {
    "generation_id": "ffffffff-0000-4000-8000-000000000000",
    "status": "succeeded",
    "media_type": "image",
    "model": "nano-banana-2",
    "url": None,
}


def frame(event: str, data: Any) -> bytes:
    """One event as it goes over the wire."""
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class Broadcast:
    """Everybody who listens, and what they are told; nothing is kept for those who come later."""

    def __init__(self) -> None:
        self.listeners: list[Subscription] = []
        self._fired = 0

    def tell(self, data: dict[str, Any], at: float) -> None:
        """All have heard how a generation ended; and now and then, as on the real stream, what is not our business."""
        self._fired += 1
        if self._fired % 5 == 2:
            self._put(frame("repository_updated", {"repository": "sandbox/notes", "commit": f"{self._fired:08x}"}), at)
        if self._fired % 7 == 3:
            self._put(frame("media_generation_completed", SOMEBODY_ELSES), at)
        self._put(frame("media_generation_completed", data), at)

    def _put(self, what: bytes, at: float) -> None:
        for listener in list(self.listeners):
            listener.put(what, at)

    def end(self) -> None:
        """Every listener's stream has ended."""
        for listener in list(self.listeners):
            listener.close()


class Subscription:
    """One listener. Take what has come, and come back when `next_change_at` says so or `wake` is called."""

    def __init__(
        self,
        *,
        now: float,
        keep_alive_s: float,
        advance: Callable[[], float],
        hub_changes_at: Callable[[], float | None],
        among: list[Subscription],
        silent: bool = False,
        closes_at: float | None = None,
    ) -> None:
        self.wake: Callable[[], None] = lambda: None
        """Called whenever a frame has come or the stream has ended; a server sets it."""
        self.closed = False
        self._keep_alive_s = keep_alive_s
        self._advance = advance
        self._hub_changes_at = hub_changes_at
        self._among = among
        among.append(self)
        self._silent = silent
        self._closes_at = closes_at
        self._pending: list[bytes] = []
        self._spoke_at = now

    def put(self, what: bytes, at: float) -> None:
        """The frame waits to be taken, unless nobody can hear it any more."""
        if self._closes_at is not None and at >= self._closes_at:
            self.close()
        if self.closed or self._silent:
            return
        self._pending.append(what)
        self._spoke_at = at
        self.wake()

    def take(self) -> bytes:
        """Every frame that has come by now, and a keep-alive comment where none has for long; often nothing."""
        now = self._advance()
        if self._closes_at is not None and now >= self._closes_at:
            self.close()
        elif not self._silent and not self.closed and now >= self._spoke_at + self._keep_alive_s:
            self._pending.append(KEEP_ALIVE)
            self._spoke_at = now
        taken, self._pending = b"".join(self._pending), []
        return taken

    def next_own_at(self) -> float | None:
        """When this stream speaks or ends by itself: the next keep-alive, or its end."""
        if self.closed:
            return None
        keep_alive_at = None if self._silent else self._spoke_at + self._keep_alive_s
        return min((at for at in (keep_alive_at, self._closes_at) if at is not None), default=None)

    def next_change_at(self) -> float | None:
        """When `take` may have something, provided that nobody asks the hub for anything new meanwhile."""
        if self._pending:
            return self._advance()
        if self.closed:
            return None
        return min((at for at in (self.next_own_at(), self._hub_changes_at()) if at is not None), default=None)

    def close(self) -> None:
        """The listener is gone: what fires from now on is not for it."""
        if not self.closed:
            self.closed = True
            self._among.remove(self)
            self.wake()
