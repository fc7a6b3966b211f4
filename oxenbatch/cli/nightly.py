"""What a run that nobody watches tells to others: a metrics file, notices to people, a heartbeat."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from oxenbatch.errors import OxenbatchError, TryAgain, printable

if TYPE_CHECKING:
    from oxenbatch.batch import Plan
    from oxenbatch.cli.metrics import Metrics
    from oxenbatch.cli.notices import Notices
    from oxenbatch.cli.progress import Sink
    from oxenbatch.cli.view import View
    from oxenbatch.runner import Summary

log = logging.getLogger(__name__)

FINE = frozenset({0, 75})
"""Exit codes that a heartbeat calls a success: what a deadline has left is the next run's, as it was told."""


class Night:
    """One `oxenbatch run`, as those outside hear of it. A context manager; it never changes how the run ends."""

    def __init__(self) -> None:
        self._metrics: Metrics | None = None
        self._notices: Notices | None = None
        self._heartbeat = ""
        self._threads: list[threading.Thread] = []
        self._held_told = False
        self._overlap = False
        self._did_something = False
        self._name = ""
        self._over = False
        self._why: list[str] = []

    def begin(self, options: dict[str, Any]) -> None:
        """Those outside hear that it begins; of a dry run they hear nothing.

        `ConfigProblem` where an address or a file cannot be used: that is found out now, and not at the end.
        """
        if not options["dry_run"]:
            self._prepare(options)
        self._beat("start")
        log.info("the run begins")

    def _prepare(self, options: dict[str, Any]) -> None:
        from oxenbatch.settings import addresses  # noqa: PLC0415 - not for --help

        known = addresses()
        if address := options["heartbeat"] or known.heartbeat:
            from oxenbatch.hub.heartbeat import check_address  # noqa: PLC0415 - not for --help

            self._heartbeat = check_address(address)
        if wanted := options["notify"] or known.notify:
            from oxenbatch.cli.notices import Notices  # noqa: PLC0415 - not for --help

            self._notices = Notices(wanted)
        if options["metrics_file"]:
            from oxenbatch.cli.metrics import Metrics  # noqa: PLC0415 - not for --help

            self._metrics = Metrics(options["metrics_file"])

    @property
    def sinks(self) -> list[Sink]:
        """Who is shown how the run goes on."""
        return [*([self._metrics] if self._metrics else []), *([self] if self._notices else [])]

    def show(self, view: View, now: float) -> None:  # noqa: ARG002 - as every sink is called
        """People hear of what is held as soon as it is: the run goes on meanwhile, and money waits for them."""
        if view.tally.held and not self._held_told and self._notices:
            self._held_told = True
            title = f"oxenbatch: {printable(view.name, 60)} needs a decision"
            body = f"{view.folder}: {view.line}\noxenbatch resolve {view.folder}"
            self._beside(partial(self._notices.send, title, body))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._over:  # a bug, or Ctrl-C before anything had begun
            self.end(1, "")

    def end(self, code: int, line: str) -> None:
        """The command is over, with this exit code; `line` is what machines are told."""
        from oxenbatch.advice import EXITS  # noqa: PLC0415 - not before the first send

        self._over = True
        meaning = EXITS.get(code, "a failure")
        log.info("the run ends (%s): %s", meaning, line or f"exit={code}")
        self._join()
        if self._overlap:
            return  # the run that holds the batch will tell how it ended; if it hangs, silence tells
        if self._metrics:
            self._metrics.end(code)
        self._beat("success" if code in FINE else "fail")
        if self._notices and (code != 0 or self._did_something):
            title = f"oxenbatch: {printable(self._name or 'run', 60)}: {meaning} (exit {code})"
            self._notices.send(title, "\n".join([*self._why, line]).strip() or meaning)
        self._join()

    def failed(self, error: OxenbatchError) -> None:
        """The run could not go on because of this."""
        self._overlap = isinstance(error, TryAgain)
        self._why.append(printable(error, 1000))

    def ended(self, name: str, plan: Plan, summary: Summary) -> None:
        """One batch's run is over."""
        self._name = self._name or name
        self._why += [printable(f"{plan.folder}: {reason}", 1000) for reason in summary.reasons]
        if self._notices:
            from oxenbatch.cli.status import next_lines, why_not_done  # noqa: PLC0415 - not for --help

            self._why += why_not_done(plan.ledger)
            self._why += next_lines(plan.ledger)
        self._did_something = self._did_something or bool(summary.sends) or summary.done != plan.counts["downloaded"]
        if self._metrics:
            self._metrics.ended(
                name, summary.counts, cost=summary.cost, committed=summary.committed, sends=summary.sends
            )

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _beat(self, what: Any) -> None:
        if self._heartbeat:
            self._beside(partial(_beat, self._heartbeat, what))

    def _beside(self, act: Any) -> None:
        """The act is done in a thread: a service that is slow keeps no run waiting. In order, one after the other."""
        before = list(self._threads)

        def in_order() -> None:
            for thread in before:
                thread.join()
            act()

        thread = threading.Thread(target=in_order, name="telling", daemon=True)
        self._threads.append(thread)
        thread.start()


def _beat(url: str, what: Any) -> None:
    from oxenbatch.hub.heartbeat import beat  # noqa: PLC0415 - not for --help

    if trouble := beat(url, what):
        log.warning("the heartbeat was not heard (%s)", trouble)
