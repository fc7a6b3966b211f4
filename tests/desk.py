"""A folder, a hub and the command, as a user has them: what stories of the command line share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.sandbox import Sandbox


class Desk:
    """A folder, a hub and the command, as a user has them."""

    def __init__(self, folder: Path, hub: Sandbox) -> None:
        self.folder, self.hub = folder, hub
        home = folder / "home"
        home.mkdir()
        keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.env = keep | {"HOME": str(home), "OXEN_API_KEY": hub.key, "OXEN_BASE_URL": hub.url, "NO_COLOR": "1"}
        self.before = hub.record()

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def call(self, *arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([sys.executable, "-m", "oxenbatch", *arguments], cwd=self.folder, env=self.env | env,
                              capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-m", "oxenbatch", *arguments], cwd=self.folder, env=self.env,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip

    def posts(self) -> int:
        """POSTs that the hub accepted since this desk was set up."""
        return int(self.hub.record()["posts"] - self.before["posts"])

    def made(self) -> int:
        return int(self.hub.record()["generations"] - self.before["generations"])

    def states(self, folder: str) -> Counter[str]:
        told = json.loads(self.call("status", folder, "--json").stdout)
        return Counter({state: n for state, n in told["states"].items() if n})


def machine_line(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The last line on stderr, read as a machine does."""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("oxenbatch: exit=")
    return dict(word.split("=") for word in last.removeprefix("oxenbatch: ").split())
