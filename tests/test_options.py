"""Durations and dollars are read as people write them, and nothing else is taken for one."""

from __future__ import annotations

import math
from decimal import Decimal

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from oxenbatch.cli.access import origin_named
from oxenbatch.cli.options import Dollars, Duration, dollars, option
from oxenbatch.errors import UsageProblem


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("1d", 86400.0), ("1.5h", 5400.0), ("0", 0.0),
        ("0s", 0.0), (" 5m ", 300.0), ("5 m", 300.0), ("10M", 600.0), ("2H", 7200.0), ("0.5", 0.5),
        (30, 30.0), (1.5, 1.5),
    ],
)  # fmt: skip
def test_a_duration_is_seconds(text: object, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "m", "-5", "+5", "5x", "5ms", "5 minutes", "1h30m", "1:30", "1e3", ".5", "5.", "inf", "nan", "1_000",
     "1,5", "0x10", "five", "9" * 400, "9" * 400 + "d", "٣", "９０", math.inf, math.nan, -1, -0.5, True],
    ids=lambda value: ascii(value)[:20],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_the_ways_to_write_one(text: object) -> None:
    with pytest.raises(click.BadParameter, match="write 90, 90s, 10m or 2h") as problem:
        Duration().convert(text, None, None)

    assert len(str(problem.value)) < 500


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("25", "25"), ("12.50", "12.50"), ("$25", "25"), ("$ 25", "25"), (" 0.1 ", "0.1"), ("0", "0"),
        ("0.000000001", "1e-9"),
        (25, "25"), (0.1, "0.1"), (Decimal("1.10"), "1.10"), ("999999999.99", "999999999.99"),
    ],
)  # fmt: skip
def test_dollars_are_exact(text: object, amount: str) -> None:
    assert Dollars().convert(text, None, None) == Decimal(amount)


@pytest.mark.parametrize(
    "text",
    ["", " ", "$", "-1", "-0.01", "$-5", "NaN", "sNaN", "inf", "-inf", "Infinity", "1,000", "12,50", "25 USD", "25$",
     "$$5", "five", "0x10", "1e999999999", "1e400", "1" + "0" * 400, True],
    ids=lambda value: ascii(value)[:20],
)  # fmt: skip
def test_what_is_no_amount_is_refused_with_the_way_to_write_one(text: object) -> None:
    with pytest.raises(click.BadParameter, match=r"write 25 or 12\.50") as problem:
        Dollars().convert(text, None, None)

    assert len(str(problem.value)) < 500


@given(text=st.text(max_size=20))
def test_any_text_is_an_option_or_a_bad_parameter(text: str) -> None:
    for kind in (Duration(), Dollars()):
        try:
            value = kind.convert(text, None, None)
        except click.BadParameter:
            continue
        assert 0 <= value < 10**12


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0.00"), ("12.4", "12.40"), ("12.40", "12.40"), ("12.400", "12.40"), ("0.0395", "0.0395"),
        ("100", "100.00"),
        ("1E+3", "1000.00"), ("1E-9", "0.000000001"), ("0.10000", "0.10"), ("-1.5", "-1.50"), ("0E-12", "0.00"),
    ],
)  # fmt: skip
def test_an_amount_is_told_exactly_with_two_places_at_least(amount: str, text: str) -> None:
    assert dollars(Decimal(amount)) == text


@given(nanos=st.integers(0, 10**18))
def test_no_nanodollar_is_lost_in_the_telling(nanos: int) -> None:
    amount = Decimal(nanos).scaleb(-9)

    assert Decimal(dollars(amount)) == amount


@click.command()
@option("-d", "--deadline", type=Duration(), default="10m", show_default=True)
@option("--max-cost", type=Dollars())
@option("--hub", also_envvar=("OXEN_BASE_URL",))
@option("--canary/--no-canary", default=None)
def command(deadline: float, max_cost: Decimal | None, hub: str | None, canary: bool | None) -> None:
    click.echo(f"{deadline} {max_cost} {hub} {canary}")


@pytest.mark.parametrize(
    ("arguments", "environ", "told"),
    [
        ([], {}, "600.0 None None None"),
        (["-d", "90"], {}, "90.0 None None None"),
        ([], {"OXENBATCH_DEADLINE": "2h"}, "7200.0 None None None"),
        (["-d", "90"], {"OXENBATCH_DEADLINE": "2h"}, "90.0 None None None"),
        ([], {"OXENBATCH_MAX_COST": "12.50"}, "600.0 12.50 None None"),
        ([], {"OXEN_BASE_URL": "http://a"}, "600.0 None http://a None"),
        ([], {"OXEN_BASE_URL": "http://a", "OXENBATCH_HUB": "http://b"}, "600.0 None http://b None"),
        ([], {"OXENBATCH_CANARY": "0"}, "600.0 None None False"),
        ([], {"OXENBATCH_NO_CANARY": "1"}, "600.0 None None False"),
        ([], {"OXENBATCH_NO_CANARY": "0"}, "600.0 None None None"),
        (["--canary"], {"OXENBATCH_NO_CANARY": "1"}, "600.0 None None True"),
        (["--no-canary"], {"OXENBATCH_CANARY": "1"}, "600.0 None None False"),
    ],
)
def test_a_flag_wins_over_its_variable_and_the_variable_over_the_default(
    arguments: list[str], environ: dict[str, str], told: str
) -> None:
    result = CliRunner().invoke(command, arguments, env=environ)

    assert (result.exit_code, result.output.strip()) == (0, told)


def test_a_bad_value_is_a_usage_error_that_names_the_option() -> None:
    result = CliRunner().invoke(command, ["--deadline", "soon"])

    assert result.exit_code == 2
    assert "'soon' is no duration" in result.output
    assert "--deadline" in result.output


@pytest.mark.parametrize("address", ["ftp://hub.oxen.ai", "hub.oxen.ai", "http://", "http://hub:port", ""])
def test_a_hub_address_that_is_none_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageProblem, match="--hub"):
        origin_named(address)
