"""All benchmarks, and what they found: `benchmarks/RESULTS.md` with its plots, and the table in README.md.

`make bench` runs this. It ends by itself in about seventeen minutes: cases are run in the order of their weight, round
by round, and no round is begun that would end too late. Only ratios travel: each is taken in one run of this script on
one machine, client and hub on one core each.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import cost
from race import CASES, DOWNLOADERS, MEASURES, Case, Found, Run, at, first_send_s, installed, race

from oxenbatch import __version__

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
ENOUGH_S = 660.0

MUST: dict[str, tuple[str, float]] = {
    "first send to last file": ("limit", 1.01),
    "process wall": ("limit", 1.03),
    "CPU": ("limit", 3.0),
    "lag p50": ("limit --fsync", 4.0),
    "lag p95": ("limit --fsync", 2.0),
    "hand-off p50": ("limit", 3.0),
    "peak memory": ("limit", 1.5),
}
"""Which yardstick each measure is held against, and the most that ours may be of it."""
BEGUN = ("200/16 constant", "1000/64 constant")
STARTS = 9


def measured(cases: dict[str, Case], repeats: int, until: float) -> dict[str, Found]:
    """Every case, by everybody in turn, as often as there is time."""
    found = {name: Found(case) for name, case in cases.items()}
    began = time.monotonic()
    for turn in range(1, repeats + 1):
        for name, case in cases.items():
            for who in filter(installed, (*case.against, "ours")):
                if turn > 1 and time.monotonic() > until:
                    return found
                found[name].runs.setdefault(who, []).append(race(who, case))
                print(f"{time.monotonic() - began:6.0f} s  {name}: {who}", file=sys.stderr, flush=True)
    return found


def begun(cases: dict[str, Case], repeats: int) -> dict[str, float]:
    """Spawn to first send, ours over `limit`'s, by number of rows: two tenths of a second, so of many starts."""
    found = {}
    for case in map(cases.__getitem__, BEGUN):
        pairs = [(first_send_s("ours", case), first_send_s("limit", case)) for _ in range(repeats)]
        ours, theirs = (median(times) for times in zip(*pairs, strict=True))
        found[f"{case.rows:,} rows"] = ours / theirs
    return found


def growth(most: int) -> dict[str, Any]:
    """What growth.py finds, in a process of its own."""
    command = [sys.executable, str(HERE / "growth.py"), "--most", str(most)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def small(case: Case) -> Case:
    """The case with a tenth of its rows, and small files."""
    return replace(case, rows=max(20, case.rows // 10), file_bytes=min(case.file_bytes, 1_000_000))


def ratio(found: Found, name: str, against: str) -> float:
    """Ours over the yardstick's, by their medians."""
    measure = MEASURES[name]
    against = against if against in found.runs else "limit --fsync"
    return median(map(measure, found.runs["ours"])) / median(map(measure, found.runs[against]))


def calls_allowed(found: Found) -> float:
    """Calls a generation: one POST, ten for the batch, and pages of the history; without events, a few more."""
    if any(rule["do"] == "silent_events" for rule in found.case.faults):
        return 1.15
    return 1 + 10 / found.case.rows + 1 / 500


def race_table(found: dict[str, Found]) -> list[str]:
    """The plain cases, a column each."""
    plain = {name: one for name, one in found.items() if name.startswith(("200/", "1000/"))}
    named = [name if "limit" in one.case.against else f"{name} *" for name, one in plain.items()]
    head = "| ours ÷ the yardstick | must be | " + " | ".join(named) + " |"
    rows = [head, "|---|--:|" + "--:|" * len(plain)]
    for name, (against, most) in MUST.items():
        cells = [f"{ratio(one, name, against):.3f}" for one in plain.values()]
        rows.append(f"| {name}, against `{against}` | ≤ {most:g} | " + " | ".join(cells) + " |")
    calls = [f"{calls_of(one):.3f} (≤ {calls_allowed(one):.3f})" for one in plain.values()]
    rows.append("| hub calls a generation, downloads apart | | " + " | ".join(calls) + " |")
    over = [f"{over_ideal(one, 'ours'):.4f} ({over_ideal(one, 'limit --fsync'):.4f})" for one in plain.values()]
    rows.append("| time over the ideal schedule in the same order (the yardstick's) | | " + " | ".join(over) + " |")
    cpu = [f"{median(run.cpu_s for run in one.runs['ours']) * 1000 / one.case.rows:.1f} s" for one in plain.values()]
    rows.append("| CPU for 1,000 | | " + " | ".join(cpu) + " |")
    most = [f"{max(run.peak_mb for run in one.runs['ours']):.0f} MB" for one in plain.values()]
    rows.append("| peak memory | | " + " | ".join(most) + " |")
    return rows


def calls_of(found: Found) -> float:
    """Hub calls a generation, downloads apart."""
    return median(run.calls_each for run in found.runs["ours"])


def over_ideal(found: Found, who: str) -> float:
    """The time from the first send to the last file over the ideal schedule's."""
    return median(run.makespan_s / run.ideal_s for run in found.runs[who])


def other_table(found: dict[str, Found], starts: dict[str, float]) -> list[str]:
    """The cases of one question each."""
    rows = ["| case | asked | measured | must be |", "|---|---|--:|--:|"]
    first = "first send to last file"
    silent, files = found["silent"], found["40 x 50 MB"]
    rows.append(
        f"| 200 images, events silent | hub calls a generation | {calls_of(silent):.3f} | ≤ 1.15 |\n"
        f"| 40 files of 50 MB | MB/s, against `limit --fsync` | {ratio(files, 'MB/s', 'limit --fsync'):.2f} | ≥ 0.6 |\n"
        f"| the same | peak memory | {max(run.peak_mb for run in files.runs['ours']):.0f} MB | ≤ 60 MB |"
    )
    at_once = found["40 x 50 MB at once"]
    for who in filter(at_once.runs.__contains__, DOWNLOADERS):
        value = ratio(at_once, "MB/s", who)
        rows.append(f"| 40 files of 50 MB that are there already | MB/s, against `{who}`, 8 at once | {value:.2f} | |")
    for name, most in (("mixed 100/16", 0.93), ("mixed 200/64", 0.87)):
        value = ratio(found[name], first, "limit")
        rows.append(
            f"| {name}: 60 s and 120 s, longest first | time, against `limit` in order | {value:.3f} | ≤ {most} |"
        )
    for size, value in starts.items():
        rows.append(
            f"| a start with {size}, {STARTS} times | spawn to first send, against `limit` | {value:.2f} | ≤ 1.4 |"
        )
    slow = found["slow hub"]
    rows.append(f"| every answer 100 ms late | time, against `limit` | {ratio(slow, first, 'limit'):.3f} | |")
    failing = found["distant, failing"].runs["ours"][-1]
    rows.append(
        "| 100 ms late, 1 % of calls fail, `--settle 10s` | time over the ideal; the last send without an answer may"
        f" cost its settle time, and be made anew | {failing.makespan_s / failing.ideal_s:.2f} | |\n"
        f"| the same | generations made for {found['distant, failing'].case.rows} rows | {failing.generations} | |"
    )
    return rows


def growth_table(grown: dict[str, Any]) -> list[str]:
    """The manifests of all sizes."""
    rows = [
        "| rows | form | to the first send | rows/s | rows/s of CPU | memory | resumed, all but ten done | ledger |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    rows += [
        f"| {one['rows']:,} | {one['form']} | {one['to_first_send_s']:.2f} s | {one['rows_per_s']:,.0f}"
        f" | {one['rows_per_cpu_s']:,.0f} | +{one['memory_mb']:.0f} MB | {one['resume_s']:.2f} s"
        f" | {one['ledger_mb']:.0f} MB |"
        for one in grown["sizes"]
    ]
    rows += [
        "",
        "| asked | measured | must be |",
        "|---|--:|--:|",
        f"| YAML rows/s over `yaml.load(CSafeLoader)` | {grown['readers']['yaml']:.1f} | ≥ 3.5 |",
        f"| CSV records/s over bare `csv.reader` | {grown['readers']['csv']:.2f} | ≥ 0.7 |",
        f"| CSV rows with their fields, over `csv.DictReader` | {grown['readers']['fields']:.2f} | |",
        f"| recording 10,000 rows over single-row commits | {grown['recording']:.0f} | ≥ 5 |",
        f'| `oxenbatch --help` over `python -c "import click"`, CPU | {grown["start_up"]["ratio"]:.2f} | ≤ 1.4 |',
    ]
    return rows


def machine() -> str:
    """Where and when, and of what."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607 - whichever git there is
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    today = dt.date.today()  # noqa: DTZ011 - the day of whoever measures
    processor = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    return (
        f"{today}, {os.cpu_count()} cores of {processor}, load {os.getloadavg()[0]:.1f} when it began, Python"
        f" {platform.python_version()}, oxenbatch {__version__}, commit {commit.stdout.strip() or '?'}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def plots(found: dict[str, Found], grown: dict[str, Any], folder: Path) -> None:
    """How late files are, and how a batch grows, as pictures."""
    import matplotlib as mpl  # noqa: PLC0415 - a child begins with its parent's size: while we measure, we stay small

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of what draws

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    one = found["1000/64 lognormal"]
    for axis, name in zip(axes, ("lag_ms", "handoff_ms"), strict=True):
        for who, runs in one.runs.items():
            values = sorted(value for run in runs for value in getattr(run, name))
            axis.plot(values, [n / len(values) for n in range(len(values))], label=who)
        axis.set_xscale("symlog")
        axis.set_xlim(0, max(1.0, at([v for r in one.runs["ours"] for v in getattr(r, name)], 0.99)))
        axis.set_xlabel(
            "ms from the end at the hub to the file" if name == "lag_ms" else "ms from a free place to the next send"
        )
        axis.legend()
    figure.suptitle("1,000 images, 64 at once, lognormal 2 s")
    figure.tight_layout()
    figure.savefig(folder / "lag.png", dpi=110)
    figure, axes = plt.subplots(1, 3, figsize=(12, 4))
    for axis, key, label in zip(
        axes,
        ("to_first_send_s", "memory_mb", "resume_s"),
        ("s to the first send", "MB more", "s to resume"),
        strict=True,
    ):
        for form in ("csv", "yaml"):
            points = [(one["rows"], max(one[key], 0.001)) for one in grown["sizes"] if one["form"] == form]
            axis.loglog([rows for rows, _ in points], [value for _, value in points], marker="o", label=form)
        axis.set_xlabel("rows")
        axis.set_ylabel(label)
        axis.legend()
    figure.tight_layout()
    figure.savefig(folder / "growth.png", dpi=110)
    plt.close("all")


def results(
    found: dict[str, Found], starts: dict[str, float], grown: dict[str, Any], costs: dict[str, float], where: str
) -> str:
    """The page."""
    turns = min(len(runs) for one in found.values() for runs in one.runs.values())
    lines = [
        "# What was measured",
        "",
        "`make bench` writes this page. `limit` is `benchmarks/limit.py`: a reckless client, tuned by hand, without a",
        "ledger, without retries; `limit --fsync` syncs and renames its files besides. Ours ran in turn with it, with",
        "the ledger at `synchronous=FULL`, all fsyncs and all guarantees on, against the stand-in hub at real speed",
        "(mixed batches: 20 times), client and hub on a core each. Times are the hub's own record and the files' own.",
        "Where a column has a `*`, its yardstick is `limit --fsync` throughout.",
        "",
        f"{where}; medians of {turns} or more interleaved runs.",
        "",
        "## The same work",
        "",
        *race_table(found),
        "",
        "![How late files and sends are](lag.png)",
        "",
        "## What a generation costs",
        "",
        "The engine's parts, one after another on one thread, in a batch of 100,000 (`benchmarks/cost.py`); what the",
        "kernel does for each is in its time. In a run they share an interpreter and a core, which costs them more.",
        "",
        *cost.table(costs),
        "",
        "## Other questions",
        "",
        *other_table(found, starts),
        "",
        "## Growth",
        "",
        "The whole manifest is checked and recorded before the first send.",
        "",
        *growth_table(grown),
        "",
        "![Growth](growth.png)",
        "",
        "## The commands",
        "",
        "```sh",
        "make bench",
        'python benchmarks/race.py "1000/64 lognormal" --repeats 3    # one case alone',
        "python benchmarks/growth.py --most 100000",
        "python benchmarks/cost.py",
        "```",
        "",
    ]
    return "\n".join(lines)


def headline(found: dict[str, Found], where: str) -> str:
    """The README's table."""
    rows = [
        "| batch | over the ideal schedule | the yardstick's | hub calls a generation | CPU for 1,000 | peak memory |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, text in (
        ("200/16 constant", "200 images of 2 s, `-c 16`"),
        ("1000/64 constant", "1,000 images of 2 s, `-c 64`"),
        ("1000/64 lognormal", "1,000 images of about 2 s, `-c 64`"),
    ):
        one = found[name]
        ours: list[Run] = one.runs["ours"]
        rows.append(
            f"| {text} | {over_ideal(one, 'ours'):.3f} | {over_ideal(one, 'limit --fsync'):.3f} | {calls_of(one):.3f}"
            f" | {median(run.cpu_s for run in ours) * 1000 / one.case.rows:.1f} s"
            f" | {max(run.peak_mb for run in ours):.0f} MB |"
        )
    return "\n".join([*rows, "", f"`make bench`: {where}."])


def write_headline(text: str, page: Path = README) -> None:
    """The table stands in the page, between its markers."""
    marks = r"(<!-- measured: speed -->\n).*?(<!-- /measured -->)"
    page.write_text(re.sub(marks, lambda m: f"{m[1]}{text}\n{m[2]}", page.read_text(), count=1, flags=re.DOTALL))


def main() -> None:
    """Measure all of it, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each case, at most [3]")
    parser.add_argument("--most", type=int, default=1_000_000, help="rows of the largest manifest [1000000]")
    parser.add_argument(
        "--seconds", type=float, default=ENOUGH_S, help=f"no further round after so many [{ENOUGH_S:g}]"
    )
    parser.add_argument("--quick", action="store_true", help="tiny batches, whose figures say nothing: to see the page")
    parser.add_argument("--folder", type=Path, default=HERE, help="where RESULTS.md and its plots are written")
    asked = parser.parse_args()
    where = machine()
    began = time.monotonic()
    cases = {name: small(case) for name, case in CASES.items()} if asked.quick else CASES
    found = measured(cases, 1 if asked.quick else asked.repeats, began + asked.seconds)
    starts = begun(cases, 1 if asked.quick else STARTS)
    print(f"{time.monotonic() - began:6.0f} s  starts", file=sys.stderr, flush=True)
    costs = cost.cost(*((2_000, 200) if asked.quick else (100_000, 2_000)))
    print(f"{time.monotonic() - began:6.0f} s  cost", file=sys.stderr, flush=True)
    grown = growth(10_000 if asked.quick else asked.most)  # last: what deletes a million files leaves the disk busy
    print(f"{time.monotonic() - began:6.0f} s  growth", file=sys.stderr, flush=True)
    asked.folder.mkdir(parents=True, exist_ok=True)
    page = results(found, starts, grown, costs, where)
    (asked.folder / "RESULTS.md").write_text(page)
    plots(found, grown, asked.folder)
    if asked.folder == HERE:
        write_headline(headline(found, where))
    print(page)


if __name__ == "__main__":
    main()
