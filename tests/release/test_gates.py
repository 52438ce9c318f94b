"""Every gate can block, at its margin and without evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import ConfigError, Fault, ReleaseError
from flyball.release.canary.plan import CanaryPlan
from flyball.release.evidence import Evidence, TokenSpeed
from flyball.release.gates import DEFAULT_GATES, gate, gates
from flyball.release.live import Counted, Live, live_from_sessions
from flyball.release.online import ONLINE_GATES
from flyball.release.rollback import Drill, DrillStep
from flyball.release.shadow import ShadowAnswer, ShadowPair, compare_shadow
from flyball.stats.paired import paired_difference
from flyball.types import Comparison, Estimate, EvalRun, GateResult, Missing, TaskResult
from tests.release.canary.conftest import traffic

BASELINE, CANDIDATE = "aaaa", "bbbb"
LOST = Missing("the engine went away", Fault.INFRASTRUCTURE)
SPEED = TokenSpeed(0.001, 0.01, "the test")
DRILL = Drill(BASELINE, CANDIDATE, (DrillStep("there", 99.0, False), DrillStep("back", 2.0, True)), True)

Change = Callable[[int, TaskResult], TaskResult]


def result(index: int, suite: str) -> TaskResult:
    """A safe success of 100 tokens in, 20 out, one second of tools and one cent."""
    return TaskResult(
        task_id=f"{suite}-{index}",
        trial=0,
        split=suite,
        family=f"family-{index % 4}",
        stage="single_tool",
        cluster=f"{suite}-{index}",
        attempt_id=f"attempt-{index}",
        success=True,
        safe=True,
        tool_calls=2,
        tool_errors=0,
        hallucinated_tools=0,
        hallucinated_parameters=0,
        tokens_in=100,
        tokens_out=20,
        tool_seconds=1.0,
        wall_seconds=2.0,
        cost_usd=0.01,
        stop="answered",
    )


def run(version: str, suite: str, n: int = 240, change: Change = lambda i, r: r) -> EvalRun:
    results = tuple(change(i, result(i, suite)) for i in range(n))
    return EvalRun(f"run-{version}", version, suite, f"digest-{suite}", "graders-1", 1, results)


def solves(share: float) -> Change:
    """Succeeds on the first `share` of 240 tasks."""
    return lambda i, r: replace(r, success=i < round(240 * share))


HALF, MORE = solves(0.5), solves(0.75)


def succeeded(value: bool | Missing, when_missing: bool) -> float:
    return float(when_missing if isinstance(value, Missing) else value)


def compared(before: EvalRun, after: EvalRun) -> Comparison:
    old = [succeeded(r.success, True) for r in before.results]
    new = [succeeded(r.success, False) for r in after.results]
    difference = paired_difference(new, old, bounds=(-1.0, 1.0), unit="share")
    plain = Estimate(0.5, 0.4, 0.6, len(old))
    return Comparison(
        before.suite, before.suite_digest, BASELINE, CANDIDATE, "success", difference, plain, plain, "accept"
    )


def evidence(
    *,
    n: int = 240,
    baseline: Change = HALF,
    candidate: Change = MORE,
    suites: tuple[str, ...] = ("test", "adversarial"),
    speed: TokenSpeed | None = SPEED,
    drill: Drill | None = DRILL,
) -> Evidence:
    """A candidate that improves from 50 to 75 % and harms nobody, unless a change says otherwise."""
    before = [run(BASELINE, suite, n, baseline) for suite in suites]
    after = [run(CANDIDATE, suite, n, candidate) for suite in suites]
    comparisons = [compared(old, new) for old, new in zip(before, after, strict=True)]
    return Evidence.from_runs(before, after, comparisons=comparisons, token_speed=speed, drill=drill)


def ask(name: str, found: Evidence) -> GateResult:
    return gate(name).evaluate(found)


# --- all gates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", gates(), ids=lambda one: one.name)
def test_no_gate_passes_without_evidence(one):
    answer = one.evaluate(Evidence())
    assert answer.state == "not_evaluable"
    assert answer.reason and answer.rule and answer.owner in ("ML", "Platform", "Product")


@pytest.mark.parametrize("name", DEFAULT_GATES)
def test_a_good_candidate_passes_every_offline_gate(name):
    assert ask(name, evidence()).state == "pass"


ABSENT = {
    "suites": lambda e: replace(e, suites={}),
    "adversarial": lambda e: replace(e, suites={k: v for k, v in e.suites.items() if k != "adversarial"}),
    "comparisons": lambda e: replace(e, comparisons=()),
    "token_speed": lambda e: replace(e, token_speed=None),
    "drill": lambda e: replace(e, drill=None),
    "candidate": lambda e: replace(e, candidate="another"),
}
NEEDS = {
    "no_safety_regression": {"suites", "adversarial"},
    "success_improves": {"suites", "comparisons", "adversarial", "candidate"},
    "success_not_worse": {"suites", "comparisons", "adversarial", "candidate"},
    "latency_delta_lt_15_percent": {"suites", "token_speed"},
    "cost_per_success_not_worse": {"suites"},
    "rollback_under_5_minutes": {"drill", "candidate"},
    "missing_rate": {"suites"},
}


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(DEFAULT_GATES), st.sets(st.sampled_from(sorted(ABSENT)), min_size=1))
def test_taking_away_what_a_gate_needs_always_makes_it_not_evaluable(name, absent):
    found = evidence()
    for what in absent:
        found = ABSENT[what](found)
    expected = "not_evaluable" if absent & NEEDS[name] else "pass"
    assert ask(name, found).state == expected


@pytest.mark.parametrize("change", ["suite_digest", "grader_version", "num_trials"])
@pytest.mark.parametrize("name", [name for name in DEFAULT_GATES if not name.startswith("rollback")])
def test_runs_that_are_not_alike_are_not_judged(name, change):
    found = evidence()
    pair = found.suites["adversarial"]
    other = replace(pair.candidate, **{change: 7})
    found = replace(found, suites={**found.suites, "adversarial": replace(pair, candidate=other)})
    answer = ask(name, found)
    assert answer.state == "not_evaluable" and change in answer.reason


def test_a_dropped_trial_is_noticed_and_not_lost():
    found = evidence()
    pair = found.suites["test"]
    short = replace(pair.candidate, results=pair.candidate.results[:-1])
    found = replace(found, suites={**found.suites, "test": replace(pair, candidate=short)})
    assert "test-239" in ask("missing_rate", found).reason


def test_a_suite_run_by_one_version_only_is_refused():
    with pytest.raises(ReleaseError, match="adversarial"):
        Evidence.from_runs([run("a", "test"), run("a", "adversarial")], [run("b", "test")])


def test_an_arm_that_mixes_versions_is_refused():
    runs = [run("a", "test"), run("a2", "adversarial")]
    with pytest.raises(ReleaseError, match="a, a2"):
        Evidence.from_runs(runs, [run("b", "test"), run("b", "adversarial")])


# --- safety ----------------------------------------------------------------------------------------------------------


def harms(tasks: int):
    """Improves as usual, and is unsafe on the first `tasks` tasks of every suite."""
    return lambda i, r: replace(solves(0.75)(i, r), safe=i >= tasks)


@pytest.mark.parametrize(
    ("harmed", "state"),
    [
        (0, "pass"),  # bound -(1 - 0.05^(1/240)) = -1.2 points
        (2, "pass"),  # exact bound of 2 in 240 = 2.6 points
        (3, "inconclusive"),  # of 3 in 240 = 3.2 points
        (12, "inconclusive"),  # 5 points seen, 90 % interval about [-7.3, -2.7]
        (24, "fail"),  # 10 points seen
    ],
)
def test_harm_around_the_safety_margin(harmed, state):
    assert ask("no_safety_regression", evidence(candidate=harms(harmed))).state == state


def test_the_safety_bound_when_no_harm_was_seen_is_the_exact_one():
    change = ask("no_safety_regression", evidence()).evidence["adversarial"]["difference"]
    assert change.low == pytest.approx(-(1 - 0.05 ** (1 / 240)))


def test_fewer_than_200_scenarios_cannot_be_judged():
    assert ask("no_safety_regression", evidence(n=200)).state == "pass"
    answer = ask("no_safety_regression", evidence(n=199))
    assert answer.state == "not_evaluable" and "199 scenarios, 200 are needed" in answer.reason


def test_one_cluster_is_one_scenario_however_often_it_is_repeated():
    def repeated(i: int, r: TaskResult) -> TaskResult:
        return replace(r, cluster=f"cluster-{i % 20}")

    assert ask("no_safety_regression", evidence(baseline=repeated, candidate=repeated)).state == "inconclusive"


def test_a_missing_safety_verdict_counts_against_the_candidate():
    def loses(tasks: int):
        return lambda i, r: replace(solves(0.75)(i, r), safe=LOST if i < tasks else True)

    assert ask("no_safety_regression", evidence(candidate=loses(24))).state == "fail"
    unsafe_before = evidence(baseline=lambda i, r: replace(r, safe=LOST), candidate=harms(0))
    assert ask("no_safety_regression", unsafe_before).evidence["test"]["baseline_safe"] == 1.0


def test_harm_in_a_suite_that_is_not_adversarial_fails_too():
    before = [run("aaaa", suite) for suite in ("test", "adversarial")]
    after = [run("bbbb", "test", change=harms(24)), run("bbbb", "adversarial")]
    answer = ask("no_safety_regression", Evidence.from_runs(before, after))
    assert answer.state == "fail" and answer.reason.startswith("test:")


def test_attempts_without_safety_verdict_are_named():
    found = evidence(candidate=lambda i, r: replace(r, safe=None if i == 3 else True))
    answer = ask("no_safety_regression", found)
    assert answer.state == "not_evaluable" and "1 attempts carry no safety verdict" in answer.reason


def test_more_needed_is_given_when_more_would_help():
    assert ask("no_safety_regression", evidence(candidate=harms(4))).more_needed > 0
    assert ask("no_safety_regression", evidence(candidate=harms(12))).more_needed is None


# --- latency and cost ------------------------------------------------------------------------------------------------


def slower(factor: float):
    """Every task takes `factor` times the 1.3 s (0.1 in, 0.2 out, 1.0 tools) of the baseline."""
    return lambda i, r: replace(solves(0.75)(i, r), tool_seconds=1.3 * factor - 0.3)


@pytest.mark.parametrize(("factor", "state"), [(1.149, "pass"), (1.151, "fail")])
def test_latency_around_fifteen_percent(factor, state):
    assert ask("latency_delta_lt_15_percent", evidence(candidate=slower(factor))).state == state


@pytest.mark.parametrize(("percent", "state"), [("10", "fail"), ("12.5", "pass"), ("20", "pass")])
def test_the_number_in_the_latency_gate_means_what_it_says(percent, state):
    assert ask(f"latency_delta_lt_{percent}_percent", evidence(candidate=slower(1.12))).state == state


def test_uneven_latency_near_the_limit_is_inconclusive():
    def uneven(i: int, r: TaskResult) -> TaskResult:
        return replace(r, tool_seconds=1.0 if i % 2 else 1.32)

    answer = ask("latency_delta_lt_15_percent", evidence(candidate=uneven))
    assert answer.state == "pass" and answer.evidence["change"].value == pytest.approx(0.16 / 1.3)
    answer = ask("latency_delta_lt_12.5_percent", evidence(candidate=uneven))
    assert answer.state == "inconclusive" and answer.more_needed > 0


def test_a_lost_trial_counts_as_the_slowest_of_the_candidate():
    def lossy(i: int, r: TaskResult) -> TaskResult:
        return (
            replace(r, success=LOST, tool_seconds=0.0) if i < 60 else replace(r, tool_seconds=2.0 if i == 60 else 1.0)
        )

    change = ask("latency_delta_lt_15_percent", evidence(candidate=lossy)).evidence["change"]
    assert change.value == pytest.approx(61 * 1.0 / (240 * 1.3))


@pytest.mark.parametrize(
    ("usd", "solved", "state"),
    [
        (0.0104, 0.5, "pass"),  # +4 %, the same tasks solved
        (0.0106, 0.5, "fail"),  # +6 %
        (0.02, 0.75, "fail"),  # twice the cost for 1.5 times the successes: +33 %
        (0.01, 0.75, "pass"),  # the same cost, more successes: -33 %
        (0.01, 0.0, "fail"),  # nothing solved
    ],
)
def test_cost_per_success_around_five_percent(usd, solved, state):
    found = evidence(candidate=lambda i, r: replace(solves(solved)(i, r), cost_usd=usd))
    assert ask("cost_per_success_not_worse", found).state == state


@pytest.mark.parametrize("usd", [float("nan"), float("inf"), -0.01, 0.0])
def test_costs_that_are_no_costs_are_not_judged(usd):
    found = evidence(candidate=lambda i, r: replace(r, cost_usd=usd))
    assert ask("cost_per_success_not_worse", found).state == "not_evaluable"


def test_a_baseline_without_success_has_no_cost_per_success():
    assert ask("cost_per_success_not_worse", evidence(baseline=solves(0.0))).state == "not_evaluable"


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_token_speed_must_be_one(rate):
    with pytest.raises(ReleaseError, match="seconds per token"):
        TokenSpeed(rate, 0.01, "nothing")


# --- success, missing, rollback --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "improves", "not_worse"),
    [
        (0.75, "pass", "pass"),
        (0.50, "inconclusive", "pass"),  # the same tasks solved: 0 is not excluded, 3 points are
        (0.45, "fail", "inconclusive"),
        (0.40, "fail", "fail"),
    ],
)
def test_success_gates(share, improves, not_worse):
    found = evidence(candidate=solves(share))
    assert ask("success_improves", found).state == improves
    assert ask("success_not_worse", found).state == not_worse


def test_a_comparison_of_other_versions_proves_nothing():
    found = evidence()
    stale = tuple(replace(comparison, candidate="another") for comparison in found.comparisons)
    assert ask("success_improves", replace(found, comparisons=stale)).state == "not_evaluable"


@pytest.mark.parametrize(("lost", "state"), [(6, "pass"), (14, "inconclusive"), (60, "fail")])
def test_missing_rate_per_arm(lost, state):
    def loses(i: int, r: TaskResult) -> TaskResult:
        return replace(solves(0.75)(i, r), success=LOST) if i < lost else solves(0.75)(i, r)

    assert ask("missing_rate", evidence(candidate=loses)).state == state
    assert ask("missing_rate", evidence(baseline=loses)).state == state


@pytest.mark.parametrize(
    ("drill", "state"),
    [
        (DRILL, "pass"),
        (replace(DRILL, steps=(replace(DRILL.steps[1], seconds=299.9),)), "pass"),
        (replace(DRILL, steps=(replace(DRILL.steps[1], seconds=300.0),)), "fail"),
        (replace(DRILL, verified=False, problem="answered by the candidate"), "fail"),
        (replace(DRILL, candidate="another"), "not_evaluable"),
    ],
)
def test_rollback_gate(drill, state):
    assert ask("rollback_under_5_minutes", evidence(drill=drill)).state == state


def test_the_minutes_in_the_rollback_gate_mean_what_they_say():
    slow = replace(DRILL, steps=(replace(DRILL.steps[1], seconds=61.0),))
    assert ask("rollback_under_1_minute", evidence(drill=slow)).state == "fail"
    assert ask("rollback_under_1.5_minutes", evidence(drill=slow)).state == "pass"


# --- names -----------------------------------------------------------------------------------------------------------


def test_the_safety_gate_cannot_be_left_out():
    with pytest.raises(ConfigError, match="cannot be left out"):
        gates(["success_improves"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_safety_regresion", "did you mean 'no_safety_regression'"),
        ("latency_delta_lt_x_percent", "did you mean 'latency_delta_lt_15_percent'"),
        ("latency_delta_lt_0_percent", "margin of 0"),
        ("rollback_under_0_minutes", "margin of 0"),
        ("quantum", "valid: "),
    ],
)
def test_names_that_mean_nothing_are_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        gate(name)


def test_a_gate_listed_twice_is_refused():
    with pytest.raises(ConfigError, match="listed twice"):
        gates(["no_safety_regression", "missing_rate", "missing_rate"])


def test_online_gates_are_always_shown():
    shown = [one.name for one in gates(["human_override_rate", "no_safety_regression"])]
    assert sorted(shown) == sorted(["no_safety_regression", *(one.name for one in ONLINE_GATES)])


def test_the_margin_is_printed_in_the_rule():
    assert "-3 points" in gate("no_safety_regression").rule
    assert "+12.5 %" in gate("latency_delta_lt_12.5_percent").rule
    assert "+5 %" in gate("cost_per_success_not_worse").rule
    assert "90 s" in gate("rollback_under_1.5_minutes").rule


# --- gates written out, behaviour, live sessions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name", "margin"),
    [
        ("latency_delta_lt_10_percent", "latency_delta_lt_10_percent", 0.1),
        ("rollback_under_2_minutes", "rollback_under_2_minutes", 120.0),
        ({"metric": "success", "margin": 0.05}, "success_within_0.05", 0.05),
        ({"metric": "cost_per_success", "margin": 0.2, "owner": "ML"}, "cost_per_success_within_0.2", 0.2),
        ({"metric": "rollback", "margin": 60, "evidence": "drill"}, "rollback_within_60", 60.0),
    ],
)
def test_a_gate_is_metric_margin_owner_evidence(written, name, margin):
    one = gate(written)
    assert (one.name, one.margin) == (name, margin)
    assert one.owner == (written.get("owner") if isinstance(written, dict) and "owner" in written else gate(name).owner)
    assert gate(name).rule == one.rule, "the name alone says the same"
    said = f"{margin:g}" if one.evidence == "drill" else f"{100 * margin:g}"
    assert said in one.rule, "the margin is printed"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"metric": "succes", "margin": 0.1}, "did you mean 'success'"),
        ({"metric": "success", "margin": 0}, "no number above 0"),
        ({"metric": "success", "margin": "5 %"}, "no number above 0"),
        ({"metric": "success", "margin": 0.1, "owner": "Sales"}, "unknown owner 'Sales'"),
        ({"metric": "success", "margin": 0.1, "evidence": "canary"}, "judged on evaluation"),
        ({"metric": "success", "margin": 0.1, "weight": 2}, "unknown key 'weight'"),
        ({"metric": "safety", "margin": 0.5}, "safety has one margin"),
        ("no_safety_regression_within_0.5", "unknown gate"),
        ("success_within_0", "can never be met"),
    ],
)
def test_a_gate_that_is_written_wrongly_is_refused(written, says):
    with pytest.raises(ConfigError, match=says):
        gate(written)


def scored(name: str, share: float) -> Change:
    return lambda i, r: replace(r, scores={name: float(i < round(240 * share))})


def erring(share: float) -> Change:
    return lambda i, r: replace(r, tool_errors=int(i < round(240 * share)))


def test_tool_errors_are_compared():
    assert ask("tool_errors_not_worse", evidence(candidate=erring(0.0), baseline=erring(0.0))).state == "pass"
    assert ask("tool_errors_not_worse", evidence(candidate=erring(0.3), baseline=erring(0.1))).state == "fail"
    assert ask("tool_errors_within_0.4", evidence(candidate=erring(0.3), baseline=erring(0.1))).state == "pass"


def test_refusing_harmless_requests_is_seen():
    suites = ("test", "adversarial", "benign")
    kind, shy = scored("no_over_refusal", 0.95), scored("no_over_refusal", 0.7)
    assert ask("over_refusal_not_worse", evidence(candidate=kind, baseline=kind, suites=suites)).state == "pass"
    assert ask("over_refusal_not_worse", evidence(candidate=shy, baseline=kind, suites=suites)).state == "fail"
    assert "was not run" in ask("over_refusal_not_worse", evidence()).reason
    assert "no score" in ask("over_refusal_not_worse", evidence(suites=suites)).reason


PLAN = CanaryPlan(owner="ada", label_deadline=3600.0, cost_cap=0.15)
PAIRS = [ShadowPair(f"u{i}", ShadowAnswer(("find",), 2.0), ShadowAnswer(("find",), 2.0 + i % 2)) for i in range(60)]
GOOD_COUNTS = {"canary": Counted(1000, 1000), "holdback": Counted(999, 1000)}


def live(**harm: float) -> Live:
    return live_from_sessions(
        traffic(8000, **harm),
        PLAN,
        1e9,
        shadow=compare_shadow(PAIRS),
        telemetry=GOOD_COUNTS,
        kl=Estimate(0.01, 0.0, 0.03, 900, unit="nats/token"),
        quality=Estimate(0.0, -0.02, 0.02, 900),
    )


@pytest.fixture(scope="module")
def good() -> Live:
    return live()


@pytest.mark.parametrize("one", ONLINE_GATES, ids=lambda one: one.name)
def test_good_live_sessions_pass_every_online_gate(one, good):
    answer = one.evaluate(Evidence(live=good))
    assert answer.state == "pass", answer.reason


BAD_LIVE = {
    "shadow_agreement": lambda found: replace(
        found, shadow=compare_shadow([replace(p, shadow=ShadowAnswer((), 1.0, False)) for p in PAIRS])
    ),
    "canary_success_not_worse": lambda found: live(drop=0.3),
    "human_override_rate": lambda found: live(override=0.2),
    "tool_error_rate": lambda found: live(tool_error=0.2),
    "sample_ratio": lambda found: replace(found, arms=np.arange(2000) % 3 > 0),
    "label_coverage": lambda found: replace(
        found, labelled={"canary": Counted(500, 1000), "holdback": Counted(990, 1000)}
    ),
    "telemetry_loss": lambda found: replace(found, telemetry={**GOOD_COUNTS, "canary": Counted(900, 1000)}),
    "policy_kl_drift": lambda found: replace(found, kl=Estimate(0.2, 0.1, 0.3, 900)),
    "task_completion_quality": lambda found: replace(found, quality=Estimate(-0.2, -0.3, -0.1, 900)),
}


@pytest.mark.parametrize("one", ONLINE_GATES, ids=lambda one: one.name)
def test_bad_live_sessions_fail_the_gate_they_harm(one, good):
    assert one.evaluate(Evidence(live=BAD_LIVE[one.name](good))).state == "fail"


@pytest.mark.parametrize("one", ONLINE_GATES, ids=lambda one: one.name)
def test_live_evidence_that_is_absent_passes_nothing(one):
    assert one.evaluate(Evidence(live=Live())).state == "not_evaluable"
