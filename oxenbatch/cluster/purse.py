"""The money of a batch in shards: who may have committed how much, and how what is left over is given on.

Rules of residence: pure. Whole nanodollars. What must always hold: grants never add up to more than the batch may cost;
a grant is never lowered below what its shard has committed, and only while nobody works on the shard.
"""

from __future__ import annotations

from dataclasses import dataclass

from oxenbatch.shards import Shard


@dataclass(frozen=True, slots=True)
class Hungry:
    """A shard that stopped for want of money, and is at rest."""

    shard: Shard
    committed: int
    cheapest: int
    """What the cheapest of its unsent samples is expected to cost."""


def first_grants(whole: int, committed: dict[Shard, int]) -> dict[Shard, int]:
    """Each shard may have what it has committed, and an equal part of what the batch has left."""
    left = max(0, whole - sum(committed.values()))
    return {shard: spent + shard.share(left) for shard, spent in committed.items()}


def more(whole: int, taken: int, hungry: list[Hungry]) -> dict[Shard, int]:
    """New grants for hungry shards, as far as they can do something with them.

    `taken`: the grants of all shards, the hungry ones' too, which are what they have committed.
    Equal parts of what is left, where each can pay for a sample with it; else all of it to the first that can.
    """
    left = whole - taken
    if left <= 0 or not hungry:
        return {}
    parts = [Shard(n, len(hungry)).share(left) for n in range(1, len(hungry) + 1)]
    if all(part >= one.cheapest for part, one in zip(parts, hungry, strict=True)):
        return {one.shard: one.committed + part for part, one in zip(parts, hungry, strict=True)}
    able = next((one for one in hungry if one.cheapest <= left), None)
    return {able.shard: able.committed + left} if able else {}
