"""What draws chose among: written once, read back for any branch, refused when nobody knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flyball.rl.support import SupportWriter, branch_support, kept_mask, outside_support, unknown_support
from flyball.store.records import from_json, to_json
from flyball.types import UNKNOWN, WHOLE, Call, Support

V = 40


def mask(*ids: int) -> Any:
    made = np.zeros(V, np.bool_)
    made[list(ids)] = True
    return made


def write(*masks: Any) -> Support:
    writer = SupportWriter()
    for each in masks:
        writer.kept(each)
    return writer.support()


def call(
    name: str, support: Support | None, sampled: tuple[int, ...], parent: str | None = None, **sampling: Any
) -> Call:
    n = len(sampled)
    message = {"role": "assistant"}
    return Call(name, parent, "main", (1, 2), sampled, (0.0,) * n, (0,) * n, sampling, "stop", message, support=support)


MASKS = [mask(3), ~mask(5, 6), mask(3, 4, 9), mask(3), np.ones(V, np.bool_), ~mask(5, 6)]


def test_masks_come_back_and_equal_ones_are_stored_once() -> None:
    support = write(*MASKS)
    assert support.index.tolist() == [0, 1, 2, 0, WHOLE, 1]
    assert support.ids.tolist() == [3, 5, 6, 3, 4, 9] and support.cut.tolist() == [False, True, False]
    assert np.array_equal(kept_mask([(support, np.arange(6))], V), np.stack(MASKS))


def test_a_large_set_costs_what_it_leaves_out() -> None:
    assert write(~mask(7), ~mask(8)).ids.tolist() == [7, 8]


def test_records_keep_it_exactly() -> None:
    one = call("a", write(*MASKS), (3, 1, 4, 3, 5, 7), top_k=3)
    again = from_json(to_json(one))
    assert again == one
    assert again.support.ids.dtype == np.int32 and again != call("a", write(*MASKS[::-1]), (3, 1, 4, 3, 5, 7), top_k=3)


def test_a_branch_has_the_supports_of_its_calls() -> None:
    """Given tokens were not drawn; sets that calls share are stored once."""
    line = [call("a", write(*MASKS[:2]), (3, 1), top_p=0.9), call("b", write(*MASKS[1:3]), (7, 4), "a", top_p=0.9)]
    support = branch_support(line)
    assert support is not None
    assert support.index.tolist() == [WHOLE, WHOLE, 0, 1, WHOLE, WHOLE, 1, 2]
    assert np.array_equal(kept_mask([(support, np.array([2, 3, 6, 7]))], V), np.stack([*MASKS[:2], *MASKS[1:3]]))


def test_nothing_cut_costs_nothing() -> None:
    plain = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    assert branch_support([call("a", None, (3, 4), **plain)]) is None
    assert branch_support([call("a", write(MASKS[4]), (3,), top_k=V)]) is None


@pytest.mark.parametrize("cut", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"grammar": "start: /a/"}])
def test_a_declared_cut_without_support_is_unknown(cut: dict[str, Any]) -> None:
    support = branch_support([call("a", write(MASKS[0]), (3,), top_p=0.9), call("b", None, (7, 4), "a", **cut)])
    assert support is not None
    assert support.index.tolist() == [WHOLE, WHOLE, 0, WHOLE, WHOLE, UNKNOWN, UNKNOWN]
    assert unknown_support(2).index.tolist() == [UNKNOWN] * 2


def test_a_token_outside_its_set_is_found() -> None:
    tokens = np.array([3, 5, 4, 9, 5, 30])
    assert outside_support(write(*MASKS), tokens, np.arange(6)) == [1, 3]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 sampled tokens, support of 1 draws"):
        call("a", write(MASKS[0]), (3, 4))
