"""A service on loopback that hears notices and heartbeats, for the tests of what a run tells others."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Ears:
    """Hears every call; a context manager. `answers`: the status that it gives from now on."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        """Each call: its method and path, and its body."""
        self.agents: list[str] = []
        self.answers = 200
        ears = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                ears.heard.append((f"{self.command} {self.path}", body))
                ears.agents.append(self.headers.get("User-Agent", ""))
                self.send_response(ears.answers)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET  # noqa: N815 - http.server's name for it

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def calls(self) -> list[str]:
        """What was called, in order."""
        return [call for call, _ in self.heard]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
