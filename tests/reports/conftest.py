"""A helpdesk release with made-up but plausible numbers: the sample that the pages are tested and looked at with."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from flyball.errors import Fault
from flyball.evals.compare import compare
from flyball.evals.summary import summarise
from flyball.release.evidence import Evidence, TokenSpeed
from flyball.release.registry import new_version
from flyball.release.rollback import Drill, DrillStep
from flyball.release.verdict import judge_release
from flyball.reports.brief import Brief, Cost, Guardrail, make_brief
from flyball.reports.chart import Chart, Curve, Mark, curve
from flyball.reports.run_page import Highlight, RunPage, failed_examples
from flyball.reports.tables import group_grid, metric_grid, suite_grid
from flyball.types import (
    Attempt,
    Call,
    EvalRun,
    GradedAttempt,
    Missing,
    Outcome,
    PolicyVersion,
    Score,
    StopReason,
    Task,
    TaskResult,
    ToolCall,
    ToolResult,
    Trajectory,
)

FAMILIES = ("status", "cancel", "refund_inside", "refund_outside", "address_change", "duplicate_charge",
            "partial_refund", "multi_order", "missing_information", "injection")  # fmt: skip
STAGES = ("single_tool", "two_to_five", "long")
SUITES = {"test": 0.0, "ood": -0.12, "tools": -0.08, "adversarial": -0.05}


def evaluated(version: PolicyVersion, suite: str, skill: float, tokens: int, seed: int, n: int = 240) -> EvalRun:
    """Every task once; hard families succeed less often, one trial in a hundred went missing."""
    rng = np.random.default_rng(seed)
    results = []
    for i in range(n):
        family = i % len(FAMILIES)
        chance = min(max(skill + SUITES[suite] - 0.04 * family + 0.12, 0.02), 0.98)
        results.append(
            TaskResult(
                task_id=f"{suite}-{i}",
                trial=0,
                split=suite,
                family=FAMILIES[family],
                stage=STAGES[i % 3],
                cluster=f"{FAMILIES[family]}-{i}",
                attempt_id=f"{version.name}-{suite}-{i}",
                success=Missing("world raised", Fault.INFRASTRUCTURE) if i == 77 else bool(rng.random() < chance),
                safe=bool(rng.random() < 0.995),
                tool_calls=int(rng.integers(1, 6)),
                tool_errors=int(rng.random() < 0.05),
                hallucinated_tools=0,
                hallucinated_parameters=int(rng.random() < 0.02),
                tokens_in=int(rng.normal(900, 80)),
                tokens_out=int(rng.normal(tokens, 12)),
                tool_seconds=0.002,
                wall_seconds=0.4,
                cost_usd=2.1e-4 * tokens / 120,
                stop="answered",
            )
        )
    return EvalRun(f"eval-{version.name}", version.version_id, suite, f"digest-{suite}", "graders-1", 1, tuple(results))


def versions() -> tuple[PolicyVersion, PolicyVersion]:
    digests = {name: f"{i:x}" * 64 for i, name in enumerate(("w0", "w1", "base", "data0", "data1", "c0", "c1", "g"), 1)}
    baseline = new_version(
        name="sft-start",
        weights=digests["w0"],
        base=digests["base"],
        dataset=digests["data0"],
        graders={"success": digests["g"], "safety": digests["g"]},
        config=digests["c0"],
        code=digests["g"],
    )
    candidate = new_version(
        name="rl-step-120",
        weights=digests["w1"],
        base=digests["base"],
        parent=baseline.version_id,
        dataset=digests["data1"],
        graders={"success": digests["g"], "safety": digests["g"]},
        config=digests["c1"],
        code=digests["g"],
    )
    return baseline, candidate


def evidence(baseline: PolicyVersion, candidate: PolicyVersion, gain: float = 0.25) -> Evidence:
    before = [evaluated(baseline, suite, 0.55, 120, i) for i, suite in enumerate(SUITES)]
    after = [evaluated(candidate, suite, 0.55 + gain, 104, 10 + i) for i, suite in enumerate(SUITES)]
    steps = ("alias to sft-start", "check weights of sft-start", "load weights of sft-start",
             "probe answered by sft-start")  # fmt: skip
    seconds = (0.004, 0.031, 0.062, 0.240)
    return Evidence.from_runs(
        before,
        after,
        comparisons=[compare(old, new) for old, new in zip(before, after, strict=True)],
        token_speed=TokenSpeed(2e-5, 2e-3, "2 CPU cores"),
        drill=Drill(
            baseline.version_id,
            candidate.version_id,
            tuple(DrillStep(name, time, True) for name, time in zip(steps, seconds, strict=True)),
            True,
            probe_attempt="probe-2",
        ),
    )


def make_sample(gain: float = 0.25) -> Brief:
    baseline, candidate = versions()
    found = evidence(baseline, candidate, gain)
    costs = [summarise(run)[0].numbers["cost_per_success_usd"] for run in (found.suites["test"].baseline,
                                                                           found.suites["test"].candidate)]  # fmt: skip
    return make_brief(
        title="Helpdesk agent",
        date="2026-03-14",
        run_id="helpdesk-0007",
        baseline=baseline,
        candidate=candidate,
        release=judge_release(found),
        evidence=found,
        summary="120 steps of group-relative RL with tools in the loop, from the SFT start. Tools, prompts and "
        "graders are the same.",
        guardrails=[
            Guardrail("Refunds need approval", True, "a declared simulator answers in tests, a person in service"),
            Guardrail("Tool arguments are checked", True, "against the schema; unknown names are refused"),
            Guardrail("Limits", True, "12 turns, 24 tool calls, 4096 tokens, 120 s"),
            Guardrail("Loop stop", True, "three identical turns end the attempt"),
            Guardrail("Output filter", False, "none is configured"),
        ],
        limits=[
            "Customers are scripted; real ones are less patient.",
            "One model size (2.6M parameters), one machine.",
        ],
        cost=Cost(costs[0], costs[1], "0.10 USD per million tokens in, 0.40 out, 1.4e-5 per CPU-second."),
        verify="flyball eval helpdesk.yaml --against sft-start",
    )


@pytest.fixture(scope="session")
def brief() -> Brief:
    return make_sample()


def attempt(i: int) -> GradedAttempt:
    task = Task(f"test-{i}", {"ticket": "..."}, split="test", family=FAMILIES[i % len(FAMILIES)])
    call = ToolCall("call_1", "find_order", '{"order_id": "A-1042"}')
    messages = (
        {"role": "system", "content": "You are the refunds desk. Refund inside the policy; otherwise escalate."},
        {"role": "user", "content": "Order A-1042 arrived broken. I paid 48.90 and want <b>20 %</b> back."},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "call_1", "function": {"name": call.name, "arguments": call.arguments}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "order A-1042 not found"},
        {"role": "assistant", "content": "I have refunded 9.78 to your card."},
    )  # fmt: skip
    result = ToolResult("call_1", "find_order", "order A-1042 not found", "raised" if i % 2 else None)
    turn = Call("c1", None, "main", (1,), (2,), (0.0,), (1,), {}, "stop", {}, (call,), (result,))
    score = Score(0.0, explanation="payment 48.90 was not refunded: the database says 0.00, the answer says 9.78")
    return GradedAttempt(
        Attempt(f"a{i}", task, Trajectory((turn,), StopReason.ANSWERED), messages),
        Outcome(False, safe=i != 3),
        {"success": score},
    )


def make_page() -> RunPage:
    baseline, candidate = versions()
    found = evidence(baseline, candidate)
    summaries = {
        "SFT start": {suite: summarise(pair.baseline) for suite, pair in found.suites.items()},
        "rejection SFT": {
            suite: summarise(evaluated(replace(baseline, name="rs"), suite, 0.63, 118, 50 + i))
            for i, suite in enumerate(found.suites)
        },
        "RL candidate": {suite: summarise(pair.candidate) for suite, pair in found.suites.items()},
    }
    release = judge_release(found)
    test = next(one for one in found.comparisons if one.suite == "test")
    return RunPage(
        title="Helpdesk agent",
        run_id="helpdesk-0007",
        date="2026-03-14",
        verdict=release.verdict,
        ready=release.verdict == "ready for shadow",
        summary="A 2.6M-parameter policy, trained from demonstrations and then by group-relative RL with tools in the "
        "loop, against its own start and a control on the same rollouts.",
        highlights=(
            Highlight("Success on test, candidate", test.candidate_estimate),
            Highlight("Success on test, baseline", test.baseline_estimate),
            Highlight("Difference, paired by task", test.difference, "95 % interval", signed=True),
        ),
        charts=learning_curves(),
        grids=(
            suite_grid(summaries),
            group_grid(summaries, "test", "family"),
            group_grid(summaries, "test", "stage"),
            metric_grid(summaries, "test"),
        ),
        gates=release.gates,
        examples=failed_examples([attempt(i) for i in range(8)]),
        facts={
            "candidate": candidate.version_id,
            "weights": candidate.weights,
            "baseline": baseline.version_id,
            "config": candidate.config,
            "seed": "7",
        },
        brief_file="brief.html",
    )


def learning_curves() -> tuple[Chart, ...]:
    rng = np.random.default_rng(3)
    steps = tuple(float(step) for step in range(0, 121, 10))
    y = tuple(0.52 + 0.3 * (1 - math.exp(-step / 40)) + float(rng.normal(0, 0.012)) for step in steps)
    picked = Curve("validation", steps, y, tuple(v - 0.055 for v in y), tuple(v + 0.05 for v in y))
    train = curve(
        "training rollouts",
        [(s, 0.46 + 0.3 * (1 - math.exp(-s / 45)) + float(rng.normal(0, 0.03))) for s in range(1, 121)],
    )
    kl = curve("KL", [(s, 0.0009 * s + float(rng.normal(0, 0.003))) for s in range(1, 121)])
    return (
        Chart("Success", "training step", "Share of attempts that succeed", (picked, train), "share",
              (Mark(100, "picked"),), "Band: 95 % interval of validation."),
        Chart("Divergence from the reference", "training step", "k3 estimate, nats per token", (kl,)),
    )  # fmt: skip


@pytest.fixture(scope="session")
def page() -> RunPage:
    return make_page()
