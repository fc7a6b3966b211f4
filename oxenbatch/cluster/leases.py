"""The lease of a shard: who may work on it, and how much money it may have committed.

A small file beside the shard's ledger, on the folder that all workers share. Two things guard a shard: the kernel's
lock, which goes with the process that holds it, and the lease's epoch, which only rises. Whoever was sent with an older
epoch has no business here any more, even if nobody holds the lock. What must always hold: a lease is written only by
who holds the shard's lock, durably, before anybody is sent out with it; and the money of all leases of a batch together
is never more than the batch may cost.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from oxenbatch.download import fsync_folder
from oxenbatch.errors import MachineError, printable
from oxenbatch.shards import LEASE

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may work on a shard."""

    epoch: int
    max_cost: Decimal | None
    """Dollars that the shard may have committed, in all; None: no limit."""
    holder: str = ""
    """Who began to work with it last, for people."""


def read(folder: Path) -> Lease | None:
    """The shard's lease, or None where it has none yet; `MachineError` where it cannot be read."""
    path = folder / LEASE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        money = told["max_cost"]
        return Lease(int(told["epoch"]), None if money is None else Decimal(money), str(told["holder"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, InvalidOperation) as error:
        raise MachineError(f"{printable(path)} cannot be read: {error}") from error


def write(folder: Path, lease: Lease) -> None:
    """The shard's lease is this one, durably; call with the shard's lock held."""
    path, part = folder / LEASE, folder / f"{LEASE}.part"
    money = None if lease.max_cost is None else f"{lease.max_cost:f}"
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump({"epoch": lease.epoch, "max_cost": money, "holder": lease.holder}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        fsync_folder(folder)
    except OSError as error:
        raise MachineError(f"cannot write {printable(path)}: {error.strerror or error}") from error
