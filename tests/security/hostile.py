"""Strangers to be met: a host on loopback that answers anything, a hub that lies, and the program as a real process.

Nothing here is a mock. The hosts write raw bytes to a socket, so they may break every rule of HTTP; the program is run
as a user runs it, and its peak memory is what the kernel says it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = "oxen-key-4f1d9c7b2e8a"
"""Long and odd, so that no other text holds it by chance."""
MODEL = "picture-maker"
MB = 1 << 20
PEAK_MB = 200
PATIENCE_S = 60.0  # for one command; what hangs is a failure
UNTRUSTED = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.\u2028\u200b\ud7ff\x00\r\nforged: line"
"""Text that moves a cursor, renames a window, turns itself round and begins a line of its own."""
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""What a terminal or a reader obeys instead of showing it."""


def png(width: int = 1, height: int = 1, shade: int = 0) -> bytes:
    """A small picture that is whole."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4)

    rows = b"".join(b"\0" + bytes([shade]) * width for _ in range(height))
    head = width.to_bytes(4) + height.to_bytes(4) + b"\x08\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@dataclass(slots=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    host: str


class Host:
    """A server on loopback; `answer(asked, connection)` writes what it likes. A context manager."""

    def __init__(self, answer: Callable[[Asked, socket.socket], None]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.over = threading.Event()
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(connection)
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            file = connection.makefile("rb")
            while line := file.readline():
                method, path, _ = line.decode("latin-1").split(" ", 2)
                headers = {}
                while (line := file.readline()) not in (b"\r\n", b""):
                    name, _, value = line.decode("latin-1").partition(":")
                    headers[name.strip().lower()] = value.strip()
                body = file.read(int(headers.get("content-length", 0)))
                asked = Asked(method, path, headers, body, f"127.0.0.1:{self.port}")
                self.asked.append(asked)
                self.answer(asked, connection)
        self._open.discard(connection)

    def keys(self) -> list[str]:
        """What came in any header of any request that looks like the key."""
        return [v for asked in self.asked for v in (*asked.headers.values(), asked.path) if KEY in v]


def reply(
    body: bytes | str | dict[str, Any] | list[Any],
    status: int = 200,
    kind: str = "application/json",
    **headers: str,
) -> bytes:
    """A whole answer; `content_length` and others may lie."""
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    said = {"content-type": kind, "content-length": str(len(raw))} | {
        n.replace("_", "-"): v for n, v in headers.items()
    }
    lines = [f"HTTP/1.1 {status} OK", *(f"{name}: {value}" for name, value in said.items() if value != "none")]
    return "\r\n".join([*lines, "", ""]).encode("utf-8") + raw


def endless(connection: socket.socket, over: threading.Event, chunk: bytes, head: bytes = b"") -> int:
    """Writes for ever, as fast as it is read; how many bytes the other side took before it hung up."""
    sent = 0
    with contextlib.suppress(OSError):
        connection.sendall(head)
        while not over.is_set() and sent < 4096 * MB:
            connection.sendall(chunk)
            sent += len(chunk)
    return sent


class Hub(Host):
    """A hub that makes a picture at once, and lies where it was told to.

    `lies[route]` is raw bytes, or a function of the request and the connection: it stands in for the honest answer.
    Routes are `METHOD /path` with ID for an id: `POST /ai/queue`, `GET /ai/queue`, `GET /ai/generations`,
    `GET /ai/queue/ID`, `GET /events`, `GET /ai/models`, `GET /files/ID`.
    """

    def __init__(self, **row: Any) -> None:
        super().__init__(self._answer)
        self.row = row
        """Fields over every row that the hub tells of."""
        self.bodies: list[bytes] = []
        """Raw answers in place of the files of the first so many generations."""
        self.lies: dict[str, Any] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self._made = threading.Condition()
        self.picture: Callable[[], bytes] = png

    def _answer(self, asked: Asked, connection: socket.socket) -> None:
        path, _, query = asked.path.partition("?")
        path = path.removeprefix("/api")
        route = f"{asked.method} " + re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", path)
        lie = self.lies.get(route)
        if isinstance(lie, bytes):
            connection.sendall(lie)
        elif lie is not None:
            lie(asked, connection)
        elif route == "GET /files/ID" and self.bodies:
            connection.sendall(self.bodies[int(path.rpartition("/")[2][:8], 16) - 1])
            connection.shutdown(socket.SHUT_RDWR)
        elif route == "GET /events":
            self._tell(connection)
        else:
            connection.sendall(self._honest(route, path, query, asked))

    def _tell(self, connection: socket.socket) -> None:
        """Every end is announced."""
        connection.sendall(reply(b"", kind="text/event-stream", content_length="none", connection="close"))
        told = 0
        while not self.over.is_set():
            with self._made:
                if len(self.rows) == told:
                    self._made.wait(1.0)
                new = list(self.rows.values())[told:]
            self.over.wait(
                0.05
            )  # a hub is seldom done before it has answered; a run then looks for itself, for seconds
            for row in new:
                data = {"generation_id": row["generation_id"], "status": row["status"], "media_type": "image",
                        "url": row["result_url"], "error": row["error_message"], "model": MODEL}  # fmt: skip
                connection.sendall(b"event: media_generation_completed\ndata: " + json.dumps(data).encode() + b"\n\n")
            told += len(new)

    def _honest(self, route: str, path: str, query: str, asked: Asked) -> bytes:
        if route == "POST /ai/queue":
            sent = json.loads(asked.body)
            with self._made:
                made = [self.make(sent) for _ in range(sent.get("num_generations", 1))]
                self._made.notify_all()
            return reply({"generations": [{"generation_id": one, "status": "queued"} for one in made]})
        if route == "GET /ai/queue":
            return reply({"count": 0, "generations": []})
        if route == "GET /ai/generations":
            rows = list(reversed(self.rows.values()))
            return reply({"generations": rows, "count": len(rows), "page_number": 1, "page_size": 1000,
                          "total_pages": 1, "total_entries": len(rows)})  # fmt: skip
        if route == "GET /ai/queue/ID":
            row = self.rows.get(path.rpartition("/")[2])
            return reply(row) if row else reply({"error": "resource_not_found"}, 404)
        if route == "DELETE /ai/queue/ID":
            return reply({"status": "success"})
        if route == "GET /ai/models":
            return reply({"object": "list", "data": [catalogue_entry()]})
        if route == "GET /files/ID":
            return reply(self.picture(), kind="image/png")
        return reply({"error": "resource_not_found"}, 404)

    def make(self, sent: dict[str, Any]) -> str:
        """One generation, done as soon as it is asked for; its id."""
        generation_id = f"{len(self.rows) + 1:08x}-0000-4000-8000-{self.port:012d}"
        parameters = {name: value for name, value in sent.items() if not name.startswith(("num_", "target_"))}
        self.rows[generation_id] = parameters | {
            "generation_id": generation_id, "model_name": sent.get("model"), "status": "succeeded",
            "media_type": "image", "result_url": f"{self.url}/files/{generation_id}", "error_message": None,
            "enqueued_at": time.time(), "started_at": time.time(), "completed_at": time.time(), "cost": "0.01",
        } | self.row  # fmt: skip
        return generation_id


def catalogue_entry() -> dict[str, Any]:
    """One model that makes pictures."""
    schema = {
        "type": "object",
        "properties": {"prompt": {"type": "string"}, "seed": {"type": "integer"}, "input_image": {"type": "string"}},
    }
    return {
        "id": MODEL, "display_name": "Picture maker", "description": "", "endpoint": "/images",
        "capabilities": {"input": ["text"], "output": ["image"]}, "request_schema": schema,
        "pricing": {"method": "per_image", "cost_per_image": 0.01},
    }  # fmt: skip


# -- the program ------------------------------------------------------------------------------------------------------

_PROGRAM = """
import atexit, sys
def told():
    with open("/proc/self/status") as status, open(sys.argv[0], "w") as peak:
        peak.write(next(line.split()[1] for line in status if line.startswith("VmHWM")))
sys.argv[0] = {peak!r}
atexit.register(told)
{setup}
from oxenbatch.cli import main
main()
"""


_CLIENT = """
import asyncio, sys
import oxenbatch.hub.client as client
from oxenbatch.errors import OxenbatchError
from oxenbatch.jobs import sealed
client.GET_TRIES = 1
ID = "00000001-0000-4000-8000-000000000001"
async def listen(hub):
    async with hub.listen() as stream:
        return [generation.generation_id async for generation in stream]
async def all_of_them():
    async with client.Hub(sys.argv[1], sys.argv[2]) as hub:
        intent = sealed(1, "m", dict(prompt="x"), 1, "t")
        for call in (lambda: hub.enqueue(intent), hub.active, hub.history, lambda: hub.history_since(0.0), hub.models,
                     lambda: hub.generation(ID), lambda: hub.cancel(ID), lambda: listen(hub)):
            try:
                print(repr(await call())[:2000])
            except OxenbatchError as error:
                print(type(error).__name__, error)
asyncio.run(all_of_them())
"""
"""Every call of the hub's, one after the other; whatever is no error of ours ends it with a traceback."""


@dataclass(slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: bytes
    err: bytes
    peak_mb: float
    """Of resident memory, as the kernel counted it."""
    folder: Path = field(repr=False)

    @property
    def said(self) -> str:
        """Both streams, as text."""
        return (self.out + self.err).decode("utf-8", "replace")


class Desk:
    """A user's folder and home, and the command."""

    def __init__(self, folder: Path, hub: Host | None = None) -> None:
        self.folder = folder
        home = folder / "home"
        home.mkdir()
        keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.env = keep | {"HOME": str(home), "OXEN_API_KEY": KEY, "LC_ALL": "C.UTF-8", "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir()
        if hub is not None:
            self.env["OXEN_BASE_URL"] = hub.url

    def write(self, name: str, text: str | bytes) -> Path:
        """The file is there."""
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def start(self, *arguments: str | Path, setup: str = "", **env: str) -> subprocess.Popen[bytes]:
        """The command runs; `setup` is Python that it runs before."""
        program = _PROGRAM.format(peak=str(self.folder / "peak"), setup=setup)
        return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], cwd=self.folder,
                                env=self.env | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                stdin=subprocess.DEVNULL)  # fmt: skip

    def end(self, process: subprocess.Popen[bytes], patience_s: float = PATIENCE_S) -> Done:
        """The command has ended by itself, in time."""
        try:
            out, err = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"it hangs: {out!r} {err!r}") from None
        peak = int((self.folder / "peak").read_text()) / 1024 if (self.folder / "peak").exists() else 0.0
        return Done(process.returncode, out, err, peak, self.folder)

    def call(self, *arguments: str | Path, setup: str = "", patience_s: float = PATIENCE_S, **env: str) -> Done:
        """What became of the command."""
        return self.end(self.start(*arguments, setup=setup, **env), patience_s)

    def ask(self, url: str, setup: str = "") -> Done:
        """What every call of a hub at this address came to, in a process of its own."""
        program = _PROGRAM.replace("from oxenbatch.cli import main\nmain()", _CLIENT)
        process = subprocess.Popen(
            [sys.executable, "-c", program.format(peak=str(self.folder / "peak"), setup=setup), url, KEY],
            cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return self.end(process)

    def run(self, *arguments: str | Path, rows: str | bytes = "a red cube\n", name: str = "m.txt", **more: Any) -> Done:
        """`oxenbatch run` of these rows, quick to give up."""
        self.write(name, rows)
        return self.call("run", name, "--model", MODEL, "--settle", "1s", "--max-outage", "2s", *arguments, **more)

    def results(self) -> list[Path]:
        """Every file under the output folder that is a result, or pretends to be one."""
        ours = ("metadata.jsonl", "run.lock", ".reserve")
        found = (path for path in (self.folder / "out").rglob("*") if path.is_file() and path.suffix != ".part")
        return sorted(p for p in found if p.name not in ours and not p.name.startswith("ledger.db"))


def is_quiet(raw: bytes) -> bool:
    """Whether a terminal shows all of it and obeys nothing of it."""
    return not OBEYED.search(raw.decode("utf-8"))


def every_file(*folders: Path) -> Iterator[Path]:
    """All files below the folders."""
    for folder in folders:
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
