"""A paid result becomes a file: whole, checked and in its place, or not there at all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from world import VIDEO, World, open_quickly, rows, scratch, small

from oxenbatch import download
from oxenbatch.plan import Limits
from oxenbatch.sandbox.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oxenbatch.sandbox import Request

LIMITS = Limits(concurrency=4, settle_s=20.0)


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as path:
        yield path


def _world(folder: Path, count: int, *faults: dict[str, Any], **fields: Any) -> World:
    return World(folder, rows(count, **fields), faults=faults, limits=LIMITS, seed="download")


def _heard(world: World, kind: str) -> list[Request]:
    """Every request of this kind that the hub hears from now on."""
    heard: list[Request] = []
    world.on_request = lambda request: heard.append(request) if request.path.startswith(kind) else None
    return heard


def _ends(world: World) -> tuple[int, dict[str, int]]:
    summary = world.run()
    assert summary is not None
    return summary.exit_code, dict(world.states())


# -- bodies ---------------------------------------------------------------------------------------------------------


BODIES: dict[str, dict[str, Any]] = {
    "empty": {"do": "empty_body"},
    "a page": {"do": "wrong_type"},
    "a page that says it is a picture": {"do": "wrong_type", "content_type": "image/png"},
    "cut": {"do": "cut_body"},
    "cut, without a length": {"do": "cut_body", "length": False},
    "cut before the first byte": {"do": "cut_body", "share": 0.0},
    "silent midway": {"do": "stall"},
    "of a wrong length": {"do": "wrong_length"},
    "shorter than it is": {"do": "wrong_length", "by": -5},
    "an error": {"do": "server_error", "on": "GET /files/ID"},
    "expired": {"do": "expired_address"},
}


@pytest.mark.parametrize("model", [None, VIDEO], ids=["picture", "video"])
@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_not_the_file_is_fetched_again_and_never_kept(
    folder: Path, body: str, model: str | None
) -> None:
    world = _world(folder, 2, {**BODIES[body], "times": 4}, **({"model": model} if model else {}))

    assert _ends(world) == (0, {"downloaded": 2})
    world.assert_whole()
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("body", ["empty", "a page", "of a wrong length", "an error", "expired"])
def test_a_file_that_is_never_had_is_unfetchable_after_eight_tries_and_the_next_run_has_it_for_nothing(
    folder: Path, body: str
) -> None:
    world = _world(folder, 1, BODIES[body])
    tries = _heard(world, "/files/")

    assert _ends(world) == (3, {"unfetchable": 1})
    assert len(tries) == 8
    assert world.results() == []
    (generation_id,) = world.hub.generations
    assert world.query("select generation_id from generations where state = 'unfetchable'") == [(generation_id,)]
    world.hub.faults = Faults()
    assert _ends(world) == (0, {"downloaded": 1})
    world.assert_whole()


def test_a_file_larger_than_any_video_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SIZE_MAX", 4096)
    world = _world(folder, 1, {"do": "oversize", "bytes": 8192})

    assert _ends(world) == (3, {"unfetchable": 1})
    assert world.results() == []


def test_a_file_that_comes_drop_by_drop_is_given_up_for_another_try(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RATE_WINDOW_S", 0.0)
    monkeypatch.setattr(download, "LEAST_RATE", 1 << 40)
    world = _world(folder, 1, {"do": "slow_answer", "on": "GET /files/ID", "seconds": 1.0})
    chunks = download.Downloads._receive

    async def dawdling(self: Any, answer: Any, file: int, digest: Any, part: Any) -> None:
        async def slowly() -> Any:
            async for chunk in answer.chunks:
                world.now += 61.0
                yield chunk

        await chunks(self, replace(answer, chunks=slowly()), file, digest, part)

    monkeypatch.setattr(download.Downloads, "_receive", dawdling)
    monkeypatch.setattr(download, "RATE_WINDOW_S", 60.0)

    assert _ends(world) == (3, {"unfetchable": 1})
    assert "slower than" in world.query("select error from samples")[0][0]


# -- going on where it broke ----------------------------------------------------------------------------------------


def test_a_file_that_broke_goes_on_where_it_broke_if_it_is_the_same(folder: Path) -> None:
    world = _world(folder, 1, {"do": "cut_body", "times": 1}, model=VIDEO)
    asked = _heard(world, "/files/")

    assert _ends(world) == (0, {"downloaded": 1})
    (made,) = world.hub.generations.values()
    half = len(small(made)[1]) // 2
    assert [(a.headers.get("range"), "if-range" in a.headers) for a in asked] == [
        (None, False),
        (f"bytes={half}-", True),
    ]
    world.assert_whole()


def test_a_file_that_has_changed_meanwhile_starts_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = _world(folder, 1, {"do": "cut_body", "times": 1}, model=VIDEO)
    asked: list[Request] = []

    def change(request: Request) -> None:
        if request.path.startswith("/files/"):
            asked.append(request)
            if "if-range" in request.headers:
                request.headers["if-range"] = '"of another time"'

    world.on_request = change

    assert _ends(world) == (0, {"downloaded": 1})
    assert len(asked) == 2
    world.assert_whole()


def test_a_hub_that_knows_no_ranges_is_asked_for_the_whole_file(folder: Path) -> None:
    world = _world(folder, 1, {"do": "cut_body", "times": 1}, {"do": "no_range"}, model=VIDEO)

    assert _ends(world) == (0, {"downloaded": 1})
    world.assert_whole()


# -- addresses ------------------------------------------------------------------------------------------------------


def test_an_address_that_expired_while_nobody_ran_is_asked_for_anew(folder: Path) -> None:
    world = _world(folder, 3)
    world.run(kill_at=60)
    world.now += 7200.0

    assert _ends(world) == (0, {"downloaded": 3})
    world.assert_whole()


def test_a_file_on_the_hubs_own_host_is_fetched_with_the_key(folder: Path) -> None:
    world = _world(folder, 2, {"do": "own_host"})
    asked = _heard(world, "/api/files/")

    assert _ends(world) == (0, {"downloaded": 2})
    assert [a.headers.get("authorization") for a in asked] == ["Bearer sandbox"] * 2
    world.assert_whole()


def test_a_file_elsewhere_is_fetched_without_the_key(folder: Path) -> None:
    world = _world(folder, 2)
    asked = _heard(world, "/files/")

    world.run()

    assert [a.headers.get("authorization") for a in asked] == [None, None]


def test_an_address_that_is_nested_is_found(folder: Path) -> None:
    world = _world(folder, 2, {"do": "nested_url"})

    assert _ends(world) == (0, {"downloaded": 2})
    world.assert_whole()


def test_a_result_without_any_address_is_unfetchable_and_a_later_run_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oxenbatch.sandbox import calls, state

    world = _world(folder, 1)
    for module in (calls.files, state):
        monkeypatch.setattr(module, "address_of", lambda *_: None)

    assert _ends(world) == (3, {"unfetchable": 1})
    assert world.query("select error from samples") == [("the hub has no address for this result",)]
    monkeypatch.undo()
    assert _ends(world) == (0, {"downloaded": 1})
    world.assert_whole()


# -- what is in the way ---------------------------------------------------------------------------------------------


def _name(world: World) -> str:
    """The name that the first file is going to have."""
    world.run(kill_at=12)
    return str(world.query("select name from samples order by id")[0][0])


def test_a_foreign_file_in_the_way_stops_the_run_and_stays_as_it_is(folder: Path) -> None:
    world = _world(folder, 1)
    foreign = folder / f"{_name(world)}.png"
    foreign.write_bytes(b"mine")

    summary = world.run()

    assert summary is not None
    assert summary.exit_code == 74
    assert any("in the way" in words for words in summary.reasons)
    assert foreign.read_bytes() == b"mine"
    foreign.unlink()
    assert _ends(world) == (0, {"downloaded": 1})
    world.assert_whole()


@pytest.mark.parametrize("suffix", [".png", ".part", ".png.part"])
def test_a_link_in_the_way_is_not_followed(folder: Path, suffix: str) -> None:
    world = _world(folder, 1)
    with scratch() as elsewhere:
        secret = elsewhere / "secret"
        secret.write_bytes(b"secret")
        (folder / f"{_name(world)}{suffix}").symlink_to(secret)

        summary = world.run()

        assert summary is not None
        assert summary.exit_code == (74 if suffix != ".png.part" else 0)
        assert secret.read_bytes() == b"secret"


def test_a_folder_that_leads_elsewhere_is_refused(folder: Path) -> None:
    with scratch() as elsewhere:
        world = _world(folder / "batch", 1)
        name = _name(world)
        with_folder = f"0001/{name}"
        with open_quickly(world.ledger_path) as ledger:
            ledger.conn.execute("update samples set name = ?", (with_folder,))
        (world.folder / "0001").symlink_to(elsewhere)

        summary = world.run()

        assert summary is not None
        assert summary.exit_code == 74
        assert list(elsewhere.iterdir()) == []


def test_what_a_killed_run_put_there_without_saying_so_is_taken_for_what_it_is(folder: Path) -> None:
    world = _world(folder, 1)
    world.run()
    kill_at = world.points.index("before keep is on disk")
    with scratch() as other:
        again = _world(other, 1)
        again.run(kill_at=kill_at)
        assert len(again.results()) == 1
        assert again.states() == {"succeeded": 1}
        assert _ends(again) == (0, {"downloaded": 1})
        again.assert_whole()


# -- lost files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_file_that_is_gone_or_cut_is_fetched_again_for_nothing(folder: Path, how: str) -> None:
    world = _world(folder, 2)
    world.run()
    lost = world.results()[0]
    lost.unlink() if how == "gone" else lost.write_bytes(lost.read_bytes()[:20])

    assert _ends(world) == (0, {"downloaded": 2})
    world.assert_whole()
