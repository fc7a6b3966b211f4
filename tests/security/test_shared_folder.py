"""A folder that others may write into: what they lay in our way is not followed, not waited for, and not destroyed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostile import Asked, Desk, Hub, png, reply

from oxenbatch.errors import MachineError
from oxenbatch.place import Place, network_under

if TYPE_CHECKING:
    from collections.abc import Iterator

STEM = "a-red-cube-52652c48"
"""The name of the file of the one row of `Desk.run`."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as served:
        yield served


@pytest.fixture
def desk(tmp_path: Path, hub: Hub) -> Desk:
    found = Desk(tmp_path, hub)
    (tmp_path / "out/m").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/work").write_bytes(b"my work")
    return found


def _untouched(desk: Desk) -> bool:
    mine = desk.folder / "mine"
    return [p.name for p in mine.iterdir()] == ["work"] and (mine / "work").read_bytes() == b"my work"


def _plant(kind: str, path: Path, mine: Path) -> None:
    if kind == "a link to a file":
        path.symlink_to(mine / "work")
    elif kind == "a link to nothing":
        path.symlink_to(mine / "new")
    elif kind == "a link to a folder":
        path.symlink_to(mine)
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    elif kind == "a hard link":
        path.hardlink_to(mine / "work")
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as unix:
            here = Path.cwd()
            os.chdir(path.parent)
            try:
                unix.bind(path.name)
            finally:
                os.chdir(here)
    else:
        path.write_bytes(b"somebody's")


KINDS = ["a link to a file", "a link to nothing", "a link to a folder", "a link to itself", "a hard link", "a pipe",
         "a folder", "a socket", "a file"]  # fmt: skip
OURS = [f"{STEM}.part", f"{STEM}.png", "metadata.jsonl.part", ".reserve", "run.lock", "ledger.db", "ledger.db-wal",
        "ledger.db-shm", "ledger.db-journal", ".oxenbatch-probe"]  # fmt: skip


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_in_our_way_is_not_followed_not_waited_for_and_not_destroyed(
    desk: Desk, kind: str, name: str
) -> None:
    path = desk.folder / "out/m" / name
    _plant(kind, path, desk.folder / "mine")

    done = desk.run(patience_s=20.0)

    assert done.code in (0, 74), done.said
    assert _untouched(desk)
    if done.code == 0:
        assert len([p for p in desk.results() if p.suffix == ".png" and not p.is_symlink()]) == 1


@pytest.mark.parametrize("how", ["a link to another folder", "another folder"])
def test_a_folder_that_is_swapped_during_the_run_is_not_written_into(desk: Desk, hub: Hub, how: str) -> None:
    """At the moment at which the file begins to come, somebody puts his own folder in the place of ours."""
    out, theirs = desk.folder / "out/m", desk.folder / "mine"

    def answer(_: Asked, connection: socket.socket) -> None:
        out.rename(desk.folder / "out/away")
        if how == "another folder":
            out.mkdir()
        else:
            out.symlink_to(theirs)
        connection.sendall(reply(png(), kind="image/png"))

    hub.lies["GET /files/ID"] = answer

    done = desk.run()

    assert done.code == 74, done.said
    assert "another folder" in done.said
    assert _untouched(desk)
    assert not list(out.rglob("*.png"))
    assert how != "another folder" or list(out.iterdir()) == []


def test_a_part_that_is_swapped_between_two_tries_is_not_written_into(desk: Desk, hub: Hub) -> None:
    """The rest of a file is asked for; meanwhile the part has become a hard link to somebody's work."""
    whole, tries = png(40, 40), []

    def answer(asked: Asked, connection: socket.socket) -> None:
        tries.append(asked.headers.get("range"))
        if len(tries) == 1:
            connection.sendall(reply(whole, etag='"one"')[: -len(whole) // 2])
            connection.shutdown(socket.SHUT_RDWR)
            return
        if len(tries) == 2:
            part = desk.folder / "out/m" / f"{STEM}.part"
            part.unlink()
            part.hardlink_to(desk.folder / "mine/work")
            half = len(whole) - len(whole) // 2
            connection.sendall(reply(whole[half:], 206, content_range=f"bytes {half}-{len(whole) - 1}/{len(whole)}"))
            return
        connection.sendall(reply(whole))

    hub.lies["GET /files/ID"] = answer

    done = desk.run(setup="import oxenbatch.runner.fetching as f; f.FETCH_PAUSE_MAX_S = 0.01\n")

    assert done.code == 0, done.said
    assert tries[1] is not None
    assert _untouched(desk)
    assert desk.results()[0].read_bytes() == whole


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_ledger_is_the_owners_alone_and_files_are_as_the_user_wants_them(desk: Desk, umask: int) -> None:
    done = desk.run(setup=f"import os; os.umask({umask})\n")

    assert done.code == 0, done.said
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (desk.folder / "out/m").iterdir()}
    assert modes[f"{STEM}.png"] == 0o666 & ~umask
    assert modes["metadata.jsonl"] == 0o666 & ~umask
    assert modes["ledger.db"] == 0o600
    data = desk.folder / "home/.local/share/oxenbatch"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700 & ~umask
    assert not any(mode & 0o111 for mode in modes.values())


def test_a_pipe_in_a_results_place_is_damage_and_not_waited_for(desk: Desk) -> None:
    assert desk.run().code == 0
    result = desk.results()[0]
    result.unlink()
    os.mkfifo(result)

    done = desk.call("verify", "out/m", patience_s=20.0)

    assert done.code == 74, done.said
    assert b"damaged" in done.out


def test_a_result_is_not_set_aside_through_a_link(desk: Desk) -> None:
    assert desk.run().code == 0
    (desk.folder / "out/m/set-aside").symlink_to(desk.folder / "mine")

    done = desk.call("reject", "out/m", desk.results()[0].name)

    assert done.code == 74, done.said
    assert _untouched(desk)
    assert len(desk.results()) == 1


def test_the_stand_ins_memory_is_not_written_through_a_link(desk: Desk) -> None:
    desk.write("s.txt", "a red cube\n")
    (desk.folder / "out/.s.sandbox.jsonl").symlink_to(desk.folder / "mine/work")

    done = desk.call("run", "s.txt", "--sandbox", "--model", "nano-banana-2")

    assert done.code == 74, done.said
    assert _untouched(desk)


def test_a_folder_is_known_by_what_it_is_and_not_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    place = Place.of(folder)
    place.check()
    folder.rename(tmp_path / "b")
    with pytest.raises(MachineError):
        place.check()
    folder.symlink_to(tmp_path / "b")
    place.check()  # a link to the very same folder leads to the same place
    folder.unlink()
    folder.mkdir()
    with pytest.raises(MachineError, match="another folder"):
        place.check()


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:30 / /home rw shared:2 - nfs4 server:/home rw,vers=4.2
31 22 0:31 / /home/me/local rw - ext4 /dev/vdb rw
32 22 0:32 / /mnt/with\\040space rw - cifs //server/share rw
33 22 0:33 / /mnt/bucket rw - fuse.s3fs s3fs rw
34 22 0:34 / /mnt/over rw - ext4 /dev/vdc rw
35 34 0:35 / /mnt/over rw - 9p host rw
a line that is none
"""


@pytest.mark.parametrize(("path", "kind"), [
    ("/srv/x", None), ("/home/me/x", "nfs4"), ("/home/me/local/x", None), ("/mnt/with space/x", "cifs"),
    ("/mnt/bucket/x", "s3fs"), ("/mnt/over/x", "9p"), ("/home2/x", None), ("/", None),
])  # fmt: skip
def test_a_ledger_on_a_network_file_system_is_seen(path: str, kind: str | None) -> None:
    assert network_under(Path(path), MOUNTS.splitlines()) == kind


@pytest.mark.parametrize("mounts", [[], [""], ["- "], ["1 2 3 4 5"], ["\x00 - \x00"]])
def test_a_list_of_mounts_that_cannot_be_read_says_nothing(mounts: list[str]) -> None:
    assert network_under(Path("/home/me"), mounts) is None


def test_whoever_keeps_the_ledger_on_a_network_is_told_so(desk: Desk) -> None:
    (desk.folder / "mounts").write_text("1 0 0:1 / / rw - nfs4 server:/ rw\n")
    setup = f"import pathlib, oxenbatch.place as p; p.MOUNTS = pathlib.Path({str(desk.folder / 'mounts')!r})\n"

    done = desk.run(setup=setup)

    assert done.code == 0
    assert b"network file system (nfs4)" in done.err
    assert b"--ledger" in done.err
