"""The catalogue for people: `models` and `model`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from oxenbatch.cli.access import catalog_for, catalog_options
from oxenbatch.cli.options import dollars, plural
from oxenbatch.errors import HubUnreachable, UsageProblem, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from oxenbatch.access import Access
    from oxenbatch.catalog import Catalog, Model
TOLD: Final = ("enum", "minimum", "maximum", "maxLength", "description")
"""What is said of a parameter, where its schema says it."""


@click.command(short_help="The hub's catalogue: which models there are.")
@click.argument("text", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Also models that make neither images nor video.")
@catalog_options
@click.option("--json", "as_json", is_flag=True, help="A JSON list on stdout.")
def models(text: tuple[str, ...], *, everything: bool, as_json: bool, **where: Any) -> None:
    """List the models whose name, summary or medium holds every word of TEXT; all of them without.

    No key is needed. A copy of the catalogue is kept for an hour, and for as long as there is no network.

    \b
    Examples:
      oxenbatch models
      oxenbatch models kling video
      oxenbatch models image --json | jq -r '.[].id'
    """
    _, catalog = _catalog(**where)
    found = catalog.search(" ".join(text))
    shown = found if everything else [model for model in found if not model.text_only]
    if as_json:
        click.echo("[" + ",\n ".join(json.dumps(_summary(model), ensure_ascii=False) for model in shown) + "]")
    else:
        width = max((len(model.id) for model in shown), default=0)
        for model in shown:
            click.echo(f"{printable(model.id, 80):<{width}}  {model.media_type or '-':<5}  {price_in_words(model)}")
    said = f"; {len(found) - len(shown)} that make neither images nor video are left out (--all)"
    click.echo(f"{plural(len(shown), 'model')}{said if len(found) > len(shown) else ''}{_age(catalog)}", err=True)


@click.command(short_help="One model: its parameters and prices.")
@click.argument("model_id", metavar="ID")
@catalog_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, its request_schema in it.")
def model(model_id: str, *, as_json: bool, **where: Any) -> None:
    """Show one model: what it takes, what is needed, what it costs.

    \b
    Examples:
      oxenbatch model nano-banana-2
      oxenbatch model nano-banana-2 --json | jq .parameters
    """
    from oxenbatch.access import learn_missing  # noqa: PLC0415 - not for --help

    access, catalog = _catalog(**where)
    found = catalog.get(model_id)
    if found is None and learn_missing(catalog, access):
        found = catalog.get(model_id)
    if found is None:
        near = " or ".join(printable(one, 100) for one in catalog.suggest(model_id))
        hint = f"; did you mean {near}?" if near else "; `oxenbatch models` lists them"
        raise UsageProblem(f"model {printable(model_id, 100)!r} is not in the hub's catalogue{hint}")
    if as_json:
        said = _summary(found) | {"parameters": list(_parameters(found)), "request_schema": found.schema}
        click.echo(json.dumps(said, ensure_ascii=False))
        return
    click.echo(f"{printable(found.id)}  ({printable(found.display_name) or 'no other name'})")
    if found.summary:
        click.echo(f"  {printable(found.summary, 500)}")
    otherwise = "text, which the queue does not take" if found.text_only else "not said"
    click.echo(f"  makes   {found.media_type or otherwise}")
    click.echo(f"  costs   {price_in_words(found)}")
    if found.schema is None:
        click.echo("  takes   whatever is sent: it publishes no schema, and nothing is checked")
        return
    rows = [(one["name"], _kind(one), _words(one)) for one in _parameters(found)]
    widths = [max(len(row[n]) for row in rows) for n in (0, 1)] if rows else [0, 0]
    for name, kind, words in rows:
        click.echo(f"  {name:<{widths[0]}}  {kind:<{widths[1]}}  {words}".rstrip())


def _catalog(**where: Any) -> tuple[Access, Catalog]:
    access, found = catalog_for(lambda words: click.echo(printable(words), err=True), **where)
    if found is None:
        raise HubUnreachable("there is no catalogue to show: the hub did not answer, and no copy was kept")
    return access, found


def _age(catalog: Catalog) -> str:
    from oxenbatch.access import age_in_words  # noqa: PLC0415 - not for --help

    return f"; as the hub said {age_in_words(catalog)}" if catalog.fetched_at is not None else ""


def _summary(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "display_name": model.display_name,
        "summary": model.summary,
        "media_type": model.media_type,
        "price": price_in_words(model),
        "pricing": model.pricing,
    }


def _parameters(model: Model) -> Iterator[dict[str, Any]]:
    """Each parameter in the schema's own order, those that are needed first."""
    needed = (model.schema or {}).get("required")
    needed = needed if isinstance(needed, list) else []
    properties = model.properties() or {}
    order = {name: inner.get("x-order") for name, inner in properties.items()}
    names = sorted(properties, key=lambda name: (name not in needed, order[name] if type(order[name]) is int else 999))
    for name in names:
        inner = properties[name]
        yield {
            "name": name,
            "type": inner.get("type"),
            "required": name in needed,
            "default": inner.get("default"),
            **{word: inner[word] for word in TOLD if word in inner},
        }


def _kind(parameter: dict[str, Any]) -> str:
    types = parameter["type"]
    return " or ".join(map(str, types)) if isinstance(types, list) else str(types or "any")


def _words(parameter: dict[str, Any]) -> str:
    said = ["needed"] if parameter["required"] else []
    options = parameter.get("enum")
    if isinstance(options, list):
        said.append("one of " + ", ".join(printable(option, 40) for option in options[:30]))
    low, high = parameter.get("minimum"), parameter.get("maximum")
    if low is not None or high is not None:
        said.append(f"{'' if low is None else low} to {'' if high is None else high}".strip())
    if "maxLength" in parameter:
        said.append(f"at most {parameter['maxLength']} characters")
    if parameter["default"] is not None:
        default = parameter["default"]
        said.append(f"default {printable(default if isinstance(default, str) else json.dumps(default), 60)}")
    if isinstance(about := parameter.get("description"), str):
        said.append(printable(about, 120))
    return "; ".join(said)


def price_in_words(model: Model) -> str:
    """What one generation costs, as the catalogue says it, and with the defaults; never $0 for what is not known."""
    from oxenbatch.prices import span  # noqa: PLC0415 - not for --help

    usual = model.price({})
    lowest, highest, per = span(model.pricing)
    if lowest is None or highest is None:
        return "not known before it is made" + (f" (priced by {printable(per, 40)})" if per else "")
    words = f"{_money(lowest)} {per}" if lowest == highest else f"{_money(lowest)} to {_money(highest)} {per}"
    return words + (f"; ${dollars(usual)} with the defaults" if usual is not None and per != "an image" else "")


def _money(amount: Decimal) -> str:
    return f"${dollars(amount)}"
