"""Checks of how learning would read attempts: which preset fits them, and whether rewards on turns go with success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from flyball.evals.readiness import Finding
from flyball.graders.grade import TURN_REWARD
from flyball.rl.algorithms import algorithm
from flyball.rl.calibration import calibrate
from flyball.rl.chooser import choose, facts_of
from flyball.rl.samples import group_credit
from flyball.types import GradedAttempt, Missing

Groups = Sequence[Sequence[GradedAttempt]]

MOST_KINDS = 12
"""More different rewards on turns than this are degrees, not kinds, and are left to their author."""


def check_preset(groups: Groups) -> Finding:
    """Which preset fits the attempts, by the rules of `rl/chooser.py`. Advice, so never more than ok."""
    facts = facts_of(groups)
    rule = choose(facts)
    text = f"`{rule.settings}` fits: {rule.when}; {rule.why}"
    return Finding("preset", "ok", text, asdict(facts))


def check_turn_rewards(groups: Groups) -> list[Finding]:
    """Rewards on turns whose sign is not that of their correlation with success, or of the advantages they lead to.

    Iterative reward calibration, arXiv 2604.02869: a kind of turn is a value of the reward; what counts is its share of
    an attempt's calls, so that long attempts do not hold more of everything. Empty without rewards on turns.
    """
    row = algorithm("turn_rloo")
    judged = [
        [g for g in group if not isinstance(g.reward, Missing) and not isinstance(g.outcome.success, Missing)]
        for group in groups
    ]
    attempts = [one for group in judged for one in group]
    paid = [_turn_rewards(one) for one in attempts]
    values = sorted({value for rewards in paid for value in rewards.values() if value})
    if not values or len(values) > MOST_KINDS:
        return []
    credits = [credit for group in judged for credit in group_credit(group, row)]
    kinds = {
        f"{value:+g}": np.array([sum(v == value for v in r.values()) / max(len(r), 1) for r in paid])
        for value in values
    }
    advantages: dict[str, list[float]] = {kind: [] for kind in kinds}
    for one, rewards, credit in zip(attempts, paid, credits, strict=True):
        for call, advantage in zip(one.attempt.trajectory.calls, credit, strict=True):
            if rewards[call.call_id]:
                advantages[f"{rewards[call.call_id]:+g}"].append(float(advantage))
    found = calibrate(kinds, np.array([float(g.outcome.success is True) for g in attempts]), advantages)
    wrong = [row for row in found if row.reward * float(row.kind) < 0]
    noise = [row for row in found if row.reward == 0]
    unfelt = [row for row in found if row.mean_advantage is not None and row.mean_advantage * float(row.kind) < 0]
    parts = [
        *(f"{row.kind} goes the other way than success (correlation {row.correlation:+.2f})" for row in wrong),
        *(f"{row.kind} says nothing about success (correlation {row.correlation:+.2f})" for row in noise),
        *(f"calls paid {row.kind} have a mean advantage of {row.mean_advantage:+.2f}" for row in unfelt),
    ]
    if not parts:
        return [
            Finding("turn_rewards", "ok", f"{len(found)} rewards on turns go the way of success, n={len(attempts)}")
        ]
    text = f"rewards on turns, n={len(attempts)} attempts: {'; '.join(parts)}; change them, or leave them out"
    return [Finding("turn_rewards", "warn", text, {row.kind: row.correlation for row in found})]


def _turn_rewards(one: GradedAttempt) -> dict[str, float]:
    """What `turn_reward` gave each call, rounded to thousandths."""
    paid = {call.call_id: 0.0 for call in one.attempt.trajectory.calls}
    for event in one.events:
        if event.call_id is not None and event.component == TURN_REWARD:
            paid[event.call_id] += event.value
    return {call: round(value, 3) for call, value in paid.items()}
