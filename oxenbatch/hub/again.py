"""Asking again: which reading calls it may help, and how long to wait before. Never near the call that costs money."""

from __future__ import annotations

import tenacity

from oxenbatch.hub.trouble import HubTrouble
from oxenbatch.words import Cause


def is_passing(error: BaseException) -> bool:
    """Whether the same call may well be answered a moment later."""
    return isinstance(error, HubTrouble) and error.cause in (Cause.HUB, Cause.RATE)


class wait_as_told(tenacity.wait.wait_base):  # noqa: N801 - named as tenacity names its own
    """As long as `Retry-After` says (but no longer than the run can use), else as `otherwise` says."""

    def __init__(self, otherwise: tenacity.wait.wait_base) -> None:
        self.otherwise = otherwise

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        told = error.wait_s if isinstance(error, HubTrouble) else None
        return float(self.otherwise(retry_state)) if told is None else min(told, 60.0)
