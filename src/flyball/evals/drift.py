"""Whether production asks for what training taught: shares of intent classes, side by side, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from flyball.errors import EvalError
from flyball.stats.binomial import wilson
from flyball.stats.shares import share_difference
from flyball.types import Estimate


@dataclass(frozen=True)
class IntentDrift:
    """One intent class: its share in training and in production, and production - training.

    The interval of `difference` is at a level that holds for all classes together (Bonferroni); `drifted` when it
    leaves out zero. A class that production has and training has not is `unseen`.
    """

    intent: str
    training: Estimate
    production: Estimate
    difference: Estimate

    @property
    def drifted(self) -> bool:
        """Whether the shares differ, at the level of `difference`."""
        return not self.difference.low <= 0.0 <= self.difference.high

    @property
    def unseen(self) -> bool:
        """Whether production asks for what training never had."""
        return self.training.value == 0.0


def intent_drift(training: Sequence[str], production: Sequence[str], level: float = 0.95) -> list[IntentDrift]:
    """Compare the classes of training tasks with those of served sessions, one label each, the largest change first.

    Units count as independent: give one label per session, or per user where users come back. Raises EvalError where
    one side has no label.
    """
    if not training or not production:
        raise EvalError(f"{len(training)} training and {len(production)} production labels: drift needs some of both")
    before, now = Counter(training), Counter(production)
    intents = sorted(before | now)
    each = 1.0 - (1.0 - level) / len(intents)
    found = [
        IntentDrift(
            intent,
            wilson(before[intent], len(training), level),
            wilson(now[intent], len(production), level),
            share_difference(now[intent], len(production), before[intent], len(training), each),
        )
        for intent in intents
    ]
    return sorted(found, key=lambda one: -abs(one.difference.value))
