"""Power cuts: a disk that keeps only what was fsynced, under the real engine in virtual time.

The model has two sources, and both are what really happens. SQLite's own calls for writing and syncing are listened to
at its door to the operating system (a VFS of our own, in front of its `unix` one), and so are the program's `fsync`s.
A file's bytes are durable once the file was synced, a name once its folder was. The power goes at a random one of
those steps: in the middle of a commit, between a rename and its folder, anywhere. What had not been synced is gone
then, or, at a disk's whim, there in part: sectors of a write, a beginning of a file, one name and not the other.

The output folder itself is taken to be durable. A test of this kind must also be able to fail, so the ledger with
`synchronous=NORMAL`, and disks that forget what they were told to keep, are held against the same oracle.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import random
import shutil
import sqlite3
import stat
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import world
from world import VIDEO, World, rows, scratch

from oxenbatch.download import hash_of
from oxenbatch.ledger import results
from oxenbatch.ledger.book import Ledger
from oxenbatch.media import Damaged, inspect
from oxenbatch.plan import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors have no names here")

# -- what a disk keeps --------------------------------------------------------------------------------------------

SECTOR = 512  # what a disk writes whole or not at all
Image = dict[str, bytes]


class Disk:
    """What would be left of one folder if the power went now. `forgets`: syncs that it answers and does not obey."""

    def __init__(self, folder: Path, draw: random.Random, *, forgets: str = "") -> None:
        self.folder, self.draw, self.forgets = folder, draw, forgets
        self.steps = 0
        """Writes, syncs, renames and removals so far."""
        self.cut_at: int | None = None
        self.on_cut: Callable[[], None] = lambda: None
        self.left: Image | None = None
        """What the power cut has left; None while there is power."""
        self.whimsical = False
        self._begin()

    def _begin(self) -> None:
        self._pins: dict[int, int] = {}
        """Open descriptors by inode: no inode's number is used twice meanwhile."""
        self._synced: dict[int, bytearray] = {}
        self._unsynced: dict[int, list[tuple[int, bytes | None]]] = {}
        """SQLite's writes since the last sync: an offset and bytes, or a new length and None."""
        self._names = self._names_now()
        for inode, pin in self._pins.items():
            self._synced[inode] = bytearray(_content(pin))

    def _names_now(self) -> dict[str, int]:
        found = {}
        for entry in os.scandir(self.folder):
            if entry.name.endswith("-shm") or entry.is_dir(follow_symlinks=False):
                continue  # SQLite makes its shared memory anew; and of what was set aside nothing is asked again
            inode = entry.inode()
            if inode not in self._pins:
                self._pins[inode] = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            found[entry.name] = inode
        return found

    def holds(self, path: str) -> bool:
        """The path is one of this disk's, and there is power."""
        return self.left is None and Path(path).parent == self.folder

    def step(self) -> bool:
        """One more step is about to happen; False where the power has gone first."""
        self.steps += 1
        if self.cut_at is not None and self.steps >= self.cut_at:
            self.left = self._what_is_left()
            self.on_cut()
            return False
        return True

    # -- what happens to it

    def wrote(self, path: str, offset: int, data: bytes | None) -> None:
        """SQLite has written bytes at the offset; or (None) cut the file to that length."""
        self._unsynced.setdefault(self._inode(path), []).append((offset, data))

    def synced_by_sqlite(self, path: str) -> None:
        """Every byte that SQLite has written to the file is durable."""
        inode = self._inode(path)
        durable = self._synced.setdefault(inode, bytearray())
        for offset, data in self._unsynced.pop(inode, ()):
            _apply(durable, offset, data)

    def synced(self, descriptor: int) -> None:
        """The program has synced the file, or the folder."""
        status = os.fstat(descriptor)
        if status.st_ino == self.folder.stat().st_ino:
            self.synced_folder()
        elif "files" not in self.forgets and stat.S_ISREG(status.st_mode):
            self._names_now()  # a pin for each
            self._synced[status.st_ino] = bytearray(_content(self._pins[status.st_ino]))

    def synced_folder(self) -> None:
        """The folder's names are durable."""
        if "names" not in self.forgets:
            self._names = self._names_now()

    def _inode(self, path: str) -> int:
        inode = Path(path).stat().st_ino
        if inode not in self._pins:
            self._names_now()
        return inode

    # -- the cut

    def _what_is_left(self) -> Image:
        now, left = self._names_now(), {}
        for name in sorted(self._names.keys() | now.keys()):
            inode = self._names.get(name)
            if now.get(name) != inode and self.whimsical and self.draw.random() < 0.5:
                inode = now.get(name)  # this change of the folder had been written, though nobody asked for it
            if inode is not None:
                left[name] = self._bytes_left(inode, sqlite=name.startswith("ledger.db"))
        return left

    def _bytes_left(self, inode: int, *, sqlite: bool) -> bytes:
        durable = bytearray(self._synced.get(inode, b""))
        if not self.whimsical:
            return bytes(durable)
        if sqlite:
            for offset, data in self._unsynced.get(inode, ()):
                if data is None or len(data) < SECTOR:
                    if self.draw.random() < 0.5:
                        _apply(durable, offset, data)
                    continue
                for begin in range(0, len(data), SECTOR):
                    if self.draw.random() < 0.8:
                        _apply(durable, offset + begin, data[begin : begin + SECTOR])
            return bytes(durable)
        content = _content(self._pins[inode])
        if content == durable:
            return content
        kept = self.draw.randrange(len(content) + 1)
        return content[:kept] + bytes(self.draw.choice((0, len(content) - kept)))

    def restore(self) -> None:
        """The power is back: the folder holds what was left."""
        assert self.left is not None
        self.close()
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        for name, content in self.left.items():
            (self.folder / name).write_bytes(content)
        self.left = self.cut_at = None
        self._begin()

    def close(self) -> None:
        """Nothing is held open any more."""
        for pin in self._pins.values():
            os.close(pin)
        self._pins.clear()


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


# -- listening ----------------------------------------------------------------------------------------------------

_P, _I, _I64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_CLOSE = ctypes.CFUNCTYPE(_I, _P)
_WRITE = ctypes.CFUNCTYPE(_I, _P, _P, _I, _I64)
_TRUNCATE = ctypes.CFUNCTYPE(_I, _P, _I64)
_SYNC = ctypes.CFUNCTYPE(_I, _P, _I)
_OPEN = ctypes.CFUNCTYPE(_I, _P, _P, _P, _I, _P)  # SQLite keeps the name's address: no copy may be handed on
_DELETE = ctypes.CFUNCTYPE(_I, _P, ctypes.c_char_p, _I)
_OPEN_FOLDER = ctypes.CFUNCTYPE(_I, ctypes.c_char_p, _P)
_SET_CALL = ctypes.CFUNCTYPE(_I, _P, ctypes.c_char_p, _P)
_GET_CALL = ctypes.CFUNCTYPE(_P, _P, ctypes.c_char_p)


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`."""

    _fields_ = (
        ("version", _I), ("close", _P), ("read", _P), ("write", _P), ("truncate", _P), ("sync", _P), ("rest", _P * 13),
    )  # fmt: skip


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`."""

    _fields_ = (
        ("version", _I), ("file_size", _I), ("longest_path", _I), ("next", _P), ("name", ctypes.c_char_p),
        ("data", _P), ("open", _P), ("delete", _P), ("rest", _P * 11),
        ("set_call", _P), ("get_call", _P), ("next_call", _P),
    )  # fmt: skip


class Listener:
    """SQLite's steps on disk, told to the disk that is concerned; one for the process, and passive without a disk."""

    def __init__(self) -> None:
        library = ctypes.CDLL(_sqlite3.__file__)  # its symbols are those of the SQLite that Python uses
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        self._library = library
        self.disk: Disk | None = None
        self.errors: list[BaseException] = []
        self._unix = library.sqlite3_vfs_find(b"unix")
        self._paths: dict[int, str] = {}
        """Of SQLite's open files, by the address of its object."""
        self._methods: dict[int, tuple[_Methods, Any, Any, Any, Any]] = {}
        self._kept: list[Any] = []
        vfs = _Vfs.from_buffer_copy(self._unix.contents)
        vfs.next, vfs.name = None, b"listener"
        self._real_open, self._real_delete = _OPEN(vfs.open), _DELETE(vfs.delete)
        vfs.open, vfs.delete = self._callback(_OPEN, self._open), self._callback(_DELETE, self._delete)
        self._vfs = vfs
        # SQLite syncs a folder in one way only: it opens it for that.
        get, set_ = _GET_CALL(vfs.get_call), _SET_CALL(vfs.set_call)
        self._real_open_folder = _OPEN_FOLDER(get(self._unix, b"openDirectory"))
        self._set_open_folder = lambda call: set_(self._unix, b"openDirectory", call)
        self._open_folder_call = self._callback(_OPEN_FOLDER, self._open_folder)

    def _callback(self, kind: Any, function: Any) -> int:
        kept = kind(function)
        self._kept.append(kept)
        return ctypes.cast(kept, _P).value or 0

    def begin(self) -> None:
        """Every database that is opened from now on goes through here."""
        assert self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == 0
        self._set_open_folder(self._open_folder_call)

    def end(self) -> None:
        """Databases are opened as ever."""
        self._set_open_folder(None)
        assert self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs)) == 0
        assert self._library.sqlite3_vfs_register(self._unix, 1) == 0
        assert not self.errors, self.errors

    def _tell(self, path: str | None, what: Callable[[Disk], None]) -> None:
        try:
            if path and self.disk and self.disk.holds(path) and not path.endswith("-shm") and self.disk.step():
                what(self.disk)
        except BaseException as error:  # noqa: BLE001 - SQLite knows no exceptions
            self.errors.append(error)

    # -- SQLite's calls. The disk hears of a write before it happens, and of a sync as well: it may be the last thing.

    def _open(self, _vfs: Any, name: int | None, file: int, flags: int, out: Any) -> int:
        path = ctypes.string_at(name).decode() if name else None
        result = self._real_open(ctypes.addressof(self._unix.contents), name, file, flags, out)
        if path and not result:
            self._paths[file] = path
            slot = ctypes.cast(file, ctypes.POINTER(ctypes.POINTER(_Methods)))
            address = ctypes.addressof(slot.contents.contents)
            slot[0] = ctypes.pointer(self._listening(address))
        return int(result)

    def _listening(self, address: int) -> _Methods:
        """These methods, with ours in front of some."""
        if address not in self._methods:
            real = _Methods.from_address(address)
            ours = _Methods.from_buffer_copy(real)
            close, write = _CLOSE(real.close), _WRITE(real.write)
            truncate, sync = _TRUNCATE(real.truncate), _SYNC(real.sync)

            def on_close(file: int) -> int:
                self._paths.pop(file, None)
                return int(close(file))

            def on_write(file: int, data: int, size: int, offset: int) -> int:
                path, content = self._paths[file], ctypes.string_at(data, size)
                self._tell(path, lambda disk: disk.wrote(path, offset, content))
                return int(write(file, data, size, offset))

            def on_truncate(file: int, size: int) -> int:
                path = self._paths[file]
                self._tell(path, lambda disk: disk.wrote(path, size, None))
                return int(truncate(file, size))

            def on_sync(file: int, flags: int) -> int:
                path = self._paths[file]
                self._tell(path, lambda disk: disk.synced_by_sqlite(path))
                return int(sync(file, flags))

            ours.close, ours.write = self._callback(_CLOSE, on_close), self._callback(_WRITE, on_write)
            ours.truncate, ours.sync = self._callback(_TRUNCATE, on_truncate), self._callback(_SYNC, on_sync)
            self._methods[address] = (ours, close, write, truncate, sync)
        return self._methods[address][0]

    def _delete(self, _vfs: Any, name: bytes, folder_too: int) -> int:
        self._tell(name.decode(), lambda _: None)
        return int(self._real_delete(ctypes.addressof(self._unix.contents), name, folder_too))

    def _open_folder(self, name: bytes, out: Any) -> int:
        self._tell(name.decode(), lambda disk: disk.synced_folder())
        return int(self._real_open_folder(name, out))


_LISTENER: list[Listener] = []


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """The program's own steps on disk, and SQLite's, are told to `listener.disk`; and the ledger is the real one."""
    monkeypatch.setattr(world, "open_quickly", Ledger.open)
    if not _LISTENER:
        try:
            _LISTENER.append(Listener())
        except (AttributeError, OSError) as error:
            pytest.skip(f"this Python's SQLite cannot be listened to: {error}")
    listener = _LISTENER[0]

    def told(real: Callable[..., Any], path_of: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            listener._tell(path_of(*args), lambda _: None)
            return real(*args, **kwargs)

        return call

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        path = _path_of(descriptor)
        folder = listener.disk and str(listener.disk.folder)
        listener._tell(f"{path}/its names" if path == folder else path, lambda disk: disk.synced(descriptor))

    real_fsync = os.fsync
    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "unlink"):
        monkeypatch.setattr(os, name, told(getattr(os, name), lambda path, *_: os.fspath(path)))
    monkeypatch.setattr(os, "write", told(os.write, lambda file, *_: _path_of(file)))
    listener.begin()
    try:
        yield listener
    finally:
        if listener.disk:
            listener.disk.close()
        listener.disk = None
        listener.end()


# -- the disk itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("synchronous", "kept"), [("full", 3), ("normal", 0)])
def test_a_commit_survives_a_power_cut_where_sqlite_was_told_to_sync_it(
    listener: Listener, tmp_path: Path, synchronous: str, kept: int
) -> None:
    disk = listener.disk = Disk(tmp_path, random.Random(0))
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table t (n)")
        db.execute("pragma wal_checkpoint")
        db.execute(f"pragma synchronous = {synchronous}")
        for n in range(3):
            db.execute("insert into t values (?)", (n,))
        disk.cut_at = 0
        disk.step()
    disk.restore()

    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        assert db.execute("select count(*) from t").fetchone() == (kept,)


def test_a_file_survives_a_power_cut_where_it_and_its_folder_were_synced(listener: Listener, tmp_path: Path) -> None:
    disk = listener.disk = Disk(tmp_path, random.Random(0))
    folder = os.open(tmp_path, os.O_RDONLY)
    for name, sync in (("a.part", True), ("b.part", False), ("c.part", True)):
        file = os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT)
        os.write(file, name.encode())
        if sync:
            os.fsync(file)
        os.close(file)
    (tmp_path / "a.part").rename(tmp_path / "a")
    os.fsync(folder)
    os.close(folder)
    (tmp_path / "c.part").rename(tmp_path / "c")
    (tmp_path / "d").write_bytes(b"d")
    disk.cut_at = 0
    disk.step()
    disk.restore()

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a": b"a.part",
        "b.part": b"",
        "c.part": b"c.part",
    }


@pytest.fixture
def folder() -> Iterator[Path]:
    """Syncs are only counted here: they need not take their time as well."""
    with scratch() as path:
        yield path


# -- the engine ---------------------------------------------------------------------------------------------------

FAULTS: Sequence[dict[str, Any]] = (
    {"do": "lose_answer", "chance": 0.06},
    {"do": "die", "chance": 0.04},
    {"do": "late_insertion", "chance": 0.03, "seconds": 5.0},
    {"do": "cut_body", "chance": 0.05},
    {"do": "expired_address", "chance": 0.03},
)


@dataclass
class Found:
    """What the power cuts did, by the hub's own record and the files."""

    cuts: int = 0
    kills: int = 0
    open_posts: int = 0
    """Sends that a cut left open: intents on disk without an answer."""
    twice: int = 0
    lost: int = 0
    torn: int = 0
    unknown: int = 0
    stuck: list[str] = field(default_factory=list)

    @property
    def damage(self) -> tuple[int, int, int, int, list[str]]:
        return self.twice, self.lost, self.torn, self.unknown, self.stuck


def cut(listener: Listener, folder: Path, cuts: int, *, seed: int = 0, forgets: str = "") -> Found:
    """Batches that lose power again and again, until that has happened so often; then what is left is judged."""
    found = Found()
    batch = 0
    while found.cuts < cuts:
        batch += 1
        draw = random.Random(f"{seed}/{batch}")
        _one_batch(listener, folder / str(batch), draw, found, min(10, cuts - found.cuts), forgets)
    return found


def _one_batch(listener: Listener, folder: Path, draw: random.Random, found: Found, cuts: int, forgets: str) -> None:
    wanted = [*rows(6), *rows(3, prompt="the same"), *rows(1, prompt="thrice", samples=3), *rows(1, model=VIDEO)]
    world = World(
        folder, wanted, faults=FAULTS, limits=Limits(concurrency=5, settle_s=15.0), seed=str(draw.random()), speed=4
    )
    disk = listener.disk = Disk(folder, draw, forgets=forgets)

    def power_goes() -> None:
        world.kill_at = len(world.points)  # nothing of this process reaches the hub any more

    disk.on_cut = power_goes
    before, left = found.cuts, cuts
    while True:
        disk.cut_at, kill_at = None, None
        if left:
            disk.cut_at, disk.whimsical = disk.steps + draw.randint(1, 260), draw.random() < 0.5
        elif found.kills < found.cuts // 4:
            kill_at = draw.randint(1, 60)
        try:
            summary = world.run(kill_at=kill_at)
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch is stuck after a power cut
            found.stuck.append(f"{folder.name}: {type(error).__name__}: {error}")
            break
        if disk.left is not None:
            found.cuts, left = found.cuts + 1, left - 1
            disk.restore()
            found.open_posts += _open_posts(folder / "ledger.db")
            world.now += draw.choice((0.0, 0.0, 60.0))
        elif summary is None:
            found.kills += 1
        else:
            break
        left = left if summary is None else 0  # it had been done: what comes now is the last look
    assert found.cuts > before or cuts == 0, "no power cut fell into this batch"
    disk.close()
    listener.disk = None
    _judge(world, found)


def _open_posts(path: Path) -> int:
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as ledger:
        try:
            return int(ledger.execute("select count(*) from submissions where state = 'intent'").fetchone()[0])
        except sqlite3.OperationalError:  # the power went before there was a table
            return 0


def _judge(world: World, found: Found) -> None:
    """The oracle: what the hub made is what was wanted, and each is a whole file that is the ledger's."""
    wanted = Counter(str(row.parameters["prompt"]) for row in world.rows for _ in range(row.samples))
    world.hub.advance()
    made = world.hub.generations.values()
    paid = Counter(str(g.parameters["prompt"]) for g in made if g.status == "succeeded")
    found.twice += (paid - wanted).total()
    whole = 0
    with Ledger.open(world.ledger_path) as ledger:
        known = {row[0] for row in ledger.conn.execute("select generation_id from generations")}
        for result in results.on_disk(ledger):
            try:
                path = world.folder / result["file"]
                inspect(path)
                whole += hash_of(path) == result["sha256"]
                found.torn += hash_of(path) != result["sha256"]
            except FileNotFoundError:
                continue
            except Damaged:
                found.torn += 1
                whole += 1
    found.lost += max(0, wanted.total() - whole)
    found.unknown += len(set(world.hub.generations) - known)


@pytest.mark.slow
def test_nothing_is_paid_twice_and_nothing_is_lost_in_200_power_cuts(listener: Listener, folder: Path) -> None:
    found = cut(listener, folder, 200)

    assert found.damage == (0, 0, 0, 0, [])
    assert found.cuts == 200
    assert found.open_posts > 20, "power cuts that hit no open POST prove little"


def test_a_ledger_that_does_not_wait_for_the_disk_pays_twice(
    listener: Listener, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "_set_pragmas", _normal)
    found = cut(listener, folder, 30)

    assert found.twice > 0


@pytest.mark.parametrize("forgets", ["files", "names"])
def test_a_disk_that_forgets_what_was_synced_is_found_out(listener: Listener, folder: Path, forgets: str) -> None:
    found = cut(listener, folder, 30, forgets=forgets)

    assert found.twice + found.lost + found.torn + found.unknown + len(found.stuck) > 0


def _normal(ledger: Ledger) -> None:
    """The ledger's settings, but for the one that makes a commit wait for the disk."""
    for pragma in ("journal_mode = wal", "synchronous = normal", "foreign_keys = on", "trusted_schema = off"):
        ledger.conn.execute(f"pragma {pragma}")
