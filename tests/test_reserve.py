"""Room that is kept for the day the disk is full."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from oxenbatch.reserve import BYTES_A_RESULT, LEAST_FREE, NAME, RESERVE_BYTES, Reserve

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_reserve_is_there_while_the_run_is_and_gone_after_it(tmp_path: Path) -> None:
    with Reserve(tmp_path) as reserve:
        assert (tmp_path / NAME).stat().st_size == RESERVE_BYTES
        assert (tmp_path / NAME).stat().st_blocks * 512 >= RESERVE_BYTES, "a hole keeps no room"
        assert reserve.give_up()
        assert not (tmp_path / NAME).exists()
        assert not reserve.give_up(), "it can be given up once"
    assert list(tmp_path.iterdir()) == []


def test_a_reserve_that_a_killed_run_has_left_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"old")
    with Reserve(tmp_path):
        assert (tmp_path / NAME).stat().st_size == RESERVE_BYTES


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    folder = tmp_path / "batch"
    folder.mkdir()
    (folder / NAME).symlink_to(outside)
    with Reserve(folder):
        assert outside.read_bytes() == b"mine"


def test_the_disk_is_short_when_what_is_under_way_may_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = LEAST_FREE + 5 * BYTES_A_RESULT
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2 * room, room, room))
    reserve = Reserve(tmp_path)
    assert not reserve.is_short(active=4)
    assert reserve.is_short(active=5)
