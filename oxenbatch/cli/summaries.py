"""A line about each command, so that `oxenbatch --help` imports none of them; a test holds them against their own."""

from __future__ import annotations

from typing import Final

SUMMARIES: Final[dict[str, str]] = {
    "run": "Make every file that a manifest asks for; starting is resuming.",
    "status": "Counts by state, cost so far, and why things failed.",
    "ls": "The batch's samples as a table.",
    "show": "Everything about one job.",
    "retry": "Put failed samples back to pending.",
    "cancel": "Cancel at the hub what is active, and stop the rest being sent.",
    "audit": "Hold the ledger against the hub's own history.",
    "resolve": "Settle held sends.",
    "verify": "Hash the files anew and compare.",
    "reject": "Set a result aside and make it anew.",
    "sandbox": "Serve a stand-in hub on this machine until stopped.",
}
