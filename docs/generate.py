"""What the pages show as the program's own words is written anew, or with `--check` only compared.

`<!-- generated: NAME -->` in a page: what follows, up to `<!-- /generated -->`, is what `BLOCKS[NAME]` gives now.
Commands are really run, on the stand-in hub, in a folder that is thrown away; what differs from run to run (ids,
times, ports, paths) is replaced, so that the same program always gives the same page.
"""

from __future__ import annotations

import argparse
import ast
import datetime as dt
import difflib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from click.testing import CliRunner

import oxenbatch.jobs
from oxenbatch.cli import COMMANDS, cli
from oxenbatch.cli.metrics import BY_BATCH, NAMES, WHILE_RUNNING
from oxenbatch.jobs import MOVES, Event, JobState
from oxenbatch.ledger.schema import VERSION, as_text, by_steps
from oxenbatch.manifest import load_manifest
from oxenbatch.sandbox.mishaps import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
OXENBATCH = Path(sys.executable).with_name("oxenbatch")
WIDTH = 100
PATIENCE_S = 100.0  # for one command: they take 1 to 6 s; a lost event can cost a minute until the list is asked
MARKS = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
PASSING = "sends without an answer|sending waits|found at the hub"
WHEN = re.compile(r"\b20\d\d-\d\d-\d\d([ T])\d\d:\d\d:\d\d(\+00:00)?")


class Shell:
    """A user's terminal in a folder of its own; it notes what was typed and what came of it."""

    def __init__(self, folder: Path, speed: float = 1000) -> None:
        self.folder, self.shown, self.hubs = folder, [], []
        self.ports: dict[str, str] = {}
        shutil.copytree(ROOT / "manifests", folder / "manifests", ignore=shutil.ignore_patterns("out"))
        shutil.copytree(ROOT / "docs" / "faults", folder, dirs_exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OXEN", "COV_"))}
        self.environ = kept | {
            "HOME": str(folder / ".home"), "XDG_CACHE_HOME": str(folder / ".cache"),
            "XDG_DATA_HOME": str(folder / ".data"), "XDG_CONFIG_HOME": str(folder / ".config"),
            "COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb", "TZ": "UTC", "LC_ALL": "C.UTF-8",
            "OXENBATCH_SPEED": str(speed), "OXEN_API_KEY": "sandbox", "PYTHONUNBUFFERED": "1",
            "OXENBATCH_PROGRESS": "none",
        }  # fmt: skip

    def start(self, typed: str) -> subprocess.Popen[str]:
        """The command runs; `OXENBATCH` in front may be a variable or two, as in a shell."""
        words = shlex.split(typed, comments=True)
        environ = dict(self.environ)
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            environ[name] = value
        for real, known in self.ports.items():
            words = [word.replace(known, real) for word in words]
        words[0] = str(OXENBATCH) if words[0] == "oxenbatch" else words[0]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(words, cwd=self.folder, env=environ, text=True, **pipes)  # noqa: S603 - typed above

    def run(self, typed: str) -> str:
        """The command has been typed and has ended; what it printed."""
        command = self.start(typed)
        try:
            printed, _ = command.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            command.kill()
            raise
        self.note(typed, printed)
        return printed

    def note(self, typed: str, printed: str = "") -> None:
        """Both stand in the transcript."""
        self.shown.append(f"$ {typed}\n{printed}")

    def serve(self, faults: str | None = None) -> None:
        """The stand-in hub is served in the background, on a port that the page calls 8123."""
        typed = "oxenbatch sandbox --port 8123 --speed 100" + (f" --faults {faults}" if faults else "")
        hub = self.start(typed.replace("8123", "0"))
        self.hubs.append(hub)
        assert hub.stdout is not None  # noqa: S101 - asked for as a pipe
        said = hub.stdout.readline()
        for known, key in (("8123", "url"), ("8124", "files_url")):
            self.ports[json.loads(said)[key].rpartition(":")[2]] = known
        self.note(f"{typed} &", said)

    def record(self, *names: str) -> None:
        """What the stand-in hub says of itself, as `curl` and `jq` would show it."""
        port = next(real for real, known in self.ports.items() if known == "8123")
        with urlopen(f"http://127.0.0.1:{port}/_sandbox/record") as answer:
            told = json.load(answer)
        printed = json.dumps({name: told[name] for name in names}, separators=(",", ":")) + "\n"
        self.note(f"curl -s http://127.0.0.1:8123/_sandbox/record | jq -c '{{{', '.join(names)}}}'", printed)

    def sql(self, ledger: str, query: str) -> None:
        """The query's rows, as the sqlite3 shell shows them."""
        with sqlite3.connect(self.folder / ledger) as db:
            rows = db.execute(query).fetchall()
        self.note(f'sqlite3 {ledger} "{query}"', "".join("|".join(map(str, row)) + "\n" for row in rows))

    def stop_hubs(self) -> None:
        """What was served is served no more."""
        for hub in self.hubs:
            hub.terminate()
            hub.communicate(timeout=PATIENCE_S)

    def transcript(self) -> str:
        """Everything that was typed and printed, without what differs from one day to the next."""
        text = "\n".join(self.shown)
        if "Traceback (most recent call last)" in text:
            sys.exit(f"a command ended with a bug, so no page is written:\n{text}")
        for real, known in self.ports.items():
            text = text.replace(f":{real}", f":{known}")
        # What is seen on the way depends on when one looks.
        text = re.sub(rf"^(?:.* seen_processing|{PASSING}).*\n", "", text, flags=re.MULTILINE)
        text = text.replace("processing -> succeeded  ", "queued -> succeeded      ")
        text = re.sub(r"(-> \w+ +\w+) {3,}", r"\1  ", text)
        text = re.sub(r"\btook \d+ s", "took 1 s", text)
        text = re.sub(r"(\bbegun |\blast run +)20\d\d-\d\d-\d\d( \d\d:\d\d)?",
                      lambda m: f"{m[1]}2026-11-22{' 03:00' if m[2] else ''}", text)  # fmt: skip
        numbers: dict[str, int] = {}
        count = itertools.count(1)
        text = UUID.sub(lambda m: f"00000000-0000-4000-8000-{numbers.setdefault(m[0], next(count)):012d}", text)
        text = WHEN.sub(lambda m: f"2026-11-22{m[1]}03:00:00{m[2] or ''}", text.replace(str(self.folder), "."))
        return f"```console\n{text.rstrip()}\n```"


def in_a_shell(story: Callable[[Shell], None]) -> Callable[[], str]:
    """A block that is the story's transcript."""

    def block() -> str:
        with tempfile.TemporaryDirectory(prefix="oxenbatch-docs-") as name:
            shell = Shell(Path(name))
            try:
                story(shell)
            finally:
                shell.stop_hubs()
            return shell.transcript()

    return block


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    cells = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


# -- what is run -------------------------------------------------------------------------------------------------------


def demo(shell: Shell) -> None:
    shell.run("oxenbatch run manifests/demo.yaml --sandbox")
    shell.run("ls manifests/out/demo")
    shell.run("oxenbatch show manifests/demo.yaml sunset")
    shell.run("oxenbatch run manifests/demo.yaml --sandbox    # again: nothing is made or paid")


def killed(shell: Shell) -> None:
    typed = "oxenbatch run manifests/prompts.txt --model nano-banana-2 --sandbox"
    shell.environ["OXENBATCH_SPEED"] = "3"  # slow enough to be killed while all four are at the hub
    run = shell.start(typed)
    ledger = shell.folder / "manifests/out/prompts/ledger.db"
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        time.sleep(0.02)
        with sqlite3.connect(ledger) if ledger.exists() else sqlite3.connect(":memory:") as db:
            if db.execute("select 1 from sqlite_master where name = 'samples'").fetchone() and db.execute(
                "select count(*) from samples where state = 'queued'"
            ).fetchone() == (4,):
                break
    run.send_signal(signal.SIGKILL)
    printed, _ = run.communicate(timeout=PATIENCE_S)
    shell.note(f"{typed} &", printed)
    shell.note("sleep 2; kill -9 $!")
    shell.run("oxenbatch status manifests/prompts.txt")
    shell.run(typed)


def wrong(shell: Shell) -> None:
    rows = 'id,prompt,duration,aspect_ratio\nreef,A reef,5,16:9\nreef,A reef at night,six,16:9\nshore,,5,"wide"\n'
    (shell.folder / "wrong.csv").write_text(rows)
    shell.run("cat wrong.csv")
    shell.run("oxenbatch check wrong.csv --sandbox --model kling-video-v2-6-pro-text-to-video")


def checked(shell: Shell) -> None:
    shell.run("oxenbatch check manifests/ocean-loops.yaml --sandbox")


def planned(shell: Shell) -> None:
    manifest = shell.folder / "scenes.yaml"
    head = "model: black-forest-labs-flux-2-klein-4b\nprompts:\n"
    rows = {name: f"A {name} in the rain" for name in ("mill", "weir", "lock", "quay")}
    manifest.write_text(head + "".join(f"- {{id: {name}, prompt: {prompt}}}\n" for name, prompt in rows.items()))
    shell.start("oxenbatch run scenes.yaml --sandbox").communicate(timeout=PATIENCE_S)
    rows = rows | {"weir": "A weir in the snow", "pier": "A pier in the rain"}
    del rows["quay"]
    manifest.write_text(head + "".join(f"- {{id: {name}, prompt: {prompt}}}\n" for name, prompt in rows.items()))
    shell.run("oxenbatch check scenes.yaml --sandbox")


def one_model(shell: Shell) -> None:
    shell.run("oxenbatch models flux --sandbox")
    shell.run("oxenbatch model nano-banana-2 --sandbox")


def inputs(shell: Shell) -> None:
    shell.serve()
    run = "oxenbatch run manifests/edits.yaml --hub http://127.0.0.1:8123"
    shell.run(run)
    shell.run("oxenbatch show manifests/edits.yaml still")
    shell.sql("manifests/out/edits/ledger.db", "select path, address from input_files join inputs on id = input_id")
    shell.record("posts", "stored", "charged")
    shell.run(f"{run}    # again")


def bad_inputs(shell: Shell) -> None:
    (shell.folder / "secret.png").write_bytes((shell.folder / "manifests/refs/mug.png").read_bytes())
    (shell.folder / "manifests/refs/page.png").write_text("<html>Not found</html>")
    (shell.folder / "manifests/refs/clip.mp4").write_bytes((ROOT / "oxenbatch/sandbox/clip.mp4").read_bytes())
    names = ("refs/mugg.png", "refs/page.png", "refs/clip.mp4", "../secret.png")
    rows = "".join(f"  - {{prompt: On white, input_image: {name}}}\n" for name in names)
    text = f"model: nano-banana-2\ninputs: {{namespace: my-org, repo: my-refs}}\nprompts:\n{rows}"
    (shell.folder / "manifests/bad.yaml").write_text(text)
    shell.run("cat manifests/bad.yaml")
    shell.run("oxenbatch run manifests/bad.yaml --sandbox")


def reading(shell: Shell) -> None:
    shell.start("oxenbatch run manifests/product-shots.csv --sandbox").communicate(timeout=PATIENCE_S)
    shell.run("oxenbatch status manifests/product-shots.csv")
    shell.run("oxenbatch ls manifests/product-shots.csv")


def status(shell: Shell) -> None:
    (shell.folder / "animals.yaml").write_text(
        "model: nano-banana-2\nprompts:\n  - {id: heron, prompt: A heron}\n  - {id: whale, prompt: 'A whale [fail]'}\n"
        "  - {id: otter, prompt: An otter}\n"
    )
    shell.start("oxenbatch run animals.yaml --sandbox --limit-sends 2").communicate(timeout=PATIENCE_S)
    shell.run("oxenbatch status animals.yaml")
    shell.run("oxenbatch run animals.yaml --sandbox")


def lost_answers(shell: Shell) -> None:
    shell.run("cat lost-answers.json")
    shell.serve("lost-answers.json")
    shell.run("oxenbatch run manifests/product-shots.csv --hub http://127.0.0.1:8123")
    shell.run("oxenbatch show manifests/product-shots.csv mug-front")
    shell.record("posts", "generations", "charged")


def busy_hub(shell: Shell) -> None:
    shell.run("cat busy-hub.json")
    shell.serve("busy-hub.json")
    shell.run("oxenbatch run manifests/product-shots.csv --hub http://127.0.0.1:8123 --settle 2s")
    shell.run("oxenbatch show manifests/product-shots.csv lamp")
    shell.record("posts", "generations", "charged")


def bad_files(shell: Shell) -> None:
    shell.run("cat bad-files.json")
    shell.serve("bad-files.json")
    shell.run("oxenbatch run manifests/product-shots.csv --hub http://127.0.0.1:8123 -n 1")
    query = "select generation_id, state, fetch_tries, cost from generations"
    shell.sql("manifests/out/product-shots/ledger.db", query)
    shell.record("posts", "generations", "charged")


def exporting(shell: Shell) -> None:
    shell.start("oxenbatch run manifests/product-shots.csv --sandbox").communicate(timeout=PATIENCE_S)
    shell.run("oxenbatch export manifests/product-shots.csv -o shots.parquet")
    shell.run("oxenbatch export manifests/product-shots.csv -o shots --format folder --split-by split")
    shell.run("ls shots shots/train")
    shell.run("oxenbatch export manifests/product-shots.csv -o lora --format captions --where split=train")
    shell.run("ls lora")
    shell.run("cat lora/mug-top-1.txt")


def odd_results(shell: Shell) -> None:
    text = """model: nano-banana-2
prompts:
  - {id: reef, prompt: A coral reef, aspect_ratio: 16:9}
  - {id: fog, prompt: "[blank] Fog over the reef"}
  - {id: gulls, prompt: "[twin] Gulls", samples: 2}
  - {id: tower, prompt: "[wrong size] A lighthouse", aspect_ratio: 9:16}
"""
    (shell.folder / "odd.yaml").write_text(text)
    shell.run("cat odd.yaml")
    shell.run("oxenbatch run odd.yaml --sandbox")
    shell.run("oxenbatch status odd.yaml")
    shell.run("oxenbatch export odd.yaml -o clean.csv --without blank --without identical --without mismatched")
    shell.run("oxenbatch reject odd.yaml tower.png")
    shell.run("oxenbatch run odd.yaml --sandbox")


def reporting(shell: Shell) -> None:
    shell.start("oxenbatch run manifests/product-shots.csv --sandbox").communicate(timeout=PATIENCE_S)
    shell.run("oxenbatch report manifests/product-shots.csv -o manifests/out/product-shots/report.html")
    shell.run("oxenbatch report manifests/product-shots.csv -o send-me.html --embed files --limit 3")


# -- what is read ------------------------------------------------------------------------------------------------------


def commands() -> str:
    """The `--help` of the program and of each command."""
    parts = []
    for name in ("", *COMMANDS):
        args = [*filter(None, [name]), "--help"]
        told = CliRunner().invoke(cli, args, prog_name="oxenbatch", terminal_width=WIDTH, catch_exceptions=False)
        parts.append(f"## {f'oxenbatch {name}'.strip()}\n\n```text\n{told.output.rstrip()}\n```")
    return "\n\n".join(parts)


@cache
def meanings() -> dict[str, str]:
    """What stands under each state and each event in the code."""
    told: dict[str, str] = {}
    for node in ast.walk(ast.parse(Path(oxenbatch.jobs.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name in ("JobState", "Event"):
            for name, text in itertools.pairwise(node.body):
                if isinstance(name, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                    told[name.value.value] = text.value.value
    return told


def diagram() -> str:
    """Every move that changes a state, drawn from the table that the program obeys."""
    lines = ["stateDiagram-v2", "  [*] --> pending"]
    for state, moves in MOVES.items():
        to: dict[JobState, list[str]] = {}
        for event, after in moves.items():
            to.setdefault(after, []).append(event)
        lines += [f"  {state} --> {after}: {', '.join(events)}" for after, events in to.items() if after is not state]
    return "```mermaid\n" + "\n".join(lines) + "\n```"


def states() -> str:
    return table(("state", "what it means"), [(f"`{state}`", meanings()[state]) for state in JobState])


def events() -> str:
    rows = []
    for event in Event:
        moves = [(state, to[event]) for state, to in MOVES.items() if event in to]
        is_or_has = "has" if event is Event.SEEN_SUCCEEDED else "is"
        said = meanings().get(event) or f"The hub says that the generation {is_or_has} {event.removeprefix('seen_')}."
        shown = "; ".join(f"{state} → {after}" for state, after in moves if state is not after)
        rows.append((f"`{event}`", said, shown, ", ".join(state for state, after in moves if state is after)))
    return table(("event", "what happened", "moves", "changes nothing in"), rows)


def fault_kinds() -> str:
    def options(given: Any) -> str:
        return ", ".join(f"`{name}`: {json.dumps(value)}" for name, value in given.items())

    rows = [(f"`{name}`", kind.says, f"`{kind.on}`", options(kind.options)) for name, kind in KINDS.items()]
    return table(("`do`", "what happens", "`on`, where a rule names none", "options and their defaults"), rows)


def expansion() -> str:
    """The rows that an example becomes."""
    rows = load_manifest(ROOT / "manifests/ocean-loops.yaml").rows(dt.date(2026, 11, 22))
    return table(
        ("id", "prompt", "sent beside it", "samples"),
        [
            (f"`{r.id}`", r.prompt, ", ".join(f"{n}: {v}" for n, v in r.parameters.items() if n != "prompt"),
             str(r.samples))
            for r in rows
        ],
    )  # fmt: skip


def nightly_service() -> str:
    return f"```ini\n{(ROOT / 'docs/nightly/oxenbatch-ocean.service').read_text().rstrip()}\n```"


def nightly_timer() -> str:
    return f"```ini\n{(ROOT / 'docs/nightly/oxenbatch-ocean.timer').read_text().rstrip()}\n```"


def metrics() -> str:
    """The names of the metrics file, from the code that writes it."""
    rows = [
        (f"`{name}`", ", ".join(f"`{label}`" for label in
         (["batch"] if name in BY_BATCH else []) + (["state"] if name == "oxenbatch_files" else [])),
         says + (" Only while a run goes on." if name in WHILE_RUNNING else ""))
        for name, says in NAMES.items()
    ]  # fmt: skip
    return table(("metric", "labels", "meaning"), rows)


def attacks() -> str:
    """Every sentence that the attacks hold true, and in how many cases."""
    asked = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "tests/security"]
    told = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own
    cases: dict[tuple[str, str], int] = {}
    for file, name in re.findall(r"^tests/security/(\w+)\.py::test_(\w+)", told, re.MULTILINE):
        cases[file, name] = cases.get((file, name), 0) + 1
    files: dict[str, list[tuple[str, int]]] = {}
    for (file, name), count in cases.items():
        files.setdefault(file, []).append((name.replace("_", " "), count))
    rows = [
        (f"[{file}](../tests/security/{file}.py)", sentence if count == 1 else f"{sentence} ({count})")
        for file, sentences in files.items()
        for sentence, count in sentences
    ]
    totals = [(f"`{file}`", str(len(some)), str(sum(count for _, count in some))) for file, some in files.items()]
    totals.append(("**all**", f"**{len(cases)}**", f"**{sum(cases.values())}**"))
    return "\n\n".join((table(("file", "kinds", "cases"), totals), table(("where", "what holds (cases)"), rows)))


STORIES = (
    demo, killed, wrong, checked, planned, one_model, reading, status, lost_answers, busy_hub, bad_files,
    inputs, bad_inputs, exporting, odd_results, reporting,
)  # fmt: skip
TABLES = (
    commands, diagram, states, events, fault_kinds, expansion, nightly_service, nightly_timer, metrics, attacks
)  # fmt: skip
BLOCKS: dict[str, Callable[[], str]] = {
    story.__name__.replace("_", "-"): cache(in_a_shell(story)) for story in STORIES
} | {block.__name__.replace("_", "-"): cache(block) for block in TABLES}


SCHEMA = ROOT / "oxenbatch" / "ledger" / "tables.sql"


def renewed(page: str) -> str:
    """The page with every block as it is now."""
    return MARKS.sub(lambda mark: f"{mark[1]}{BLOCKS[mark[2]]()}\n{mark[3]}", page)


def main() -> None:
    """Every page is as the program is; with `--check` the differences are told, and exit 1 says that there are some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page is not true any more")
    check = parser.parse_args().check
    differ = False
    pages = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    asked = {mark[2] for path in pages for mark in MARKS.finditer(path.read_text(encoding="utf-8"))}
    with ThreadPoolExecutor(max_workers=4) as beside:  # the stories mostly wait
        list(beside.map(lambda name: BLOCKS[name](), sorted(asked)))
    for path in (*pages, SCHEMA):
        before = path.read_text(encoding="utf-8")
        after = as_text(by_steps(VERSION)) if path == SCHEMA else renewed(before)
        if check and after != before:
            differ = True
            name = path.relative_to(ROOT)
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"{name}", f"{name}, as it is now")
            print(*lines, sep="\n")
        elif after != before:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    if differ:
        sys.exit("a page and the program disagree: run `.venv/bin/python docs/generate.py`")


if __name__ == "__main__":
    main()
