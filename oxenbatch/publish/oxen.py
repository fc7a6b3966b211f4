"""An Oxen repository on this machine: the data set is committed there, and pushed where a remote is named.

oxenai lives here and nowhere else. It prints on stdout, which is data to us, and keeps its settings in a folder of its
own, which we replace by one with the key of this one push.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from oxenbatch.errors import (
    ConfigProblem,
    HubUnreachable,
    KeyRefused,
    MachineError,
    OxenbatchError,
    TryAgain,
    UsageProblem,
    printable,
)
from oxenbatch.folder import locked
from oxenbatch.names import inside
from oxenbatch.publish import CARD, CHUNK, METADATA, Piece, Publication, Published, damaged, names_in
from oxenbatch.settings import CONFIG_FILE, config_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STORE: Final = ".oxen"
REMOTE: Final = "origin"
BRANCH: Final = "main"
USER_FILE: Final = "user_config.toml"


def publish(
    publication: Publication,
    repository: Path,
    *,
    remote: str | None,
    key: Callable[[str], str],
    message: str | None = None,
    dry_run: bool = False,
) -> Published:
    """The repository holds the data set as it is now, in one more commit if anything is new, and the remote has it.

    `remote`: the address of a repository at a hub; None: the one that was named before, if any was. `key` gives the key
    for an address, and is asked only where something is pushed.
    """
    told = Published(to=str(repository))
    _refuse_strangers(repository)
    remote = remote or _remote_of(repository)
    if dry_run:
        _bring(publication, repository, told, dry_run=True)
        told.pushed_to = remote
        return told
    oxen = _library()
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _settings() as settings, _talking_to_stderr():
            with _as_ours(repository, remote):
                if _was_only_begun(repository) and _remote_of(repository) is None:
                    shutil.rmtree(repository / STORE)
                repo = oxen.Repo(str(repository))
                if not (repository / STORE).is_dir():
                    repo.init()
            with _alone(repository):
                _bring(publication, repository, told)
                with _as_ours(repository, remote):
                    _commit(repo, repository, told, message or _message(told))
                if remote:
                    _entrust(settings, remote, key(remote))
                    with _as_ours(repository, remote):
                        repo.set_remote(REMOTE, remote)
                        repo.push(REMOTE, BRANCH)
                    told.pushed_to = remote
    except OSError as error:
        raise MachineError(f"cannot write into {printable(repository)}: {error.strerror or error}") from error
    return told


def _refuse_strangers(repository: Path) -> None:
    """`UsageProblem` where something else lies there than a repository, or nothing."""
    if not os.path.lexists(repository) or (repository / STORE).is_dir():
        return
    if not repository.is_dir() or any(repository.iterdir()):
        words = "is no Oxen repository, and not empty" if repository.is_dir() else "is no folder"
        raise UsageProblem(f"{printable(repository)} {words}: name another with --repository")


def _was_only_begun(repository: Path) -> bool:
    """Whether a publication was killed while it made the repository: nothing was ever staged or committed in it."""
    store = repository / STORE
    return store.is_dir() and not (store / "staged").exists() and not any(store.glob("history/*"))


def _library() -> Any:
    try:
        import oxen  # noqa: PLC0415 - 0.8 s, and only here
    except ImportError as error:
        raise ConfigProblem(
            "publishing to an Oxen repository needs: pip install 'oxenbatch[oxen]' (600 MB on disk)"
        ) from error
    return oxen


def _remote_of(repository: Path) -> str | None:
    """The address that was named by an earlier publication, or by hand."""
    try:
        with (repository / STORE / "config.toml").open("rb") as file:
            remotes = tomllib.load(file).get("remotes")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MachineError(f"{printable(repository / STORE)}/config.toml cannot be read: {error}") from error
    for one in remotes if isinstance(remotes, list) else []:
        if isinstance(one, dict) and one.get("name") == REMOTE and isinstance(one.get("url"), str):
            return str(one["url"])
    return None


# -- the working folder -------------------------------------------------------------------------------------------


def _bring(publication: Publication, repository: Path, told: Published, *, dry_run: bool = False) -> None:
    """The repository's working folder is the data set: files first, then the tables that name them, then the card."""
    now: set[str] = set()
    for piece in publication.pieces():
        told.files += 1
        now.add(piece.path)
        target = _inside(repository, piece.path)
        if _is_there(piece, target):
            continue
        told.added += 1
        told.added_bytes += piece.bytes
        if not dry_run:
            _copy(piece, target)
    for path in list(_published_before(publication, repository)):
        if path not in now:
            told.removed += 1
            if not dry_run:
                _inside(repository, path).unlink(missing_ok=True)
    if dry_run:
        return
    for path, file in publication.tables():
        _write(_inside(repository, path), file.read_bytes())
    card = repository / CARD
    existing = card.read_text("utf-8") if card.exists() else None
    _write(card, publication.card(existing).encode())


def _published_before(publication: Publication, repository: Path) -> Iterator[str]:
    for prefix in publication.made:
        table = repository / prefix / METADATA
        yield from (f"{prefix}/{name}" if prefix else name for name in names_in(table))


def _is_there(piece: Piece, target: Path) -> bool:
    """Whether the file was brought already: a copy has its original's time, as rsync has it."""
    try:
        here, there = piece.source.stat(), target.lstat()
    except FileNotFoundError:
        return False
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def _copy(piece: Piece, target: Path) -> None:
    """A copy of the file, whole and as the ledger knows it, lies at the target.

    No hard link: whoever checks out an older version in the repository would write into the result itself.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    digest = hashlib.sha256()
    try:
        with piece.source.open("rb") as file, part.open("xb") as copy:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                copy.write(chunk)
    except FileNotFoundError:
        raise damaged(piece, "is gone") from None
    if digest.hexdigest() != piece.sha256:
        part.unlink()
        raise damaged(piece, "is not what was downloaded")
    shutil.copystat(piece.source, part)
    part.rename(target)


def _write(target: Path, content: bytes) -> None:
    if target.exists() and target.read_bytes() == content:
        return
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(content)
    part.rename(target)


def _inside(repository: Path, path: str) -> Path:
    try:
        return inside(repository, path)
    except ValueError as error:
        raise MachineError(f"{printable(repository)}: {error}") from error


# -- the repository -----------------------------------------------------------------------------------------------


def _commit(repo: Any, repository: Path, told: Published, message: str) -> None:
    """What is new in the working folder is a commit; nothing happens where nothing is."""
    for folder, inner, files in os.walk(repository):
        inner[:] = [name for name in inner if name != STORE]
        for name in files:
            if name.endswith(".part"):  # a publication was killed
                (Path(folder) / name).unlink()
    repo.add(str(repository))  # what is gone as well
    if not repo.status().is_clean():
        told.commit = str(repo.commit(message).id)


def _message(told: Published) -> str:
    words = [f"{told.added:,} file{'' if told.added == 1 else 's'} added"] if told.added else []
    words += [f"{told.removed:,} removed"] if told.removed else []
    return ", ".join(words) or "Tables and card"


@contextlib.contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """No other publication works on this repository meanwhile."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(repository / STORE, repository / STORE / "no ledger"))
        except TryAgain:
            raise TryAgain(f"another publication works on {printable(repository)}; this one leaves it alone") from None
        yield


@contextlib.contextmanager
def _settings() -> Iterator[Path]:
    """oxenai finds the author's name in a folder that nobody else can read, and that is gone afterwards."""
    before = os.environ.get("OXEN_CONFIG_DIR")
    own = config_folder() / USER_FILE
    with tempfile.TemporaryDirectory(prefix="oxenbatch-", dir=os.environ.get("XDG_RUNTIME_DIR")) as name:
        user = own.read_text("utf-8") if own.is_file() else 'name = "oxenbatch"\nemail = "oxenbatch@localhost"\n'
        _private(Path(name) / USER_FILE, user)
        os.environ["OXEN_CONFIG_DIR"] = name
        try:
            yield Path(name)
        finally:
            if before is None:
                del os.environ["OXEN_CONFIG_DIR"]
            else:
                os.environ["OXEN_CONFIG_DIR"] = before


def _entrust(settings: Path, remote: str, key: str) -> None:
    """oxenai has the key, for this remote's host and no other."""
    host = json.dumps(urlsplit(remote).netloc)
    entry = f"[[host_configs]]\nhost = {host}\nauth_token = {json.dumps(key)}\n"
    _private(settings / CONFIG_FILE, f"default_host = {host}\n\n{entry}")


def _private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def _talking_to_stderr() -> Iterator[None]:
    """What oxenai prints, from below Python, goes where talk goes."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _as_ours(repository: Path, remote: str | None) -> Iterator[None]:
    """oxenai's errors, which are all ValueErrors, by their words; and what its Rust gives up about."""
    try:
        yield
    except ValueError as error:
        raise _ours(str(error), printable(repository), printable(remote or "")) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # no class that could be imported, and no Exception
            raise
        raise _ours(str(error), printable(repository), printable(remote or "")) from error


def _ours(words: str, repository: str, remote: str) -> OxenbatchError:
    said = printable(" ".join(words.split()), 300)
    text = words.lower()
    if "while lock file" in text:
        return TryAgain(f"another program works on {repository}; this one leaves it alone")
    if "not found" in text and "remote" in text:
        return UsageProblem(f"there is no repository at {remote}, or this key may not see it: create it, then publish")
    if "authentication" in text or "unauthenticated" in text or "401" in text:
        return KeyRefused(f"{remote} does not accept the key ({said})")
    if "403" in text or "forbidden" in text or "permission" in text:
        return KeyRefused(f"this key may not write to {remote} ({said})")
    if "network error" in text or "err status [5" in text or "timed out" in text:
        later = f"what is committed in {repository} is pushed next time"
        return HubUnreachable(f"{remote} cannot be reached; {later} ({said})")
    return MachineError(f"{repository}: {said}")
