"""The limits of a run: what its flags say, over what the manifest says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oxenbatch.manifest import Manifest
    from oxenbatch.plan import Limits


def limits_of(o: Mapping[str, Any], manifest: Manifest) -> Limits:
    """What one batch of this manifest is held to."""
    from oxenbatch.batch import with_manifest  # noqa: PLC0415 - not for --help
    from oxenbatch.plan import Limits  # noqa: PLC0415 - not for --help

    limits = Limits(
        attempts=o["attempts"],
        max_cost=o["max_cost"],
        allow_unpriced=o["allow_unpriced"],
        limit_sends=o["limit_sends"],
        settle_s=o["settle"],
        max_outage_s=o["max_outage"],
        deadline_s=o["deadline"],
        wait=not o["no_wait"],
        fail_fast=o["fail_fast"],
        on_unknown=o["on_unknown"],
        in_order=o["in_order"],
        canary="unknown" if o["canary"] is None else "all" if o["canary"] else "none",
    )
    if o["timeout"] is not None:
        limits = replace(limits, image_timeout_s=o["timeout"], video_timeout_s=o["timeout"])
    return with_manifest(limits, manifest, o["concurrency"])
