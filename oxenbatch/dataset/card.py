"""The data card: a `README.md` that says what a data set holds, which models made it, what it cost and whence it is.

Pure, and the same text for the same data set: a publication without news must change nothing. What people write around
our part of a card stays as it is.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from oxenbatch.errors import printable
from oxenbatch.ledger.made import OfModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from oxenbatch.ledger.made import Made

NAME: Final = "README.md"
BEGIN: Final = "<!-- oxenbatch publish: this part is written anew each time; write above or below it -->"
END: Final = "<!-- /oxenbatch publish -->"
TABLE: Final = (
    "- `metadata.jsonl` has a line a file: its prompt, model and every parameter, the hub's `generation_id`, the"
    " SHA-256 of its bytes, what was charged for it, and when it was made."
)
SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""The words by which Hugging Face sorts data sets."""


def card(made: Mapping[str, Made], existing: str | None = None) -> str:
    """The card of batches by their folder in the data set (`""` where it is all one), in its place in `existing`."""
    part = "\n".join([BEGIN, *_body(made), END])
    if existing is None:
        return f"{_front(made)}\n# {_title(made)}\n\n{part}\n"
    begin, end = existing.find(BEGIN), existing.find(END)
    if 0 <= begin < end:
        return existing[:begin] + part + existing[end + len(END) :]
    return existing.rstrip("\n") + f"\n\n{part}\n"


def _title(made: Mapping[str, Made]) -> str:
    return words(next(iter(made.values())).name)


def _front(made: Mapping[str, Made]) -> str:
    files = sum(one.total.files for one in made.values())
    size = next((said for most, said in SIZES if files < most), "1M<n<10M")
    kinds = sorted(set().union(*(one.kinds for one in made.values())) & {"image", "video"})
    lines = ["---", f"size_categories: ['{size}']"]
    if kinds:
        lines.append(f"task_categories: [{', '.join(f'text-to-{kind}' for kind in kinds)}]")
    return "\n".join([*lines, "tags: [synthetic, oxen, oxenbatch]", "---"])


def _body(made: Mapping[str, Made]) -> list[str]:
    total = OfModel()
    by_model: dict[str, OfModel] = {}
    for one in made.values():
        for model, its in one.models.items():
            total.add(its)
            by_model.setdefault(model, OfModel()).add(its)
    prompts, first, last = sum(one.prompts for one in made.values()), *_span(made.values())
    when = first if first == last else f"{first} to {last}"
    several = f"{len(made)} batches" if len(made) > 1 else "one batch"
    made_of = (
        f"{_number(total.files, 'file')} of {_number(prompts, 'prompt')} in {several}, made by"
        f" {_number(len(by_model), 'model')}, {when}."
    )
    lines = [made_of, "", "## Models", "", *_table("model", by_model), ""]
    if len(made) > 1:
        lines += ["## Batches", "", *_table("folder", {name: one.total for name, one in made.items()}), ""]
    return lines + _provenance(list(made.values()), total)


def _provenance(made: Sequence[Made], total: OfModel) -> list[str]:
    charged = sum((one.charged for one in made), Decimal(0))
    hubs = ", ".join(dict.fromkeys(code(one.hub) for one in made))
    versions = ", ".join(dict.fromkeys(words(version) for one in made for version in one.versions))
    cost = f"- The hub charged ${_dollars(total.cost)} for these files"
    if charged != total.cost:
        cost += f", and ${_dollars(charged)} for all that was made on the way"
    if total.uncharged:
        cost += f"; for {total.uncharged:,} of them the charge is not known"
    lines = ["## Provenance", "",
             f"- Every file is one generation of the Oxen.ai hub ({hubs}), asked for by oxenbatch {versions}.",
             TABLE, f"{cost}."]  # fmt: skip
    if inputs := sum(one.inputs for one in made):
        lines.append(f"- {_number(inputs, 'file')} of the makers' own went in; they are not part of the data set.")
    return lines


def _table(head: str, rows: Mapping[str, OfModel]) -> list[str]:
    lines = [f"| {head} | files | size | video | charged |", "|---|--:|--:|--:|--:|"]
    for name, one in sorted(rows.items()):
        seconds = f"{one.seconds:,.0f} s" if one.seconds else ""
        lines.append(f"| {code(name)} | {one.files:,} | {_size(one.bytes)} | {seconds} | ${_dollars(one.cost)} |")
    return lines


def words(text: str) -> str:
    """Foreign text as plain words in Markdown: nothing in it makes a link, a heading, or a tag."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$&])", r"\\\1", printable(text, 200))


def code(text: str) -> str:
    """A foreign name as code in Markdown, in a table's cell too."""
    return "`" + printable(text, 200).replace("`", "'").replace("|", "\\|") + "`"


def _span(made: Iterable[Made]) -> tuple[str, str]:
    moments = [at for one in made for at in (one.first_at, one.last_at) if at is not None]
    return (_day(min(moments)), _day(max(moments))) if moments else ("", "")


def _day(at: float) -> str:
    try:
        return dt.datetime.fromtimestamp(at, dt.UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return "a day that is not known"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _size(size: int) -> str:
    for unit, least in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= least:
            return f"{size / least:,.1f} {unit}"
    return f"{size} B"


def _dollars(amount: Decimal) -> str:
    places = max(2, -int(amount.normalize().as_tuple().exponent))
    return f"{amount:,.{places}f}"
