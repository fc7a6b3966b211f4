"""Which hub, with which key, and what it can make: the catalogue is asked for, and kept for days without a network."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from platformdirs import user_cache_path

from oxenbatch.addresses import is_loopback
from oxenbatch.catalog import Catalog
from oxenbatch.hub import Hub, HubTrouble

if TYPE_CHECKING:
    from collections.abc import Callable

MISSED_MAX: Final = 20  # unlisted models that are looked up: a manifest with more has another fault


@dataclass(frozen=True, slots=True)
class Access:
    """Which hub, with which key."""

    url: str
    key: str | None = field(repr=False)

    @property
    def name(self) -> str:
        """The hub as a ledger remembers it: a stand-in on this machine is one hub, whatever port it got this time."""
        return "stand-in on this machine" if is_loopback(self.url) else self.url


def read_catalog(access: Access, say: Callable[[str], None] = lambda _: None) -> Catalog | None:
    """The hub's catalogue, kept for later; the kept one where the hub does not answer; None where there is none."""
    cache = user_cache_path("oxenbatch")

    async def fetch() -> object:
        async with Hub(access.url, access.key) as hub:
            return await hub.models()

    try:
        payload = asyncio.run(fetch())
    except HubTrouble as trouble:
        kept = load_cached(cache, access.name)
        instead = "the one kept from before is used" if kept else "rows are not checked against their models"
        say(f"the hub's catalogue cannot be had ({trouble}); {instead}")
        return kept
    catalog = Catalog.from_answer(payload)
    if not catalog.models:
        say("the hub's catalogue is empty; rows are not checked against their models")
        return None
    with suppress(OSError):
        save(cache, access.name, payload)
    return catalog


def learn_missing(catalog: Catalog, access: Access) -> bool:
    """Models that were asked for and are not listed are looked up one by one; whether any was found."""

    async def ask() -> bool:
        found = False
        async with Hub(access.url, access.key) as hub:
            for model_id in sorted(catalog.missed)[:MISSED_MAX]:
                with suppress(HubTrouble):
                    found = catalog.learn(await hub.model(model_id)) or found
        return found

    return bool(catalog.missed) and asyncio.run(ask())


def load_cached(folder: Path, origin: str) -> Catalog | None:
    """The catalogue that `save` kept for this hub, None where there is none that can be read."""
    try:
        kept = json.loads(_cache_file(folder, origin).read_text("utf-8"))
        if kept["origin"] != origin or kept["version"] != 1:
            return None
        return Catalog.from_answer(kept["payload"], fetched_at=float(kept["fetched_at"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def save(folder: Path, origin: str, payload: Any, *, now: float | None = None) -> Path:
    """The hub's answer is on disk whole, for runs without the network; OSError where that cannot be.

    `now` is when it was fetched, in unix seconds.
    """
    fetched_at = time.time() if now is None else now
    text = json.dumps({"version": 1, "origin": origin, "fetched_at": fetched_at, "payload": payload})
    folder.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        path = _cache_file(folder, origin)
        Path(part).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(part).unlink()
        raise
    return path


def _cache_file(folder: Path, origin: str) -> Path:
    """One safe name per origin: readable, and told apart by a hash where the readable parts agree."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", origin).strip("-.")[:60]
    return folder / f"models-{readable}-{hashlib.sha256(origin.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}.json"
