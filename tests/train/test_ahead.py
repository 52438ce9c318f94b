"""Attempts ahead of the learner: what is trained is what its own version said, whatever dies when."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from flyball.errors import Fault, NumericsError, TrainError, WeightsError
from flyball.graders.grade import WAITS
from flyball.rl.algorithms import algorithm
from flyball.rng import derive
from flyball.rollout.schedule_log import read_events
from flyball.train import progress as progress_module
from flyball.train.learner import LocalLearner
from flyball.train.progress import Checkpoints, Progress
from flyball.train.rl import run_rl
from flyball.train.rl_plan import RLPlan
from flyball.train.rollouts import Ahead, Batches, InTurn, Lead, Ledger, Rank, Rollouts, step_seed
from flyball.train.serving import FromMemory, InFlight, OwnVersion, Serving, Weights
from flyball.types import Attempt, Call, Estimate, GradedAttempt, Missing, Outcome, StopReason, Task, Trajectory
from tests.train.small import VOCAB, Killed, same_weights, small_learner, validated

TASKS = [Task(f"task-{i}", {}) for i in range(5)]
SIZE, GROUP = 2, 2
PLAN = RLPlan(algorithm("rloo"), num_steps=6, tasks_per_step=SIZE, seed=5, validate_every=3, max_off_policy_steps=2)
BATCHES = Batches(TASKS, PLAN.num_steps, SIZE, PLAN.seed)


LOG = "schedule.jsonl"


class Speaker:
    """An engine whose words depend on its weights and the seed, to the bit."""

    def __init__(self) -> None:
        self.version, self.print = -1, 0
        self.closed = False

    def use_weights(self, state: Mapping[str, Any], version: int) -> None:
        self.version = version
        self.print = derive(0, repr([float(v.double().sum()) for v in state.values()]))

    def say(self, seed: int) -> tuple[list[int], list[int]]:
        """Prompt and answer."""
        draw = np.random.default_rng([self.print, seed])
        return draw.integers(0, VOCAB, 6).tolist(), draw.integers(0, VOCAB, 6).tolist()

    async def close(self) -> None:
        self.closed = True


def graded(task: Task, index: int, seed: int, begun: int, speaker: Speaker) -> GradedAttempt:
    """By the version in force now; two of a group earn different rewards. The message says on which it began."""
    prompt, said = speaker.say(seed)
    versions = (speaker.version,) * 6
    call = Call("c", None, "main", tuple(prompt), tuple(said), (-5.0,) * 6, versions, {}, "stop", {"begun": begun})
    attempt = Attempt(f"at-{seed}", task, Trajectory((call,), StopReason.ANSWERED), (), group_index=index, seed=seed)
    return GradedAttempt(attempt, Outcome(index == 0), reward=float(index == 0))


@dataclass
class Disk:
    """What outlives a process: its folder and its ledger. `writes_left` counts down to its death."""

    folder: Path
    attempts: dict[int, dict[str, list[GradedAttempt]]] = field(default_factory=dict)
    """By step and attempt: its judgements, the latest last."""
    writes_left: float = float("inf")

    def write(self) -> None:
        """Called before anything is written; a dead process writes nothing."""
        self.writes_left -= 1
        if self.writes_left < 0:
            raise Killed

    def keep(self, step: int, graded: Sequence[GradedAttempt]) -> None:
        self.write()
        for one in graded:
            self.attempts.setdefault(step, {}).setdefault(one.attempt.attempt_id, []).append(one)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.keep, lambda step: [judged[-1] for judged in self.attempts.get(step, {}).values()])

    @property
    def kept(self) -> list[GradedAttempt]:
        return [judged[-1] for step in self.attempts.values() for judged in step.values()]


@dataclass
class Life:
    """One process: learner and rollouts on a disk. `pace` draws how long attempts take; `slow` seeds: two updates."""

    disk: Disk
    pace: Random
    serve: str = "own_version"
    in_step: bool = True
    plan: RLPlan = PLAN
    slow: frozenset[int] = frozenset()
    rank: Rank | None = None
    learner: LocalLearner = field(default_factory=small_learner)
    steps: list[dict[str, float]] = field(default_factory=list)
    serving: Serving | None = None

    def rollouts(self) -> Rollouts:
        learner = self.learner
        if self.serve == "own_version":
            self.serving = OwnVersion(Speaker, lambda: Weights(learner.snapshot(), learner.version), 3)  # type: ignore
        else:
            weights = lambda: Weights(learner.snapshot(), learner.version)  # noqa: E731
            self.serving = InFlight(FromMemory(Speaker(), weights))  # type: ignore[arg-type]
        lead = Lead(self.plan.max_off_policy_steps, GROUP, 4, in_step=self.in_step)
        ahead = Ahead(BATCHES, lead, self.serving, self.draw, self.disk.ledger, self.disk.folder / LOG, self.rank)
        append = ahead._log.append

        def dying(events: Any) -> None:
            self.disk.write()
            append(events)

        ahead._log.append = dying  # type: ignore[method-assign]
        return ahead

    async def draw(self, engine: Any, task: Task, index: int, seed: int) -> GradedAttempt:
        begun = engine.version
        for _ in range(self.pace.choice([0, 1, 3, 40])):
            await asyncio.sleep(0)
        while seed in self.slow and self.learner.version < begun + 2:
            await asyncio.sleep(0.001)
        done = graded(task, index, seed, begun, engine)
        return done if self.rank is None else replace(done, reward=Missing(WAITS, Fault.INFRASTRUCTURE))

    def live(self) -> Progress:
        checkpoints = Checkpoints(self.disk.folder, self.learner)
        save = checkpoints.save

        def dying(*args: Any, **more: Any) -> None:
            self.disk.write()
            save(*args, **more)

        checkpoints.save = dying  # type: ignore[method-assign]
        return asyncio.run(
            run_rl(
                self.learner,
                small_learner(),
                self.plan,
                checkpoints,
                rollouts=self.rollouts(),
                on_step=lambda done, total, metrics: self.steps.append(dict(metrics)),
                should_stop=lambda: False,
                validate=half,
            )
        )


async def half() -> Estimate:
    return validated(0.5)


def whole(tmp_path: Path, **how: Any) -> Life:
    life = Life(Disk(tmp_path / "whole"), Random(0), **how)
    life.live()
    return life


def seeds(attempts: Sequence[GradedAttempt]) -> list[int]:
    return sorted(one.attempt.seed for one in attempts)


def planned() -> list[int]:
    return sorted(BATCHES.draw_seed(group, index) for group in range(PLAN.num_steps * SIZE) for index in range(GROUP))


# --- what is trained -------------------------------------------------------------------------------------------------


def test_nothing_ahead_is_training_in_turn_bit_for_bit(tmp_path: Path) -> None:
    plan = RLPlan(algorithm("rloo"), num_steps=6, tasks_per_step=SIZE, seed=5, validate_every=3)
    ahead = whole(tmp_path, plan=plan)
    learner, disk, speaker = small_learner(), Disk(tmp_path / "turn"), Speaker()

    async def attempt(tasks: Sequence[Task], step: int) -> list[list[GradedAttempt]]:
        speaker.use_weights(learner.model.state_dict(), learner.version)
        base = step_seed(plan.seed, step)
        return [[graded(t, i, derive(base, t.task_id, i), 0, speaker) for i in range(GROUP)] for t in tasks]

    asyncio.run(
        run_rl(
            learner,
            small_learner(),
            plan,
            Checkpoints(disk.folder, learner),
            rollouts=InTurn(BATCHES, attempt, disk.ledger),
            on_step=lambda *_: None,
            should_stop=lambda: False,
            validate=half,
        )
    )
    assert same_weights(learner.snapshot(), ahead.learner.snapshot())
    assert [step["staleness/max"] for step in ahead.steps] == [0.0] * 6


@pytest.mark.parametrize("in_step", [True, False])
@pytest.mark.parametrize("serve", ["own_version", "in_flight"])
def test_every_attempt_is_trained_once_and_none_is_lost(tmp_path: Path, serve: str, in_step: bool) -> None:
    life = whole(tmp_path, serve=serve, in_step=in_step)
    assert seeds(life.disk.kept) == planned()
    assert life.steps[-1]["censoring_index"] == 1.0
    assert sum(v for name, v in life.steps[-1].items() if name.startswith("attempts/trained/")) == len(planned())
    assert max(step["staleness/max"] for step in life.steps) > 0
    assert all(0 <= step["trainer_idle_share"] <= 1 for step in life.steps)


def test_a_trajectory_ends_on_the_version_that_began_it_or_on_the_newest(tmp_path: Path) -> None:
    def changed(life: Life) -> int:
        calls = {one.attempt.seed: one.attempt.trajectory.calls[0] for one in life.disk.kept}
        return calls[slow].policy_versions[0] - int(str(calls[slow].message["begun"]))

    slow = BATCHES.draw_seed(0, 0)
    own, newest = (
        whole(tmp_path / serve, serve=serve, in_step=False, slow=frozenset([slow]))
        for serve in ("own_version", "in_flight")
    )
    assert changed(own) == 0 < changed(newest)


def test_in_reference_mode_time_decides_nothing(tmp_path: Path) -> None:
    lives = [Life(Disk(tmp_path / str(seed)), Random(seed)) for seed in range(3)]
    for life in lives:
        life.live()
    assert all(same_weights(lives[0].learner.snapshot(), life.learner.snapshot()) for life in lives[1:])


def test_tokens_are_told_apart_by_age(tmp_path: Path) -> None:
    """Both ages are measured beside each other, with how many tokens each rests on."""
    last = whole(tmp_path).steps[-1]
    assert last["staleness"] == 2.0 and last["stale_share"] == 0.0
    assert last["sampler_gap/age=2"] > 0 and last["sampler_gap/age=2/n"] == SIZE * GROUP * 6
    assert last["sequence_accepted/length=64/n"] == SIZE * GROUP


# --- death -----------------------------------------------------------------------------------------------------------


def die_and_go_on(tmp_path: Path, deaths: Sequence[int], **how: Any) -> tuple[Life, Disk]:
    """Lives that end after so many writes, each with another pace, and a last one that gets through."""
    disk = Disk(tmp_path / "killed")
    for number, writes in enumerate(deaths):
        disk.writes_left = writes
        with pytest.raises(Killed) if not number else contextlib.suppress(Killed):  # a later life may get through
            Life(disk, Random(number + 1), **how).live()
    disk.writes_left = float("inf")
    last = Life(disk, Random(99), learner=small_learner(), **how)
    last.live()
    return last, disk


@pytest.mark.parametrize("due", [0, 1e9], ids=["saved at every step", "saved when it must be"])
@pytest.mark.parametrize("in_step", [True, False], ids=["reference", "timed"])
def test_killed_anywhere_and_resumed_nothing_is_skipped_doubled_or_different(
    tmp_path: Path, in_step: bool, due: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "MAX_SHARE", due)
    slow = frozenset(BATCHES.draw_seed(group, 0) for group in ((4, 6, 8, 10) if in_step else (6,)))
    expected = whole(tmp_path, slow=slow).learner.snapshot()
    draw = Random(7)
    for case in range(6):
        deaths = [draw.randrange(1, 30) for _ in range(draw.randrange(1, 4))]
        life, disk = die_and_go_on(tmp_path / str(case), deaths, in_step=in_step, slow=slow)
        assert seeds(disk.kept) == planned(), deaths
        taken = [g for event in read_events(disk.folder / "schedule.jsonl") for g in getattr(event, "groups", ())]
        assert Counter(taken) == Counter(range(PLAN.num_steps * SIZE)), deaths
        if in_step:
            assert same_weights(life.learner.snapshot(), expected), deaths


def test_under_in_flight_it_goes_on_from_the_newest_weights(tmp_path: Path) -> None:
    _, disk = die_and_go_on(tmp_path, [20, 20], serve="in_flight", in_step=False)
    assert seeds(disk.kept) == planned()


@pytest.mark.parametrize("place", ["an attempt", "the weights"])
def test_an_error_that_no_re_run_cures_stops_it_cleanly_and_it_can_go_on(tmp_path: Path, place: str) -> None:
    """NaN logits, weights of another shape: typed, raised, nothing left running, what was recorded is used."""

    class Broken(Life):
        async def draw(self, engine: Any, task: Task, index: int, seed: int) -> GradedAttempt:
            if place == "an attempt" and engine.version == 2:
                raise NumericsError("the model produced NaN")
            return await super().draw(engine, task, index, seed)

        def live(self) -> Progress:
            snapshot = self.learner.snapshot

            def refused() -> Any:
                if place == "the weights" and self.learner.version == 2:
                    raise WeightsError("weights do not fit")
                return snapshot()

            self.learner.snapshot = refused  # type: ignore[method-assign]
            return super().live()

    disk = Disk(tmp_path / "killed")
    with pytest.raises((NumericsError, WeightsError)):
        Broken(disk, Random(1)).live()
    recorded = len(disk.kept)
    Life(disk, Random(2)).live()
    assert 0 < recorded < len(planned()) and seeds(disk.kept) == planned()


def test_a_task_that_comes_twice_in_a_step_is_drawn_anew() -> None:
    once = Batches(TASKS[:1], 1, 2, 0)
    assert once.task(0) is once.task(1)
    assert once.draw_seed(0, 0) != once.draw_seed(1, 0)


# --- engines ---------------------------------------------------------------------------------------------------------


def own_version(versions: int = 3) -> tuple[OwnVersion, Callable[[], None]]:
    learner = small_learner()
    serving = OwnVersion(Speaker, lambda: Weights(learner.snapshot(), learner.version), versions)  # type: ignore

    def learn() -> None:
        learner.version += 1

    return serving, learn


def test_an_engine_is_given_on_when_no_group_needs_its_version() -> None:
    serving, learn = own_version()

    async def go() -> None:
        for version, in_use in ((0, {0}), (1, {0, 1}), (2, {1, 2}), (3, {3})):
            await serving.publish(version)
            serving.hold(version, in_use)
            assert serving.engine(version).version == version
            learn()
        assert serving.num_engines == 2
        judge = await serving.judge()
        assert judge.version == 3 and judge is not serving.engine(3)
        await serving.close()

    asyncio.run(go())


def test_weights_that_nobody_holds_are_said_to_be_gone() -> None:
    serving, _ = own_version()

    async def go() -> None:
        await serving.publish(4)
        with pytest.raises(TrainError, match="version 2, and the newest are 4"):
            serving.hold(2, {2})

    asyncio.run(go())


# --- rewards that depend on the group ---------------------------------------------------------------------------------


class Judge:
    """Pays the attempt of a group that said the larger tokens, and never the same twice for the same question."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    async def rank(self, group: Sequence[GradedAttempt]) -> list[GradedAttempt]:
        self.asked.append(tuple(one.attempt.seed for one in group))
        await asyncio.sleep(0)
        said = [sum(one.attempt.trajectory.calls[0].completion_ids) for one in group]
        return [replace(one, reward=float(words == max(said))) for one, words in zip(group, said, strict=True)]


def test_a_group_is_ranked_once_it_is_whole_and_learned_from_as_ranked(tmp_path: Path) -> None:
    judge = Judge()
    life = whole(tmp_path, rank=judge.rank)
    assert sorted(judge.asked) == sorted(
        tuple(BATCHES.draw_seed(group, index) for index in range(GROUP)) for group in range(PLAN.num_steps * SIZE)
    )
    assert not any(isinstance(one.reward, Missing) for one in life.disk.kept)
    assert all(step["missing_share"] == 0.0 for step in life.steps)
    unranked = whole(tmp_path / "other")
    assert not same_weights(life.learner.snapshot(), unranked.learner.snapshot()), "the ranking is what was learned"


def test_killed_anywhere_a_ranked_group_keeps_its_ranking(tmp_path: Path) -> None:
    expected = whole(tmp_path, rank=Judge().rank).learner.snapshot()
    draw = Random(11)
    for case in range(6):
        judge = Judge()
        deaths = [draw.randrange(1, 40) for _ in range(draw.randrange(1, 4))]
        life, disk = die_and_go_on(tmp_path / str(case), deaths, rank=judge.rank)
        assert same_weights(life.learner.snapshot(), expected), deaths
        assert seeds(disk.kept) == planned() and not any(isinstance(one.reward, Missing) for one in disk.kept)
        judgements = [judged for step in disk.attempts.values() for judged in step.values()]
        assert all(sum(not isinstance(one.reward, Missing) for one in judged) == 1 for judged in judgements), deaths
