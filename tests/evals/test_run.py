"""Evaluation through the real path: world, loop, door, fake engine, graders."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from flyball.agent.loop import ToolLoop
from flyball.engine.fake import FakeEngine, Prompt
from flyball.engine.protocol import SamplingParams
from flyball.errors import EvalError, Fault, StoreError
from flyball.evals.compare import compare
from flyball.evals.run import attempt_all, evaluate, evaluate_in_turn, require_some
from flyball.evals.scripted import do_nothing, say, scripted_arm, use
from flyball.evals.suite import Suite
from flyball.graders.grade import GraderSet
from flyball.graders.grader import FunctionGrader
from flyball.models.fake import tool_call_text
from flyball.tasks.world import WorldSpec
from flyball.types import EvalRun, GradedAttempt, Missing, StopReason, Task
from tests.evals.desk import Desk, graders, oracle, tasks


def run_suite(suite: Suite, script: Any, **over: Any) -> EvalRun:
    engine = FakeEngine(script)
    settings: dict[str, Any] = {
        "version_id": "v1",
        "world": WorldSpec(Desk),
        "runner": ToolLoop(),
        "engine": engine,
        "chat": engine.chat,
        "sampling": SamplingParams(temperature=0.0),
        "graders": graders(),
        **over,
    }
    return asyncio.run(evaluate(suite, **settings))


def cancels_even_orders(prompt: Prompt) -> str:
    """A policy that solves TE0, TE2, ... and gives up on the others."""
    order = prompt.messages[1]["content"].split()[-1].rstrip(".")
    if prompt.turn == 0 and int(order[2:]) % 2 == 0:
        return tool_call_text("cancel", order_id=order)
    return "done"


def script_attempts(script: Any, given: list[Task], **over: Any) -> list[GradedAttempt]:
    arm = replace(scripted_arm(script, WorldSpec(Desk), graders()), **over)
    return asyncio.run(attempt_all(arm, given, num_trials=1, seed=0, concurrency=4, reduce=lambda g: g))


def test_results_are_in_suite_order_with_every_trial() -> None:
    suite = Suite.of("test", tasks(6))
    run = run_suite(suite, cancels_even_orders, num_trials=2, concurrency=5)
    assert [(r.task_id, r.trial) for r in run.results] == [(f"test-{i}", t) for i in range(6) for t in (0, 1)]
    assert [r.success for r in run.results[::2]] == [True, False] * 3
    assert (run.suite_digest, run.grader_version, run.num_trials) == (suite.digest, graders().version, 2)
    assert all(r.tokens_in > 0 and r.cost_usd > 0 for r in run.results)


def test_the_callback_sees_every_graded_attempt_and_its_error_stops_the_run() -> None:
    seen: list[GradedAttempt] = []
    run = run_suite(Suite.of("test", tasks(4)), cancels_even_orders, on_attempt=seen.append)
    assert {g.attempt.attempt_id for g in seen} == {r.attempt_id for r in run.results}
    assert seen[0].attempt.versions["policy"] == "v1"

    def disk_full(graded: GradedAttempt) -> None:
        raise StoreError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        run_suite(Suite.of("test", tasks(4)), cancels_even_orders, on_attempt=disk_full)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    def seeds(seed: int) -> list[int]:
        engine = FakeEngine(cancels_even_orders)
        run_suite(
            Suite.of("test", tasks(3)), cancels_even_orders, engine=engine, seed=seed, num_trials=2, concurrency=1
        )
        return [request.sampling.seed or 0 for request in engine.requests]

    assert seeds(1) == seeds(1)
    assert len(set(seeds(1))) == len(seeds(1)), "no two calls share a seed"
    assert not set(seeds(1)) & set(seeds(2))


def test_hallucinations_and_unreadable_calls_are_counted() -> None:
    def confused(prompt: Prompt) -> str:
        turns = [
            tool_call_text("refund", order_id="TE0"),
            tool_call_text("find", order_id="TE0", colour="red"),
            tool_call_text("find", order_id=7),
            "<tool_call>{oops</tool_call>",
            "sorry",
        ]
        return turns[prompt.turn]

    (only,) = run_suite(Suite.of("test", tasks(1)), confused).results
    assert (only.hallucinated_tools, only.hallucinated_parameters) == (1, 1)
    assert (only.tool_calls, only.tool_errors) == (4, 4)
    assert (only.model_calls, only.realigned_calls, only.forked_calls) == (5, 0, 0)


def test_a_grader_that_recovers_is_asked_again_and_one_that_does_not_is_missing() -> None:
    asked: list[str] = []

    def flaky(attempt: Any, hidden: Any) -> bool:
        asked.append(attempt.attempt_id)
        if len(asked) == 1:
            raise RuntimeError("the judge is away")
        return True

    def broken(attempt: Any, hidden: Any) -> bool:
        raise RuntimeError("the judge is gone")

    suite = Suite.of("test", tasks(1))
    (recovered,) = run_suite(suite, ["done"], graders=GraderSet(FunctionGrader(flaky, "success"))).results
    assert recovered.success is True and len(set(asked)) == 1, "the same attempt is graded again, not another one"
    (missing,) = run_suite(suite, ["done"], graders=GraderSet(FunctionGrader(broken, "success"))).results
    assert isinstance(missing.success, Missing) and missing.success.fault is Fault.GRADER


def test_a_world_that_fails_is_missing_not_zero() -> None:
    class Broken(Desk):
        def reset(self, order: str) -> str:
            raise OSError("no database")

    (only,) = run_suite(Suite.of("test", tasks(1)), ["done"], world=WorldSpec(Broken)).results
    assert isinstance(only.success, Missing) and only.success.fault is Fault.INFRASTRUCTURE
    assert "no database" in only.success.cause


def test_attempts_without_any_outcome_are_an_error_that_tells_the_commonest_cause() -> None:
    causes = ("no such program, on attempt a1", "too late", "no such program, on attempt a2")
    dead, late, gone = (Missing(cause, Fault.INFRASTRUCTURE) for cause in causes)
    require_some([], "attempts")
    require_some([dead, False, gone], "attempts")
    with pytest.raises(EvalError, match=r"none of the 3 attempts has an outcome.*; 2 times: no such program; mend it"):
        require_some([dead, late, gone], "attempts")


def test_suites_are_frozen_by_what_they_hold_and_where() -> None:
    suite = Suite.of("test", tasks(3))
    assert suite.digest == Suite.of("again", tasks(3)).digest
    assert suite.digest != Suite.of("test", tasks(4)).digest
    assert suite.digest != Suite.of("test", tasks(3), world_version="other").digest
    with pytest.raises(EvalError, match="no tasks"):
        Suite.of("test", [])
    with pytest.raises(EvalError, match="twice"):
        Suite.of("test", [*tasks(2), *tasks(1)])
    with pytest.raises(EvalError, match="mixes the splits ood, test"):
        Suite.of("test", [*tasks(1), *tasks(1, "ood")])


def test_settings_that_cannot_be_honoured_are_refused() -> None:
    with pytest.raises(EvalError, match="num_trials 0"):
        run_suite(Suite.of("test", tasks(1)), ["done"], num_trials=0)


# --- scripted agents -------------------------------------------------------------------------------------------------


def test_the_oracle_is_graded_like_a_policy_and_leaves_no_token_to_train() -> None:
    (only,) = script_attempts(oracle, tasks(1))
    assert only.outcome.success is True and only.outcome.safe is True
    assert [call.name for call in only.attempt.tool_calls] == ["find", "cancel"]
    assert only.attempt.answer == "TE0 is cancelled."
    assert not any(branch.loss_mask.any() for branch in only.attempt.trajectory.branches())


def test_doing_nothing_calls_nothing() -> None:
    (only,) = script_attempts(do_nothing, tasks(1))
    assert only.outcome.success is False and only.attempt.num_tool_calls == 0


def test_a_generator_sees_what_came_back() -> None:
    def curious(task: Task) -> Any:
        (found,) = yield use("find", order_id=task.public["order"])
        yield say(json.loads(found["content"])["status"])

    (only,) = script_attempts(curious, tasks(1))
    assert only.attempt.answer == "processing"


def test_a_script_that_runs_out_ends_the_attempt_as_answered() -> None:
    (only,) = script_attempts(lambda task: [use("cancel", order_id=task.public["order"])], tasks(1))
    assert only.attempt.stop is StopReason.ANSWERED and only.outcome.success is True


def test_a_script_that_raises_or_gives_nonsense_is_not_the_policys_failure() -> None:
    def broken(task: Task) -> Any:
        yield use("find", order_id="TE0")
        raise KeyError("plan")

    for script, words in ((broken, "KeyError"), (lambda task: ["hello"], "give assistant messages")):
        (only,) = script_attempts(script, tasks(1))
        assert only.attempt.stop is StopReason.AGENT_ERROR and words in only.attempt.trajectory.detail
        assert isinstance(only.outcome.success, Missing)


def test_a_judge_that_drifts_meets_both_versions_alike_only_in_turn() -> None:
    """Two equal versions; after half of all attempts the judge finds nothing good any more."""
    given = [replace(task, cluster=task.task_id) for task in tasks(60)]
    suite = Suite.of("test", given)

    def tiring() -> GraderSet:
        seen: list[str] = []

        def judge(attempt: Any, hidden: Any) -> bool:
            seen.append(attempt.attempt_id)
            return len(seen) <= len(given)

        return GraderSet(FunctionGrader(judge, "success"))

    def both(graders: GraderSet, together: bool) -> tuple[EvalRun, EvalRun]:
        engine = FakeEngine(lambda prompt: "done")
        arm = replace(scripted_arm(do_nothing, WorldSpec(Desk), graders), engine=engine, chat=engine.chat)
        groups = [{"a": arm, "b": arm}] if together else [{"a": arm}, {"b": arm}]
        runs = [run for group in groups for run in asyncio.run(evaluate_in_turn(suite, group, concurrency=1))[0]]
        return runs[0], runs[1]

    apart, in_turn = compare(*both(tiring(), False)), compare(*both(tiring(), True))
    assert (apart.difference.value, apart.verdict) == (-1.0, "reject")
    assert (abs(in_turn.difference.value) <= 1 / 60, in_turn.verdict) == (True, "inconclusive")


def test_the_order_is_drawn_by_the_seed_and_told() -> None:
    suite = Suite.of("test", tasks(20))

    def order(seed: int) -> list[Any]:
        arm = scripted_arm(oracle, WorldSpec(Desk), graders())
        runs, turns = asyncio.run(evaluate_in_turn(suite, {"a": arm, "b": arm}, num_trials=2, seed=seed))
        assert [run.version_id for run in runs] == ["a", "b"] and runs[0].results[0].task_id == "test-0"
        return turns

    first = order(0)
    assert first == order(0) != order(1) and len(first) == 80
    firsts = [turn.version_id for turn in first[::2]]
    assert 8 <= firsts.count("a") <= 32, "a fair coin, 40 times"
    assert [(turn.task_id, turn.trial) for turn in first[::2]] == [(turn.task_id, turn.trial) for turn in first[1::2]]
