"""A batch in parts: which rows belong to a shard, and which part of each limit is its own.

Rules of residence: pure; no I/O, no clock, no randomness. What must always hold: a row's shard depends on the row's
identity and the number of shards alone, so that other rows may come, go and change places; and the shares of a limit,
added over all shards, are that limit to the last nanodollar, whoever runs which shard and when.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from math import floor
from typing import TYPE_CHECKING, Final, Self

from oxenbatch.errors import UsageProblem, printable
from oxenbatch.jobs import Row, request_hash

if TYPE_CHECKING:
    from oxenbatch.plan import Limits

FOLDER: Final = "shards"
LEASE: Final = "lease.json"  # beside a shard's ledger, where a cluster runs it: before it is sent out, and for good
MOST: Final = 100_000  # more than any array of jobs that schedulers allow: a larger number is a slip of the finger
NANOS: Final = 1_000_000_000  # nanodollars in a dollar: what limits are held against
_NAME: Final = re.compile(r"([1-9][0-9]*)-of-([1-9][0-9]*)")


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One part of a batch: number 3 of 10."""

    number: int
    """From 1."""
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard that `3/10` names; `UsageProblem` where it names none."""
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if not match:
            raise UsageProblem(f"--shard {printable(text, 80)}: expected K/N, such as 3/10")
        number, total = int(match[1]), int(match[2])
        if not 1 <= number <= total <= MOST:
            raise UsageProblem(
                f"--shard {printable(text, 80)}: expected K/N with K from 1 to N, and N at most {MOST:,}"
            )
        return cls(number, total)

    @classmethod
    def of_folder(cls, name: str) -> Self | None:
        """The shard whose folder is called so, or None."""
        match = _NAME.fullmatch(name)
        return cls(int(match[1]), int(match[2])) if match else None

    @property
    def folder(self) -> str:
        """The name of its folder, in the batch's folder of shards."""
        return f"{self.number}-of-{self.total}"

    def owns(self, row: Row) -> bool:
        """Whether the row belongs here: by its id, or by its request where it has none.

        Equal rows without an id are one request, and stay together: their numbers are then the whole batch's.
        """
        identity = f"id:{row.id}" if row.id is not None else request_hash(row.model, row.parameters)
        digest = hashlib.sha256(f"shard/{identity}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8]) % self.total == self.number - 1

    def share(self, whole: int) -> int:
        """Its part of a whole number: an equal one, and one of the remainder where its own number is small enough."""
        return whole // self.total + (self.number <= whole % self.total)

    def share_of_dollars(self, whole: Decimal) -> Decimal:
        """Its part of an amount, in whole nanodollars; what is less than one nanodollar is nobody's."""
        from fractions import Fraction  # noqa: PLC0415 - seldom

        return Decimal(self.share(floor(Fraction(whole) * NANOS))) / NANOS

    def limits(self, whole: Limits) -> Limits:
        """What this shard is allowed of what the whole batch is; `UsageProblem` where a share would be no place."""
        names = {"concurrency": whole.concurrency} | {f"the concurrency of {m}": n for m, n in whole.models.items()}
        for name, places in names.items():
            if places < self.total:
                raise UsageProblem(
                    f"{printable(name, 120)} is {places}, which gives some of {self.total} shards no place at the hub:"
                    f" raise it to {self.total}, or make fewer shards"
                )
        return replace(
            whole,
            concurrency=self.share(whole.concurrency),
            models={model: self.share(places) for model, places in whole.models.items()},
            max_cost=None if whole.max_cost is None else self.share_of_dollars(whole.max_cost),
            limit_sends=None if whole.limit_sends is None else self.share(whole.limit_sends),
        )


def all_of(total: int) -> list[Shard]:
    """Every shard of so many."""
    return [Shard(number, total) for number in range(1, total + 1)]
