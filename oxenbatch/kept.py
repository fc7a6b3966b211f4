"""What is kept on disk of the hub's catalogue: a copy for each hub, with its age, and a manifest's lock beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from oxenbatch.catalog import Catalog
from oxenbatch.catalog.lock import Lock
from oxenbatch.errors import MachineError, ManifestError, Problem, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def cache_folder() -> Path:
    """Where the platform keeps what can be had again."""
    return user_cache_path("oxenbatch")


def load_cached(folder: Path, origin: str) -> Catalog | None:
    """The catalogue that `save` kept for this hub, None where there is none that can be read."""
    try:
        kept = json.loads(_cache_file(folder, origin).read_text("utf-8"))
        if kept["origin"] != origin or kept["version"] != 1:
            return None
        catalog = Catalog.from_answer(kept["payload"], fetched_at=float(kept["fetched_at"]))
        return catalog if catalog.models else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def all_cached(folder: Path) -> Iterator[Catalog]:
    """Every catalogue that `save` has kept, of whatever hub."""
    for path in sorted(folder.glob("models-*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            kept = json.loads(path.read_text("utf-8"))
            yield Catalog.from_answer(kept["payload"], fetched_at=float(kept["fetched_at"]))


def save(folder: Path, origin: str, payload: Any, *, now: float | None = None) -> Path:
    """The hub's answer is on disk whole, for runs without the network; OSError where that cannot be.

    `now` is when it was fetched, in unix seconds.
    """
    fetched_at = time.time() if now is None else now
    folder.mkdir(parents=True, exist_ok=True)
    path = _cache_file(folder, origin)
    write_whole(path, json.dumps({"version": 1, "origin": origin, "fetched_at": fetched_at, "payload": payload}))
    return path


def write_whole(path: Path, text: str) -> None:
    """The file holds the text, or what it held before; OSError where that cannot be."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)  # mkstemp's files are the owner's alone; a lock is for a repository
        Path(part).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(part).unlink()
        raise


def _cache_file(folder: Path, origin: str) -> Path:
    """One safe name per origin: readable, and told apart by a hash where the readable parts agree."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", origin).strip("-.")[:60]
    return folder / f"models-{readable}-{hashlib.sha256(origin.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}.json"


# -- the lock -----------------------------------------------------------------------------------------------------


def lock_path(manifest: Path) -> Path:
    """`prompts.yaml.lock` beside `prompts.yaml`."""
    return manifest.with_name(f"{manifest.name}.lock")


def read_lock(manifest: Path | None) -> Lock | None:
    """The manifest's lock, None where it has none; `ManifestError` where it cannot be used."""
    if manifest is None:
        return None
    path = lock_path(manifest)
    try:
        return Lock.from_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        words = f"cannot be used ({printable(error, 200)}); write it anew with `oxenbatch check --lock`"
        raise ManifestError([Problem(words, where=str(path))]) from None


def write_lock(manifest: Path, lock: Lock) -> Path:
    """The lock lies beside the manifest; `MachineError` where it cannot."""
    path = lock_path(manifest)
    try:
        write_whole(path, lock.to_json())
    except OSError as error:
        raise MachineError(f"cannot write {printable(path)}: {error.strerror or error}") from error
    return path


def broken(lock: Lock | None, catalog: Catalog | None, hub: str, where: str) -> list[Problem]:
    """Why a run that is bound to its lock must not begin: it has none, or what it holds is not so any more."""
    if lock is None:
        return [Problem("has no lock beside it; write one with `oxenbatch check --lock`", where=where)]
    if lock.hub != hub:
        words = f"was locked for {printable(lock.hub)}, and this is {printable(hub)}; lock it anew"
        return [Problem(words, where=where)]
    if catalog is None:
        return []
    return [
        Problem(f"{words}; look at it, then `oxenbatch check --lock`", where=where, field=model)
        for model, words in lock.changes(catalog)
    ]


def unlocked(lock: Lock, models: Iterable[str], where: str) -> list[Problem]:
    """The models in use that the lock does not know."""
    words = "is not in the lock; write it anew with `oxenbatch check --lock`"
    return [Problem(words, where=where, field=model) for model in models if model not in lock.models]
