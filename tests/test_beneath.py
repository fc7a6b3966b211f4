"""Files beneath a folder: found and made by name, and never through a link."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from oxenbatch import beneath
from oxenbatch.beneath import Beneath, LedAway

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_seen_read_linked_and_removed_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"whole")
    with Beneath(tmp_path / "a") as source, Beneath(tmp_path / "b") as home:
        assert home.look("0001/y.png") is None
        assert home.hash("0001/y.png") == ""
        home.link(source, "x.png", "0001/y.png")
        home.sync()
        assert home.hash("0001/y.png") == hashlib.sha256(b"whole").hexdigest()
        assert (tmp_path / "b/0001/y.png").samefile(tmp_path / "a/x.png")
        with pytest.raises(FileExistsError):
            home.link(source, "x.png", "0001/y.png")
        home.remove("0001/y.png")
        home.remove("0001/y.png")
        assert home.look("0001/y.png") is None


def test_a_copy_is_beside_its_name_until_it_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"w" * (beneath._AT_ONCE + 5))
    with Beneath(tmp_path) as home:
        descriptor = home.open("x")
        assert descriptor is not None
        (tmp_path / "new").mkdir()
        (tmp_path / "new/y.part").write_text("of a run that was killed")
        assert home.copy(descriptor, "new/y") == home.hash("x")
        os.close(descriptor)
        assert not (tmp_path / "new/y").exists()
        home.rename("new/y")
    assert (tmp_path / "new/y").read_bytes() == (tmp_path / "x").read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["y"]


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "a\0b", "c:x", "a\\b", "d/" * 99 + "x"]
)
def test_a_name_that_climbs_or_is_a_ladder_is_refused(tmp_path: Path, name: str) -> None:
    with Beneath(tmp_path) as home:
        for ask in (home.look, home.open, home.hash, home.remove, home.rename):
            with pytest.raises(LedAway):
                ask(name)


@pytest.mark.parametrize("inner", [True, False])
def test_no_link_is_followed_wherever_it_leads(tmp_path: Path, inner: bool) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / ("root/real" if inner else "elsewhere")
    root.mkdir()
    elsewhere.mkdir()
    (elsewhere / "x").write_text("somebody's")
    (root / "folder").symlink_to(elsewhere)
    (root / "file").symlink_to(elsewhere / "x")
    with Beneath(root) as home:
        for name in ("folder/x", "file"):
            with pytest.raises(LedAway, match="leads through a link"):
                home.open(name)
        with pytest.raises(LedAway):
            home.rename("folder/new")
        assert home.look("file") is not None, "a link is seen as itself"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with Beneath(tmp_path) as home:
        assert [home.open("pipe"), home.open("folder"), home.hash("pipe")] == [None, None, ""]


def test_a_sub_folder_that_is_swapped_for_a_link_is_not_entered(tmp_path: Path) -> None:
    root, theirs = tmp_path / "root", tmp_path / "theirs"
    (root / "0001").mkdir(parents=True)
    theirs.mkdir()
    (root / "x").write_text("x")
    with Beneath(root) as home:
        assert home.look("0001/x") is None
        (root / "0001").rename(root / "away")
        (root / "0001").symlink_to(theirs)
        home.link(home, "x", "0001/x")
    assert list(theirs.iterdir()) == []
    assert (root / "away/x").exists(), "it is the folder that was opened, whatever it is called by now"


def test_few_folders_are_open_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("x")
    opened: set[int] = set()
    most = 0
    real_open, real_close = os.open, os.close

    def counting_open(*asked: Any, **more: Any) -> int:
        nonlocal most
        opened.add(descriptor := real_open(*asked, **more))
        most = max(most, len(opened))
        return descriptor

    def counting_close(descriptor: int) -> None:
        opened.discard(descriptor)
        real_close(descriptor)

    monkeypatch.setattr(beneath.os, "open", counting_open)
    monkeypatch.setattr(beneath.os, "close", counting_close)
    with Beneath(tmp_path) as home:
        for n in range(100):
            home.link(home, "x", f"{n:04d}/deeper/x")
        home.sync()

    assert len(list(tmp_path.glob("*/deeper/x"))) == 100
    assert most <= beneath._KEPT_OPEN + 2
    assert not opened


def test_a_root_that_is_not_there_is_an_error_of_the_systems(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        Beneath(tmp_path / "none")
