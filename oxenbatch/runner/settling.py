"""Sends that nobody answered: the hub's rows are read, `reconcile` decides, the ledger records."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from oxenbatch import reconcile
from oxenbatch.ledger import parts, sends

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oxenbatch.ledger.book import Ledger
    from oxenbatch.runner.desk import Desk
    from oxenbatch.wire import Generation

log = logging.getLogger(__name__)

SCAN_PAUSE_MAX_S: Final = 15.0


class Settling:
    """Finds out, from the hub's own rows, what became of sends without an answer."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def scan(self) -> None:
        """One complete scan of the hub's rows settles what it can of the sends whose outcome is unknown."""
        desk = self.desk
        desk.scans += 1
        desk.scan_at = desk.clock.monotonic() + min(SCAN_PAUSE_MAX_S, 2.0 ** min(desk.scans, 5) / 2)
        opens = await desk.clerk.do(sends.unknown)
        if not opens:
            return
        if desk.scans == 1:
            log.warning(
                "sends without an answer: %d; whether they landed is found out from the hub's list, in up to %.0f s",
                len(opens),
                desk.limits.settle_s,
            )
        began = desk.hub.time.now()
        since = reconcile.window_start(opens) if desk.hub.time.told else 0.0
        rows: dict[str, Generation] = {}
        for namespace in {one.namespace for one in opens}:
            found = await desk.hub.history_since(since, namespace=namespace)
            rows |= {generation.generation_id: generation for generation in found}
        rows |= {g.generation_id: g for g in await desk.hub.active() if g.generation_id not in rows}
        verdicts = await desk.clerk.do(self._judge, opens, rows, began)
        if any(verdict.ids for verdict in verdicts):
            desk.went("send", well=True)  # it landed, whatever was answered
        # The scan that can prove absence comes when the settle time is over, and the one that agrees a second later.
        due_in = reconcile.scan_due_at(opens, desk.limits.settle_s) - began
        if any(verdict.scans == 1 for verdict in verdicts):
            desk.scan_at = desk.clock.monotonic() + 1.0
        elif due_in > 0:
            desk.scan_at = min(desk.scan_at, desk.clock.monotonic() + due_in + 0.1)
        desk.bell.ring()

    def _judge(
        self, ledger: Ledger, opens: list[reconcile.Open], rows: Mapping[str, Generation], began: float
    ) -> list[reconcile.Verdict]:
        """Every open send is as the scan that began then shows it; the verdicts."""
        siblings = self.desk.account.siblings() if self.desk.account else ()
        hashes = {one.request_hash for one in opens}
        elsewhere = replace(sends.elsewhere(siblings, rows, hashes), unseen=parts.unseen(ledger, siblings, hashes))
        under_way = sends.under_way(ledger, [one.submission_id for one in opens])
        taken = sends.owned(ledger, rows)
        verdicts: list[reconcile.Verdict] = []
        for by_token in (True, False):  # what says itself whose it is goes first
            found = reconcile.judge(
                [one for one in opens if one.by_token == by_token],
                list(rows.values()),
                taken,
                now=began,
                settle_s=self.desk.limits.settle_s,
                by_token=by_token,
                elsewhere=elsewhere,
                under_way=under_way,
                doubt_s=reconcile.DOUBT_S if self.desk.hub.time.told else float("inf"),
            )
            taken |= {generation_id for verdict in found for generation_id in verdict.ids}
            verdicts += found
        self._settle(ledger, verdicts)
        return verdicts

    def _settle(self, ledger: Ledger, verdicts: list[reconcile.Verdict]) -> None:
        now = self.desk.hub.time.now()
        for verdict in verdicts:
            if verdict.ids:
                log.info("found at the hub: %s", ", ".join(verdict.ids))
                self.desk.look_at = 0.0  # its end may have been announced before it was ours
                sends.adopt(ledger, verdict.submission_id, verdict.ids, at=now)
            sends.count_absent_scans(ledger, verdict.submission_id, verdict.scans)
            if verdict.absent:
                note = f"not at the hub {self.desk.limits.settle_s:.0f} s later, in two complete scans"
                sends.declare_absent(ledger, verdict.submission_id, at=now, note=note)
            elif verdict.undecidable and self.desk.limits.on_unknown == "resubmit":
                sends.declare_absent(ledger, verdict.submission_id, at=now, note="--on-unknown resubmit")
            elif verdict.undecidable:
                log.warning("a send is held: %s", verdict.undecidable)
                sends.hold(ledger, verdict.submission_id, at=now, note=verdict.undecidable)
