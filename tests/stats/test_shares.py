"""The difference of two shares, by a published example and its symmetries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import EvalError
from flyball.stats.shares import share_difference


def test_the_example_of_newcombe() -> None:
    """Newcombe 1998, table II (a): 56/70 - 48/80 is 0.0524 to 0.3339 by method 10."""
    found = share_difference(56, 70, 48, 80)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))
    assert found.n == 150


counts = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, counts)
def test_turned_round_it_is_the_negative(one: tuple[int, int], other: tuple[int, int]) -> None:
    there, back = share_difference(*one, *other), share_difference(*other, *one)
    assert there.low == pytest.approx(-back.high) and there.high == pytest.approx(-back.low)
    assert -1.0 <= there.low <= there.value <= there.high <= 1.0


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(EvalError, match="0 of 0"):
        share_difference(0, 0, 1, 2)
