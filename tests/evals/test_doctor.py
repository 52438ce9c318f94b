"""Each check at its limits, the verdict as a function of findings, and whole examinations of sound and broken desks."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest

from flyball.agent.loop import ToolLoop
from flyball.engine.fake import FakeEngine, Prompt
from flyball.engine.protocol import SamplingParams
from flyball.errors import EvalError, Fault
from flyball.evals import policy_checks, task_checks
from flyball.evals.doctor import Examination, examine, spread
from flyball.evals.policy_checks import TrainingPlan
from flyball.evals.readiness import Finding, Readiness, conclude
from flyball.evals.run import Arm
from flyball.graders.grade import GraderSet
from flyball.graders.grader import FunctionGrader
from flyball.models.fake import tool_call_text
from flyball.tasks.leakage import Leak
from flyball.tasks.world import WorldSpec
from flyball.types import Missing, Task
from tests.evals.desk import Desk, graded, graders, oracle, tasks

PLAN = TrainingPlan(num_steps=10, tasks_per_step=4, group_size=8)
TASK = tasks(1)[0]


def groups_of(successes: list[int], size: int = 8) -> list[list[Any]]:
    return [
        [graded(task, i < c) for i in range(size)] for task, c in zip(tasks(len(successes)), successes, strict=True)
    ]


# --- verdict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "verdict"),
    [
        ([], "go"),
        (["leakage"], "fix first"),
        (["variance"], "fix first"),
        (["ceiling"], "do not use RL here"),
        (["headroom", "variance"], "do not use RL here"),
        (["headroom", "oracle"], "fix first"),
        (["floor", "variance"], "fix first"),
    ],
)
def test_verdict_follows_the_findings(failing: list[str], verdict: str) -> None:
    names = ["oracle", "leakage", "floor", "ceiling", "variance", "headroom", "forecast"]
    readiness = conclude([Finding(name, "fail" if name in failing else "warn", f"about {name}") for name in names])
    assert readiness.verdict == verdict
    assert len(readiness.reasons) >= bool(failing) and all(
        reason.split(":")[0] in failing for reason in readiness.reasons
    )


# --- tasks, world, graders -------------------------------------------------------------------------------------------


def test_oracle() -> None:
    assert task_checks.check_oracle(None).level == "warn"
    assert task_checks.check_oracle([graded(TASK, True)] * 3).level == "ok"
    unsafe = task_checks.check_oracle([graded(TASK, True), graded(TASK, True, safe=False)])
    assert unsafe.level == "fail" and "unsafe" in unsafe.text
    missing = task_checks.check_oracle([graded(TASK, Missing("judge gone", Fault.GRADER))])
    assert missing.level == "fail" and "a grader: judge gone" in missing.text


@pytest.mark.parametrize(("given_away", "level"), [(0, "ok"), (1, "ok"), (3, "warn"), (6, "fail")])
def test_do_nothing_is_judged_in_the_worst_split(given_away: int, level: str) -> None:
    attempts = [graded(task, False) for task in tasks(200, "train")]
    attempts += [graded(task, i < given_away) for i, task in enumerate(tasks(50, "ood"))]
    finding = task_checks.check_do_nothing(attempts)
    assert finding.level == level
    assert finding.evidence["ood"].n == 50


def test_determinism_blames_what_differs_first() -> None:
    def blame(**second: Any) -> tuple[str, Any]:
        finding = task_checks.check_determinism([(graded(TASK, True), graded(TASK, **{"success": True, **second}))])
        return finding.level, finding.evidence.get("part")

    assert blame() == ("ok", None)
    assert blame(said="other") == ("warn", "assistant")
    assert blame(said="other", state={"x": 1}) == ("warn", "assistant")
    assert blame(state={"x": 1}) == ("fail", "state")
    assert blame(success=False) == ("fail", "grade")


def test_leakage_and_suite_size() -> None:
    assert task_checks.check_leakage([], 10).level == "ok"
    leak = task_checks.check_leakage([Leak("near_duplicate", "train-1", "test-2", "test", 0.91)], 10)
    assert leak.level == "fail" and "'test-2'" in leak.text and "0.91" in leak.text
    levels = [task_checks.check_suite_size("test", n).level for n in (0, 100, 400)]
    assert levels == ["fail", "warn", "ok"]


# --- policy ----------------------------------------------------------------------------------------------------------


def test_floor_and_ceiling() -> None:
    nothing, everything, middling = groups_of([0] * 20), groups_of([8] * 40), groups_of([4] * 20)
    assert policy_checks.check_floor(nothing, cold_start=False).level == "fail"
    assert policy_checks.check_floor(nothing, cold_start=True).level == "warn"
    assert policy_checks.check_floor(middling, cold_start=False).level == "ok"
    assert policy_checks.check_ceiling(middling).level == "ok"
    assert policy_checks.check_ceiling(everything).level == "warn", "40 tasks do not show more than 95 %"
    assert policy_checks.check_ceiling(groups_of([8] * 100)).level == "fail"


@pytest.mark.parametrize(("varied", "level"), [(8, "ok"), (3, "warn"), (1, "fail"), (0, "warn")])
def test_variance_counts_groups_whose_rewards_differ(varied: int, level: str) -> None:
    finding = policy_checks.check_variance(groups_of([4] * varied + [0] * (20 - varied)))
    assert (finding.level, finding.evidence["varied"].value) == (level, varied / 20)


def test_variance_reads_rewards_not_success() -> None:
    shaped = [[graded(task, False, reward=0.1 * i) for i in range(4)] for task in tasks(10)]
    assert policy_checks.check_variance(shaped).evidence["varied"].value == 1.0


def test_headroom_is_best_of_n_less_the_mean() -> None:
    assert policy_checks.check_headroom(groups_of([4, 4])).evidence["gain"].value == 0.5
    assert policy_checks.check_headroom(groups_of([8, 0] * 100)).level == "fail", "it repeats itself"
    assert policy_checks.check_headroom(groups_of([0] * 100)).level == "warn", "no success: nothing can be seen"


def test_missing_names_whose_fault() -> None:
    groups = groups_of([4] * 9)
    groups.append([graded(TASK, Missing("engine_error: out of memory", Fault.INFRASTRUCTURE))] * 8)
    finding = policy_checks.check_missing(groups)
    assert finding.level == "fail" and "out of memory" in finding.text


def test_forecast_scales_what_was_measured() -> None:
    """80 attempts of 100 tokens in 8 s: 320 planned attempts are 32,000 tokens and 32 s."""
    groups = groups_of([4] * 10)
    finding = policy_checks.check_forecast(groups, 8.0, PLAN)
    assert finding.evidence["tokens"].value == 32_000
    assert finding.evidence["rollout_minutes"] == pytest.approx(32 / 60)
    assert policy_checks.check_forecast(groups, 8.0, replace(PLAN, max_minutes=0.5)).level == "warn"


# --- whole examinations ----------------------------------------------------------------------------------------------


def dataset() -> list[Task]:
    return [*tasks(30, "train"), *tasks(12, "test")]


def sometimes(prompt: Prompt) -> str:
    """A policy that solves its task with a chance that depends on the seed."""
    order = prompt.messages[1]["content"].split()[-1].rstrip(".")
    return tool_call_text("cancel", order_id=order) if prompt.turn == 0 and prompt.seed % 3 == 0 else "done"


def arm(script: Any, world: type = Desk) -> Arm:
    engine = FakeEngine(script)
    return Arm(WorldSpec(world), ToolLoop(), engine, engine.chat, SamplingParams(), graders())


def examined(given: list[Task] | None = None, **over: Any) -> Readiness:
    sound: dict[str, Any] = {"world": WorldSpec(Desk), "graders": graders(), "plan": PLAN, "oracle": oracle}
    how = Examination(**{**sound, "policy": arm(sometimes), "num_groups": 10, **over})
    return asyncio.run(examine(given or dataset(), how))


def levels(readiness: Readiness) -> dict[str, str]:
    return {finding.name: finding.level for finding in readiness.findings}


def test_a_sound_desk_goes() -> None:
    readiness = examined()
    assert readiness.verdict == "go" and readiness.reasons == ()
    assert set(levels(readiness)) == {
        *("oracle", "do_nothing", "determinism", "leakage", "suite_size"),
        *("missing", "floor", "ceiling", "variance", "headroom", "forecast", "preset"),
    }


def test_a_policy_that_knows_nothing_yet_waits_for_its_cold_start() -> None:
    knows_nothing = arm(["hello"])
    assert examined(policy=knows_nothing, cold_start=True).verdict == "go"
    without = examined(policy=knows_nothing)
    assert without.verdict == "fix first" and without.reasons[0].startswith("floor")


def test_a_perfect_policy_needs_no_rl() -> None:
    def perfect(prompt: Prompt) -> str:
        order = prompt.messages[1]["content"].split()[-1].rstrip(".")
        return "done" if prompt.turn else tool_call_text("cancel", order_id=order)

    readiness = examined([*tasks(120, "train"), *tasks(12, "test")], policy=arm(perfect), num_groups=100)
    assert readiness.verdict == "do not use RL here"
    assert any(reason.startswith("ceiling") for reason in readiness.reasons)


def test_a_grader_that_gives_success_away_is_fixed_first() -> None:
    readiness = examined(graders=GraderSet(FunctionGrader(lambda attempt, hidden: True, "success")))
    assert readiness.verdict == "fix first" and levels(readiness)["do_nothing"] == "fail"


def test_a_world_that_changes_by_itself_is_found() -> None:
    ticks = itertools.count()

    class Clock(Desk):
        def export_state(self) -> dict[str, Any]:
            return {**super().export_state(), "time": next(ticks)}

    readiness = examined(world=WorldSpec(Clock))
    (finding,) = [f for f in readiness.findings if f.name == "determinism" and f.level == "fail"]
    assert finding.evidence["part"] == "state" and readiness.verdict == "fix first"


def test_a_task_in_both_splits_is_found() -> None:
    train = tasks(30, "train")
    stolen = replace(train[3], task_id="stolen", split="test")
    assert levels(examined([*train, stolen]))["leakage"] == "fail"


def test_without_a_policy_yet_the_rest_is_still_examined() -> None:
    readiness = examined(policy=None)
    assert readiness.verdict == "go" and levels(readiness)["policy"] == "warn"


def test_tasks_without_a_training_split_are_refused() -> None:
    with pytest.raises(EvalError, match="no task has split 'train'"):
        examined(tasks(3))


def test_spread_sees_every_split_and_family_and_depends_on_the_seed() -> None:
    given = [*tasks(50, "train", families=5), *tasks(3, "test", families=3)]
    chosen = spread(given, 8, seed=0)
    assert len({(task.split, task.family) for task in chosen}) == 8
    assert chosen == spread(list(reversed(given)), 8, seed=0)
    assert chosen != spread(given, 8, seed=1)
    assert len(spread(given, 500, seed=0)) == 53
