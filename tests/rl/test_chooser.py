"""Which preset fits which data: facts by hand, and every rule where it holds."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from flyball.rl.algorithms import ALGORITHMS
from flyball.rl.chooser import RULES, Facts, choose, facts_of
from flyball.types import Attempt, Call, GradedAttempt, Outcome, RewardEvent, StopReason, Task, Trajectory

PLAIN = Facts(group_size=8, turn_rewards=False, calls_mean=3.0, alike=0.2, cut=0.0, returning=0.0)


def attempt(name: str, states: list[int], reward: float, *, turn: float = 0.0, cut: bool = False) -> GradedAttempt:
    calls = tuple(
        Call(
            f"{name}{k}",
            f"{name}{k - 1}" if k else None,
            "main",
            (state,),
            (5,),
            (-1.0,),
            (0,),
            {},
            "stop",
            {"role": "assistant"},
        )
        for k, state in enumerate(states)
    )
    stop = StopReason.MAX_TOKENS if cut else StopReason.ANSWERED
    events = (RewardEvent(0, 0, f"{name}0", "turn_reward", turn),) if turn else ()
    made = Attempt(name, Task("t", {}), Trajectory(calls, stop), ())
    return GradedAttempt(made, Outcome(reward > 0), events=events, reward=reward)


def test_facts_by_hand() -> None:
    """First calls always share their state; of the four later ones two were made in state 7."""
    groups = [
        [attempt("a", [1, 7, 2], 1.0, turn=0.5), attempt("b", [1, 7, 3], 0.0, cut=True)],
        [attempt("c", [1], 1.0), attempt("d", [1], 1.0)],
    ]
    assert facts_of(groups) == Facts(
        group_size=2, turn_rewards=True, calls_mean=2.0, alike=0.5, cut=0.25, returning=0.5
    )
    with pytest.raises(ValueError, match="no attempts"):
        facts_of([])


@pytest.mark.parametrize(
    ("facts", "settings"),
    [
        (replace(PLAIN, group_size=2), "preset: reinforce_pp"),
        (replace(PLAIN, turn_rewards=True), "preset: turn_rloo"),
        (replace(PLAIN, turn_rewards=True, calls_mean=1.0), "preset: rloo"),
        (replace(PLAIN, returning=0.5), "preset: gigpo"),
        (replace(PLAIN, cut=0.3, alike=0.9), "preset: dapo"),
        (replace(PLAIN, alike=0.9), "preset: rloo, max_refills: 3"),
        (PLAIN, "preset: rloo"),
    ],
)
def test_each_rule_holds_somewhere(facts: Facts, settings: str) -> None:
    assert choose(facts).settings == settings


def test_rules_name_presets_that_there_are() -> None:
    for rule in RULES:
        (name,) = re.findall(r"preset: (\w+)", rule.settings)
        assert name in ALGORITHMS
        if "max_refills" in rule.settings:
            assert "max_refills" in ALGORITHMS[name].reads
