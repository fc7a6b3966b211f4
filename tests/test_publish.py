"""What is published, wherever it goes: the card, the parts, and what a person who calls it wrongly is told."""

from __future__ import annotations

import shutil
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from world import World, rows

from oxenbatch.cli import cli
from oxenbatch.cli.publish import key_for, parts_of
from oxenbatch.dataset.card import BEGIN, END, card, code, words
from oxenbatch.errors import ConfigProblem, OxenbatchError, TryAgain, UsageProblem
from oxenbatch.jobs import Row
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.made import Made, OfModel, made, one_look
from oxenbatch.publish import Part, Publication, names_in

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = st.text(max_size=60)


def of(**models: OfModel) -> Made:
    return Made("my-set", "https://hub.oxen.ai:443", models, {"image"}, prompts=2, first_at=1_800_000_000.0,
                last_at=1_800_100_000.0, charged=Decimal("0.5"), versions=["0.1.0", "0.2.0"])  # fmt: skip


# --- the card -------------------------------------------------------------------------------------------------------


def test_the_card_says_what_is_in_the_set_and_what_it_cost() -> None:
    text = card(
        {"": of(flux=OfModel(1_500, 3_200_000, 0.0, Decimal("0.3")), kling=OfModel(1, 900, 5.0, Decimal("0.10")))}
    )

    assert text.startswith("---\nsize_categories: ['1K<n<10K']\ntask_categories: [text-to-image]\n")
    assert "# my-set\n" in text
    assert "1,501 files of 2 prompts in one batch, made by 2 models, 2027-01-15 to 2027-01-16." in text
    assert "| `flux` | 1,500 | 3.2 MB |  | $0.30 |\n| `kling` | 1 | 900 B | 5 s | $0.10 |" in text
    assert "The hub charged $0.40 for these files, and $0.50 for all that was made on the way." in text
    assert "oxenbatch 0.1.0, 0.2.0" in text
    assert "## Batches" not in text


def test_several_batches_are_told_apart_and_added_up() -> None:
    one = OfModel(2, 10, 0.0, Decimal("0.5"), uncharged=1)
    text = card({"2026-11-22": of(m=one), "2026-11-23": of(m=one)})

    assert "4 files of 4 prompts in 2 batches, made by 1 model" in text
    assert "| `2026-11-22` | 2 | 10 B |  | $0.50 |" in text
    assert "for 2 of them the charge is not known" in text


def test_a_card_is_the_same_for_the_same_set_and_keeps_what_people_wrote() -> None:
    first = card({"": of(m=OfModel(1))})
    assert card({"": of(m=OfModel(1))}, first) == first

    ours = "# Mine\n\nBy hand.\n"
    once = card({"": of(m=OfModel(1))}, ours)
    assert once.startswith(ours)
    assert card({"": of(m=OfModel(1))}, once) == once
    more = card({"": of(m=OfModel(2))}, once + "Below.\n")
    assert (more.count(BEGIN), more.count(END), more.endswith("Below.\n"), "2 files" in more) == (1, 1, True, True)


@given(HOSTILE, HOSTILE)
def test_no_name_breaks_out_of_the_card(name: str, model: str) -> None:
    batch = of(**{model: OfModel(1)})
    batch.name = name
    text = card({"": batch})

    assert card({"": batch}, text) == text
    rows_of_table = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows_of_table) == 1
    assert rows_of_table[0].replace("\\|", "").count("|") == 6
    assert "`" not in code(model)[1:-1]
    assert "<" not in words(name).replace("\\<", "")


# --- what a batch has made ------------------------------------------------------------------------------------------


def test_what_a_batch_has_made_is_summed_up_from_what_is_on_disk(tmp_path: Path) -> None:
    world = World(tmp_path / "set", [*rows(2), Row(rows(1)[0].model, {"prompt": "[fail]"}, number=3)])
    world.run()
    with Ledger.open(world.ledger_path) as ledger, one_look(ledger):
        found = made(ledger)

    assert found is not None
    total = found.total
    assert (total.files, found.prompts, found.missing, found.kinds) == (2, 2, 1, {"image"})
    assert total.bytes == sum(path.stat().st_size for path in world.results())
    assert (total.cost, found.charged) == (Decimal("0.028"), Decimal("0.028"))
    assert len(found.versions) == 1


def test_a_run_that_goes_on_meanwhile_changes_nothing_in_the_look(tmp_path: Path) -> None:
    world = World(tmp_path / "set", rows(2))
    world.run()
    with Ledger.open(world.ledger_path) as ledger, one_look(ledger):
        before = made(ledger)
        with Ledger.open(world.ledger_path) as other, other.immediate():
            other.conn.execute("update generations set cost = '9'")
        assert made(ledger) == before


# --- the publication ------------------------------------------------------------------------------------------------


def test_what_is_published_is_what_the_tables_name(tmp_path: Path) -> None:
    world = World(tmp_path / "set", rows(2))
    world.run()
    (world.folder / "stray.png").write_bytes(b"not ours")
    publication = Publication([Part(world.ledger_path, "day")], tmp_path / "scratch")

    assert {piece.path for piece in publication.pieces()} == {f"day/{path.name}" for path in world.results()} - {
        "day/stray.png"
    }
    assert [path for path, _ in publication.tables()] == ["day/metadata.jsonl", "day/results.parquet"]
    assert list(names_in(tmp_path / "nowhere")) == []


def test_nothing_on_disk_is_nothing_to_publish_yet(tmp_path: Path) -> None:
    world = World(tmp_path / "set", rows(1))
    world.run(kill_at=10)

    with pytest.raises(TryAgain, match="nothing to publish"):
        Publication([Part(world.ledger_path)], tmp_path / "scratch")


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_batch_stands_for_itself_and_dated_ones_have_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path / "made", rows(1))
    world.run()
    (tmp_path / "one.yaml").write_text("model: m\nprompts: [x]\n")
    (tmp_path / "nightly.yaml").write_text("model: m\noutput: out/nightly/{year}/{date}\nprompts: [x]\n")
    for folder in ("out/one", "out/nightly/2026/2026-11-22"):
        shutil.copytree(world.folder, tmp_path / folder)

    def prefixes(name: str) -> tuple[list[str], Path]:
        parts, root = parts_of(name)
        return [part.prefix for part in parts], root

    assert prefixes("out/one") == prefixes("one.yaml") == ([""], tmp_path / "out/one")
    assert prefixes("out/one/ledger.db") == ([""], tmp_path / "out/one")
    assert prefixes("out/nightly") == prefixes("nightly.yaml") == (["2026/2026-11-22"], tmp_path / "out/nightly")


@pytest.mark.parametrize("to", ["set", "a/b/c", "hf:set", "a b/c", "../x", "hf:a/", "https://hub.oxen.ai/a/b", ""])
def test_a_place_that_is_none_is_told_what_it_should_be(tmp_path: Path, to: str) -> None:
    World(tmp_path / "set", rows(1)).run()
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "set"), "--to", to])

    assert isinstance(result.exception, OxenbatchError)
    assert result.exception.exit_code == 2
    assert "expected" in str(result.exception)


def test_without_the_extra_one_is_told_what_to_install(tmp_path: Path) -> None:
    World(tmp_path / "set", rows(1)).run()
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "set")])

    assert isinstance(result.exception, ConfigProblem)
    assert "pip install 'oxenbatch[oxen]'" in str(result.exception)
    assert not list(tmp_path.glob(".set.oxen*"))


def test_a_dry_run_needs_no_extra(tmp_path: Path) -> None:
    World(tmp_path / "set", rows(2)).run()
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "set"), "--dry-run"], catch_exceptions=False)

    assert result.stdout.endswith(".set.oxen: 2 files, 2 files would be added\n")
    assert not list(tmp_path.glob(".set.oxen*"))


@pytest.mark.parametrize(
    ("remote", "hub", "sent"),
    [
        ("https://hub.oxen.ai/me/set", "https://hub.oxen.ai", True),
        ("https://hub.oxen.ai:443/me/set", "https://hub.oxen.ai/", True),
        ("https://evil.example/me/set", "https://hub.oxen.ai", False),
        ("http://hub.oxen.ai/me/set", "https://hub.oxen.ai", False),
        ("https://hub.oxen.ai:8443/me/set", "https://hub.oxen.ai", False),
        ("https://evil.example/me/set", "https://evil.example", True),
        ("file:///etc", "https://hub.oxen.ai", False),
    ],
)
def test_the_key_goes_to_a_remote_that_the_user_has_named(tmp_path: Path, remote: str, hub: str, *, sent: bool) -> None:
    environ = {"OXEN_API_KEY": "a-key", "OXEN_CONFIG_DIR": str(tmp_path)}
    if sent:
        assert key_for(remote, hub=hub, environ=environ) == "a-key"
    else:
        with pytest.raises(UsageProblem, match=r"if that is where your key is to go|cannot be pushed to"):
            key_for(remote, hub=hub, environ=environ)


def test_a_key_of_the_settings_for_that_very_host_goes_there(tmp_path: Path) -> None:
    path = tmp_path / "auth_config.toml"
    path.write_text('[[host_configs]]\nhost = "hub.example"\nauth_token = "theirs"\n')
    path.chmod(0o600)
    environ = {"OXEN_CONFIG_DIR": str(tmp_path)}
    assert key_for("https://hub.example/me/set", hub="https://hub.oxen.ai", environ=environ) == "theirs"
