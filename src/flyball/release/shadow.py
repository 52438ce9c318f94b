"""The shadow: the candidate answers copies of live sessions, nobody sees it, its tools that write are stubbed.

What can be compared is what does not need an outcome: whether the first tool calls agree, how many tools are called,
how long it takes. Disagreement is no harm (a better candidate disagrees too); a shadow finds what is broken before
anybody meets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flyball.errors import ReleaseError
from flyball.stats.binomial import wilson
from flyball.stats.paired import paired_difference, relative_change
from flyball.types import Estimate


@dataclass(frozen=True)
class ShadowAnswer:
    """What one version did in one session: the names of the tools it called in order, seconds, and if it ended."""

    tools: tuple[str, ...]
    seconds: float
    ended: bool = True


@dataclass(frozen=True)
class ShadowPair:
    """One session, answered by the version in force and, unseen, by the candidate; `key` is its user."""

    key: str
    stable: ShadowAnswer
    shadow: ShadowAnswer


@dataclass(frozen=True)
class ShadowComparison:
    """`agreement`: share of sessions in which the first tool calls agree and the shadow ended; `tool_calls`: shadow
    less stable, per session; `latency`: relative change of seconds. Intervals are over sessions, clustered by key."""

    agreement: Estimate
    tool_calls: Estimate
    latency: Estimate


def compare_shadow(pairs: Sequence[ShadowPair]) -> ShadowComparison:
    """Compare the two answers to each session. Raises ReleaseError below two sessions, or for a duration of 0."""
    if len(pairs) < 2:
        raise ReleaseError(f"{len(pairs)} shadowed sessions; at least 2 are needed for an interval")
    if bad := [pair.key for pair in pairs if not (pair.stable.seconds > 0 and pair.shadow.seconds > 0)]:
        raise ReleaseError(f"shadowed session of {bad[0]!r}: a duration is not above 0; repair the record")
    clusters = [pair.key for pair in pairs]
    agree = sum(pair.shadow.ended and pair.stable.tools[:1] == pair.shadow.tools[:1] for pair in pairs)
    calls, seconds = (
        {arm: np.asarray([of(getattr(pair, arm)) for pair in pairs], np.float64) for arm in ("stable", "shadow")}
        for of in (lambda answer: len(answer.tools), lambda answer: answer.seconds)
    )
    return ShadowComparison(
        wilson(agree, len(pairs)),
        paired_difference(calls["shadow"], calls["stable"], clusters=clusters, unit="calls/session"),
        relative_change(seconds["shadow"], seconds["stable"], clusters=clusters),
    )
