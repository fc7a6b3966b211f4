"""How a run goes on and how it ended, as a text file for Prometheus (node_exporter's textfile collector).

Written whole or not at all, so that nobody reads half of it. The names are a promise: docs/nightly.md.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.errors import ConfigProblem, printable
from oxenbatch.jobs import JobState

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path

    from oxenbatch.cli.view import View

log = logging.getLogger(__name__)

EVERY_S: Final = 15.0  # as often as Prometheus usually looks
NAMES: Final = {
    "oxenbatch_files": "Wanted files by state, as the ledger counts them.",
    "oxenbatch_committed_dollars": "Dollars charged, or expected for what is under way.",
    "oxenbatch_charged_dollars": "Dollars that the hub has charged for the batch; known at the end of a run.",
    "oxenbatch_max_cost_dollars": "Dollars that the batch may cost.",
    "oxenbatch_seconds_left": "How long the rest will take, as far as it can be told.",
    "oxenbatch_requests_sent": "Requests that the run sent; known at its end.",
    "oxenbatch_hub_unreachable_seconds": "For how long the hub has not answered.",
    "oxenbatch_hub_announces": "1 while the hub's announcements are heard.",
    "oxenbatch_running": "1 while a run goes on.",
    "oxenbatch_start_time_seconds": "When the run began, in Unix seconds.",
    "oxenbatch_end_time_seconds": "When the run ended, in Unix seconds.",
    "oxenbatch_exit_code": "How the run ended.",
    "oxenbatch_last_success_time_seconds": "When a run last ended with 0, in Unix seconds; kept over failures.",
}
"""Each metric and what it says."""
BY_BATCH: Final = frozenset(list(NAMES)[:8])
"""Those that have a label `batch`, the manifest's name."""
WHILE_RUNNING: Final = frozenset(
    {"oxenbatch_seconds_left", "oxenbatch_hub_unreachable_seconds", "oxenbatch_hub_announces"}
)
"""Those that say nothing any more once the run is over, and are left out then."""


class Metrics:
    """The text file of one `oxenbatch run`."""

    def __init__(self, path: Path) -> None:
        """Nothing is written yet, since another run may be at work on it; `ConfigProblem` where that cannot be done."""
        try:
            from prometheus_client import CollectorRegistry, Gauge  # noqa: PLC0415 - an extra
        except ImportError:
            raise ConfigProblem("--metrics-file needs prometheus-client: pip install 'oxenbatch[metrics]'") from None
        self._path = path
        self._registry = CollectorRegistry()
        self._gauge = Gauge
        self._gauges: dict[str, Any] = {}
        self._written_at = float("-inf")
        if (last := _last_success(path)) is not None:
            self._set("oxenbatch_last_success_time_seconds", last)
        self._set("oxenbatch_running", 1)
        self._set("oxenbatch_start_time_seconds", time.time())
        try:
            with tempfile.TemporaryFile(dir=path.parent):  # it is written beside its place, and renamed
                pass
        except OSError as error:
            raise ConfigProblem(f"the metrics file {printable(path)} cannot be written: {error.strerror}") from error

    def show(self, view: View, now: float) -> None:
        """The file is as the view says, every 15 seconds."""
        self._set("oxenbatch_committed_dollars", view.spent, batch=view.name)
        self._set("oxenbatch_hub_unreachable_seconds", view.mood.unreachable_s, batch=view.name)
        self._set("oxenbatch_hub_announces", int(view.mood.listening is True), batch=view.name)
        if view.cap is not None:
            self._set("oxenbatch_max_cost_dollars", view.cap, batch=view.name)
        if view.left_s is not None:
            self._set("oxenbatch_seconds_left", view.left_s, batch=view.name)
        self._files(view.name, view.counts)
        if now - self._written_at >= EVERY_S:
            self._written_at = now
            self._try_to_write()

    def ended(self, batch: str, counts: dict[JobState, int], *, cost: Decimal, committed: Decimal, sends: int) -> None:
        """This batch's run is over."""
        self._files(batch, counts)
        self._set("oxenbatch_charged_dollars", cost, batch=batch)
        self._set("oxenbatch_committed_dollars", committed, batch=batch)
        self._set("oxenbatch_requests_sent", sends, batch=batch)

    def end(self, code: int) -> None:
        """The command is over, with this exit code."""
        now = time.time()
        for name in WHILE_RUNNING & self._gauges.keys():
            self._registry.unregister(self._gauges.pop(name))
        self._set("oxenbatch_running", 0)
        self._set("oxenbatch_exit_code", code)
        self._set("oxenbatch_end_time_seconds", now)
        if code == 0:
            self._set("oxenbatch_last_success_time_seconds", now)
        self._try_to_write()

    def _files(self, batch: str, counts: dict[JobState, int]) -> None:
        for state in JobState:
            self._set("oxenbatch_files", counts.get(state, 0), batch=batch, state=str(state))

    def _set(self, name: str, value: float | Decimal, **labels: str) -> None:
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = self._gauges[name] = self._gauge(name, NAMES[name], list(labels), registry=self._registry)
        (gauge.labels(**labels) if labels else gauge).set(float(value))

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            log.warning("the metrics file %s cannot be written: %s", printable(self._path), error.strerror)

    def _write(self) -> None:
        from prometheus_client import write_to_textfile  # noqa: PLC0415 - an extra

        write_to_textfile(str(self._path), self._registry)


def _last_success(path: Path) -> float | None:
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - an extra

    with contextlib.suppress(OSError, ValueError):
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            for sample in family.samples:
                if sample.name == "oxenbatch_last_success_time_seconds":
                    return float(sample.value)
    return None
