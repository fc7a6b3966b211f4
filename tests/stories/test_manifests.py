"""Every manifest in `manifests/`, from its rows to its files; and a night that is cut off before midnight."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import signal
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from desk import Desk, machine_line
from sandbox_kit import IMAGE

from oxenbatch.catalog import Catalog
from oxenbatch.jobs import Row, canonical, with_addresses
from oxenbatch.manifest import Overrides, load_manifest
from oxenbatch.media import inspect
from oxenbatch.sandbox import Sandbox
from oxenbatch.sandbox.models import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[2] / "manifests"
CATALOG = Catalog.from_answer({"data": [model.shown() for model in CATALOGUE.values()]})
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_file() and not path.name.startswith("."))
MODEL_FOR = {"prompts.txt": ["--model", IMAGE]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, Path]]:
    journal = tmp_path_factory.mktemp("hub") / "hub.jsonl"
    with Sandbox(speed=600, journal=journal) as served:
        yield served, journal


@pytest.fixture
def desk(tmp_path: Path, hub: tuple[Sandbox, Path]) -> Desk:
    shutil.copytree(EXAMPLES, tmp_path / "manifests", ignore=shutil.ignore_patterns("out", ".*"))
    return Desk(tmp_path, hub[0])


def received(journal: Path, after: int) -> list[dict[str, Any]]:
    """The bodies of the requests that the hub took, behind the first `after` entries of its journal."""
    entries = [json.loads(line) for line in journal.read_text("utf-8").splitlines()[after:]]
    return [entry["body"] for entry in entries if entry["do"] == "enqueue"]


def _named(value: Any) -> Any:
    """Input files, by the name that the hub keeps them under."""
    return [_named(one) for one in value] if isinstance(value, list) else f"at the hub: {value.rpartition('/')[2]}"


def asked(row: Row) -> dict[str, Any]:
    """The row's request, without a seed that only the run knows."""
    parameters = {name: value for name, value in row.parameters.items() if (name, value) != ("seed", "auto")}
    parameters = with_addresses(parameters, lambda name: f"at the hub: {name}")
    return {"model": row.model, **parameters}


@pytest.mark.parametrize(
    "name", sorted(path.name for path in EXAMPLES.iterdir() if path.suffix and path.name[0] != ".")
)
def test_every_example_becomes_the_files_that_it_asks_for(desk: Desk, hub: tuple[Sandbox, Path], name: str) -> None:
    journal = hub[1]
    flags = MODEL_FOR.get(name, [])
    overrides = Overrides(model=flags[1] if flags else None)
    manifest = load_manifest(desk.folder / "manifests" / name, overrides=overrides)
    rows = [row for row in manifest.rows(dt.datetime.now().astimezone().date(), CATALOG) if isinstance(row, Row)]
    wanted = sum(row.samples for row in rows)
    said = json.loads(desk.call("check", f"manifests/{name}", *flags, "--json").stdout)
    assert (said["rows"], said["generations"], said["unpriced"]) == (len(rows), wanted, 0)
    after = len(journal.read_text("utf-8").splitlines())

    done = desk.call("run", f"manifests/{name}", *flags)

    told = machine_line(done)
    assert (told["done"], Decimal(told["cost"])) == (str(wanted), Decimal(said["cost"]))
    bodies = received(journal, after)
    seeds = [body.pop("seed") for body in bodies if body["model"] == IMAGE and name == "variations.yaml"]
    auto = Counter(canonical(asked(row)) for row in rows for _ in range(row.samples))
    got: Counter[str] = Counter()
    for body in bodies:
        count = body.pop("num_generations", 1)
        body |= {name: _named(body[name]) for name in body.keys() & {"input_image"}}
        automatic = any(row.parameters.get("seed") == "auto" and row.prompt == body["prompt"] for row in rows)
        got[canonical({n: v for n, v in body.items() if n != "seed" or not automatic})] += count
    assert got == auto
    assert len(set(seeds)) == len(seeds)

    (folder,) = manifest.folders()
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == wanted
    for line in lines:
        model = CATALOG.get(line["model"])
        assert model is not None
        assert inspect(folder / line["file_name"]).kind == model.media_type
    kept = {(row.prompt, name): value for row in rows for name, value in row.metadata.items()}
    assert all(
        line[name] == value for line in lines for (prompt, name), value in kept.items() if line["prompt"] == prompt
    )

    plan = json.loads(desk.call("check", f"manifests/{name}", *flags, "--json").stdout)["plan"]
    assert (plan["done"]["rows"], plan["to_send"]["generations"]) == (len(rows), 0)
    posts = desk.posts()
    desk.call("run", f"manifests/{name}", *flags)
    assert desk.posts() == posts


# Two places on earth where it is never the same day: what is run first in one and then in the other crosses midnight.
BEFORE_MIDNIGHT, AFTER_MIDNIGHT = "West+12", "East-14"


def day_in(zone: str) -> str:
    """The date there now, by POSIX's reversed signs."""
    hours = int(zone[4:])
    return (dt.datetime.now(dt.UTC) - dt.timedelta(hours=hours)).date().isoformat()


def test_a_night_cut_off_before_midnight_is_finished_after_it_and_bought_once(desk: Desk) -> None:
    rows = "".join(f"- picture {n} of {{date}}\n" for n in range(12))
    desk.write(
        "night.yaml", f"model: {IMAGE}\noutput: out/{{name}}/{{date}}\nvariables: {{unused: [x]}}\nprompts:\n{rows}"
    )
    desk.env["TZ"] = BEFORE_MIDNIGHT
    running = desk.start("run", "night.yaml", "-c", "2")
    while desk.posts() < 4:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    before, after = day_in(BEFORE_MIDNIGHT), day_in(AFTER_MIDNIGHT)
    assert before != after
    assert json.loads(desk.call("check", "night.yaml", "--json").stdout)["manifests"][0]["output"].endswith(before)

    desk.env["TZ"] = AFTER_MIDNIGHT
    assert f"a run finishes out/night/{before} first" in desk.call("check", "night.yaml").stderr
    done = desk.call("run", "night.yaml", "--settle", "2s")
    assert f"first, out/night/{before} is finished" in done.stderr
    assert desk.made() == 24
    for day in (before, after):
        assert desk.states(f"out/night/{day}") == {"downloaded": 12}
        lines = (desk.folder / f"out/night/{day}/metadata.jsonl").read_text("utf-8").splitlines()
        assert {json.loads(line)["prompt"] for line in lines} == {f"picture {n} of {day}" for n in range(12)}

    desk.call("run", "night.yaml")
    desk.call("run", "night.yaml", "--date", before)
    assert desk.made() == 24


def test_a_day_that_was_missed_is_filled_in_by_its_date(desk: Desk) -> None:
    desk.write("night.yaml", f"model: {IMAGE}\noutput: out/{{year}}/{{month}}-{{day}}\nprompt: 'the sky on {{date}}'\n")
    desk.call("run", "night.yaml", "--date", "2026-02-28")
    line = json.loads((desk.folder / "out/2026/02-28/metadata.jsonl").read_text("utf-8"))
    assert line["prompt"] == "the sky on 2026-02-28"
    assert "Invalid value for '--date'" in desk.call("check", "night.yaml", "--date", "2026-02-30", code=2).stderr
