"""`python -m oxenbatch.sandbox`: the stand-in hub as a process; its first line on stdout says where it listens."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from .faults import Faults
from .journal import hold
from .lives import Life
from .process import SandboxUnavailable, require
from .state import HubState

if TYPE_CHECKING:
    from collections.abc import Sequence


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m oxenbatch.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the API; 0 chooses one")
    parser.add_argument("--files-port", type=int, default=0, help="of the results, which are on another origin")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times as fast as the hub")
    parser.add_argument("--journal", type=Path, help="what the hub remembers when it is started again")
    parser.add_argument("--faults", type=Path, help="a JSON file of faults, read again whenever it changes")
    parser.add_argument("--credits", type=Decimal, help="dollars; endless where absent")
    parser.add_argument("--workers", type=int, default=64, help="how many generations are made at once")
    parser.add_argument("--key", default="sandbox", help="the key that is accepted")
    parser.add_argument("--life", type=Life.parse, help="seconds: 2, 2~0.5 (lognormal), 12x (its duration)")
    parser.add_argument("--file-bytes", type=int, default=0, help="results are filled up to so many bytes")
    parser.add_argument("--seed", help="draws the same ids each time, and with them the same times")
    parser.add_argument("--stop-with-parent", action="store_true", help="end when stdin does")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The hub has served until it was told to stop; `SandboxUnavailable` where it could not begin."""
    asked = _arguments(argv)
    require()
    from .server import serve  # noqa: PLC0415  what it needs may be missing, and `require` says so in a sentence

    def make(url: str, files_url: str) -> HubState:
        return HubState(
            clock=time.time,
            speed=asked.speed,
            keys={asked.key},
            credits=asked.credits,
            journal=asked.journal,
            base_url=url,
            files_url=files_url,
            workers=asked.workers,
            faults=Faults.from_file(asked.faults) if asked.faults else None,
            seed=asked.seed,
            life=asked.life,
            file_bytes=asked.file_bytes,
        )

    def ready(url: str, files_url: str) -> None:
        sys.stdout.write(json.dumps({"url": url, "files_url": files_url, "key": asked.key}) + "\n")
        sys.stdout.flush()

    try:
        with ExitStack() as held:
            if asked.journal:
                held.enter_context(hold(asked.journal))
            serve(
                make, port=asked.port, files_port=asked.files_port, ready=ready, stop_with_parent=asked.stop_with_parent
            )
    except (OSError, ValueError) as error:
        raise SandboxUnavailable(f"the stand-in hub cannot start: {error}") from error


if __name__ == "__main__":
    try:
        main()
    except SandboxUnavailable as unavailable:
        sys.stderr.write(f"{unavailable}\n")
        sys.exit(2)
