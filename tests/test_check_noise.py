"""Files that nobody meant: each ends in one clear sentence, soon, in little memory, with exit code 0 or 65.

`make test` tries 2,000 damaged manifests; with OXENBATCH_NIGHTLY set it is 20,000.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from oxenbatch import kept
from oxenbatch.cli.plan import check
from oxenbatch.sandbox.models import CATALOGUE

EXAMPLES = Path(__file__).parents[1] / "manifests"
MODEL = "black-forest-labs-flux-2-klein-4b"
FILES = 20_000 if os.environ.get("OXENBATCH_NIGHTLY") else 2_000
FORMS = ("yaml", "csv", "tsv", "jsonl", "json", "txt")
ROWS = b"prompt,seed\n" + b"a prompt,1\n" * 20

NASTY: dict[str, tuple[str, bytes, str]] = {
    # what: (extension, bytes, a part of the sentence)
    "latin-1": ("csv", "prompt\ncafé\n".encode("latin-1"), "m.csv:2: is not UTF-8 (byte 0xe9); save it as UTF-8"),
    "NUL": ("csv", b"prompt\na\0b\n", "m.csv:2: holds a NUL character"),
    "UTF-16": ("csv", "prompt\na\n".encode("utf-16"), "is UTF-16, expected UTF-8"),
    "unclosed quote": ("csv", b'prompt,seed\n"a,1\n' + ROWS, "m.csv:2:1: row 1: is not strict CSV: a quoted"),
    "a long unclosed quote": ("csv", b'prompt,seed\n"' + b'x""y,1\n' * 2_000_000, "m.csv:2:1: row 1: is not strict"),
    "quote that goes on": ("csv", b'prompt,seed\n"a"b,1\nc,2\n', "m.csv:2:1: row 1: is not strict CSV: a quoted"),
    "duplicate keys": ("yaml", b"- {prompt: a, prompt: b}\n", "m.yaml:1:15: row 1: 'prompt' is there twice"),
    "duplicate keys in JSON": ("json", b'[{"prompt": "a", "prompt": "b"}]', "is there twice in one object"),
    "duplicate headers": ("csv", b"prompt,seed,prompt\na,1,b\n", "m.csv:1:13: two columns are named 'prompt'"),
    "long row": ("csv", b"prompt,seed\na,1,2\n", "m.csv:2:5: row 1: has 3 cells, expected at most 2"),
    "short row": ("csv", b"prompt,seed\na\nb,2\n", "m.csv:2:1: row 1: has 1 cell, expected 2 as in the header"),
    "another separator": ("csv", b"prompt;seed\na;1\n", "expected columns separated by commas"),
    "lone surrogate": ("jsonl", b'{"prompt": "\\ud800"}\n', "m.jsonl:1:1: row 1: holds half a surrogate pair"),
    "lone surrogate in YAML": ("yaml", b'- "\\ud800"\n', "m.yaml:1:"),
    "500 levels": ("yaml", b"- " + b"[" * 500 + b"]" * 500 + b"\n", "is nested deeper than 64 levels"),
    "500 levels of JSON": ("json", b"[" * 500 + b"]" * 500, "is nested deeper than 64 levels"),
    "100,000 levels of JSON": ("json", b"[" * 100_000, "is nested deeper than 64 levels"),
    "billion laughs": (
        "yaml",
        b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9))
                                                  for n in range(ord("b"), ord("j"))) + b"prompts: [*i]\n",
        "has an anchor (&), which is not supported",
    ),
    "object tag": ("yaml", b"- !!python/object/apply:os.system ['touch pwned']\n", "has the tag !!python/object/apply"),
    "empty": ("yaml", b"", "m.yaml: has no rows"),
    "only a mark": ("csv", b"\xef\xbb\xbf", "m.csv: has no rows"),
    "a line without end": ("txt", b"x" * 20_000_000, "has a line of more than 8 MB"),
    "a control character": ("yaml", b"- a\x07b\n", "holds the character U+0007"),
    "two documents": ("yaml", b"- a\n---\n- b\n", "holds more than one document"),
    "not JSON": ("json", b'[{"prompt": "a",}]', "m.json:1:17: is not JSON"),
    "a huge product": ("yaml", b"matrix: {seed: [" + b",".join(b"%d" % n for n in range(2000)) + b"], width: ["
                       + b",".join(b"%d" % n for n in range(256, 1256)) + b"]}\nprompts: [a]\n",
                       "there are more than 1,000,000 rows (this entry alone becomes 2,000,000)"),
}  # fmt: skip
FINE: dict[str, tuple[str, bytes]] = {
    "BOM and CRLF": ("csv", b"\xef\xbb\xbfprompt,seed\r\na,1\r\n"),
    "BOM in YAML": ("yaml", b"\xef\xbb\xbf- a\r\n- b\r\n"),
    "a cell of 90 kB": ("csv", b'prompt,seed\n"' + b"x" * 90_000 + b'",1\n'),
    "literal quotes in TSV": ("tsv", b'prompt\tseed\n"Wow" she said\t1\n'),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home where the stand-in's catalogue was kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    payload = {"data": [model.shown() for model in CATALOGUE.values()]}
    kept.save(kept.cache_folder(), "https://hub.oxen.ai:443", payload)
    return tmp_path


# Run as a user does, with memory bounded by the kernel: 200 MB of data beside what the interpreter maps.
LIMITED = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20));"
    "from oxenbatch.cli import main; sys.argv = ['oxenbatch', *sys.argv[1:]]; main()"
)


def checked(home: Path, name: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", LIMITED, "check", name, "--offline", "--model", MODEL]
    return subprocess.run(words, cwd=home, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("what", NASTY)
def test_a_nasty_file_is_one_clear_sentence(home: Path, what: str) -> None:
    extension, data, words = NASTY[what]
    (home / f"m.{extension}").write_bytes(data)
    done = checked(home, f"m.{extension}")
    assert done.returncode == 65, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2  # the sentence, and how many there were
    assert not (home / "pwned").exists()


@pytest.mark.parametrize("what", FINE)
def test_an_odd_file_that_can_be_read_is_read(home: Path, what: str) -> None:
    extension, data = FINE[what]
    (home / f"m.{extension}").write_bytes(data)
    done = checked(home, f"m.{extension}")
    assert done.returncode == 0, done.stderr


def test_a_cell_of_a_megabyte_is_told_and_not_sent(home: Path) -> None:
    (home / "m.csv").write_bytes(b"prompt,seed\n" + b"x" * 2**20 + b",1\n")
    done = checked(home, "m.csv")
    assert (done.returncode, "prompt: has 1,048,576 characters, expected at most 100,000" in done.stderr) == (65, True)


def test_a_folder_and_a_pipe_without_a_writer_are_refused_at_once(home: Path) -> None:
    (home / "d.yaml").mkdir()
    assert "d.yaml: is a folder, expected a manifest file" in checked(home, "d.yaml").stderr
    os.mkfifo(home / "p.yaml")
    done = checked(home, "p.yaml")
    assert (done.returncode, "p.yaml: is a pipe that nobody writes into" in done.stderr) == (65, True)
    assert (checked(home, "/dev/null").returncode, checked(home, "missing.yaml").returncode) == (65, 2)


def test_a_pipe_with_a_writer_is_read(home: Path) -> None:
    flags = f"--format txt --offline --model {MODEL} --json"
    script = f"exec {sys.executable} -m oxenbatch check <(sleep 0.2; echo a) {flags}"
    done = subprocess.run(["bash", "-c", script], cwd=home, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, 1), done.stderr


TOKENS = (
    b'"', b"'", b"{", b"}", b"[", b"]", b": ", b"- ", b"\n", b"\t", b",", b"&a ", b"*a ", b"!!x ", b"\\u0000", b"\0",
    b"\xff", b"\xef\xbb\xbf", b"1e999", b"null", b"{date}", b"prompt", b"model: ", b"\r", b"  ", b"<<: ", b"| ",
)  # fmt: skip


def damaged(chance: random.Random, whole: bytes) -> bytes:
    """The manifest after a few accidents."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(data))
        kind = chance.randrange(5)
        if kind == 0:
            data[at:at] = chance.choice(TOKENS)
        elif kind == 1:
            del data[at : at + chance.randint(1, 20)]
        elif kind == 2:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 3:
            data[at:at] = data[at : at + chance.randint(1, 60)]
        elif chance.random() < 0.3:
            del data[at:]
    return bytes(data)


def test_noise_ends_with_0_or_65_and_nothing_else(home: Path) -> None:
    chance = random.Random(20261122)
    whole = [path.read_bytes() for path in sorted(EXAMPLES.iterdir()) if path.suffix[1:] in FORMS]
    runner = CliRunner()
    codes = {0: 0, 65: 0}
    for number in range(FILES):
        data = damaged(chance, chance.choice(whole)) if number % 4 else chance.randbytes(chance.randint(0, 200))
        name = f"m.{chance.choice(FORMS)}"
        (home / name).write_bytes(data)
        done = runner.invoke(check, [name, "--offline", "--model", MODEL, "--json"])
        assert done.exit_code in codes, (number, name, data, done.exception)
        assert isinstance(done.exception, SystemExit | None)
        codes[done.exit_code] += 1
        said = json.loads(done.stdout)
        assert bool(said["problems"]) is (done.exit_code == 65)
        ends = data.count(b"\n") + data.count(b"\r")  # to YAML both are; its parser looks behind the last
        for problem in said["problems"]:
            assert 1 <= (problem["line"] or 1) <= ends + 2, (number, problem, data)
            assert 1 <= (problem["column"] or 1) <= len(data) + 1, (number, problem, data)
    assert min(codes.values()) > FILES / 50  # both ends were reached often enough for the test to mean something
