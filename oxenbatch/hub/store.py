"""Files that requests send along, in their place at the hub: each under a name that is made of its bytes.

So storing one twice changes nothing, and it is tried again like a call that only reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final

import httpx

from oxenbatch.addresses import without_default_port
from oxenbatch.hub.again import asked_again
from oxenbatch.hub.trouble import HubTrouble, TooLargeToStore, why
from oxenbatch.words import Cause

if TYPE_CHECKING:
    from collections.abc import Callable

    from oxenbatch.hub.connections import Way
    from oxenbatch.wire import InputPlace

CONNECT_S: Final = 10.0
SILENCE_S: Final = 120.0  # a repository's commit of a large file takes its time
ANSWER_MAX: Final = 1 << 20  # bytes; a commit's description has some hundreds
PASSING: Final = frozenset({409, 423, 425})  # another commit was faster


class Store:
    """The folder at the hub where input files are kept; `way` carries the key, and goes to the hub alone."""

    def __init__(
        self,
        way: Way,
        origin: str,
        place: InputPlace | None,
        understood: Callable[[httpx.Response, bytes, str], Any],
        out_of_reach: Callable[[], None],
    ) -> None:
        self._way = way
        self._origin = origin
        self.place = place
        """None where the manifest does not say."""
        self._understood = understood
        self._out_of_reach = out_of_reach

    def address(self, name: str = "") -> str | None:
        """Where a file of this name is kept, or their folder; None where there is no place for them."""
        return None if self.place is None else f"{without_default_port(self._origin)}/api{self.place.path(name)}"

    async def has(self, name: str, size: int) -> bool:
        """Whether the hub has this file already; only ever an opinion that saves an upload."""
        response, _ = await self._ask("HEAD", self._path(name), headers={"Accept-Encoding": "identity"})
        return response.status_code == 200 and response.headers.get("content-length") in (None, str(size))

    async def put(self, name: str, file: BinaryIO, media_type: str) -> None:
        """The file is kept, in one commit; `HubTrouble` in its kinds where it is not."""
        form = {"message": f"Input {name}", "name": "oxenbatch", "email": "oxenbatch@localhost"}
        path = self._path(name)

        async def once() -> None:
            file.seek(0)
            timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S, pool=None)
            parts = {"file": (name, file, media_type)}
            response, content = await self._ask("PUT", path, form={"data": form, "files": parts}, timeout=timeout)
            if response.status_code == 413:
                raise TooLargeToStore(f"PUT {path}: HTTP 413")
            if response.status_code in PASSING:
                raise HubTrouble(f"PUT {path}: HTTP {response.status_code}", cause=Cause.HUB)
            self._understood(response, content, f"PUT {path}")

        await asked_again(once)

    def _path(self, name: str) -> str:
        if self.place is None:
            raise RuntimeError("files are stored only where the manifest says where")
        return self.place.path(name)

    async def _ask(self, method: str, path: str, **options: Any) -> tuple[httpx.Response, bytes]:
        """The answer and its first bytes: no answer about a file needs more."""
        content = b""
        try:
            async with self._way.open(method, f"{self._origin}/api{path}", **options) as response:
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > ANSWER_MAX:
                        break
            return response, content
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            self._out_of_reach()
            raise HubTrouble(f"{method} {path}: {why(error)}", cause=Cause.HUB) from None
