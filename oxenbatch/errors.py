"""What can go wrong, who must act, and the exit code that says so.

    OxenbatchError                  1   us: a bug, or anything not named below
    |-- UsageProblem                2   the user: how the command was called
    |-- ManifestError              65   the user: the manifest, with every problem in it
    |-- HubUnreachable             69   the next run: the hub or the network
    |-- MachineError               74   the operator: disk, folder, damaged ledger
    |-- TryAgain                   75   the next run: another run holds the batch
    |-- KeyRefused                 77   the operator: key missing, revoked or forbidden
    `-- ConfigProblem              78   the operator: settings, or a ledger newer than the program

The second question that an error must answer, "could the request have landed?", is only ever asked of
the POST that costs money; its answers are `wire.Outcome`, not exceptions. Codes: the contract, section 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_PLACE: Final = re.compile(r"(.*?)(?::(\d+))?(?::(\d+))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a manifest, where it is, and what would be right."""

    message: str
    where: str = ""
    """`file:line:column` as far as that is known, else the file."""
    row: int | None = None
    """1-based, as the user counts rows; None for the manifest's head."""
    field: str | None = None

    def __str__(self) -> str:
        about = [f"row {self.row}"] if self.row is not None else []
        about += [printable(self.field)] if self.field else []
        return ": ".join(part for part in (printable(self.where), ", ".join(about), self.message) if part)

    def as_data(self) -> dict[str, Any]:
        """The problem for programs: what is not known is None."""
        place = _PLACE.fullmatch(self.where)
        file, line, column = place.groups() if place else (self.where, None, None)
        return {
            "file": file or None,
            "line": int(line) if line else None,
            "column": int(column) if column else None,
            "row": self.row,
            "field": self.field,
            "message": self.message,
        }


class OxenbatchError(Exception):
    """Something went wrong that no other class names."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return super().__str__() or (self.__doc__ or "").strip()


class UsageProblem(OxenbatchError):
    """The command was called in a way that cannot be meant."""

    exit_code = 2


class ManifestError(OxenbatchError):
    """The manifest cannot be used; nothing was sent."""

    exit_code = 65

    def __init__(self, problems: Sequence[Problem], *, total: int | None = None) -> None:
        self.problems = list(problems)
        self.total = len(self.problems) if total is None else total
        super().__init__("\n".join(map(str, self.problems)))


class HubUnreachable(OxenbatchError):
    """The hub could not be reached, or answered with nothing that can be used."""

    exit_code = 69


class MachineError(OxenbatchError):
    """This machine cannot hold the batch."""

    exit_code = 74


class TryAgain(OxenbatchError):
    """Nothing is wrong; it is just not the moment."""

    exit_code = 75


class KeyRefused(OxenbatchError):
    """The hub does not accept the key."""

    exit_code = 77


class ConfigProblem(OxenbatchError):
    """A setting has a value that cannot be used."""

    exit_code = 78


# Where several hold, the first of these is the run's exit code (the contract, section 3).
EXIT_PRECEDENCE: tuple[int, ...] = (1, 74, 77, 4, 65, 5, 69, 130, 143, 75, 3, 0)


def gravest(codes: set[int]) -> int:
    """The code that wins where several hold; a code outside the list wins over all."""
    strangers = codes - set(EXIT_PRECEDENCE)
    return min(strangers) if strangers else min(codes or {0}, key=EXIT_PRECEDENCE.index)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean run?)`, or nothing where no known name is near."""
    near = nearest(name, known, 2)
    return f" (did you mean {' or '.join(printable(one, 80) for one in near)}?)" if near else ""


def nearest(name: str, known: Iterable[str], most: int = 1, likeness: float = 0.6) -> list[str]:
    """Known names that look like this one, at most so many, the most alike first; `likeness` is from 0 to 1."""
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    return get_close_matches(name, list(known), most, likeness)


def printable(text: Any, limit: int = 300) -> str:
    """Foreign text for a person's screen: control characters are shown, not obeyed; cut to `limit` characters."""
    shown = str(text)[: limit + 1]  # what is cut off anyway is not gone through, be it a gigabyte
    if not shown.isprintable():
        shown = "".join(
            c if c.isprintable() else {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(c, f"\\u{ord(c):04x}") for c in shown
        )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
