"""Facts and cards become one page of HTML."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.dataset.report.cards import shown
from oxenbatch.dataset.report.facts import day, moment, span
from oxenbatch.errors import UsageProblem
from oxenbatch.jobs import JobState

if TYPE_CHECKING:
    from decimal import Decimal

    from oxenbatch.dataset.report.cards import Cards
    from oxenbatch.dataset.report.facts import Facts

GENERATOR: Final = '<meta name="generator" content="oxenbatch">'
BAR_HEIGHT: Final = 60


def render(facts: Facts, cards: Cards) -> str:
    """The page. Text goes through the template's escaping or into the data block, which is no markup at all."""
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415 - an extra
        from markupsafe import Markup  # noqa: PLC0415 - comes with it
    except ImportError:
        raise UsageProblem("the report needs jinja2: pip install 'oxenbatch[report]'") from None
    script, style = _own("page.js"), _own("page.css")
    environment = Environment(
        autoescape=True, loader=FunctionLoader(_own), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "shown": shown,
        "day": day,
        "moment": moment,
        "span": span,
        "dollars": dollars,
        "number": number,
    }
    return environment.get_template("page.html").render(
        facts=facts,
        done=facts.states[JobState.DOWNLOADED],
        failed=sum(facts.states[s] for s in (JobState.FAILED, JobState.CANCELLED, JobState.UNFETCHABLE)),
        cards=cards,
        facets=cards.facets(),
        top=max((sum(bar) for segment in facts.segments for bar in segment.bars), default=0),
        height=BAR_HEIGHT,
        policy=_policy(script, style),
        script=Markup(script),  # noqa: S704 - our own file
        style=Markup(style),  # noqa: S704 - our own file
        data=Markup(inert(cards.shown)),  # noqa: S704 - `inert` has no character that means anything in HTML
        generator=Markup(GENERATOR),  # noqa: S704 - a constant
    )


def inert(value: Any) -> str:
    """JSON that ends no script element, begins no comment and no tag, wherever it stands in a page."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(script: str, style: str) -> str:
    """Nothing but the page's own script and style runs, and pictures come from the page or from files beside it."""
    near = "'self' file: data: blob:"
    rules = {
        "default-src": "'none'", "script-src": _hash(script), "style-src": _hash(style), "img-src": near,
        "media-src": near, "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _own(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def dollars(amount: Decimal) -> str:
    """At least two places, and as many as the amount needs."""
    places = max(2, -int(amount.normalize().as_tuple().exponent))
    return f"{amount:,.{places}f}"


def number(count: int) -> str:
    """`12,345`."""
    return f"{count:,}"
