"""Drift of production against training is told by intent class, and only where the evidence is."""

import random

import pytest

from flyball.errors import EvalError
from flyball.evals.drift import intent_drift


def test_what_production_asks_more_often_is_told_first() -> None:
    training = ["status"] * 500 + ["refund"] * 500
    production = ["status"] * 300 + ["refund"] * 590 + ["cancel"] * 110
    found = {one.intent: one for one in intent_drift(training, production)}
    assert list(found) == ["status", "cancel", "refund"]
    assert found["status"].difference.value == pytest.approx(-0.2)
    assert all(one.drifted for one in found.values())
    assert [one.intent for one in found.values() if one.unseen] == ["cancel"]
    assert found["cancel"].difference.level == pytest.approx(1 - 0.05 / 3)


def test_chance_is_no_drift() -> None:
    draw = random.Random(7)
    labels = "abcd"
    alarms = 0
    for _ in range(200):
        training, production = (draw.choices(labels, [4, 3, 2, 1], k=300) for _ in range(2))
        alarms += any(one.drifted for one in intent_drift(training, production))
    assert alarms <= 20  # 5 % of 200 expected at most; P(more than 20) < 0.2 %


def test_one_side_without_labels_is_refused() -> None:
    with pytest.raises(EvalError, match="0 training and 1 production labels"):
        intent_drift([], ["a"])
