"""Which tasks come next, against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.paper.selecting import (
    adapted_keep,
    family_chances,
    groups_to_request,
    learned_values,
    needs_tools,
    skip_chance,
)
from flyball.errors import TrainError
from flyball.tasks.curriculum import family_shares, updated_values


def test_greso_by_hand() -> None:
    assert [skip_chance(z, 0.5) for z in (0, 1, 2, 3, 5)] == [0, 0.5, 0.75, 0.875, 0.96875]
    assert skip_chance(8, 0.5) == pytest.approx(0.99)
    assert adapted_keep(0.5, 0.20, 0.167) == pytest.approx(0.49) and adapted_keep(0.5, 0.1, 0.167) == pytest.approx(
        0.51
    )
    assert adapted_keep(0.05, 1.0, 0.1) == 0.05 and adapted_keep(0.95, 0.0, 0.1) == 0.95
    assert groups_to_request(128, 0.5) == 320 and groups_to_request(256, 0.5) == 384 and groups_to_request(1, 0) == 64
    assert groups_to_request(10, 1.0) == 384


def test_sec_by_hand() -> None:
    values = learned_values(np.zeros(3), np.array([0.2, 0.8, 0.4]))
    assert values == pytest.approx([0.1, 0.4, 0.2])
    assert family_chances(values, 0.4) == pytest.approx([0.227220, 0.481024, 0.291756], abs=1e-6)
    assert learned_values(values, np.array([math.nan, 0.0, 0.4])) == pytest.approx([0.1, 0.2, 0.3])
    floored = family_chances(np.array([0.0, 9.0]), 0.1, floor=0.1)
    assert floored == pytest.approx([0.1, 0.9]) and floored.sum() == pytest.approx(1)


def test_sec_moves_to_what_teaches_now() -> None:
    """Solve rates drift 0.05 -> 0.5, 0.5 -> 0.95, 0.95 fixed; paid sqrt(p(1-p)). The lead goes from arm 2 to arm 1."""
    values, leads = np.zeros(3), []
    for t in np.linspace(0, 1, 50):
        p = np.array([0.05 + 0.45 * t, 0.5 + 0.45 * t, 0.95])
        values = learned_values(values, np.sqrt(p * (1 - p)))
        leads.append(int(family_chances(values, 0.4).argmax()))
    assert leads[0] == 1 and leads[-1] == 0 and leads == sorted(leads, reverse=True)


def test_what_needs_tools_by_hand() -> None:
    assert needs_tools(0.75, 0.25) and not needs_tools(0.75, 0.7)
    assert not needs_tools(0.4, 0.1) and not needs_tools(0.9, 0.6)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(TrainError, match="between 0 and 1"):
        groups_to_request(1, 1.5)
    with pytest.raises(TrainError, match="one \\(or NaN\\) for each"):
        learned_values(np.zeros(2), np.zeros(3))
    with pytest.raises(TrainError, match="cannot each have"):
        family_chances(np.zeros(3), 0.4, floor=0.5)


def test_the_bandit_is_that_of_the_curriculum() -> None:
    """The same Q as `tasks/curriculum.py`, and without a floor the same shares."""
    values, paid = {"a": 0.3, "b": 0.1}, np.array([math.nan, 0.6])
    ours = learned_values(np.array([*values.values()]), paid)
    theirs = updated_values(values, {"b": 0.6}, 0.5)
    assert ours.tolist() == pytest.approx([*theirs.values()])
    assert family_chances(ours, 0.4).tolist() == pytest.approx([*family_shares(theirs, 0.4, 0.0).values()])
