"""What works here and what does not: key, hub, clock, catalogue, disk, folder; and what to do about it.

Each check looks at one thing and returns what it found; none spends money, and what one writes it takes away again.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from oxenbatch import __version__
from oxenbatch.access import Access, kept_catalog
from oxenbatch.account import Account, AccountLimits, read_limits
from oxenbatch.catalog import Catalog
from oxenbatch.errors import OxenbatchError, TryAgain, printable
from oxenbatch.folder import locked
from oxenbatch.hub import Hub, HubTrouble, check_key
from oxenbatch.ledger import reads
from oxenbatch.ledger.book import SQLITE, Ledger
from oxenbatch.reserve import LEAST_FREE
from oxenbatch.settings import key_and_place
from oxenbatch.words import Cause

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Verdict = Literal["works", "mind", "fails", "unknown"]
SKEW_S: Final = 60.0  # runs go by the hub's clock, so this harms only what people read
ROOMY: Final = 1024**3  # a hundred videos
SLOW_FSYNC_S: Final = 0.1  # each send waits for one: below ten a second it is felt
STALE_S: Final = 30 * 86_400.0
PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    words: str
    remedy: str = ""
    """What to do; nothing where it works."""
    exit_code: int = 0
    """What a run would end with because of this; 0 where it would not."""


def failing(what: str, error: OxenbatchError, remedy: str = "") -> Finding:
    """The finding that this error is."""
    return Finding(what, "fails", str(error), remedy, error.exit_code)


# -- this program -------------------------------------------------------------------------------------------------


def versions() -> Finding:
    """Which programs these are: a report of a bug begins with this line."""
    words = f"oxenbatch {__version__}, Python {platform.python_version()}, SQLite {SQLITE}, {platform.platform()}"
    return Finding("versions", "works", words)


def extras() -> Iterator[Finding]:
    """Which optional parts are installed."""
    try:
        parts = importlib.metadata.metadata("oxenbatch")
    except importlib.metadata.PackageNotFoundError:  # run from a folder of sources
        return
    needs: dict[str, list[str]] = {}
    for requirement in parts.get_all("Requires-Dist") or []:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        name = re.match(r"[\w.-]+", requirement)
        if extra and name:
            needs.setdefault(extra[1], []).append(name[0])
    for extra_name, names in sorted(needs.items()):
        missing = [name for name in names if not _is_installed(name)]
        if missing:
            yield Finding(f"extra {extra_name}", "unknown", f"not installed ({', '.join(missing)})",
                          f"if you want it: pip install 'oxenbatch[{extra_name}]'")  # fmt: skip
        else:
            yield Finding(f"extra {extra_name}", "works", ", ".join(names))


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# -- the hub ------------------------------------------------------------------------------------------------------


def key(hub: str, environ: Mapping[str, str] = os.environ) -> tuple[Finding, str | None]:
    """Where the key is found, if it is; and the key, which is never shown."""
    try:
        found, place = key_and_place(hub, environ)
        check_key(found)
    except OxenbatchError as error:
        return failing("key", error), None
    return Finding("key", "works", f"found in {printable(place)}"), found


def hub(url: str, known: str | None) -> list[Finding]:
    """Whether the hub answers, what time it has, what it can make, and whether it accepts the key."""
    access = Access(url, known)

    async def ask() -> list[Finding]:
        async with Hub(access.url, access.key) as door:
            began = time.monotonic()
            try:
                payload = await door.models()
            except HubTrouble as trouble:
                return [_out_of_reach(access, trouble)]
            took = time.monotonic() - began
            way = " through the proxy of the environment" if any(os.environ.get(name) for name in PROXIES) else ""
            found = [Finding("hub", "works", f"{access.url} answers in {took:.2f} s{way}"), _clock(door)]
            found.append(_catalogue(Catalog.from_answer(payload)))
            if known is not None:
                found.append(await _accepted(door))
            return found

    return asyncio.run(ask())


def _out_of_reach(access: Access, trouble: HubTrouble) -> Finding:
    remedy = f"is the network up, and is {access.url} right? a run waits for it up to --max-outage"
    return Finding("hub", "fails", f"{access.url} cannot be reached: {printable(trouble)}", remedy, 69)


def _clock(door: Hub) -> Finding:
    if not door.time.told:
        return Finding("clock", "mind", "the hub does not say what time it is: this machine's clock must do")
    skew = time.time() - door.time.now()
    words = f"this machine is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the hub"
    if abs(skew) <= SKEW_S:
        return Finding("clock", "works", words)
    return Finding("clock", "mind", words, "set it (timedatectl set-ntp true): {date} and the log go by this clock")


def _catalogue(catalog: Catalog) -> Finding:
    models = list(catalog.models)
    if not models:
        return Finding("catalogue", "mind", "it is empty", "rows cannot be checked against their models before sending")
    bare = sum(model.schema is None for model in models)
    words = f"{len(models)} models" + (f", {bare} of them without a schema" if bare else "")
    return Finding("catalogue", "works", words)


async def _accepted(door: Hub) -> Finding:
    try:
        active = await door.active()
    except HubTrouble as trouble:
        if trouble.cause is Cause.KEY:
            remedy = "make a new key at the hub, and put it where this one was found"
            return Finding("access", "fails", f"the hub does not accept the key: {printable(trouble)}", remedy, 77)
        return Finding("access", "fails", f"the queue cannot be read: {printable(trouble)}", "try again in a while", 69)
    return Finding("access", "works", f"the hub accepts the key; {len(active)} generations are active there now")


def kept_catalogue(url: str, now: float) -> Finding:
    """Whether manifests can be checked without a network."""
    catalog = kept_catalog(Access(url, None))
    if catalog is None:
        return Finding("catalogue", "mind", "none is kept from before", "run it once with a network, and one will be")
    days = (now - (catalog.fetched_at or now)) / 86_400
    words = f"{len(list(catalog.models))} models, kept from {days:.0f} days ago"
    if days * 86_400 > STALE_S:
        return Finding("catalogue", "mind", words, "prices and parameters may have changed since")
    return Finding("catalogue", "works", words)


# -- this machine -------------------------------------------------------------------------------------------------


def settings() -> Finding:
    """Whether the user's own settings can be used."""
    try:
        limits = read_limits()
    except OxenbatchError as error:
        return failing("settings", error)
    if limits == AccountLimits():
        return Finding("settings", "works", "no limits over all batches")
    return Finding("settings", "works", f"over all batches: concurrency {limits.concurrency or 'free'},"
                                        f" a day's dollars {limits.max_cost_per_day or 'free'}")  # fmt: skip


def register(scratch: Path) -> Finding:
    """Whether batches can be told apart by the register that they share."""
    try:
        with Account("doctor", scratch / "ledger.db", at=0.0, limits=AccountLimits()) as account:
            account.forget()
    except OxenbatchError as error:
        return Finding("register", "mind", str(error), "two batches that run at once may not know of each other")
    return Finding("register", "works", "batches that run at once know of each other")


def disk(folder: Path) -> Finding:
    """Whether there is room for results."""
    free = shutil.disk_usage(_existing(folder)).free
    words = f"{free / 1024**3:.1f} GiB free at {printable(folder)}"
    if free < LEAST_FREE:
        return Finding("disk", "fails", words, "make room: nothing is sent while it is so full", 74)
    if free < ROOMY:
        return Finding("disk", "mind", words, "a video takes 1 to 8 MiB: make room before a large batch")
    return Finding("disk", "works", words)


def output(folder: Path) -> list[Finding]:
    """Whether the folder's file system keeps what a ledger needs kept: its log, locks, and fsync."""
    place = _existing(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".oxenbatch-doctor-", dir=place) as name:
            scratch = Path(name)
            return [_writes(folder, scratch), _keeps_a_ledger(scratch), _locks(scratch), register(scratch)]
    except OSError as error:
        words = f"{printable(place)} cannot be written: {error.strerror or error}"
        return [Finding("folder", "fails", words, "choose another output with -o, or give this user the right", 74)]


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _writes(folder: Path, scratch: Path) -> Finding:
    times: list[float] = []
    with (scratch / "probe").open("wb") as file:
        for _ in range(5):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    took = sorted(times)[2]
    words = f"{printable(folder)} can be written; an fsync takes {took * 1000:.1f} ms"
    if took > SLOW_FSYNC_S:
        return Finding("folder", "mind", words, "each send waits for one: put the ledger on a local disk with --ledger")
    return Finding("folder", "works", words)


def _keeps_a_ledger(scratch: Path) -> Finding:
    path = scratch / "ledger.db"
    try:
        with Ledger.open(path, create=True), Ledger.read(path) as second:
            reads.batch(second)
    except OxenbatchError as error:
        return failing("ledger", error)
    return Finding("ledger", "works", "a write-ahead log can be kept here")


def _locks(scratch: Path) -> Finding:
    try:
        with locked(scratch, scratch / "ledger.db"):
            try:
                with locked(scratch, scratch / "ledger.db"):
                    pass
            except TryAgain:
                return Finding("locks", "works", "two runs at once are kept apart")
    except OxenbatchError as error:
        return failing("locks", error, "put the output on a local disk")
    return Finding("locks", "fails", "this file system lets two runs in at once", "put the output on a local disk", 74)


def existing_batch(path: Path) -> Finding:
    """Whether the ledger that is there can be read."""
    try:
        with Ledger.read(path) as ledger:
            batch, counts = reads.batch(ledger), reads.counts(ledger)
    except OxenbatchError as error:
        return failing("batch", error)
    if batch is None:
        return Finding("batch", "mind", f"{printable(path)}: no run has begun here")
    return Finding("batch", "works", f"{printable(path)} can be read: {sum(counts.values())} files wanted")
