"""The ledger's one writer beside the event loop: what waits together shares a commit, and its fsync.

A money commit is never delayed for company; the loop is never blocked by a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, Self, TypeVar

from oxenbatch.errors import MachineError
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oxenbatch.reserve import Reserve

R = TypeVar("R")
P = ParamSpec("P")
Item = tuple["Callable[[Ledger], Any]", "asyncio.Future[Any]"]
TOGETHER: Final = 64  # requests in one commit: enough to share its fsync, few enough that the first waits little


class Clerk(Protocol):
    """Whoever carries requests to the ledger."""

    async def do(self, request: Callable[Concatenate[Ledger, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `request(ledger, …)` returns, once everything that it wrote is durable."""


class ThreadClerk:
    """A clerk with a thread, and a connection, of its own. A context manager."""

    def __init__(self, path: Path, reserve: Reserve | None = None) -> None:
        self._path = path
        self._reserve = reserve
        self._waiting: queue.SimpleQueue[tuple[Callable[[Ledger], Any], asyncio.Future[Any]] | None]
        self._waiting = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    async def do(self, request: Callable[Concatenate[Ledger, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `request(ledger, …)` returns, once everything that it wrote is durable."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.put((lambda ledger: request(ledger, *args, **kwargs), future))
        return await future

    def _work(self) -> None:
        try:
            ledger = Ledger.open(self._path)
        except Exception as error:  # noqa: BLE001 - the askers get it: nobody may wait for a thread that is gone
            while item := self._waiting.get():
                _tell([(item[1], error, True)])
            return
        with ledger:
            more = True
            while more and (item := self._waiting.get()):
                batch = [item]
                while len(batch) < TOGETHER and not self._waiting.empty():
                    item = self._waiting.get()
                    if item is None:
                        more = False
                        break
                    batch.append(item)
                self._serve(ledger, batch)

    def _serve(self, ledger: Ledger, batch: list[Item]) -> None:
        try:
            answers = self._commit(ledger, batch)
        except sqlite3.Error as error:
            trouble = MachineError(f"the ledger cannot be written: {error}")
            answers = [(future, trouble, True) for _, future in batch]
            # What a POST has brought must be written down, however full the disk is: that is what the reserve is for.
            if self._reserve and self._reserve.give_up():
                with contextlib.suppress(sqlite3.Error):
                    answers = self._commit(ledger, batch)
        _tell(answers)

    def _commit(self, ledger: Ledger, batch: list[Item]) -> list[tuple[asyncio.Future[Any], Any, bool]]:
        """Each request's answer, once all that they wrote is durable; `sqlite3.Error` where nothing of it is."""
        answers: list[tuple[asyncio.Future[Any], Any, bool]] = []
        with ledger.immediate():
            for request, future in batch:
                try:
                    with ledger.immediate():  # who fails fails alone, and leaves nothing
                        answers.append((future, request(ledger), False))
                except sqlite3.OperationalError:
                    raise  # the disk, not the request: nobody's work is durable
                except Exception as error:  # noqa: BLE001 - it is the asker's, who gets it
                    answers.append((future, error, True))
        return answers


def _tell(answers: list[tuple[asyncio.Future[Any], Any, bool]]) -> None:
    """Everyone has the answer; the loop is woken once for all of them."""

    def tell() -> None:
        for future, answer, failed in answers:
            if not future.done():
                future.set_exception(answer) if failed else future.set_result(answer)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        answers[0][0].get_loop().call_soon_threadsafe(tell)


class InlineClerk:
    """A clerk without a thread, for virtual time: the request is done before `do` first waits."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def do(self, request: Callable[Concatenate[Ledger, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `request(ledger, …)` returns, once everything that it wrote is durable."""
        with self.ledger.immediate():
            return request(self.ledger, *args, **kwargs)
