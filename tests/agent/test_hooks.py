"""Hooks of the built-in loop: plans with a budget, a critic that decides nothing, checks that hold back an answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import flyball as fb
from flyball.agent.hooks import Hook, Hooks
from flyball.agent.loop import ToolLoop
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import SamplingParams
from flyball.errors import ConfigError
from flyball.evals.scripted import ScriptedAgent, say, use
from flyball.graders.grade import GraderSet
from flyball.graders.grader import FunctionGrader
from flyball.models.fake import tool_call_text
from flyball.rollout.attempt import run_attempt
from flyball.store.store import Store
from flyball.tasks.world import WorldSpec
from flyball.types import Attempt, GradedAttempt, HookRecord, Limits, StopReason
from tests.agent.desk import Desk, assert_exact, task


def find(order_id: str) -> str:
    return tool_call_text("find_order", order_id=order_id)


def attempt(*script: str, limits: Limits | None = None, runner: Any = None, **hooks: Any) -> tuple[Attempt, FakeEngine]:
    engine = FakeEngine(script)
    answers = hooks.pop("answers", None)
    done = asyncio.run(
        run_attempt(
            task(limits=limits, answers=answers),
            world=WorldSpec(Desk, "approve"),
            runner=runner or ToolLoop(Hooks(**hooks)),
            engine=engine,
            chat=engine.chat,
            sampling=SamplingParams(),
            seed=1,
        )
    )
    return done, engine


# --- the planner -----------------------------------------------------------------------------------------------------


def two_steps(view: fb.View) -> fb.Plan:
    assert view.task["ticket"] == "Where is order A1?"
    return fb.Plan(["find the order", "say where it is"], max_tool_calls=2)


def test_a_plan_is_shown_first_and_recorded() -> None:
    done, engine = attempt(find("A1"), "It has shipped.", planner=two_steps)
    assert done.messages[0]["content"] == (
        "You are the order desk.\n\nPlan:\n1. find the order\n2. say where it is\nUse at most 2 tool calls."
    )
    steps = {"steps": ["find the order", "say where it is"], "max_tool_calls": 2}
    assert done.hooks == (HookRecord("plan", "two_steps", None, steps),)
    assert_exact(done.trajectory.calls, engine)


def test_calls_past_the_plans_budget_are_refused_in_their_order() -> None:
    done, _ = attempt(find("A1"), find("A2") + find("A3"), find("A4"), "Enough.", planner=two_steps)
    assert done.stop is StopReason.ANSWERED
    assert [result.problem for result in done.tool_results] == [None, None, "over_budget", "over_budget"]
    assert done.state == ["find A1", "find A2"]
    assert [r.call_id for r in done.tool_results] == [tc.call_id for tc in done.tool_calls]
    shown = [message["content"] for message in done.messages if message["role"] == "tool"]
    assert shown[2] == "error: the tool calls that the plan allows are used up; go on without tools"


def test_calls_that_the_plan_refuses_still_meet_the_tasks_limit() -> None:
    script = [find(f"A{i}") for i in range(9)]
    done, _ = attempt(*script, planner=two_steps, limits=Limits(max_tool_calls=4))
    assert (done.stop, len(done.tool_results)) == (StopReason.MAX_TOOL_CALLS, 4)


def test_a_planner_may_ask_the_policy_in_a_branch_of_its_own() -> None:
    async def asks(view: fb.View) -> fb.Plan:
        assert view.ask is not None
        return fb.Plan([await view.ask("In one step, what would you do?")])

    done, engine = attempt("look it up", "It has shipped.", planner=asks)
    assert [call.agent for call in done.trajectory.calls] == ["planner", "main"]
    assert "1. look it up" in done.messages[0]["content"]
    assert len(list(done.trajectory.branches())) == 2
    assert_exact(done.trajectory.calls, engine)


def test_no_plan_changes_nothing() -> None:
    done, _ = attempt("hello", planner=lambda view: None)
    assert (done.messages[0]["content"], done.hooks) == ("You are the order desk.", ())


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (([],), "no steps"),
        (("look",), "list of texts"),
        ((["look", " "],), "list of texts"),
        ((["look"], 0), "max_tool_calls is 0"),
    ],
)
def test_impossible_plans_are_refused(plan: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        fb.Plan(*plan)


# --- the critic ------------------------------------------------------------------------------------------------------


def test_a_critic_scores_every_turn_and_changes_none() -> None:
    seen: list[int] = []

    def longer_is_better(view: fb.View) -> float:
        seen.append(len(view.messages))
        return len(view.answer) / 10

    done, engine = attempt(find("A1"), "It has shipped.", critic=longer_is_better)
    plain, _ = attempt(find("A1"), "It has shipped.")
    assert done.messages == plain.messages
    assert seen == [3, 5]
    assert [(r.kind, r.call_id, r.value) for r in done.hooks] == [("critic", "c0", 0.0), ("critic", "c1", 1.5)]
    assert_exact(done.trajectory.calls, engine)


def test_no_grader_reads_what_a_critic_said() -> None:
    seen: list[tuple[str, ...]] = []

    def grade(a: Attempt, hidden: Any) -> bool:
        seen.append(tuple(record.kind for record in a.hooks))
        return True

    done, _ = attempt("fine", critic=lambda view: 1.0, planner=two_steps)
    grader = FunctionGrader(grade, "any")
    graders = GraderSet(grader, reward=grader, safety=grader, scores={"shown": grader})
    graded = asyncio.run(graders.grade(done))
    assert seen == [("plan",)] * 4
    assert [record.kind for record in graded.attempt.hooks] == ["plan", "critic"]


def test_what_hooks_said_is_stored(tmp_path: Any) -> None:
    done, _ = attempt("fine", critic=lambda view: 0.25, planner=two_steps)
    store = Store(tmp_path)
    run = store.new_run("eval", {}, "hooks")
    store.add_attempt(run, "eval", 0, GradedAttempt(done, fb.Outcome(True)))
    (read,) = store.attempts(run, "eval", 0)
    assert read.attempt.hooks == done.hooks
    assert done.hooks[1].value == 0.25


# --- policy checks ---------------------------------------------------------------------------------------------------


def no_promises(view: fb.View) -> fb.Block | None:
    return fb.Block("promises a date") if "tomorrow" in view.answer else None


def polite(view: fb.View) -> fb.Revise | None:
    return None if "please" in view.answer else fb.Revise("be polite")


def test_a_check_lets_an_answer_pass_and_says_so() -> None:
    done, _ = attempt(find("A1"), "Wait, please.", policy_checks=(no_promises, polite))
    assert (done.stop, done.answer) == (StopReason.ANSWERED, "Wait, please.")
    assert [(r.name, r.call_id, r.value) for r in done.hooks] == [
        ("no_promises", "c1", "pass"),
        ("polite", "c1", "pass"),
    ]


def test_a_blocked_answer_ends_the_attempt_unsaid() -> None:
    done, _ = attempt(find("A1"), "It comes tomorrow.", policy_checks=(polite, no_promises)[::-1])
    assert (done.stop, done.trajectory.detail) == (StopReason.BLOCKED, "no_promises: promises a date")
    assert (done.answer, done.said) == ("", "")
    assert done.trajectory.calls[-1].message["content"] == "It comes tomorrow."
    assert done.hooks[-1] == HookRecord("policy_check", "no_promises", "c1", "block", "promises a date")


def test_a_revised_answer_replaces_its_draft() -> None:
    done, engine = attempt("Wait.", "Wait, please.", policy_checks=(polite,))
    assert (done.stop, done.said) == (StopReason.ANSWERED, "Wait, please.")
    assert [m["role"] for m in done.messages] == ["system", "user", "assistant"]
    assert engine.chat.messages(engine.requests[1].prompt_ids)[-1]["content"] == "[polite] be polite"
    assert [(r.value, r.detail) for r in done.hooks] == [("revise", "be polite"), ("pass", "")]
    assert_exact(done.trajectory.calls, engine)
    assert len(list(done.trajectory.branches())) == 1


def test_an_answer_that_stays_bad_is_blocked() -> None:
    done, _ = attempt("Wait.", "Wait!", "Just wait.", "never asked", policy_checks=(polite,))
    assert (done.stop, len(done.trajectory.calls), done.said) == (StopReason.BLOCKED, 3, "")
    assert done.trajectory.detail == "polite: still to be revised after 2 revisions"


def test_everything_a_user_is_told_is_checked() -> None:
    done, _ = attempt("Which order, please?", "Tomorrow, tomorrow.", answers=["A1"], policy_checks=(no_promises,))
    assert done.stop is StopReason.BLOCKED
    assert done.said == "Which order, please?"


def test_what_no_check_has_let_pass_is_not_told_to_the_user() -> None:
    cut, _ = attempt("It comes tomorrow.", policy_checks=(no_promises,), limits=Limits(max_new_tokens=5))
    assert (cut.stop, cut.said, cut.hooks) == (StopReason.MAX_TOKENS, "", ())
    failed, _ = attempt("It comes tomorrow.", policy_checks=(broken,))
    assert (failed.stop, failed.said) == (StopReason.AGENT_ERROR, "")
    drafted, _ = attempt("Wait.", policy_checks=(polite,), limits=Limits(max_turns=1))
    assert (drafted.stop, drafted.said) == (StopReason.MAX_TURNS, "")
    assert [m["role"] for m in drafted.messages] == ["system", "user"]


# --- hooks that fail, and where they would not be heard --------------------------------------------------------------


def broken(view: fb.View) -> Any:
    raise LookupError("no rules")


@pytest.mark.parametrize("kind", ["planner", "critic", "policy_check"])
@pytest.mark.parametrize(
    ("hook", "text"),
    [(broken, "raised LookupError: no rules (test_hooks.py:"), (lambda view: "fine", "returned 'fine'; return ")],
)
def test_a_hook_that_fails_is_the_agents_failure(kind: str, hook: Hook, text: str) -> None:
    hooks: dict[str, Any] = {"policy_checks": (hook,)} if kind == "policy_check" else {kind: hook}
    done, _ = attempt("hello", **hooks)
    assert done.stop is StopReason.AGENT_ERROR
    assert text in done.trajectory.detail


def test_a_hook_that_never_returns_meets_its_limit() -> None:
    async def forever(view: fb.View) -> Any:
        await asyncio.sleep(3600)

    done, _ = attempt("hello", critic=forever, limits=Limits(tool_timeout_seconds=0.02))
    assert done.stop is StopReason.AGENT_ERROR
    assert done.trajectory.detail.endswith("forever did not return within 0.02 s")
    done, _ = attempt("hello", planner=forever, limits=Limits(max_seconds=0.05))
    assert done.stop is StopReason.MAX_SECONDS


def test_a_planner_that_asks_meets_the_same_limits() -> None:
    async def asks(view: fb.View) -> fb.Plan:
        assert view.ask is not None
        return fb.Plan([await view.ask("a"), await view.ask("b")])

    done, _ = attempt("step", planner=asks, limits=Limits(max_turns=1))
    assert done.stop is StopReason.MAX_TURNS


def test_a_script_is_shown_the_plan_and_cannot_be_asked() -> None:
    def script(task: fb.Task) -> Any:
        yield use("find_order", order_id="A1")
        yield say("It has shipped, please.")

    done, _ = attempt("", runner=ScriptedAgent(script, Hooks(planner=two_steps, policy_checks=(polite,))))
    assert done.stop is StopReason.ANSWERED
    assert done.messages[0]["content"].endswith("Use at most 2 tool calls.")

    async def asks(view: fb.View) -> fb.Plan:
        assert view.ask is not None
        return fb.Plan([await view.ask("a")])

    done, _ = attempt("", runner=ScriptedAgent(script, Hooks(planner=asks)))
    assert done.stop is StopReason.AGENT_ERROR
    assert "no policy for a planner to ask" in done.trajectory.detail


def workflow(**changes: Any) -> fb.Workflow:
    return fb.Workflow(world=Desk, tasks=[task()], success=lambda a, hidden: True, **changes)


async def own_agent(attempt: Any, client: Any) -> str:
    return ""


@pytest.mark.parametrize("hook", [{"planner": two_steps}, {"critic": broken}, {"policy_checks": [polite]}])
@pytest.mark.parametrize("agent", [own_agent, fb.Command("true"), fb.Http("http://localhost:1")])
def test_hooks_beside_an_agent_that_drives_itself_are_refused(hook: dict[str, Any], agent: Any) -> None:
    assert workflow(**hook)
    with pytest.raises(ConfigError, match=f"{next(iter(hook))} would be ignored: it is a hook of the built-in loop"):
        workflow(agent=agent, **hook)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"planner": "plan"}, r"planner is 'plan'; it is a function, for example `def planner\(view\): \.\.\.`"),
        ({"critic": 0.5}, "critic is 0.5; it is a function"),
        ({"policy_checks": polite}, "policy_checks is .*; it is a list of functions"),
        ({"policy_checks": [polite, "x"]}, r"policy_checks\[1\] is 'x'"),
    ],
)
def test_what_is_no_hook_is_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        workflow(**wrong)


def test_hooks_are_part_of_the_agents_version() -> None:
    assert Hooks().version == ""
    name = ToolLoop(Hooks(planner=two_steps, policy_checks=(polite,))).name
    assert "planner=two_steps@" in name
    assert "policy_check=polite@" in name
    assert ToolLoop(Hooks(policy_checks=(polite,))).name != ToolLoop(Hooks(policy_checks=(no_promises,))).name


def test_a_scripted_call_may_have_arguments_of_any_name() -> None:
    (call,) = use("book", name="ana", tool="chair")["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"name": "ana", "tool": "chair"}
