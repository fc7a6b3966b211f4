"""Files that users keep in their repositories at the hub, and that models fetch from there."""

from __future__ import annotations

import hashlib
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from .files import ranged
from .messages import Answer, json_answer, message, problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .messages import Request
    from .models import Model
    from .state import HubState

CALL: Final = "PUT /repos/file"
MEDIA: Final = frozenset(["image", "images", "video", "videos"])
"""The words by which the catalogue says that a parameter is a file's address."""


class Store:
    """Bytes by their hash: beside the journal, so that they are there as long as what it says of them."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._kept: dict[str, bytes] = {}

    def put(self, content: bytes) -> str:
        """The content is kept; its hash."""
        sha256 = hashlib.sha256(content).hexdigest()
        if self._folder is None:
            self._kept[sha256] = content
        elif not (path := self._folder / sha256).exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(content)
            part.rename(path)
        return sha256

    def get(self, sha256: str) -> bytes:
        """The content of that hash."""
        return self._kept[sha256] if self._folder is None else (self._folder / sha256).read_bytes()


def store(hub: HubState, request: Request, path: str) -> Answer:
    """The field `file` of a form is kept at this path."""
    if hub.strikes("no_repository", CALL):
        return _not_found("/".join(path.split("/")[:2]))
    sent = _field(request, "file")
    if sent is None:
        return message(400, "expected a multipart form with a field `file`")
    content_type, content = sent
    small = hub.faults.strike("small_store", CALL, hub.elapsed) if hub.faults.rules else None
    if small and len(content) > small["bytes"]:
        return problem(413, "Request too large", f"A file may have {small['bytes']} bytes", "request_too_large")
    sha256 = hub.store.put(content)
    if hub.stored.get(path) != (content_type, sha256):
        hub.write({"do": "store", "at": hub.now, "path": path, "type": content_type, "sha256": sha256})
    return json_answer({"status": "success", "status_message": "resource_created", "commit": {"id": sha256[:32]}})


def _field(request: Request, name: str) -> tuple[str, bytes] | None:
    """A form field's content type and bytes."""
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        return None
    form = BytesParser(policy=HTTP).parsebytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + request.body)
    for part in form.iter_parts():
        if part.get_param("name", header="content-disposition") == name:
            payload = part.get_payload(decode=True)
            return part.get_content_type(), payload if isinstance(payload, bytes) else b""
    return None


def serve_stored(hub: HubState, request: Request, path: str) -> Answer:
    """A file that was stored here before."""
    if path not in hub.stored:
        return _not_found(path)
    content_type, sha256 = hub.stored[path]
    return ranged(request, hub.store.get(sha256), content_type, sha256[:32])


def _not_found(what: str) -> Answer:
    return problem(404, "Resource not found", f"{what} could not be found", "resource_not_found")


def unfetchable(hub: HubState, model: Model, asked: Mapping[str, Any]) -> str | None:
    """Why a file that the request names cannot be fetched; None where there is no such file.

    Only what should lie in this hub's own repositories is looked for: nothing is ever fetched from elsewhere.
    """
    for name, schema in (model.request_schema or {}).get("properties", {}).items():
        if schema.get("renderType") not in MEDIA:
            continue
        for address in _texts(asked.get(name)):
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https", "data"):
                return f"Invalid parameter {name}: {address[:200]!r} is not the address of a file"
            ours = parts.hostname == urlsplit(hub.base_url).hostname and parts.path.startswith("/api/repos/")
            if ours and unquote(parts.path).removeprefix("/api/repos/") not in hub.stored:
                return f"Could not fetch {name} from {address[:200]}"
    return None


def _texts(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str):
            yield one
