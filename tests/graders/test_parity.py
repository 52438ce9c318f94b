"""Every reference vector of OpenAI's rules, worked out by hand in benchmarks/grader_vectors.py."""

from __future__ import annotations

import pytest

from benchmarks.grader_parity import has_sandbox, refusal_of, row_of
from benchmarks.grader_vectors import PYTHON, REFUSED, VECTORS, Refused, Vector, agrees
from flyball.types import Score


@pytest.mark.parametrize("vector", [*VECTORS, *(PYTHON if has_sandbox() else ())], ids=lambda vector: vector.rule)
def test_a_vector(vector: Vector) -> None:
    row = row_of(vector)
    assert row["agrees"], row


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.rule)
def test_a_grader_object_that_is_refused(refused: Refused) -> None:
    assert refusal_of(refused)["agrees"]


def test_a_wrong_reward_or_flag_does_not_agree() -> None:
    (vector, *_) = VECTORS
    assert agrees(vector, Score(1.0, 1.0), {"other_error": False})
    assert not agrees(vector, Score(0.999, 0.999), {"other_error": False})
    assert not agrees(vector, Score(1.0, 1.0), {"other_error": True})
