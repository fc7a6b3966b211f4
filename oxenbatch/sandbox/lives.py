"""How long generations take: as long as the real hub's do, or as somebody who rehearses says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import exp, isfinite
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final, Literal

from .parameters import seconds as seconds_of

if TYPE_CHECKING:
    from collections.abc import Mapping

USUAL_S: Final = {"image": (5.0, 30.0), "video": (60.0, 600.0)}
"""From the shortest to the longest, waiting and being made."""
_SPELLING: Final = re.compile(r"(\d+(?:\.\d+)?)(x?)(?:~(\d+(?:\.\d+)?))?")


@dataclass(frozen=True, slots=True)
class Life:
    """How long a generation takes at speed 1: `2` seconds, `12x` the asked-for duration, `2~0.5` spread about it."""

    median_s: float
    by_duration: bool = False
    """So many times the seconds of video that were asked for."""
    spread: float = 0.0
    """The standard deviation of the logarithm: 0.5 makes one in forty 2.7 times as long as the median."""

    @classmethod
    def parse(cls, text: str) -> Life:
        """The life that the text spells; ValueError with a sentence where it spells none."""
        spelt = _SPELLING.fullmatch(text)
        if spelt is None or not float(spelt[1]) > 0:
            raise ValueError(f"a life is {text!r}, expected seconds such as 2, 2~0.5 or 12x")
        return cls(float(spelt[1]), bool(spelt[2]), float(spelt[3] or 0))

    def seconds(self, asked: Mapping[str, Any], drawn: float) -> float:
        """How long this request's generation takes; `drawn` is its own number between 0 and 1."""
        life_s = self.median_s * (float(seconds_of(asked)) if self.by_duration else 1.0)
        life_s *= exp(self.spread * NormalDist().inv_cdf(drawn)) if self.spread else 1.0
        return life_s if isfinite(life_s) else self.median_s


def usual_s(media_type: Literal["image", "video", "text"], drawn: float) -> float:
    """What the real hub takes; `drawn` is the generation's own number between 0 and 1."""
    shortest, longest = USUAL_S[media_type]
    return shortest + (longest - shortest) * drawn
