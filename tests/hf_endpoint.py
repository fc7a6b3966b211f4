"""A Hugging Face hub on loopback, as far as one data set needs it: real HTTP for the real library.

Images go the way of large files (a batch call, an upload, a pointer in the commit), texts the way of small ones.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "hf_sandbox"


class Endpoint:
    """The data sets, and the record of what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {"me/set": {}}
        self.commits: list[dict[str, Any]] = []
        self.objects: dict[str, bytes] = {}
        self.calls: Counter[str] = Counter()
        self.refuse: dict[str, int] = {}
        """Statuses to answer with, by the call's name."""
        self.fail_after_commits: int | None = None
        self.url = ""

    def head(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()  # noqa: S324 - it looks like git's


class _Handler(BaseHTTPRequestHandler):
    hub: Endpoint
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        return

    def answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        if value is not None:
            body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refused(self, call: str) -> bool:
        self.hub.calls[call] += 1
        status = self.hub.refuse.get(call)
        if self.headers.get("authorization") != f"Bearer {TOKEN}" and call != "upload":
            status = 401
        if status is None:
            return False
        hidden = {"X-Error-Code": "RepoNotFound"} if status == 401 else {}  # what one may not see is not there
        self.answer(status, {"error": "no"}, {"X-Error-Message": "no"} | hidden)
        return True

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_any(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self.body()
        if match := re.fullmatch(r"/objects/([0-9a-f]{64})", path):
            if not self.refused("upload"):
                assert hashlib.sha256(body).hexdigest() == match[1]
                hub.objects[match[1]] = body
                self.answer(200)
            return
        if path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
            return
        match = re.fullmatch(r"(?:/api)?/datasets/([\w-]+/[\w-]+)(?:\.git)?(/.*)?", path)
        if match is None:
            self.answer(404, {"error": "no such call"})
            return
        name, rest = match[1], match[2] or ""
        if name not in hub.files:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        calls = {
            r"": self.info,
            r"/revision/main": self.info,
            r"/tree/main/?": self.tree,
            r"/preupload/main": self.preupload,
            r"/info/lfs/objects/batch": self.batch,
            r"/commit/main": self.commit,
            r"/resolve/[^/]+/(.+)": self.resolve,
        }
        for pattern, call in calls.items():
            if found := re.fullmatch(pattern, rest):
                if not self.refused(call.__name__):
                    call(name, body, *found.groups())
                return
        self.answer(404, {"error": f"no such call: {rest}"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815 - http.server's names

    def info(self, name: str, _body: bytes) -> None:
        self.answer(200, {"id": name, "sha": self.hub.head(), "siblings": [], "private": False, "tags": []})

    def tree(self, name: str, _body: bytes) -> None:
        listed = []
        for path, content in self.hub.files[name].items():
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()  # noqa: S324 - git's own
            one: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob}
            if path.endswith((".png", ".mp4")):
                sha256 = hashlib.sha256(content).hexdigest()
                one["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
                one["oid"] = "0" * 40
            listed.append(one)
        self.answer(200, listed)

    def preupload(self, name: str, body: bytes) -> None:
        files = [
            {"path": one["path"], "shouldIgnore": False,
             "uploadMode": "lfs" if one["path"].endswith((".png", ".mp4")) else "regular"}
            for one in json.loads(body)["files"]
        ]  # fmt: skip
        self.answer(200, {"files": files})

    def batch(self, name: str, body: bytes) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            found: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                found["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}", "header": {}}}
            objects.append(found)
        self.answer(200, {"transfer": "basic", "objects": objects}, {"content-type": "application/vnd.git-lfs+json"})

    def commit(self, name: str, body: bytes) -> None:
        hub = self.hub
        if hub.fail_after_commits is not None and len(hub.commits) >= hub.fail_after_commits:
            self.answer(400, {"error": "killed"})
            return
        told: dict[str, Any] = {"added": [], "deleted": []}
        for line in body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                told["summary"] = value["summary"]
            elif key == "file":
                hub.files[name][value["path"]] = base64.b64decode(value["content"])
                told["added"].append(value["path"])
            elif key == "lfsFile":
                hub.files[name][value["path"]] = hub.objects[value["oid"]]
                told["added"].append(value["path"])
            elif key == "deletedFile":
                del hub.files[name][value["path"]]
                told["deleted"].append(value["path"])
        hub.commits.append(told)
        url = f"{hub.url}/datasets/{name}/commit/{hub.head()}"
        self.answer(200, {"success": True, "commitOid": hub.head(), "commitUrl": url, "hookOutput": ""})

    def resolve(self, name: str, _body: bytes, path: str) -> None:
        content = self.hub.files[name].get(path)
        if content is None:
            self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.answer(200, None, {"etag": etag, "x-repo-commit": self.hub.head(), "content-type": "text/plain"}, content)


@contextlib.contextmanager
def served() -> Iterator[Endpoint]:
    """The endpoint, for as long as the block lasts."""
    hub = Endpoint()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
