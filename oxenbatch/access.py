"""Which hub, with which key, and what it can make: the catalogue is asked for, and kept for days without a network."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from oxenbatch import __version__, kept
from oxenbatch.addresses import is_loopback
from oxenbatch.catalog import Catalog
from oxenbatch.hub import Hub, HubTrouble

if TYPE_CHECKING:
    from collections.abc import Callable

MISSED_MAX: Final = 20  # unlisted models that are looked up: a manifest with more has another fault
FRESH_S: Final = 3600.0  # a copy younger than this is as good as asking, where nothing is about to be spent
UNCHECKED: Final = "rows are not checked against their models"
STAND_IN: Final = "stand-in on this machine"


@dataclass(frozen=True, slots=True)
class Access:
    """Which hub, with which key."""

    url: str
    """Empty for a stand-in that does not run."""
    key: str | None = field(repr=False)
    rehearsal: bool = False
    """It is the stand-in hub that `--sandbox` brings along."""
    offline: bool = False
    """It is not to be asked."""

    @property
    def name(self) -> str:
        """The hub as a ledger remembers it: a stand-in on this machine is one hub, whatever port it got this time."""
        return STAND_IN if self.rehearsal or is_loopback(self.url) else self.url

    @property
    def kept_as(self) -> str:
        """The name under which its catalogue is kept; that of our own stand-in changes with the program alone."""
        return f"{STAND_IN}, {__version__}" if self.rehearsal else self.url


def kept_catalog(access: Access, *, max_age_s: float | None = None) -> Catalog | None:
    """The copy that was kept of this hub's catalogue, where it is no older than `max_age_s`."""
    found = kept.load_cached(kept.cache_folder(), access.kept_as)
    if found is None or (max_age_s is not None and not 0 <= age_s(found) <= max_age_s):
        return None
    return found


def age_s(catalog: Catalog) -> float:
    """How old the copy is, in seconds."""
    return 0.0 if catalog.fetched_at is None else time.time() - catalog.fetched_at


def read_catalog(
    access: Access, say: Callable[[str], None] = lambda _: None, *, max_age_s: float | None = None
) -> Catalog | None:
    """The hub's catalogue, kept for later; the kept one where the hub does not answer; None where there is none.

    With `max_age_s` a copy that is no older is used without asking.
    """
    if access.offline:
        if (found := kept_catalog(access)) is None:
            say(f"no copy of the catalogue of {access.name} was kept: {UNCHECKED}")
        return found
    if max_age_s is not None and (found := kept_catalog(access, max_age_s=max_age_s)):
        return found

    async def fetch() -> object:
        async with Hub(access.url, access.key) as hub:
            return await hub.models()

    try:
        payload = asyncio.run(fetch())
    except HubTrouble as trouble:
        instead = kept_catalog(access)
        words = f"the copy that was fetched {age_in_words(instead)} is used" if instead else UNCHECKED
        say(f"the hub's catalogue cannot be had ({trouble}); {words}")
        return instead
    catalog = Catalog.from_answer(payload)
    if not catalog.models:
        say(f"the hub's catalogue is empty; {UNCHECKED}")
        return None
    with suppress(OSError):
        kept.save(kept.cache_folder(), access.kept_as, payload)
    return catalog


def age_in_words(catalog: Catalog) -> str:
    """`12 minutes ago`, `3 days ago`, `just now`."""
    seconds = age_s(catalog)
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {noun}{'' if count == 1 else 's'} ago"
    return "just now"


def learn_missing(catalog: Catalog, access: Access) -> bool:
    """Models that were asked for and are not listed are looked up one by one; whether any was found."""

    async def ask() -> bool:
        found = False
        async with Hub(access.url, access.key) as hub:
            for model_id in sorted(catalog.missed)[:MISSED_MAX]:
                with suppress(HubTrouble):
                    found = catalog.learn(await hub.model(model_id)) or found
        return found

    return bool(catalog.missed) and bool(access.url) and not access.offline and asyncio.run(ask())
