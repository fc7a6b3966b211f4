"""A stand-in hub in its own process, for as long as a `with` block lasts and never longer than its parent."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path
    from types import TracebackType

PATIENCE_S: Final = 5.0  # a hub that was told to stop needs a tenth of a second; one that hangs is killed


class SandboxUnavailable(RuntimeError):
    """The stand-in hub cannot run here."""


def require() -> None:
    """What the hub is made of is installed, or `SandboxUnavailable` says how to get it."""
    if missing := [name for name in ("httptools", "starlette", "uvicorn", "PIL") if find_spec(name) is None]:
        raise SandboxUnavailable(
            f"the stand-in hub needs: pip install 'oxenbatch[sandbox]' (missing here: {', '.join(missing)})"
        )


class Sandbox:
    """A stand-in hub on loopback: `with Sandbox(speed=60) as hub:` and then `hub.url`, `hub.key`, `hub.record()`."""

    def __init__(
        self,
        *,
        speed: float = 1.0,
        port: int = 0,
        files_port: int = 0,
        journal: Path | str | None = None,
        faults: Path | str | None = None,
        credits: Decimal | str | None = None,  # noqa: A002  the hub's own word
        workers: int = 64,
        key: str = "sandbox",
        seed: str | None = None,
        life: str | None = None,
        file_bytes: int = 0,
    ) -> None:
        self.key = key
        self.url = ""
        """The API's address, without `/api`; empty until it is started."""
        self.files_url = ""
        options = {
            "speed": speed,
            "port": port,
            "files-port": files_port,
            "journal": journal,
            "faults": faults,
            "credits": credits,
            "workers": workers,
            "key": key,
            "seed": seed,
            "life": life,
            "file-bytes": file_bytes,
        }
        self._options = [f"--{name}={value}" for name, value in options.items() if value is not None]
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Sandbox at {self.url}, process {self.pid}>" if self._process else "<Sandbox, not running>"

    @property
    def pid(self) -> int | None:
        """The hub's process, while it runs."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """The hub listens, or `SandboxUnavailable` says why it does not."""
        require()
        self._process = subprocess.Popen(  # noqa: S603  our own module, and no shell
            [sys.executable, "-m", "oxenbatch.sandbox", "--stop-with-parent", *self._options],
            stdin=subprocess.PIPE,  # held open and never written to: its end is our end
            stdout=subprocess.PIPE,
            # Ctrl-C goes to everybody at the terminal: ours drains first, and needs a hub to do so.
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101  asked for above
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self.stop()
            raise SandboxUnavailable(f"the stand-in hub ended with {code} before it listened; it says why above")
        said = json.loads(line)
        self.url, self.files_url = said["url"], said["files_url"]

    def stop(self) -> None:
        """The hub is gone; a second call changes nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        with process:  # closes the pipes, and waits
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def record(self) -> dict[str, Any]:
        """The oracle's record so far: `posts`, `generations`, `active`, `peak_active`, `calls` and the rest of them."""
        from http.client import HTTPConnection  # noqa: PLC0415  the import costs what the rest of this module does not
        from urllib.parse import urlsplit  # noqa: PLC0415

        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        try:
            connection.request("GET", "/_sandbox/record")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return answer
