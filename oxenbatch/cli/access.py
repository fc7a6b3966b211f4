"""Batches and hubs, as commands beside `run` name them."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from oxenbatch.cli.options import MANIFESTS, option
from oxenbatch.errors import MachineError, UsageProblem, did_you_mean, printable
from oxenbatch.ledger import reads
from oxenbatch.ledger.book import Ledger
from oxenbatch.shards import FOLDER as SHARDS
from oxenbatch.shards import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oxenbatch.access import Access
    from oxenbatch.catalog import Catalog

LEDGER: Final = "ledger.db"

KEY: Final = re.compile(r"r1:[0-9a-f]{64}#1")  # the first of equal rows: its beginning names it alone
KEY_SHOWN: Final = 19

F = TypeVar("F", bound="Callable[..., Any]")


def batch_argument(*names: str, **kwargs: Any) -> Callable[[F], F]:
    """An argument that names batches, and that the shell completes."""
    from oxenbatch.cli.completion import complete_batch  # noqa: PLC0415 - it asks us what a batch is

    return click.argument(*names, shell_complete=complete_batch, **kwargs)


def ledgers_of(name: str) -> list[Path]:
    """The ledgers that BATCH names: an output folder, a folder of dated ones, a ledger file, or a manifest."""
    path = Path(name)
    if path.is_dir():
        found = _own_ledger(path) or sorted(path.glob(f"**/{LEDGER}"), key=_in_order)
        if not found:
            raise UsageProblem(f"{printable(name)} holds no ledger: it is no output folder, or no run has begun there;"
                               " `oxenbatch run MANIFEST` begins one")  # fmt: skip
        return found
    if not path.exists():
        beside = [str(one) for one in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(str(path), beside)
        raise UsageProblem(f"{printable(name)} does not exist{near}: name an output folder or a manifest")
    if path.suffix.lower() not in MANIFESTS:
        return [path]
    from oxenbatch.manifest import load_manifest  # noqa: PLC0415 - a folder does not need it

    manifest = load_manifest(path)
    found = [path for folder in manifest.folders() for path in _ledgers_in(folder)]
    if not found:
        today = manifest.output_folder(dt.datetime.now().astimezone().date())
        raise UsageProblem(f"no run of {printable(name)} has begun (there is no ledger in {printable(today)})")
    return found


def _own_ledger(folder: Path) -> list[Path]:
    """The batch's own ledger, here or elsewhere."""
    from oxenbatch.account import ledger_of  # noqa: PLC0415 - a command that needs none does not wait for it

    here = folder / LEDGER
    found = here if here.is_file() else ledger_of(folder)
    return [found] if found else []


def _ledgers_in(folder: Path) -> list[Path]:
    """The batch's own ledger, or, where it is in shards and not merged, theirs."""
    return _own_ledger(folder) or sorted((folder / SHARDS).glob(f"*/{LEDGER}"), key=_in_order)


def _in_order(path: Path) -> tuple[Path, int, Path]:
    """Shards by their numbers, so that 2 comes before 10; everything else by name."""
    shard = Shard.of_folder(path.parent.name)
    return path.parent.parent if shard else path.parent, shard.number if shard else 0, path


def the_ledgers_of(name: str) -> list[Path]:
    """The ledgers of the one batch that BATCH names: its own or its shards'; of dated batches the newest's."""
    found = ledgers_of(name)
    last = found[-1]
    if not Shard.of_folder(last.parent.name):
        return [last]
    return [path for path in found if path.parent.parent == last.parent.parent]


def the_ledger_of(name: str) -> Path:
    """The one ledger that BATCH names; of dated batches the newest. `UsageProblem` where it is in several shards."""
    found = the_ledgers_of(name)
    if len(found) > 1:
        folder = found[-1].parent.parent
        raise UsageProblem(
            f"{printable(name)} is {len(found)} shards: name one of them, or `oxenbatch merge {printable(folder)}"
            f" -o {printable(folder.parent)}` first"
        )
    return found[-1]


def jobs_named(ledger: Ledger, names: tuple[str, ...]) -> list[int]:
    """The jobs that these names mean, one each; `UsageProblem` where a name means none or several."""
    jobs: list[int] = []
    for name in names:
        found = reads.find_jobs(ledger, name)
        if len(found) != 1:
            raise UsageProblem(
                f"{printable(name)!r} names {len(found) or 'no'} job{'s' if len(found) > 1 else ''} of this batch;"
                " `oxenbatch ls` lists them"
            )
        jobs += found
    return jobs


def origin_named(hub: str) -> str:
    """The hub's origin; `UsageProblem` where `--hub` or OXEN_BASE_URL is no address."""
    from oxenbatch.addresses import AddressRefused, origin_of  # noqa: PLC0415 - not for --help

    try:
        return origin_of(hub)
    except AddressRefused as error:
        raise UsageProblem(f"--hub: {error}, expected one such as https://hub.oxen.ai") from None  # not its secrets


def catalog_options(command: F) -> F:
    """`--hub`, `--sandbox`, `--offline` and `--refresh`, for commands that only need the catalogue, and no key."""
    for one in (
        option("--refresh", is_flag=True, help="Ask the hub even where the copy that was kept is fresh."),
        option("--offline", is_flag=True, help="Ask no hub: the copy that was kept is used, whatever its age."),
        option("--sandbox", is_flag=True, help="The catalogue of the stand-in hub on this machine."),
        option("--hub", also_envvar=["OXEN_BASE_URL"], default="https://hub.oxen.ai", show_default=True,
               metavar="URL", help="The hub's address."),
    ):  # fmt: skip
        command = one(command)
    return command


def catalog_for(
    say: Callable[[str], None], *, hub: str, sandbox: bool, offline: bool, refresh: bool = False
) -> tuple[Access, Catalog | None]:
    """The catalogue without a key: a fresh copy that was kept, else the hub's own; and whose it is."""
    from oxenbatch.access import FRESH_S, Access, kept_catalog, read_catalog  # noqa: PLC0415

    access = Access("", None, rehearsal=True) if sandbox else Access(origin_named(hub), None, offline=offline)
    age = None if offline else FRESH_S
    if not refresh and (found := kept_catalog(access, max_age_s=age)):
        return access, found
    if sandbox:
        from oxenbatch.sandbox import Sandbox, SandboxUnavailable  # noqa: PLC0415

        try:
            with Sandbox() as served:  # on this machine, so that it may be asked offline as well
                return access, read_catalog(Access(served.url, served.key, rehearsal=True), say)
        except SandboxUnavailable as error:
            raise MachineError(str(error)) from error
    return access, read_catalog(access, say)


def hub_options(command: F) -> F:
    """`--hub` and `--sandbox`, for commands that ask the hub about a batch."""
    command = option("--sandbox", is_flag=True, help="Ask the stand-in hub that made this batch.")(command)
    hub_help = "The hub's address. [the one that made the batch]"
    return option("--hub", also_envvar=["OXEN_BASE_URL"], metavar="URL", help=hub_help)(command)  # type: ignore[no-any-return]


def short_name(job: str) -> str:
    """What a person types for the job: its id, or the beginning of its key, which is a hash."""
    return job[:KEY_SHOWN] if KEY.fullmatch(job) else job


@contextlib.contextmanager
def access_to(ledger_path: Path, *, hub: str | None, sandbox: bool) -> Iterator[Access]:
    """The hub that made this batch, with the key for it."""
    from oxenbatch.access import Access  # noqa: PLC0415
    from oxenbatch.account import folder_of  # noqa: PLC0415
    from oxenbatch.cli.sandbox import journal_of, stand_in  # noqa: PLC0415
    from oxenbatch.hub import DEFAULT_HUB  # noqa: PLC0415
    from oxenbatch.settings import find_key, has_own_key  # noqa: PLC0415

    with Ledger.open(ledger_path) as ledger:
        batch = reads.batch(ledger)
    if batch is None:
        raise MachineError(f"{printable(ledger_path)}: no run has begun here")
    if sandbox:
        with stand_in(journal_of(folder_of(ledger_path).absolute(), batch.name)) as served:
            yield Access(served.url, served.key, rehearsal=True)
        return
    url = hub or batch.hub
    if "://" not in url:
        raise UsageProblem("this batch was made on a stand-in hub: add --sandbox, or --hub with its address")
    if hub is None and origin_named(url) != DEFAULT_HUB and not has_own_key(url):
        # A ledger may be a stranger's: the key goes where its owner says, not where a file says.
        raise UsageProblem(
            f"this batch says that it was made on {printable(url)}: if that is where your key is to go, say so with"
            f" --hub {printable(url)}"
        )
    yield Access(origin_named(url), find_key(url))
