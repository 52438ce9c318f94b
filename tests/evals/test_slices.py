"""A slice that loses is seen however much the mean gains; a slice that is too small decides nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flyball.errors import EvalError
from flyball.evals.compare import compare
from flyball.evals.slices import Slice, check_slices, compare_slices, decisive, members, verdict_with
from flyball.types import EvalRun, Task
from tests.evals.desk import result, run

FRENCH = Slice("french", {"language": ("fr",)}, 0.05)


def tasks() -> list[Task]:
    languages = ["en", "fr", "de"]
    return [
        Task(f"t{i}", {"ticket": "x", "language": languages[i % 3]}, {"vip": i < 4}, family=f"f{i % 2}")
        for i in range(9)
    ]


def test_members_meet_every_condition_and_hidden_fields_count() -> None:
    wanted = [
        FRENCH,
        Slice("vip germans", {"language": ("de",), "vip": (True,)}, 0.1),
        Slice("f1", {"family": ("f1",)}, 0.1),
    ]
    assert members(wanted, tasks()) == {
        "french": ("t1", "t4", "t7"),
        "vip germans": ("t2",),
        "f1": ("t1", "t3", "t5", "t7"),
    }


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"language": ("ft",)}, "no task has language ft; valid: de, en, fr"),
        ({"tongue": ("fr",)}, "no task of the suites has this field"),
        ({"language": ("fr",), "vip": (True,), "family": ("f0",)}, "meets all of"),
    ],
)
def test_a_slice_that_protects_nobody_is_refused(where, words) -> None:
    check_slices([FRENCH], tasks())
    with pytest.raises(EvalError, match=words):
        check_slices([Slice("odd", where, 0.05)], tasks())


def arms(before: list[bool], after: list[bool], of_slice: dict[str, range]) -> tuple[EvalRun, EvalRun]:
    slices = {name: tuple(f"t{i:03}" for i in ids) for name, ids in of_slice.items()}
    made = [
        run([result(f"t{i:03}", v) for i, v in enumerate(arm)], name) for arm, name in ((before, "b"), (after, "c"))
    ]
    return replace(made[0], slices=slices), replace(made[1], slices=slices)


def test_the_mean_gains_and_the_slice_that_loses_rejects() -> None:
    """40 of 300 tasks are French and fall from 1 to 0; the other 260 rise from half to all."""
    before, after = [True] * 40 + [True, False] * 130, [False] * 40 + [True] * 260
    pair = arms(before, after, {"french": range(40)})
    whole, slices = compare(*pair), compare_slices(*pair, {"french": 0.05})
    assert (whole.verdict, [(s.suite, s.difference.value, s.verdict) for s in slices]) == (
        "accept",
        [("test/french", -1.0, "reject")],
    )
    assert verdict_with(whole, slices) == "reject"


def test_a_small_slice_without_a_loss_is_inconclusive_and_says_how_many_more() -> None:
    before, after = [True, False] * 150, [True] * 300
    pair = arms(before, after, {"few": range(0, 8, 2), "many": range(100, 300)})
    few, many = compare_slices(*pair, {"few": 0.05, "many": 0.05})
    assert (few.verdict, few.difference.n, many.verdict) == ("inconclusive", 4, "accept")
    assert (few.more_needed or 0) > 0
    assert verdict_with(compare(*pair), (few, many)) == "inconclusive"
    assert verdict_with(compare(*pair), (many,)) == "accept"


def test_of_several_suites_the_first_that_has_a_slice_decides_and_the_others_only_reject() -> None:
    whole = arms([True, False] * 150, [True] * 300, {"many": range(300)})
    (many,) = compare_slices(*whole, {"many": 0.05})
    few = replace(many, suite="fresh/many", verdict="inconclusive")
    other = replace(many, suite="fresh/other", verdict="inconclusive")
    lost = replace(many, suite="ood/many", verdict="reject")
    assert decisive({"test": [many], "fresh": [few]}) == [many]
    assert decisive({"test": [many], "fresh": [few, other]}) == [many, other]
    assert decisive({"test": [many], "fresh": [few], "ood": [lost]}) == [many, lost]


def test_many_slices_without_harm_are_not_rejected_by_luck() -> None:
    """Ten slices of equal versions, 60 suites: 5 % may be rejected in the mean; slices taken one by one reject more."""
    rng, rejected, one_by_one = np.random.default_rng(3), 0, 0
    names = {f"s{k}": range(40 * k, 40 * k + 40) for k in range(10)}
    for _ in range(60):
        before, after = rng.random((2, 400)) < 0.6
        pair = arms([bool(v) for v in before], [bool(v) for v in after], names)
        margins = dict.fromkeys(names, 0.0)
        rejected += any(s.verdict == "reject" for s in compare_slices(*pair, margins))
        one_by_one += any(
            compare_slices(*(replace(arm, slices={name: arm.slices[name]}) for arm in pair), margins)[0].verdict
            == "reject"
            for name in names
        )
    assert rejected <= 6 < one_by_one


def test_slices_must_be_the_same_and_have_a_margin() -> None:
    pair = arms([True, False] * 20, [True, True] * 20, {"a": range(10)})
    with pytest.raises(EvalError, match="'a' has no margin"):
        compare_slices(*pair, {})
    for other in ({}, {"a": ("t001",)}):
        moved = replace(pair[1], slices=other)
        with pytest.raises(EvalError, match="slice 'a' is not the same tasks"):
            compare_slices(pair[0], moved, {"a": 0.1})
        with pytest.raises(EvalError, match="slice 'a' is not the same tasks"):
            compare(pair[0], moved)
