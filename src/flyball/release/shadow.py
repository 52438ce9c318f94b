"""The shadow: the candidate answers copies of live sessions, nobody sees it, and no tool is run for it.

It is no session of its own. At each turn the candidate is asked what the version in force was asked: the user's own
conversation so far, with the results that the session's own tools had. What can be compared without an outcome is
whether the first tool calls agree, how many tools are called and how long it takes, in the turns that both answered.
Only the first tool call is the candidate's own choice in a conversation that fits it, and the turns of a session are
not independent: so the unit is the session, once, and never the turn. Disagreement is no harm (a better candidate
disagrees too); a shadow finds what is broken before anybody meets it.

The interval of the agreement is that of one look. Looks are free and the decision rests on the last one, so a release
that agrees in exactly half of its sessions is seen above that at some look in about one of five (looked at after every
session from 30 to 1,000), one that agrees in 40 % in fewer than one of a hundred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flyball.errors import ReleaseError
from flyball.stats.intervals import proportion_interval
from flyball.stats.paired import paired_difference, relative_change
from flyball.types import Estimate

LEAST_SHADOWED = 30
"""Compared sessions below which nothing is said of agreement."""


@dataclass(frozen=True)
class ShadowAnswer:
    """What one version did in the turns of a session that are compared: the names of the tools it called in order, the
    seconds that its model took, and whether it answered every turn."""

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
    """`agreement`: share of sessions in which the first tool calls agree and the shadow ended. Over sessions whose
    shadow ended, None below two of them: `tool_calls`, shadow less stable, per session; `latency`, relative change of
    seconds. Intervals are over sessions, clustered by key."""

    agreement: Estimate
    tool_calls: Estimate | None
    latency: Estimate | None


@dataclass(frozen=True)
class Shadowed:
    """The shadow of one release: sessions that can be compared, of `chosen` whose answers were to be copied."""

    pairs: tuple[ShadowPair, ...]
    chosen: int

    @property
    def comparison(self) -> ShadowComparison | None:
        """None below `LEAST_SHADOWED` sessions."""
        return compare_shadow(self.pairs) if len(self.pairs) >= LEAST_SHADOWED else None


def compare_shadow(pairs: Sequence[ShadowPair]) -> ShadowComparison:
    """Compare the two answers to each session. Raises ReleaseError below two sessions, or for a duration of 0."""
    if len(pairs) < 2:
        raise ReleaseError(f"{len(pairs)} shadowed sessions; at least 2 are needed for an interval")
    ended = [pair for pair in pairs if pair.shadow.ended]
    if bad := [pair.key for pair in ended if not (pair.stable.seconds > 0 and pair.shadow.seconds > 0)]:
        raise ReleaseError(f"shadowed session of {bad[0]!r}: a duration is not above 0; repair the record")
    agree = [pair.shadow.ended and pair.stable.tools[:1] == pair.shadow.tools[:1] for pair in pairs]
    agreement = proportion_interval(agree, clusters=[pair.key for pair in pairs])
    if len(ended) < 2:
        return ShadowComparison(agreement, None, None)
    clusters = [pair.key for pair in ended]
    calls, seconds = (
        {arm: np.asarray([of(getattr(pair, arm)) for pair in ended], np.float64) for arm in ("stable", "shadow")}
        for of in (lambda answer: len(answer.tools), lambda answer: answer.seconds)
    )
    return ShadowComparison(
        agreement,
        paired_difference(calls["shadow"], calls["stable"], clusters=clusters, unit="calls/session"),
        relative_change(seconds["shadow"], seconds["stable"], clusters=clusters),
    )
