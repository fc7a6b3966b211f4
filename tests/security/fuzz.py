"""What is fed with anything at all, and what must hold whatever that is.

`python tests/security/fuzz.py --seconds 60` feeds every target in turn: by coverage, with atheris, where that is
installed; else by hypothesis. A failure is printed with its bytes; put them into `CORPUS` of `test_fuzz.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from httpx_sse import EventSource

from oxenbatch.addresses import AddressRefused, after_redirect, origin_of, shown
from oxenbatch.echo import echoes
from oxenbatch.errors import ManifestError, OxenbatchError, Problem, printable
from oxenbatch.hub.bodies import Bounded
from oxenbatch.manifest import Overrides, load_manifest
from oxenbatch.media import Damaged, inspect
from oxenbatch.names import collision_key, inside, safe_stem, slug
from oxenbatch.wire import (
    Outcome,
    http_date,
    read_answer,
    read_event,
    read_generations,
    read_page,
    retry_after,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

FORMS: Final = ("yaml", "csv", "tsv", "jsonl", "json", "txt")
EXTENSIONS: Final = frozenset(["png", "jpg", "gif", "webp", "bmp", "tiff", "avif", "heic", "mp4", "m4v", "mov", "webm"])
_FOLDER: Final = Path(tempfile.mkdtemp(prefix="oxenbatch-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108


def manifest(data: bytes) -> None:
    """Bytes as a manifest, in a format that the first of them chooses: rows, or problems with their places."""
    form = FORMS[data[0] % len(FORMS)] if data else "txt"
    path = _FOLDER / f"m.{form}"
    path.write_bytes(data[1:])
    try:
        loaded = load_manifest(path, overrides=Overrides(model="m", max_rows=1000))
        for found in loaded.rows(dt.date(2026, 11, 22)):
            if isinstance(found, Problem):
                assert str(found)
            else:
                json.dumps(found.parameters, ensure_ascii=False).encode()  # it can be sent as it is
                assert found.samples >= 1
                assert found.id is None or inside(_FOLDER, safe_stem(found.id) + ".png")
    except (ManifestError, OxenbatchError) as error:
        _says_why(error)


def _says_why(error: Exception, secret: str = "") -> None:
    assert str(error)
    assert not secret or secret not in str(error)


def hub_json(data: bytes) -> None:
    """Bytes as any of the hub's answers: ids are UUIDs, numbers are numbers, and nothing else is raised."""
    for status in (200, 400, 401, 429, 502):
        answer = read_answer(status, {"retry-after": data[:20].decode("latin-1")}, data, 1)
        assert all(len(one) == 36 for one in answer.ids)
        assert answer.retry_after_s is None or 0 <= answer.retry_after_s <= 900
        assert status < 500 or answer.outcome is Outcome.UNKNOWN
        assert len(answer.words) <= 2000
        answer.words.encode()
    with contextlib.suppress(ValueError, RecursionError):
        payload = json.loads(data)
        for reader in (read_generations, read_page):
            with contextlib.suppress(ValueError):
                found: Any = reader(payload)
                for row in found if isinstance(found, list) else found.generations:
                    assert len(row.generation_id) == 36
                    assert row.cost is None or 0 <= row.cost < 1_000_000
                    f"{row.model}{row.error}{row.result_url}{row.directory}".encode()
                    assert echoes(row, "m", {"prompt": "x", "seed": 1}) in (True, False, None)


def events(data: bytes) -> None:
    """Bytes as an event stream, whole and cut in two at a place that the first of them chooses: the same news."""
    body = data[1:]
    cut = data[0] * len(body) // 256 if data else 0
    whole = _hear([body])
    assert _hear([body[:cut], body[cut:]]) == whole
    if len(body) < 200:
        assert _hear([body[i : i + 1] for i in range(len(body))]) == whole


def _hear(chunks: list[bytes]) -> list[str]:
    import codecs

    async def texts() -> AsyncIterator[str]:
        decode = codecs.getincrementaldecoder("utf-8")("replace")
        for chunk in chunks:
            if text := decode.decode(chunk):
                yield text
        if text := decode.decode(b"", final=True):
            yield text

    async def listen() -> list[str]:
        response: Any = SimpleNamespace(headers={"content-type": "text/event-stream"}, aiter_text=texts)
        source = EventSource(Bounded(response))  # type: ignore[arg-type]
        heard = [read_event(e.event, e.data) async for e in source.aiter_sse() if e.data]
        return [f"{one.generation_id} {one.status} {one.result_url}" for one in heard if one]

    return asyncio.run(listen())


def name(data: bytes) -> None:
    """Bytes as an id and as a prompt: one part of a path, portable, and its own once it is one."""
    text = data.decode("utf-8", "surrogateescape")
    for stem in (safe_stem(text), safe_stem(slug(text) or "x")):
        assert 0 < len(stem.encode()) <= 120
        assert inside(_FOLDER, stem + "-10000.webp.part").parent == _FOLDER
        assert safe_stem(stem) == stem or stem != text
        assert collision_key(stem) == collision_key(stem.upper()) or not stem.isascii()
        assert stem.isprintable()
    with contextlib.suppress(ValueError):
        assert inside(_FOLDER, text).is_relative_to(_FOLDER)


def media(data: bytes) -> None:
    """Bytes as a file: of a closed list of types, or damaged."""
    path = _FOLDER / "file"
    path.write_bytes(data)
    try:
        found = inspect(path)
    except Damaged as error:
        _says_why(error)
    else:
        assert found.extension in EXTENSIONS
        assert found.width is None or found.width > 0


def address(data: bytes) -> None:
    """Bytes as an address, a redirect and a date: known, or refused, and never shown with its secrets."""
    text = data.decode("utf-8", "surrogateescape")
    for url in (text, f"https://user:sesame@{text}", f"https://x/{text}"):
        try:
            assert "sesame" not in shown(url) or "sesame" in text
            origin_of(url)
            after_redirect(url, text)
        except AddressRefused as refused:
            _says_why(refused, "" if "sesame" in text else "sesame")
    assert printable(text).isprintable()
    http_date(text)
    retry_after({"retry-after": text, "date": text})


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "manifest": manifest, "hub_json": hub_json, "events": events, "name": name, "media": media, "address": address,
}  # fmt: skip


def with_hypothesis(target: Callable[[bytes], None], seeds: list[bytes], examples: int) -> None:
    """The target holds for so many byte strings, half of them made from the seeds."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    @st.composite
    def mutated(draw: Any) -> bytes:
        data = bytearray(draw(st.sampled_from(seeds)))
        for _ in range(draw(st.integers(1, 6))):
            at = draw(st.integers(0, len(data)))
            match draw(st.integers(0, 3)):
                case 0:
                    data[at:at] = draw(st.binary(max_size=8))
                case 1:
                    del data[at : at + draw(st.integers(1, 16))]
                case 2:
                    data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
                case _:
                    data[at:at] = data[at // 2 : at]
        return bytes(data)

    quiet = {"max_examples": examples, "deadline": None, "database": None,
             "suppress_health_check": list(HealthCheck), "phases": (Phase.generate, Phase.shrink)}  # fmt: skip
    settings(**quiet)(given(st.binary(max_size=300) | mutated())(target))()


def with_atheris(chosen: str, seeds: list[bytes], seconds: int) -> int:
    """The exit code of a fuzzer that goes where the program has not been yet, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="oxenbatch-corpus-") as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        here = Path(__file__).parent
        program = (
            f"import sys; sys.path.insert(0, {str(here)!r}); import atheris\n"
            "with atheris.instrument_imports(include=['oxenbatch']): import fuzz\n"
            f"atheris.Setup(sys.argv, fuzz.TARGETS[{chosen!r}]); atheris.Fuzz()\n"
        )
        flags = [
            f"-max_total_time={seconds}",
            "-max_len=4096",
            "-timeout=20",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
        ]
        done = subprocess.run([sys.executable, "-c", program, *flags, corpus], cwd=corpus, check=False)
        for crash in Path(corpus).glob("crash-*"):
            print(f"{chosen}: {crash.read_bytes()!r}")
        return done.returncode


def main() -> None:
    """Every target was fed for its part of the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("FUZZ_SECONDS", "60")))
    parser.add_argument("--target", choices=TARGETS, action="append")
    chosen = parser.parse_args()
    from test_fuzz import CORPUS

    names = chosen.target or list(TARGETS)
    each = max(1, chosen.seconds // len(names))
    by_coverage = importlib.util.find_spec("atheris") is not None
    print(f"{'atheris' if by_coverage else 'hypothesis'}, {each} s for each of {', '.join(names)}", flush=True)
    failed = []
    for one in names:
        if by_coverage:
            failed += [one] if with_atheris(one, CORPUS[one], each) else []
            continue
        ends, fed = time.monotonic() + each, 0
        while time.monotonic() < ends:
            with_hypothesis(TARGETS[one], CORPUS[one], 500)
            fed += 500
        print(f"{one}: {fed} inputs", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
