"""What must hold for every group: costs of turns are felt, potentials and cuts change nothing, filters keep groups."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flyball.rl.advantage import dr_grpo_advantages, grpo_advantages, has_signal, pass_k_advantages, rloo_advantages
from flyball.rl.aggregate import MODES, loss_weights
from flyball.rl.algorithms import algorithm
from flyball.rl.credit import (
    Credit,
    Episode,
    gigpo,
    mt_grpo,
    process_grpo,
    turn_return_hybrid,
    turn_rloo,
    whole_attempt,
)
from flyball.rl.pack import packs
from flyball.rl.samples import samples_from_groups, weighted
from flyball.rl.shaping import with_potential
from flyball.rl.token_credit import gae
from flyball.types import (
    Attempt,
    Call,
    GradedAttempt,
    Outcome,
    RewardEvent,
    StopReason,
    Task,
    TrainingSample,
    Trajectory,
)

rewards = st.lists(st.sampled_from([0.0, 0.02, 0.5, 1.0, -1.0]), min_size=2, max_size=8)
chances = st.floats(0.1, 0.9)
costs = st.floats(0.01, 2.0)


def horizon(mode: str) -> int | None:
    return 16 if mode == "seq-mean-token-sum-norm" else None


# --- a constant cost per turn ----------------------------------------------------------------------------------------


def with_gae(group: Sequence[Episode]) -> list[np.ndarray]:
    """GAE with a critic that is wrong by a constant, full traces."""
    return [
        gae(e.turn_rewards, np.full(len(e.turn_rewards), 0.7), np.ones(len(e.turn_rewards), np.bool_), 1, 1)[0]
        for e in group
    ]


@settings(max_examples=30, deadline=None)
@given(p=chances, cost=costs, size=st.integers(2, 4))
@pytest.mark.parametrize("credit", [turn_rloo, whole_attempt(rloo_advantages), with_gae], ids=["turn", "rloo", "gae"])
def test_a_constant_cost_per_turn_reduces_turns(credit: Credit, p: float, cost: float, size: int) -> None:
    """Stop or go on once, outcome 0: the slope along the logit of going on is -cost p (1-p), over all groups."""
    slope = 0.0
    for goes in itertools.product((False, True), repeat=size):
        chance = float(np.prod([p if on else 1 - p for on in goes]))
        group = [Episode(np.full(1 + on, -cost), 0.0) for on in goes]
        for on, advantages in zip(goes, credit(group), strict=True):
            slope += chance * float(advantages[0]) * (on - p) / size
    assert slope == pytest.approx(-cost * p * (1 - p)) and slope < 0


@settings(max_examples=30, deadline=None)
@given(p=chances, cost=costs)
@pytest.mark.parametrize("credit", [mt_grpo, turn_return_hybrid])
def test_normalised_by_turn_index_it_is_not_felt(credit: Credit, p: float, cost: float) -> None:
    """The published bias, kept and known: with equal costs the turns of one index are all alike."""
    group = [Episode(np.full(n, -cost), 0.0) for n in (1, 2, 2)]
    first = [float(a[0]) for a in credit(group)]
    if credit is mt_grpo:
        assert first == pytest.approx([0, 0, 0], abs=1e-9)
    else:  # returns differ by what follows, so it is felt at the first call, and nowhere after it
        assert first[0] > 0 > first[1] and [float(a[1]) for a in credit(group)[1:]] == pytest.approx([0, 0], abs=1e-9)


# --- potentials ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-3, 3), min_size=7, max_size=7), min_size=2, max_size=2))
def test_a_potential_keeps_the_order_of_all_plans(tables: list[list[float]]) -> None:
    """A binary tree of three decisions: whatever Phi is, every plan's return moves by the same -Phi(start)."""
    reward_of, phi = tables

    def plan(actions: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        states = [0]
        for a in actions:
            states.append(2 * states[-1] + 1 + a)
        return np.array([reward_of[s] for s in states]), np.array([phi[s] for s in states])

    for actions in itertools.product((0, 1), repeat=2):
        earned, potentials = plan(actions)
        assert with_potential(earned, potentials).sum() - earned.sum() == pytest.approx(-phi[0], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.lists(st.floats(-5, 5), min_size=3, max_size=3), chances)
def test_a_potential_keeps_the_expected_gradient_of_turn_rloo(turns: list[float], phi: list[float], p: float) -> None:
    """Two calls, state of the second decided by the first: slopes along both logits, over all groups of two."""

    def slopes(shaped: bool) -> np.ndarray:
        total = np.zeros(3)
        for group in itertools.product(itertools.product((0, 1), repeat=2), repeat=2):
            episodes, chance = [], 1.0
            for a, b in group:
                chance *= (p if a else 1 - p) * (p if b else 1 - p)
                own = np.array([turns[a], turns[2] * (a ^ b) + 0.1])
                episodes.append(Episode(with_potential(own, np.array([phi[0], phi[1 + a]])) if shaped else own, 0.0))
            for (a, b), advantages in zip(group, turn_rloo(episodes), strict=True):
                total[0] += chance * float(advantages[0]) * (a - p) / 2
                total[1 + a] += chance * float(advantages[1]) * (b - p) / 2
        return total

    assert slopes(True) == pytest.approx(slopes(False), abs=1e-9)


# --- cuts ------------------------------------------------------------------------------------------------------------


def call(name: str, parent: str | None, prompt: tuple[int, ...], sampled: tuple[int, ...]) -> Call:
    n = len(sampled)
    return Call(name, parent, "main", prompt, sampled, (-0.1,) * n, (0,) * n, {}, "stop", {"role": "assistant"})


def graded(name: str, reward: float, *calls: Call, events: tuple[RewardEvent, ...] = (), cut: bool = False):
    stop = StopReason.MAX_TOKENS if cut else StopReason.ANSWERED
    attempt = Attempt(name, Task("t", {}), Trajectory(calls, stop), ())
    return GradedAttempt(attempt, Outcome(True), reward=reward, events=events)


@pytest.mark.parametrize("mode", MODES)
def test_cutting_an_attempt_into_samples_keeps_its_gradient(mode: str) -> None:
    """The same three calls as one line, and cut because the context was rewritten before the third.

    Each sampled token keeps the weight x advantage that it has in the line, and so does the other attempt.
    """
    row = replace(algorithm("rloo"), loss_agg_mode=mode)
    line = (call("a", None, (1,), (2, 3)), call("b", "a", (7,), (4,)), call("c", "b", (8,), (5, 6)))
    rewritten = (*line[:2], call("c", None, (9, 9, 8), (5, 6)))
    found = []
    for calls in (line, rewritten):
        pair = [graded("good", 1.0, *calls), graded("bad", 0.0, call("x", None, (1,), (10, 11)))]
        samples = samples_from_groups([pair], row, horizon(mode)).samples
        found.append(
            {
                int(token): float(push)
                for s in samples
                for token, push in zip(
                    s.token_ids[s.loss_mask], (s.loss_weights * s.advantages)[s.loss_mask], strict=True
                )
            }
        )
        assert len(samples) == (2 if calls is line else 3)
    assert sorted(found[0]) == [2, 3, 4, 5, 6, 10, 11]
    assert found[1] == pytest.approx(found[0])


lengths = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(lengths=lengths, seed=st.integers(0, 99), mode=st.sampled_from(MODES), size=st.integers(4, 40))
def test_packs_and_pieces_keep_every_weight(lengths: list[int], seed: int, mode: str, size: int) -> None:
    """Packs of any size hold every row once; the sum over any cut of a row into pieces is the row's sum."""
    draw = np.random.default_rng(seed)
    made = []
    for i, n in enumerate(lengths):
        zeros = np.zeros(n + 1, np.float32)
        mask = draw.random(n + 1) < 0.7
        mask[0] = False
        losses = draw.normal(size=n + 1).astype(np.float32)
        made.append(TrainingSample(draw.integers(0, 5, n + 1), mask, zeros, losses, zeros, f"{i}"))
    samples = weighted(made, mode, horizon(mode))
    assert sorted(r for pack in packs(samples, size) for r in pack.rows) == list(range(len(samples)))
    trained = sum(bool(s.loss_mask.any()) for s in samples)
    total = sum(float(s.loss_weights.sum()) for s in samples)
    if mode in ("token-mean", "seq-mean-token-mean"):
        assert total == pytest.approx(1.0 if trained else 0.0, abs=1e-5)
    for s in samples:
        assert not s.loss_weights[~s.loss_mask].any()


@settings(deadline=None)
@given(lengths)
def test_sequences_are_counted_by_their_key(lengths: list[int]) -> None:
    """Weights of samples under one key are those of one sequence as long as all of them."""
    masks = [np.ones(n, np.bool_) for n in lengths]
    for mode in MODES:
        cut = loss_weights(masks, mode, horizon(mode), ["one"] * len(masks))
        whole = loss_weights([np.concatenate(masks)], mode, horizon(mode))[0]
        assert np.concatenate(cut).tolist() == whole.tolist()


# --- groups and filters ----------------------------------------------------------------------------------------------

ALWAYS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (rloo_advantages, grpo_advantages, dr_grpo_advantages)


@settings(deadline=None)
@given(rewards)
def test_a_mixed_group_always_teaches(earned: list[float]) -> None:
    """Outcomes only: every preset that compares attempts. Rewards on turns: turn_rloo and gigpo."""
    mixed = max(earned) > min(earned)
    for estimator in ALWAYS:
        assert has_signal(estimator(np.array(earned))) == mixed
    for credit in (turn_rloo, mt_grpo, turn_return_hybrid, process_grpo, gigpo):
        group = [Episode(np.zeros(1), r, (i,)) for i, r in enumerate(earned)]
        assert has_signal(np.concatenate(credit(group))) == mixed, credit.__name__


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, -0.1, 0.5]), min_size=1, max_size=4), min_size=2, max_size=5))
def test_a_mixed_group_of_several_turns_always_teaches(turns: list[list[float]]) -> None:
    group = [Episode(np.array(t), 0.0, tuple(enumerate(t))) for t in turns]
    assume(np.ptp([e.reward for e in group]) > 1e-6)
    for credit in (turn_rloo, gigpo, whole_attempt(rloo_advantages)):
        assert has_signal(np.concatenate(credit(group)))


def test_published_estimators_that_can_miss_a_mixed_group() -> None:
    """By their formulae, so kept and told: a tie for the best, parts that cancel, steps that are all alike."""
    assert not has_signal(pass_k_advantages(np.array([1.0, 1.0, 0.0])))
    opposed = [Episode(np.array([2.0]), 0.0), Episode(np.array([0.0]), 1.0)]
    assert not has_signal(np.concatenate(mt_grpo(opposed))) or abs(mt_grpo(opposed)[0][0]) < 1e-3
    assert not has_signal(np.concatenate(process_grpo([Episode(np.ones(1), 0.0), Episode(np.ones(2), 0.0)])))
    assert not has_signal(np.concatenate(mt_grpo([Episode(np.ones(1), 0.0), Episode(np.ones(2), 0.0)])))


def test_a_zero_variance_filter_reads_advantages_and_not_outcomes() -> None:
    """Every attempt below succeeded. Rewards differ, or only their places do: both groups teach; equal ones do not."""

    def placed(name: str, first: float, second: float) -> GradedAttempt:
        calls = (call(f"{name}1", None, (1,), (2,)), call(f"{name}2", f"{name}1", (7,), (3,)))
        events = (RewardEvent(0, 0, f"{name}1", "r", first), RewardEvent(0, 1, f"{name}2", "r", second))
        return graded(name, first + second, *calls, events=events)

    cheaper = [graded("a", 1.0, call("a", None, (1,), (2,))), graded("b", 0.98, call("b", None, (1,), (2, 3)))]
    elsewhere = [placed("c", 0.0, 1.0), placed("d", 1.0, 0.0)]
    alike = [placed("e", 0.5, 0.5), placed("f", 0.5, 0.5)]
    signal = samples_from_groups([cheaper, elsewhere, alike], algorithm("turn_rloo"))
    assert {s.attempt_id for s in signal.samples} == {"a", "b", "c", "d"} and signal.num_zero_variance == 1
    whole = samples_from_groups([cheaper, elsewhere, alike], algorithm("rloo"))
    assert {s.attempt_id for s in whole.samples} == {"a", "b"} and whole.num_zero_variance == 2


@settings(deadline=None)
@given(rewards, st.integers(0, 255))
def test_a_filter_takes_out_of_the_loss_and_not_out_of_the_group(earned: list[float], which: int) -> None:
    """What was cut is still compared: the advantages of the others are those without a filter."""
    group = [
        graded(f"{i}", r, call(f"{i}", None, (1,), (2, 3)), cut=bool(which >> i & 1)) for i, r in enumerate(earned)
    ]
    row = algorithm("grpo")
    kept = {s.attempt_id: s for s in samples_from_groups([group], row).samples}
    filtered = samples_from_groups([group], replace(row, overlong="filter")).samples
    wanted = {name for name in kept if not which >> int(name) & 1}
    assert {s.attempt_id for s in filtered} == wanted
    for sample in filtered:
        assert sample.advantages.tolist() == kept[sample.attempt_id].advantages.tolist()
    assert sum(float(s.loss_weights.sum()) for s in filtered) == pytest.approx(1.0 if wanted else 0.0, abs=1e-5)


def test_what_is_too_old_is_left_out_of_the_loss_and_stays_in_the_group() -> None:
    """At version 5 and `max_age` 2 tokens of version 3 are trained and those of version 2 are not."""
    sampled = {"new": 5, "edge": 3, "old": 2}
    group = [
        graded(name, float(i), replace(call(name, None, (1,), (2, 3)), policy_versions=(version, 5)))
        for i, (name, version) in enumerate(sampled.items())
    ]
    row = replace(algorithm("rloo"), max_age=2)
    kept = samples_from_groups([group], row, version=5).samples
    whole = {s.attempt_id: s for s in samples_from_groups([group], algorithm("rloo"), version=5).samples}
    assert [s.attempt_id for s in kept] == ["new", "edge"] and len(whole) == 3
    for sample in kept:
        assert sample.advantages.tolist() == whole[sample.attempt_id].advantages.tolist()
    assert sum(float(s.loss_weights.sum()) for s in kept) == pytest.approx(1.0)
