"""A data set on the Hugging Face hub: what is new is uploaded, in commits that a killed publication may stop between.

huggingface_hub lives here and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.errors import (
    ConfigProblem,
    HubUnreachable,
    KeyRefused,
    MachineError,
    OxenbatchError,
    UsageProblem,
    printable,
)
from oxenbatch.publish import CARD, METADATA, Piece, Publication, Published, damaged, names_in

if TYPE_CHECKING:
    from collections.abc import Iterator

PER_COMMIT: Final = 500  # files: enough that a million are 2,000 commits, few enough that one is soon done again
KIND: Final = "dataset"


def publish(
    publication: Publication,
    name: str,
    *,
    message: str | None = None,
    dry_run: bool = False,
) -> Published:
    """The data set `USER/NAME` holds what the batches have made; only what it does not have yet was uploaded.

    The key is the library's own: `HF_TOKEN`, or that of `hf auth login`.
    """
    library = _library()
    told = Published(to=f"hf:{name}")
    with _as_ours(name):
        api = library.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="oxenbatch")
        there = _there(api, name)
        fresh = _fresh(publication, there, told)
        with tempfile.TemporaryDirectory(prefix="oxenbatch-") as scratch:
            before = _published_before(api, name, publication, there, Path(scratch))
            if dry_run:
                told.added = sum(1 for _ in fresh)
                told.removed = len(before - _now(publication)) if before else 0
                return told
            while pieces := list(islice(fresh, PER_COMMIT)):
                additions = [_addition(library, piece) for piece in pieces]
                told.added += len(pieces)
                words = message or f"{len(pieces)} files"
                told.commit = _commit(api, name, additions, words)
            removed = before - _now(publication) if before else set()
            told.removed = len(removed)
            last = [library.CommitOperationDelete(path) for path in sorted(removed)]
            last += _texts(library, api, name, publication, there, Path(scratch))
            if last:
                told.commit = _commit(api, name, last, message or "Tables and card")
    told.pushed_to = f"{api.endpoint}/datasets/{name}"
    return told


def _library() -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415 - only here
    except ImportError as error:
        raise ConfigProblem("publishing to Hugging Face needs: pip install 'oxenbatch[hf]'") from error
    return huggingface_hub


def _there(api: Any, name: str) -> dict[str, tuple[int, str, str | None]]:
    """What the data set holds: size, git's hash, and for large files their SHA-256, by path."""
    files = api.list_repo_tree(name, recursive=True, repo_type=KIND)
    return {
        one.path: (one.size, one.blob_id, one.lfs.sha256 if one.lfs else None)
        for one in files
        if hasattr(one, "blob_id")
    }


def _fresh(publication: Publication, there: dict[str, tuple[int, str, str | None]], told: Published) -> Iterator[Piece]:
    """Pieces that the data set does not have, by their bytes."""
    for piece in publication.pieces():
        told.files += 1
        size, blob, sha256 = there.get(piece.path, (-1, "", None))
        if sha256 == piece.sha256 or (sha256 is None and size == piece.bytes and blob == _git_hash(piece.source, size)):
            continue
        told.added_bytes += piece.bytes
        yield piece


def _git_hash(path: Path, size: int) -> str:
    """The hash by which git, and so the hub, knows a small file."""
    import hashlib  # noqa: PLC0415

    with contextlib.suppress(OSError):
        digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        digest.update(path.read_bytes())
        return digest.hexdigest()
    return ""


def _addition(library: Any, piece: Piece) -> Any:
    """The upload of one file; it is read here, and must be what the ledger says."""
    try:
        addition = library.CommitOperationAdd(piece.path, str(piece.source))
    except (OSError, ValueError):
        raise damaged(piece, "is gone") from None
    if addition.upload_info.sha256.hex() != piece.sha256:
        raise damaged(piece, "is not what was downloaded")
    return addition


def _now(publication: Publication) -> set[str]:
    return {piece.path for piece in publication.pieces()}


def _published_before(api: Any, name: str, publication: Publication, there: dict[str, Any], scratch: Path) -> set[str]:
    """The files that the data set's own tables name: only those are ours to remove."""
    found: set[str] = set()
    for prefix in publication.made:
        path = f"{prefix}/{METADATA}" if prefix else METADATA
        if path in there:
            table = api.hf_hub_download(name, path, repo_type=KIND, local_dir=scratch)
            found |= {f"{prefix}/{one}" if prefix else one for one in names_in(Path(table))}
    return found & there.keys()


def _texts(
    library: Any, api: Any, name: str, publication: Publication, there: dict[str, Any], scratch: Path
) -> list[Any]:
    """The tables and the card, as far as they changed."""
    contents = {path: file.read_bytes() for path, file in publication.tables()}
    existing = None
    if CARD in there:
        existing = Path(api.hf_hub_download(name, CARD, repo_type=KIND, local_dir=scratch)).read_text("utf-8")
    contents[CARD] = publication.card(existing).encode()
    changed = []
    for path, content in contents.items():
        kept = scratch / path
        if path in there and not kept.exists():
            kept = Path(api.hf_hub_download(name, path, repo_type=KIND, local_dir=scratch))
        if path not in there or kept.read_bytes() != content:
            changed.append(library.CommitOperationAdd(path, content))
    return changed


def _commit(api: Any, name: str, operations: list[Any], message: str) -> str:
    return str(api.create_commit(name, operations, commit_message=message, repo_type=KIND).oid)


@contextlib.contextmanager
def _as_ours(name: str) -> Iterator[None]:
    """The library's errors in our classes. Its HTTP client differs from version to version, and so do its errors."""
    try:
        yield
    except (OxenbatchError, KeyboardInterrupt):
        raise
    except Exception as error:
        ours = _ours(error, printable(name, 100))
        if ours is None:
            raise
        raise ours from error


_CLIENTS: Final = frozenset(["httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"])


def _ours(error: BaseException, name: str) -> OxenbatchError | None:
    import huggingface_hub.errors as theirs  # noqa: PLC0415 - only here

    said = printable(" ".join(str(error).split()), 300)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, theirs.HFValidationError):
        return UsageProblem(f"hf:{name} is no name of a data set: {said}")
    if isinstance(error, theirs.RepositoryNotFoundError):
        return UsageProblem(
            f"there is no data set {name} on Hugging Face, or your token may not see it: create it, then publish"
        )
    if isinstance(error, theirs.LocalTokenNotFoundError) or status in (401, 403):
        return KeyRefused(f"Hugging Face does not let you write to {name}: set HF_TOKEN, or `hf auth login` ({said})")
    if isinstance(error, theirs.HfHubHTTPError):
        return HubUnreachable(f"Hugging Face answered {status} ({said})")
    client = type(error).__module__.split(".")[0] in _CLIENTS
    # What uploads large files is a library of its own, whose errors are the built-in ones.
    network = isinstance(error, ConnectionError | TimeoutError) or said.startswith("Network error")
    if client or network or isinstance(error, theirs.OfflineModeIsEnabled):
        return HubUnreachable(f"Hugging Face cannot be reached ({type(error).__name__}: {said})")
    if error.__cause__ is not None:
        return _ours(error.__cause__, name)
    return MachineError(said) if isinstance(error, OSError) else None
