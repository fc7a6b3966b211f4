"""A line about each command, so that `oxenbatch --help` imports none of them; a test holds them against their own."""

from __future__ import annotations

from typing import Final

SUMMARIES: Final[dict[str, str]] = {
    "run": "Make every file that a manifest asks for; starting is resuming.",
    "check": "Validate a manifest and say what it would make and cost; spends nothing.",
    "status": "Counts by state, cost so far, why things failed, and what to do next.",
    "ls": "The batch's samples as a table.",
    "show": "Everything about one job.",
    "retry": "Put failed samples back to pending.",
    "cancel": "Cancel at the hub what is active, and stop the rest being sent.",
    "audit": "Hold the ledger against the hub's own history.",
    "resolve": "Settle held sends.",
    "verify": "Hash the files anew and compare.",
    "reject": "Set a result aside and make it anew.",
    "export": "The dataset's table, shards, or a folder with captions.",
    "report": "One HTML page: totals, failures, and a gallery of the results.",
    "publish": "Commit the data set to an Oxen repository, or upload it to Hugging Face.",
    "merge": "Make one batch of shards.",
    "models": "The hub's catalogue: which models there are.",
    "model": "One model: its parameters and prices.",
    "init": "Write a commented starter manifest.",
    "schema": "The JSON Schema of a manifest, for editors.",
    "doctor": "Key, hub, clock, disk, terminal: what works, what does not, what to do.",
    "completion": "Print the script that completes commands, batches and models in a shell.",
    "sandbox": "Serve a stand-in hub on this machine until stopped.",
}
