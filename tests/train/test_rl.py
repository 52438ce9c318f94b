"""The RL loop on scripted attempts: what is learned from, what is recorded, and where a killed run goes on."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flyball.errors import Fault, TrainMemoryError
from flyball.models.load import load_model
from flyball.rl.algorithms import algorithm
from flyball.rl.guards import LASTING, actions
from flyball.rl.samples import samples_from_groups
from flyball.train import progress as progress_module
from flyball.train import update as update_module
from flyball.train.attempt_metrics import attempt_metrics
from flyball.train.guards import Watchmen
from flyball.train.learner import LocalLearner, LossSpec
from flyball.train.progress import Checkpoints, Progress
from flyball.train.rl import run_rl
from flyball.train.rl_plan import RLPlan
from flyball.train.rollouts import Batches, InTurn, Ledger
from flyball.train.update import forward_backward_in_halves, halves, kl_to_reference, update
from flyball.types import Attempt, Call, Estimate, GradedAttempt, Missing, Outcome, StopReason, Task, Trajectory
from tests.train.small import VOCAB, Killed, same_weights, small_learner, validated

RLOO = algorithm("rloo")
PLAN = RLPlan(RLOO, num_steps=6, tasks_per_step=3, seed=5, validate_every=2)
TASKS = [Task(f"task-{i}", {}) for i in range(7)]
BROKEN = Missing("the grader raised", Fault.GRADER)


def graded(
    task: Task, reward: float | Missing, draw: np.random.Generator, stop: StopReason = StopReason.ANSWERED
) -> GradedAttempt:
    name = f"at-{draw.integers(2**60)}"
    prompt, sampled = (tuple(draw.integers(0, VOCAB, 6).tolist()) for _ in range(2))
    call = Call(name, None, "main", prompt, sampled, (-5.0,) * 6, (0,) * 6, {}, "stop", {"role": "assistant"})
    success = reward if isinstance(reward, Missing) else reward > 0
    return GradedAttempt(Attempt(name, task, Trajectory((call,), stop), ()), Outcome(success), reward=reward)


class Desk:
    """Attempts that are new each time they are asked for, as real ones are, and a ledger that refuses a step twice."""

    def __init__(self, rewards: Sequence[float | Missing] = (1.0, 0.0)) -> None:
        self.rewards = rewards
        self.asked = itertools.count()
        self.drawn: list[str] = []
        self.recorded: dict[int, list[GradedAttempt]] = {}

    async def attempt(self, tasks: Sequence[Task], step: int) -> list[list[GradedAttempt]]:
        draw = np.random.default_rng(next(self.asked))
        self.drawn += [task.task_id for task in tasks]
        return [[graded(task, reward, draw) for reward in self.rewards] for task in tasks]

    @property
    def ledger(self) -> Ledger:
        return Ledger(self._keep, lambda step: self.recorded.get(step, ()))

    def _keep(self, step: int, attempts: Sequence[GradedAttempt]) -> None:
        assert step not in self.recorded, "attempts of a step are recorded once"
        self.recorded[step] = list(attempts)


def go(folder: Path, learner: LocalLearner, desk: Desk | None = None, plan: RLPlan = PLAN, **changes: Any) -> Progress:
    desk = desk or Desk()
    settings: dict[str, Any] = {
        "rollouts": InTurn(Batches(TASKS, plan.num_steps, plan.tasks_per_step, plan.seed), desk.attempt, desk.ledger),
        "on_step": lambda *_: None,
        "should_stop": lambda: False,
        "validate": scores(*itertools.repeat(0.5, 20)),
    }
    checkpoints = Checkpoints(folder, learner)
    return asyncio.run(run_rl(learner, small_learner(), plan, checkpoints, **settings | changes))


def scores(*values: float) -> Callable[[], Any]:
    left = iter(values)

    async def validate() -> Estimate:
        return validated(next(left))

    return validate


def best_weights(folder: Path, learner: LocalLearner, done: Progress) -> Any:
    return load_model(Checkpoints(folder, learner).best(done)).state_dict()


# --- one update ------------------------------------------------------------------------------------------------------


def groups(*rewards: Sequence[float | Missing]) -> list[list[GradedAttempt]]:
    draw = np.random.default_rng(0)
    return [[graded(TASKS[i], reward, draw) for reward in group] for i, group in enumerate(rewards)]


def at(step: int) -> Progress:
    return Progress(step=step)


def test_several_updates_take_the_groups_in_turn_and_compare_with_the_policy_before_them() -> None:
    """Three groups, two updates: groups 0 and 2, then group 1. By hand, with what each loss needs filled in."""
    batch = groups([1, 0], [0, 1], [1, 0])
    plan = replace(PLAN, updates_per_batch=2)
    learner, by_hand = small_learner(), small_learner()
    metrics = update(learner, small_learner(), batch, plan, at(2))
    first, second = (samples_from_groups(batch[k::2], RLOO).samples for k in (0, 1))
    before = [by_hand.forward(samples) for samples in (first, second)]
    for samples, logprobs in zip((first, second), before, strict=True):
        filled = [replace(s, old_logprobs=old) for s, old in zip(samples, logprobs, strict=True)]
        by_hand.forward_backward(filled, LossSpec("policy", RLOO.loss_params(0.0)))
        by_hand.optim_step(plan.lr_scale(at(2)))
    assert same_weights(learner.snapshot(), by_hand.snapshot()) and learner.version == 2
    assert metrics["trained_tokens"] == 36 and metrics["zero_variance_share"] == 0
    assert metrics["ratio_mean"] != 1.0  # the second update meets a policy that has moved


def test_the_learning_rate_falls_to_a_tenth_by_steps_or_by_time() -> None:
    plan = replace(PLAN, num_steps=100, max_seconds=50.0)
    assert plan.lr_scale(at(0)) == pytest.approx(1 / 3)
    assert plan.lr_scale(at(50)) == pytest.approx(0.55)
    assert plan.lr_scale(Progress(step=50, seconds=45.0)) == pytest.approx(0.19)
    assert plan.lr_scale(at(100)) == pytest.approx(0.1)


def test_a_batch_without_variance_leaves_the_weights(tmp_path: Path) -> None:
    learner = small_learner()
    before = learner.snapshot()
    metrics = update(learner, small_learner(), groups([1, 1], [0, 0]), PLAN, at(0))
    assert metrics == {"zero_variance_share": 1.0, "missing_share": 0.0}
    assert same_weights(before, learner.snapshot()) and learner.version == 0


def test_a_batch_without_rewards_leaves_the_weights() -> None:
    learner = small_learner()
    before = learner.snapshot()
    metrics = update(learner, small_learner(), groups([BROKEN, BROKEN], [1, BROKEN]), PLAN, at(0))
    assert metrics == {"zero_variance_share": 1.0, "missing_share": 0.75}
    assert same_weights(before, learner.snapshot())


def test_a_missing_reward_teaches_as_if_it_were_not_there() -> None:
    """Not zero: a zero would change the advantages of the other two."""
    with_gap, without, with_zero = small_learner(), small_learner(), small_learner()
    batch = groups([1, 0, BROKEN])
    metrics = update(with_gap, small_learner(), batch, PLAN, at(0))
    update(without, small_learner(), [batch[0][:2]], PLAN, at(0))
    update(with_zero, small_learner(), [[*batch[0][:2], replace(batch[0][2], reward=0.0)]], PLAN, at(0))
    assert metrics["missing_share"] == pytest.approx(1 / 3)
    assert same_weights(with_gap.snapshot(), without.snapshot())
    assert not same_weights(with_gap.snapshot(), with_zero.snapshot())


def test_what_was_rewarded_becomes_likelier() -> None:
    learner, batch = small_learner(), groups([1, 0])
    good, bad = samples_from_groups(batch, RLOO).samples
    before = learner.forward([good, bad])
    update(learner, small_learner(), batch, PLAN, at(2))
    after = learner.forward([good, bad])
    assert after[0].sum() > before[0].sum() and after[1].sum() < before[1].sum()


def test_the_kl_of_a_policy_to_itself_is_zero_and_grows_as_it_leaves() -> None:
    learner, reference, batch = small_learner(), small_learner(), groups([1, 0])
    samples = samples_from_groups(batch, RLOO).samples
    assert kl_to_reference(learner, reference, samples, 0).value == 0.0
    update(learner, reference, batch, PLAN, at(2))
    near = kl_to_reference(learner, reference, samples, 0).value
    for _ in range(5):
        update(learner, reference, batch, PLAN, at(2))
    assert 0 < near < kl_to_reference(learner, reference, samples, 0).value


def test_a_kl_coefficient_holds_the_policy_back() -> None:
    bound = replace(PLAN, algorithm=replace(RLOO, kl_coef=5.0))
    free, held, batch = small_learner(), small_learner(), groups([1, 0])
    for step in range(6):
        last_free = update(free, small_learner(), batch, PLAN, at(step))["kl"]
        last_held = update(held, small_learner(), batch, bound, at(step))["kl"]
    assert last_held < last_free


def family(one: GradedAttempt, name: str) -> GradedAttempt:
    return replace(one, attempt=replace(one.attempt, task=replace(one.attempt.task, family=name)))


def test_halves_keep_groups_whole_and_families_together() -> None:
    batch = [[family(one, name) for one in group] for group, name in zip(groups(*[[1, 0]] * 4), "baba", strict=True)]
    first, second = halves(samples_from_groups(batch, RLOO).samples, batch)
    ids = [{g.attempt.attempt_id for i in half for g in batch[i]} for half in ((1, 3), (0, 2))]
    assert ({s.attempt_id for s in first}, {s.attempt_id for s in second}) == tuple(ids)
    assert halves(first[:2], batch)[1] == [], "one group cannot be halved"


def test_halves_give_the_gradient_of_the_whole_and_their_angle() -> None:
    whole, halved = small_learner(), small_learner()
    one = list(samples_from_groups(groups([1, 0]), RLOO).samples)
    spec = LossSpec("policy", RLOO.loss_params(0.0))
    opposite = [replace(s, advantages=-s.advantages) for s in one]
    assert forward_backward_in_halves(halved, (one, one), spec)["gradient_cosine"] == pytest.approx(1.0)
    halved.optim_step()
    both = whole.forward_backward([*one, *one], spec)
    whole.optim_step()
    assert both["trained_tokens"] == 24
    for name, weights in whole.snapshot().items():
        assert np.allclose(weights, halved.snapshot()[name], atol=1e-5), name
    found = forward_backward_in_halves(small_learner(), (one, opposite), spec)
    assert found["gradient_cosine"] == pytest.approx(-1.0) and found["loss"] == pytest.approx(0.0, abs=1e-6)


def test_metrics_leave_missing_values_out_of_their_means() -> None:
    attempts = groups([1, 0, BROKEN])[0]
    attempts[1] = graded(TASKS[0], 0.0, np.random.default_rng(1), StopReason.MAX_TURNS)
    metrics = attempt_metrics(attempts)
    assert (metrics["reward_mean"], metrics["success_rate"]) == (0.5, 0.5)
    assert metrics["success_rate/low"] < 0.5 < metrics["success_rate/high"]
    assert (metrics["truncated_share"], metrics["turns_mean"]) == (pytest.approx(1 / 3), 1.0)
    assert "reward_mean" not in attempt_metrics(groups([BROKEN])[0])


def test_drift_is_counted_per_model_call() -> None:
    attempts = groups([1, 0, 1, 0])[0]
    trajectory = attempts[0].attempt.trajectory
    forked = replace(trajectory, calls=tuple(replace(call, drift="forked") for call in trajectory.calls))
    attempts[0] = replace(attempts[0], attempt=replace(attempts[0].attempt, trajectory=forked))
    metrics = attempt_metrics(attempts)
    assert (metrics["forked_share"], metrics["realigned_share"]) == (0.25, 0.0)
    assert metrics["forked_share/n"] == 4


# --- the whole loop --------------------------------------------------------------------------------------------------


def test_steps_take_the_tasks_in_turn_and_record_every_attempt(tmp_path: Path) -> None:
    desk, shown = Desk(), []
    done = go(tmp_path, small_learner(), desk, replace(PLAN, num_steps=7), on_step=lambda s, t, m: shown.append((s, t)))
    assert set(Counter(desk.drawn).values()) == {3}, "7 steps of 3 tasks are 3 epochs of 7"
    assert shown == [(step, 7) for step in range(1, 8)]
    assert list(desk.recorded) == list(range(1, 8))
    assert [step["kl"] > 0 for step in done.history] == [False] + [True] * 6


def test_the_best_is_kept_and_ties_go_to_the_later(tmp_path: Path) -> None:
    learner, seen = small_learner(), []
    left = iter([0.25, 0.5, 0.5, 0.25])

    async def validate() -> Estimate:
        seen.append(learner.snapshot())
        return validated(next(left))

    done = go(tmp_path, learner, validate=validate)
    assert (done.best, done.best_step, done.step) == (0.5, 4, 6)
    assert same_weights(best_weights(tmp_path, learner, done), seen[2])
    assert not same_weights(seen[1], seen[2])


def test_when_nothing_is_better_the_start_is_the_best(tmp_path: Path) -> None:
    learner = small_learner()
    start = learner.snapshot()
    done = go(tmp_path, learner, validate=scores(0.5, 0.4, 0.4, 0.4))
    assert done.best_step == 0
    assert same_weights(best_weights(tmp_path, learner, done), start)


def test_patience_ends_it(tmp_path: Path) -> None:
    plan = replace(PLAN, num_steps=20, patience=2)
    done = go(tmp_path, small_learner(), plan=plan, validate=scores(0.1, 0.5, 0.4, 0.3))
    assert (done.step, done.best_step) == (6, 2)
    assert done.stopped_early == "no better validation for 2 validations"


def test_time_that_is_up_ends_it_after_a_last_validation(tmp_path: Path) -> None:
    done = go(tmp_path, small_learner(), plan=replace(PLAN, max_seconds=0.0), validate=scores(0.1, 0.2))
    assert (done.step, done.best_step) == (1, 1)
    assert "minutes are up" in done.stopped_early


def test_instability_ends_it_keeps_the_best_and_is_not_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_module, "kl_to_reference", lambda *_: validated(7.0))
    plan = replace(PLAN, validate_every=1)
    learner, desk = small_learner(), Desk()
    guarded = {"watchmen": Watchmen(actions({}))}
    done = go(tmp_path, learner, desk, plan, validate=scores(0.1, 0.5, 0.4), **guarded)  # a fourth is not asked for
    assert (done.step, done.best_step) == (LASTING, 1)
    assert "the policy left its reference" in done.stopped_early
    again = go(tmp_path, small_learner(seed=99), desk, plan, validate=scores(), **guarded)
    assert (again.step, again.stopped_early) == (done.step, done.stopped_early)


def test_a_step_that_the_learner_refuses_ends_it_with_the_weights_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, desk = small_learner(), Desk()
    weights: list[Any] = []

    def poison(step: int, *_: Any) -> None:
        weights.append(learner.snapshot())
        if step == 2:
            desk.rewards = (float("inf"), 0.0)

    with np.errstate(invalid="ignore"):
        done = go(tmp_path, learner, desk, on_step=poison)
    assert done.step == 3 and "has the reward inf" in done.stopped_early
    assert same_weights(weights[1], learner.snapshot())
    assert done.best_step == 2


# --- stopped and killed ----------------------------------------------------------------------------------------------


def test_stopped_and_resumed_it_is_as_if_unbroken(tmp_path: Path) -> None:
    unbroken, first, second, desk = small_learner(), small_learner(), small_learner(seed=99), Desk()
    whole = go(tmp_path / "whole", unbroken, validate=scores(0.1, 0.2, 0.3, 0.2))
    steps: list[int] = []
    stopped = go(
        tmp_path / "two",
        first,
        desk,
        on_step=lambda s, *_: steps.append(s),
        should_stop=lambda: len(steps) == 3,
        validate=scores(0.1, 0.2),
    )
    assert (stopped.step, stopped.stopped_early) == (3, "")
    done = go(tmp_path / "two", second, desk, validate=scores(0.3, 0.2))
    assert same_weights(unbroken.snapshot(), second.snapshot())
    assert (done.best, done.best_step) == (whole.best, whole.best_step) == (0.3, 4)
    assert same_weights(best_weights(tmp_path / "two", second, done), best_weights(tmp_path / "whole", unbroken, whole))


def die_after_rollouts(desk: Desk, learner: LocalLearner, patch: pytest.MonkeyPatch) -> None:
    """The attempts of step 4 are recorded, nothing was learned from them."""
    forward_backward = learner.forward_backward

    def dying(*arguments: Any) -> Any:
        if 4 in desk.recorded:
            raise Killed
        return forward_backward(*arguments)

    patch.setattr(learner, "forward_backward", dying)


def die_before_saving(desk: Desk, learner: LocalLearner, patch: pytest.MonkeyPatch) -> None:
    """Step 4 is learned, nothing of it is saved."""
    save = learner.save

    def dying(path: Path) -> None:
        if path.name == "step-4":
            raise Killed
        save(path)

    patch.setattr(learner, "save", dying)


def die_between_the_files(desk: Desk, learner: LocalLearner, patch: pytest.MonkeyPatch) -> None:
    """The learner's state of step 4 is on disk, the record still says what it said before."""
    save = learner.save

    def dying(path: Path) -> None:
        save(path)
        if path.name == "step-4":
            raise Killed

    patch.setattr(learner, "save", dying)


def die_publishing(desk: Desk, learner: LocalLearner, patch: pytest.MonkeyPatch) -> None:
    """The best of step 4 is half written."""
    publish = learner.publish

    def dying(path: Path) -> Any:
        if learner.version == 4:
            path.mkdir()
            (path / "config.json").write_text("{")
            raise Killed
        return publish(path)

    patch.setattr(learner, "publish", dying)


@pytest.mark.parametrize("death", [die_after_rollouts, die_before_saving, die_between_the_files, die_publishing])
@pytest.mark.parametrize("due", [0, 1e9], ids=["saved at every step", "saved when it must be"])
def test_killed_and_resumed_it_is_as_if_unbroken(
    tmp_path: Path, death: Callable[..., None], due: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No attempt is recorded twice or made in vain, and the weights are those of a run that nobody killed."""
    monkeypatch.setattr(progress_module, "MAX_SHARE", due)
    plan = replace(PLAN, num_steps=4 if due else 6)  # with 1e9 it saves the first step and the last
    unbroken, killed, desk = small_learner(), small_learner(), Desk()
    resumed, expected = small_learner(seed=99), Desk()  # other weights: what was learned must come from the disk
    whole = go(tmp_path / "whole", unbroken, expected, plan, validate=scores(0.1, 0.2, 0.2, 0.1))
    with monkeypatch.context() as patch:
        death(desk, killed, patch)
        with pytest.raises(Killed):
            go(tmp_path / "killed", killed, desk, plan, validate=scores(0.1, 0.2, 0.2))
    before = dict(desk.recorded)
    done = go(tmp_path / "killed", resumed, desk, plan, validate=scores(0.2, 0.2 if due else 0.1))
    assert same_weights(unbroken.snapshot(), resumed.snapshot())
    assert (done.step, done.best_step) == (whole.step, whole.best_step)
    assert same_weights(
        best_weights(tmp_path / "killed", resumed, done), best_weights(tmp_path / "whole", unbroken, whole)
    )
    assert all(desk.recorded[step] is attempts for step, attempts in before.items())
    assert desk.recorded == expected.recorded


def test_a_step_without_memory_ends_the_run_and_a_resumed_one_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, learner, desk = small_learner(), small_learner(), Desk()
    go(tmp_path / "unbroken", unbroken)

    def refuse(*_: Any) -> None:
        if learner.version == 3 and learner.model.training:
            torch.empty(2**50)

    handle = learner.model.model.norm.register_forward_pre_hook(refuse)
    with pytest.raises(
        TrainMemoryError, match=r"no memory for the gradient of 6 conversations .*can't allocate memory"
    ):
        go(tmp_path / "broken", learner, desk)
    handle.remove()
    assert sorted(desk.recorded) == [1, 2, 3, 4] and all(p.grad is None for p in learner.model.parameters())
    again = small_learner()
    done = go(tmp_path / "broken", again, desk)
    assert done.step == PLAN.num_steps and not done.stopped_early
    assert same_weights(again.snapshot(), unbroken.snapshot())
