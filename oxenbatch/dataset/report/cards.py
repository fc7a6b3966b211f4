"""The results as the page's gallery has them: plain values, their text made harmless to look at."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from oxenbatch.account import folder_of
from oxenbatch.errors import printable
from oxenbatch.jobs import JobState
from oxenbatch.ledger import results
from oxenbatch.ledger.book import Ledger
from oxenbatch.names import inside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oxenbatch.dataset.selection import Source

TEXT_MAX: Final = 4000  # characters of a prompt or value: more is for the table, not for a page of ten thousand
FACET_VALUES_MAX: Final = 40  # of a metadata column that can be chosen from; more is searched as text

KEY_SHOWN: Final = (
    15  # characters of a key: `oxenbatch show` takes its beginning, and twelve hexadecimal digits are enough
)

Card = dict[str, Any]


@dataclass(slots=True)
class Cards:
    """What the gallery shows."""

    shown: list[Card] = field(default_factory=list)
    paths: list[Path | None] = field(default_factory=list)
    """Where each card's file is."""
    blobs: dict[int, str] = field(default_factory=dict)
    """Files that are in the page itself, in base64, by the card's place."""

    def choices(self, name: str) -> list[str]:
        """The values that the cards have there, in order."""
        return sorted({str(card[name]) for card in self.shown if card.get(name) is not None})

    def facets(self) -> dict[str, list[str]]:
        """Metadata columns with few enough values to choose from."""
        found: dict[str, set[str]] = {}
        for card in self.shown:
            for name, value in card["meta"].items():
                if len(found.setdefault(name, set())) <= FACET_VALUES_MAX:
                    found[name].add(value)
        return {name: sorted(values) for name, values in found.items() if 1 < len(values) <= FACET_VALUES_MAX}


def take_cards(sources: Sequence[Source], to: Path, limit: int) -> Cards:
    """The first `limit` samples of all the batches, in their order."""
    cards = Cards()
    home = to.absolute().parent
    first: dict[str, str] = {}
    for source in sources:
        with Ledger.open(source.ledger) as ledger, results.one_moment(ledger):
            for record in results.records(ledger, tuple(JobState)):
                if len(cards.shown) >= limit:
                    return cards
                path = _path(source, record["file"])
                card = _card(record, source, first)
                card["file"] = quote(os.path.relpath(path, home)) if path else None
                cards.shown.append(card)
                cards.paths.append(path)
    return cards


def _path(source: Source, file: str | None) -> Path | None:
    """Where the result is; None where there is none, or where a stranger's ledger names a place outside its folder."""
    try:
        return inside(folder_of(source.ledger).absolute(), file) if file else None
    except ValueError:
        return None


def _card(record: dict[str, Any], source: Source, first: dict[str, str]) -> Card:
    parameters = {name: value for name, value in record["parameters"].items() if name != "prompt"}
    if record["seed"] is not None:
        parameters["seed"] = record["seed"]
    job = record["row_id"] or record["key"][:KEY_SHOWN]
    name = source.prefix + record["file"] if record["file"] else job
    odd = [f"{one['field']}: asked {one['asked']}, got {one['got']}" for one in record["mismatches"]]
    odd += ["blank: one colour"] if record["blank"] else []
    if record["sha256"]:
        twin = first.setdefault(record["sha256"], name)
        odd += [f"identical to {twin}"] if twin != name else []
    card: Card = {
        "name": shown(name), "job": shown(job), "sample": record["number"], "of": record["samples"],
        "batch": shown(source.prefix.rstrip("/")) or None, "state": record["state"], "model": shown(record["model"]),
        "prompt": shown(record["prompt"]), "params": _values(parameters), "meta": _values(record["metadata"]),
        "id": record["generation_id"] and shown(record["generation_id"]),
        "cost": record["cost"] and shown(record["cost"]), "error": record["error"] and shown(record["error"]),
        "kind": (record["media_type"] or "").partition("/")[0] or None, "type": record["media_type"],
        "w": record["width"], "h": record["height"], "s": record["seconds"], "fps": record["fps"],
        "audio": None if record["audio"] is None else bool(record["audio"]), "bytes": record["bytes"],
        "again": _again(record, source), "at": record["created_at"], "took": _took(record),
        "odd": [shown(words) for words in odd],
    }  # fmt: skip
    return card


def _again(record: dict[str, Any], source: Source) -> str | None:
    """The command that has the result made anew."""
    if record["state"] != JobState.DOWNLOADED:
        return None
    return shown(shlex.join(["oxenbatch", "reject", str(folder_of(source.ledger)), record["file"]]))


def _took(record: dict[str, Any]) -> float | None:
    began, ended = record["started_at"], record["created_at"]
    return round(ended - began, 1) if began is not None and ended is not None and ended >= began else None


def _values(values: dict[str, Any]) -> dict[str, str]:
    return {
        shown(name): shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in values.items()
    }


def shown(text: str) -> str:
    """The text for a page: line breaks stay; what turns text around or hides in it is shown and not obeyed."""
    whole = "\n".join(printable(line, TEXT_MAX) for line in text.replace("\r\n", "\n").split("\n")[:200])
    return whole if len(whole) <= TEXT_MAX else whole[: TEXT_MAX - 1] + "…"
