"""Serving files: presigned addresses on another origin, Range and ETag."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Final

from .media import filled, render
from .messages import Answer, short, text_answer
from .mishaps import expired_address

if TYPE_CHECKING:
    from .clockwork import Generation
    from .messages import Request
    from .state import HubState

PRESIGNED_S: Final = 3600.0  # how long an address is good; divided by the hub's speed
LEAST_PRESIGNED_S: Final = 60.0  # a real client needs real time to fetch, whatever the hub's speed
# Not a secret: it only makes an address that was tampered with recognisable, also after a restart.
_SIGNING: Final = b"the stand-in hub signs its addresses"


def _signature(generation_id: str, expires: int) -> str:
    return hmac.new(_SIGNING, f"{generation_id}/{expires}".encode(), hashlib.sha256).hexdigest()[:32]


def address_of(hub: HubState, generation: Generation) -> str:
    """Where the generation's file can be had, from now on and for a while."""
    if generation.place == "hub":
        return f"{hub.base_url}/api/files/{generation.id}"
    lifetime_s = max(LEAST_PRESIGNED_S, PRESIGNED_S / hub.speed)
    expires = int(hub.now + lifetime_s)
    return f"{hub.files_url}/files/{generation.id}?expires={expires}&signature={_signature(generation.id, expires)}"


def serve_presigned(hub: HubState, request: Request, generation_id: str) -> Answer:
    """The file, to whoever has an address that is still good; the key is not asked for, and must not be sent."""
    expires, signature = request.asked("expires") or "", request.asked("signature") or ""
    if not re.fullmatch(r"\d{1,12}", expires) or not hmac.compare_digest(
        _signature(generation_id, int(expires)).encode(), signature.encode("utf-8", "replace")
    ):
        words = "<Error><Code>SignatureDoesNotMatch</Code><Message>The signature is wrong</Message></Error>"
        return text_answer(words, 403, "application/xml")
    if hub.now > int(expires):
        return expired_address()
    return _serve(hub, request, generation_id)


def serve_own(hub: HubState, request: Request, generation_id: str) -> Answer:
    """The file from the hub's own host, where the key is needed."""
    return _serve(hub, request, generation_id)


def _serve(hub: HubState, request: Request, generation_id: str) -> Answer:
    generation = hub.generations.get(generation_id)
    if generation is None or generation.status != "succeeded":
        return text_answer("<Error><Code>NoSuchKey</Code></Error>", 404, "application/xml")
    content_type, body = filled(generation, hub.file_bytes) if hub.file_bytes else render(generation)
    mark = hashlib.sha256(f"{generation.id}/{len(body)}".encode()).hexdigest()[:32]  # its bytes are its id's, always
    if request.method == "GET":
        hub.served[generation_id] += 1
    ranges = not hub.strikes("no_range", "GET /files/ID", generation.model)
    return ranged(request, body, content_type, mark, ranges=ranges)


def ranged(request: Request, body: bytes, content_type: str, mark: str, *, ranges: bool = True) -> Answer:
    """The whole body, or the one part of it that was asked for; `mark` tells it from any other."""
    etag = f'"{mark}"'
    headers = {"content-type": content_type, "etag": etag, "content-length": str(len(body))}
    status, part = 200, body
    if ranges:
        headers["accept-ranges"] = "bytes"
        # A resumed download says whose bytes it holds: where they are not these, it gets the whole file.
        if request.headers.get("if-range", etag) == etag:
            found = _range(request.headers.get("range", ""), len(body))
            if found == "unsatisfiable":
                return Answer(416, {"content-range": f"bytes */{len(body)}", "content-length": "0"})
            if isinstance(found, range):
                status, part = 206, body[found.start : found.stop]
                headers["content-range"] = f"bytes {found.start}-{found.stop - 1}/{len(body)}"
                headers["content-length"] = str(len(part))
    return Answer(status, headers, part)


def _range(header: str, size: int) -> range | str | None:
    """The bytes that a Range header names; None where it names no single range and so is ignored."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if match is None or match.group() == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return None
    return range(start, stop) if start < stop else "unsatisfiable"


def no_such_file(_hub: HubState, _request: Request, _path: str) -> Answer:
    """Nothing else lives on the files' origin."""
    return text_answer("<Error><Code>NoSuchKey</Code></Error>", 404, "application/xml")


def no_such_call(_hub: HubState, _request: Request, _path: str) -> Answer:
    """No call has this address."""
    return short(404, "resource_not_found")
