"""Groups learned from again: which, how often, how old, at what weight, and the same after a kill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import Fault
from flyball.rl.samples import samples_from_groups
from flyball.train.learner import LossSpec
from flyball.train.progress import Progress
from flyball.train.replay import ReplayBuffer, ReplayPlan, replay_metrics, rewards_differ
from flyball.train.update import update
from flyball.types import GradedAttempt, Missing
from tests.train import test_ahead, test_rl
from tests.train.small import same_weights, small_learner

Batch = list[list[GradedAttempt]]


def batches(rewards: Sequence[Sequence[Sequence[float | Missing]]]) -> list[Batch]:
    """One batch of groups for each step."""
    return [test_rl.groups(*step) for step in rewards]


def refuse(step: int) -> Batch:
    raise AssertionError(f"step {step} is in memory")


def replayed(made: Sequence[Batch], plan: ReplayPlan, uses: dict[str, int]) -> list[tuple[list[str], list[int]]]:
    """`STEP.PLACE` of what each step replays, and the ages."""
    name = {id(group): f"{s}.{i}" for s, batch in enumerate(made) for i, group in enumerate(batch)}
    buffer, out = ReplayBuffer(plan, refuse), []
    for step, batch in enumerate(made):
        again, ages = buffer.draw(step, batch, uses)
        out.append(([name[id(group)] for group in again], ages))
    return out


def test_half_as_many_again_by_hand() -> None:
    """Two new groups a step at ratio 0.5: one more from step 1 on, each once, none without a difference in reward."""
    made = batches([[[1, 0], [1, 1]], [[0, 0], [0, 1]], [[0, 0], [1, 1]], [[1, 0], [1, 0]], [[1, 1], [1, 1]]])
    uses: dict[str, int] = {}
    found = replayed(made, ReplayPlan(0.5, 2, seed=1), uses)
    assert found[:4] == [([], []), (["0.0"], [1]), (["1.1"], [1]), ([], [])]
    assert found[4][0][0] in ("3.0", "3.1") and found[4][1] == [1]
    assert uses == {found[4][0][0]: 1}  # what left the window is forgotten


@given(
    st.lists(st.lists(st.booleans(), min_size=2, max_size=4), min_size=1, max_size=8),
    st.floats(0.1, 3.0),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_reuse_is_bounded_and_only_of_what_can_teach(
    signal: list[list[bool]], ratio: float, num_steps: int, seed: int
) -> None:
    made = batches([[[1, 0] if group else [1, 1] for group in step] for step in signal])
    plan = ReplayPlan(ratio, num_steps, seed)
    found = replayed(made, plan, {})
    assert found == replayed(made, plan, {})
    drawn = Counter(name for names, _ages in found for name in names)
    assert all(count <= plan.max_uses for count in drawn.values())
    for step, (names, ages) in enumerate(found):
        assert len(names) <= ratio * len(made[step]) and len(set(names)) == len(names)
        for name, age in zip(names, ages, strict=True):
            s, place = map(int, name.split("."))
            assert step - s == age and 1 <= age <= num_steps and signal[s][place]


def test_attempts_without_a_reward_make_no_difference() -> None:
    broken = Missing("the grader raised", Fault.GRADER)
    assert [rewards_differ(group) for group in test_rl.groups([1, broken], [1, 0, broken], [broken, broken])] == [
        False,
        True,
        False,
    ]


def test_metrics_carry_how_many_they_rest_on() -> None:
    assert replay_metrics(4, [1, 3]) == {
        "replayed_share": 2 / 6,
        "replayed_share/n": 6.0,
        "replay_age": 2.0,
        "replay_age/n": 2.0,
    }
    assert replay_metrics(4, []) == {"replayed_share": 0.0, "replayed_share/n": 4.0}


def test_a_replayed_token_keeps_its_version_and_its_weight_follows_the_policy() -> None:
    """By hand: new and old groups are one batch, and the loss sees the logprobs that the sampler stored."""
    new, old = test_rl.groups([1, 0], [0, 1])
    plan = replace(test_rl.PLAN, replay=ReplayPlan(1.0, 4, 0))
    learner, by_hand = small_learner(), small_learner()
    for one in (learner, by_hand):
        one.version = 3
    metrics = update(learner, small_learner(), [new, old], plan, Progress(step=3))
    samples = samples_from_groups([new, old], test_rl.RLOO).samples
    by_hand.forward_backward(samples, LossSpec("policy", test_rl.RLOO.loss_params(0.0)))
    by_hand.optim_step(plan.lr_scale(Progress(step=3)))
    assert same_weights(learner.snapshot(), by_hand.snapshot())
    assert metrics["staleness/max"] == 3 and metrics["stale_share"] == 1.0  # the tokens are of version 0
    assert metrics["sampler_gap/age=3"] > 0


def test_killed_between_steps_it_replays_what_an_unbroken_run_would(tmp_path: Path) -> None:
    plan = replace(test_rl.PLAN, replay=ReplayPlan(1.0, 2, 5))
    unbroken, desk, steps = small_learner(), test_rl.Desk(), list[int]()
    whole = test_rl.go(tmp_path / "whole", unbroken, plan=plan)
    assert [step["replayed_share"] for step in whole.history[:3]] == [0.0, 0.5, 0.5]
    stops: dict[str, Any] = {"on_step": lambda s, *_: steps.append(s), "should_stop": lambda: len(steps) == 3}
    test_rl.go(tmp_path / "two", small_learner(), desk, plan, **stops)
    resumed = small_learner(seed=99)
    done = test_rl.go(tmp_path / "two", resumed, desk, plan)
    assert same_weights(unbroken.snapshot(), resumed.snapshot()) and done.replays == whole.replays
    without = small_learner()
    test_rl.go(tmp_path / "without", without)
    assert not same_weights(unbroken.snapshot(), without.snapshot())


@pytest.mark.parametrize("in_step", [True, False], ids=["reference", "timed"])
def test_ahead_of_the_learner_and_killed_anywhere_too(tmp_path: Path, in_step: bool) -> None:
    plan = replace(test_ahead.PLAN, replay=ReplayPlan(0.5, 3, 5))
    expected = test_ahead.whole(tmp_path, plan=plan, in_step=in_step)
    assert sum("replay_age" in step for step in expected.steps) == test_ahead.PLAN.num_steps - 1
    draw = Random(3)
    for case in range(3):
        deaths = [draw.randrange(1, 30) for _ in range(2)]
        life, disk = test_ahead.die_and_go_on(tmp_path / str(case), deaths, plan=plan, in_step=in_step)
        assert test_ahead.seeds(disk.kept) == test_ahead.planned(), deaths
        if in_step:
            assert same_weights(life.learner.snapshot(), expected.learner.snapshot()), deaths
