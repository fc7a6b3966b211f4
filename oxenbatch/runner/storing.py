"""The store stage: files that requests send along are at the hub before the requests are."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tempfile
from typing import TYPE_CHECKING, BinaryIO, Final

from oxenbatch.download import MEDIA_TYPES
from oxenbatch.errors import printable
from oxenbatch.hub import HubTrouble, NotFound, TooLargeToStore
from oxenbatch.ledger import inputs
from oxenbatch.media import VIDEOS
from oxenbatch.plan import STORES, Stop
from oxenbatch.runner.bell import Tone
from oxenbatch.words import Cause

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.download import Blocking
    from oxenbatch.ledger.inputs import Unstored
    from oxenbatch.runner.desk import Desk

IN_MEMORY: Final = 64 * 2**20  # bytes: nearly every image; what is larger is copied beside, for as long as it is sent


class _Changed(Exception):
    """The file is not the one that the manifest was read with."""


class Storing:
    """Stores what is due and not at the hub yet; each file once, by its bytes."""

    def __init__(self, desk: Desk, root: Path | None, blocking: Blocking) -> None:
        self.desk = desk
        self._root = root
        self._blocking = blocking

    async def run(self) -> None:
        desk = self.desk
        while not desk.over and not desk.stops:
            mark = desk.bell.mark(Tone.LOOK)
            if not desk.wants_inputs:
                await desk.bell.wait(mark, None)
                continue
            desk.wants_inputs = False
            folder = desk.hub.store.address()
            if folder is None or self._root is None:
                desk.stop(Stop.INPUTS, "rows send files along, and the manifest does not say where the hub keeps them")
                return
            after = 0
            while not desk.over and not desk.stops:
                due = await desk.clerk.do(inputs.unstored, folder, after=after, limit=STORES)
                if not due:
                    break
                async with asyncio.TaskGroup() as group:
                    for one in due:
                        group.create_task(self._store(one, folder), name=f"store {one.name}")
                after = due[-1].input_id

    async def _store(self, one: Unstored, folder: str) -> None:
        """The hub has the file and the ledger knows, or the run sends nothing more."""
        desk = self.desk
        refused = False
        while not desk.over and not desk.stops:
            try:
                if not await desk.hub.store.has(one.name, one.bytes):
                    file = await self._blocking.do(self._snapshot, one)
                    with file:
                        await desk.hub.store.put(one.name, file, _media_type(one))
                await desk.clerk.do(inputs.stored, one.input_id, folder + one.name, at=desk.hub.time.now())
            except OSError as error:
                desk.stop(Stop.INPUTS, f"{_shown(one)} cannot be read: {error.strerror or error}")
            except _Changed as changed:
                desk.stop(Stop.INPUTS, str(changed))
            except HubTrouble as trouble:
                if trouble.cause is Cause.KEY and not refused:
                    refused = True  # one odd answer stops no run, and asking again costs nothing
                    continue
                await self._troubled(one, trouble)
            else:
                desk.went("store files", well=True)
                desk.bell.ring()
                return

    def _snapshot(self, one: Unstored) -> BinaryIO:
        """The bytes that the manifest was read with: what has changed since is never stored by their name."""
        if self._root is None or not one.path:
            raise _Changed(f"{one.name}: no file of the manifest has these bytes any more, and a row needs them")
        copy: BinaryIO = io.BytesIO() if one.bytes <= IN_MEMORY else tempfile.TemporaryFile()  # noqa: SIM115 - returned
        digest = hashlib.sha256()
        with (self._root / one.path).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                copy.write(chunk)
        if digest.hexdigest() != one.name.partition(".")[0]:
            copy.close()
            raise _Changed(f"{_shown(one)} was changed since the manifest was read: run it again")
        return copy

    async def _troubled(self, one: Unstored, trouble: HubTrouble) -> None:
        desk, place = self.desk, self.desk.hub.store.place
        where = printable(f"{place.namespace}/{place.repo}") if place else ""
        if trouble.cause in (Cause.HUB, Cause.RATE):
            desk.went("store files", well=False)
            await desk.troubled(trouble)
        elif trouble.cause is Cause.KEY:
            desk.stop(Stop.FORBIDDEN, f"the hub does not let this key store files in {where} ({trouble})")
        elif isinstance(trouble, NotFound):
            branch = printable(place.branch) if place else ""
            words = f"the hub has no repository {where} with a branch {branch}, or this key may not see it"
            desk.stop(Stop.INPUTS, f"{words}: create it, or mend 'inputs:' in the manifest ({trouble})")
        elif isinstance(trouble, TooLargeToStore):
            desk.stop(Stop.INPUTS, f"{_shown(one)} is too large for the hub ({one.bytes:,} bytes)")
        else:
            desk.stop(Stop.INPUTS, f"the hub does not take {_shown(one)}: {trouble}")


def _shown(one: Unstored) -> str:
    return printable(one.path or one.name)


def _media_type(one: Unstored) -> str:
    extension = one.name.partition(".")[2]
    return MEDIA_TYPES.get(extension, f"{'video' if extension in VIDEOS else 'image'}/{extension}")
