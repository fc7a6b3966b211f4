"""The ledger held against the hub: what it must see, and what is not its business."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from world import IMAGE, World, rows

from oxenbatch import audit as auditing
from oxenbatch.hub import Hub
from oxenbatch.ledger import rebuild, runs, staging
from oxenbatch.ledger.book import Ledger
from oxenbatch.sandbox.messages import Request

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.audit import Audit


def audit(world: World) -> Audit:
    from world import _Wire

    async def ask() -> Audit:
        world._hub_changed = asyncio.Event()
        world.latency_s = 0.0
        async with Hub(world.hub.base_url, world.key, clock=world, transport=_Wire(world)) as hub:
            with Ledger.open(world.ledger_path) as ledger:
                return await auditing.audit(ledger, hub)

    return asyncio.run(ask())


def buy(world: World, prompt: str) -> None:
    """Somebody else sends a request, and it is made."""
    body = json.dumps({"model": IMAGE, "prompt": prompt}).encode()
    world.hub.handle(Request("POST", "/api/ai/queue", headers={"authorization": "Bearer sandbox"}, body=body))
    world.now += 120.0
    world.hub.advance()


def test_a_batch_that_is_whole_is_clean(tmp_path: Path) -> None:
    world = World(tmp_path, rows(3))
    world.run()
    found = audit(world)

    assert found.is_clean
    assert (found.known, found.found, str(found.charged)) == (3, 3, "0.042")


def test_a_generation_of_our_request_that_no_ledger_has_is_an_orphan_and_a_duplicate(tmp_path: Path) -> None:
    world = World(tmp_path, rows(3))
    world.run()
    buy(world, "prompt 2")
    found = audit(world)

    assert not found.is_clean
    assert [orphan["prompt"] for orphan in found.orphans] == ["prompt 2"]
    assert [(one["charged"], one["wanted"]) for one in found.duplicates] == [(2, 1)]


def test_what_other_programs_make_is_counted_and_otherwise_their_own_business(tmp_path: Path) -> None:
    world = World(tmp_path, rows(1))
    world.run()
    buy(world, "somebody else's")
    found = audit(world)

    assert found.is_clean
    assert found.others == 1


def test_a_generation_that_the_hub_does_not_know_is_missing(tmp_path: Path) -> None:
    world = World(tmp_path, rows(2))
    world.run()
    gone = world.hub.posts[0].generation_ids[0]
    del world.hub.generations[gone]

    assert audit(world).missing == [gone]


def test_a_batch_that_never_sent_anything_asks_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, rows(1))
    world.key = "wrong"
    world.run()
    world.key = "sandbox"

    assert audit(world) == auditing.Audit()


def test_a_lost_ledger_is_rebuilt_from_what_the_hub_has_made_and_pays_for_the_rest_only(tmp_path: Path) -> None:
    world = World(tmp_path / "old", [*rows(3), *rows(2, prompt="the same")])
    world.run()
    fresh = World(tmp_path / "new", [*world.rows, *rows(1, prompt="one more")])
    fresh.hub, fresh.now = world.hub, world.now + 60.0
    fresh.hub.clock = fresh.wall

    async def history() -> list:  # type: ignore[type-arg]
        from world import _Wire

        fresh._hub_changed = asyncio.Event()
        fresh.latency_s = 0.0
        async with Hub(fresh.hub.base_url, "sandbox", clock=fresh, transport=_Wire(fresh)) as hub:
            return await hub.history_since(0.0)

    made = asyncio.run(history())
    with Ledger.open(fresh.ledger_path, create=True) as ledger:
        runs.begin_batch(ledger, name="world", hub="world", at=1.0, on="2026-11-22")
        run_id = runs.begin_run(ledger, version="1", at=1.0)
        terms = staging.Terms(at=1.0, attempts=3, price=lambda _: None, takes_seed=lambda _: True)
        staging.stage(ledger, fresh.rows, str(len(fresh.rows)), terms)
        assert rebuild.rebuild(ledger, made, at=fresh.wall(), run_id=run_id) == 5
    fresh.latency_s = 0.02
    summary = fresh.run()

    assert summary is not None
    assert (summary.exit_code, summary.done) == (0, 6)
    assert len(fresh.hub.posts) == 6


def test_a_held_send_is_for_a_person_to_look_at(tmp_path: Path) -> None:
    faults = [{"do": "lose_answer", "times": 1}, {"do": "no_echo"}]
    world = World(tmp_path, rows(3), faults=faults)
    world.run()
    found = audit(world)

    assert (found.is_clean, found.held) == (False, 1)
