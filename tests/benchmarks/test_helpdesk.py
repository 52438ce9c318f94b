"""The claims of the help desk on rows made by hand, and a row from evaluations made by hand."""

import copy
import shutil
from pathlib import Path

import pytest

from benchmarks.helpdesk.claims import demo_findings, findings
from benchmarks.helpdesk.row import measure
from benchmarks.helpdesk.run import check_alike, conditions, run_seed
from benchmarks.result import append_row, read_rows
from flyball.errors import EvalError
from flyball.store.store import Store
from flyball.types import EvalRun, Fault, GateResult, Missing, Release, TaskResult
from flyball.workflow.context import run_config
from flyball.workflow.fake import FakeTrainer
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import load_workflow
from tests.workflow.conftest import STOCK, answers

SUITES = ("test", "ood", "tools", "adversarial")


def number(value, low, high, n=240, level=0.95):
    return {"value": value, "low": low, "high": high, "n": n, "clusters": n, "level": level, "unit": "", "method": ""}


def suite(scenarios=240):
    return {
        "scenarios": scenarios,
        "success": {
            "baseline": number(0.60, 0.55, 0.65),
            "control sft": number(0.70, 0.65, 0.75),
            "control rejection_sft": number(0.75, 0.70, 0.80),
            "candidate": number(0.90, 0.86, 0.94),
        },
        "candidate_minus": {
            "baseline": number(0.30, 0.25, 0.35),
            "control sft": number(0.20, 0.15, 0.25),
            "control rejection_sft": number(0.15, 0.10, 0.20),
        },
        "not_worse": number(0.10, 0.05, 0.15, level=0.9),
        "safety": number(0.0, -0.015, 0.015, level=0.9),
    }


def rows(count=5):
    return [
        {
            "seed": seed,
            "minutes": 10.0 + seed,
            "peak_rss_gib": 2.0,
            "suites": {name: suite() for name in SUITES},
            "gates": {"no_safety_regression": "pass"},
            "verdict": "ready for shadow",
            "untrained": {},
        }
        for seed in range(count)
    ]


def found(made):
    return {finding.id: finding for finding in findings(made)}


def test_every_claim_holds_on_rows_that_meet_them_all():
    assert {name for name, finding in found(rows()).items() if not finding.holds} == set()
    assert found(rows()).keys() == {
        "helpdesk.gain",
        "helpdesk.above_sft",
        "helpdesk.above_rejection_sft",
        "helpdesk.end",
        "helpdesk.ood",
        "helpdesk.tools",
        *(f"helpdesk.safety_{name}" for name in SUITES),
        "helpdesk.scenarios",
        "helpdesk.minutes",
    }


def test_mean_over_seeds_has_a_t_interval():
    """10, 11, 12, 13, 14: mean 12, s = sqrt(2.5), 2.776 * s / sqrt(5) = 1.963."""
    minutes = found(rows())["helpdesk.minutes"]
    assert (minutes.value, minutes.n) == (12.0, 5)
    assert minutes.interval == pytest.approx((10.037, 13.963), abs=1e-3)
    assert minutes.details == {"by_seed": {"0": 10.0, "1": 11.0, "2": 12.0, "3": 13.0, "4": 14.0}, "slowest": 14.0}


def change(path, value):
    """Rows in which one number of seed 3 is another one."""
    made = rows()
    here = made[3]
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return made


TEST = ("suites", "test")


@pytest.mark.parametrize(
    ("missed", "path", "value"),
    [
        ("gain", (*TEST, "candidate_minus", "baseline"), number(0.19, 0.15, 0.23)),
        ("gain", (*TEST, "candidate_minus", "baseline"), number(0.30, -0.01, 0.61)),
        ("above_sft", (*TEST, "candidate_minus", "control sft"), number(0.20, 0.0, 0.40)),
        ("above_rejection_sft", (*TEST, "candidate_minus", "control rejection_sft"), number(0.10, -0.01, 0.21)),
        ("end", (*TEST, "success", "candidate"), number(0.84, 0.80, 0.88)),
        ("ood", ("suites", "ood", "not_worse"), number(0.0, -0.031, 0.031)),
        ("tools", ("suites", "tools", "not_worse"), number(0.0, -0.03, 0.03)),
        ("safety_adversarial", ("suites", "adversarial", "safety"), number(-0.01, -0.04, 0.02)),
        ("minutes", ("minutes",), 15.1),
    ],
)
def test_one_seed_that_misses_is_a_missed_claim_and_no_other(missed, path, value):
    changed = found(change(path, value))
    assert [name for name, finding in changed.items() if not finding.holds] == [f"helpdesk.{missed}"]
    if missed != "minutes":
        assert changed[f"helpdesk.{missed}"].details["missed_by_seeds"] == ["3"]


def test_a_control_must_also_be_beaten_over_seeds():
    """Each seed's own interval is above 0, but 2, 2, 2, 2 and 90 points spread too far for their mean."""
    made = rows()
    for row, value in zip(made, (0.02, 0.02, 0.02, 0.02, 0.90), strict=True):
        row["suites"]["test"]["candidate_minus"]["control sft"] = number(value, value - 0.01, value + 0.01)
    finding = found(made)["helpdesk.above_sft"]
    assert not finding.holds and finding.details["missed_by_seeds"] == []
    assert finding.value == pytest.approx(19.6) and finding.interval[0] < 0


def without(made, name):
    for row in made:
        row["untrained"] = {name: "0 of 64 rollouts kept"}
        del row["suites"]["test"]["candidate_minus"][f"control {name}"]
    return made


def test_a_control_that_could_not_be_trained_was_not_beaten():
    one = rows()
    without(one[:1], "rejection_sft")
    finding = found(one)["helpdesk.above_rejection_sft"]
    assert not finding.holds and finding.n == 4 and finding.value == pytest.approx(15.0)
    assert finding.details["untrained"] == {"0": "0 of 64 rollouts kept"}
    none = found(without(rows(), "rejection_sft"))["helpdesk.above_rejection_sft"]
    assert not none.holds and none.n == 0 and none.value != none.value and none.interval == (None, None)


def test_a_small_suite_is_not_evaluable_for_safety():
    made = found(change(("suites", "adversarial", "scenarios"), 199))
    assert not made["helpdesk.scenarios"].holds and made["helpdesk.scenarios"].value == 199
    safety = made["helpdesk.safety_adversarial"]
    assert not safety.holds and safety.details["evaluable"] is False


def test_four_seeds_are_too_few_and_one_has_an_open_interval():
    assert not found(rows(4))["helpdesk.gain"].holds
    assert found(rows(1))["helpdesk.gain"].interval == (None, None)


def test_the_main_job_has_its_own_targets():
    row = rows(1)[0] | {"minutes": 4.0}
    assert [finding.holds for finding in demo_findings(row)] == [True, True, True]
    slow = row | {"minutes": 10.5, "peak_rss_gib": 4.5}
    assert [finding.holds for finding in demo_findings(slow)] == [True, False, False]
    unsure = copy.deepcopy(row)
    unsure["suites"]["test"]["candidate_minus"]["baseline"] = number(0.16, -0.01, 0.33)
    assert not demo_findings(unsure)[0].holds
    assert demo_findings(row)[0].interval == pytest.approx((25.0, 35.0))


# --- a row from evaluations ------------------------------------------------------------------------------------------


def evaluation(arm, successes, n=20, missing=0):
    def result(i):
        success = Missing("lost", Fault.INFRASTRUCTURE) if i >= n - missing else i < successes
        numbers = {"tool_calls": 1, "tool_errors": 0, "hallucinated_tools": 0, "hallucinated_parameters": 0}
        costs = {"tokens_in": 1, "tokens_out": 1, "tool_seconds": 0.0, "wall_seconds": 0.0, "cost_usd": 0.0}
        labels = {"split": "test", "family": "f", "stage": "s", "cluster": str(i), "attempt_id": f"{arm}-{i}"}
        return TaskResult(
            task_id=str(i), trial=0, success=success, safe=True, stop="answer", **labels, **numbers, **costs
        )

    return EvalRun("run", arm, "test", "suite", "graders", 1, tuple(result(i) for i in range(n)))


def test_a_row_holds_every_arm_and_counts_missing_results_as_failures():
    arms = {
        "baseline": evaluation("baseline", 5, missing=2),
        "control sft": evaluation("control sft", 8),
        "candidate": evaluation("candidate", 15),
    }
    gate = GateResult("no_safety_regression", "not_evaluable", "Product", "", "")
    release = Release("id", "baseline", "candidate", "offline", (gate,), "not ready: no_safety_regression ...")
    row = measure({arm: {"test": run} for arm, run in arms.items()}, release)
    test = row["suites"]["test"]
    assert test["scenarios"] == 20
    assert {arm: share["value"] for arm, share in test["success"].items()} == {
        "baseline": 0.25,
        "control sft": 0.4,
        "candidate": 0.75,
    }
    minus = test["candidate_minus"]
    assert minus["control sft"]["value"] == pytest.approx(0.35)
    assert minus["baseline"]["value"] == pytest.approx(0.75 - 7 / 20)  # what the baseline lost counts for it
    assert test["not_worse"]["low"] > minus["baseline"]["low"]  # one-sided 95 % is the narrower
    assert test["safety"]["value"] == 0.0 and test["safety"]["low"] < 0.0
    assert row["gates"] == {"no_safety_regression": "not_evaluable"}


# --- seeds of one job ------------------------------------------------------------------------------------------------


def config(seed, steps, tasks="t"):
    fingerprint = {"settings": f"digest of {seed} {steps}", "tasks": tasks, "world": "w"}
    return {"fingerprint": fingerprint, "settings": {"training": {"seed": seed, "rl": {"num_steps": steps}}}}


def test_rows_of_other_settings_or_tasks_are_not_mixed_and_another_seed_is_no_change():
    kept = [{"seed": 0, "conditions": conditions(config(0, 50))}]
    check_alike(kept, conditions(config(1, 50)), Path("rows"))
    with pytest.raises(EvalError, match=r"settings changed since seed 0 was run; run all anew with --fresh"):
        check_alike(kept, conditions(config(1, 60)), Path("rows"))
    with pytest.raises(EvalError, match="tasks changed"):
        check_alike(kept, conditions(config(1, 50, tasks="u")), Path("rows"))


def test_a_seed_runs_by_the_path_of_the_command_and_is_kept_as_json(tmp_path):
    """The real run with a trainer whose policy is a number."""
    shutil.copytree(STOCK, tmp_path / "stock")
    workflow = load_workflow(tmp_path / "stock" / "workflow.py")
    with Store(tmp_path / "home") as store:
        row = run_seed(workflow, 7, store, FakeTrainer(answers()))
        run = store.run(row["run"])
    assert run.config["settings"]["training"]["seed"] == row["seed"] == 7
    check_alike([row], conditions(run_config(Inputs(workflow), "tiny")), Path("rows"))
    assert row["minutes"] > 0 and row["verdict"] and row["gates"]["success_improves"]
    assert row["suites"]["test"]["candidate_minus"].keys() == {"baseline", "control sft", "control rejection_sft"}
    append_row(tmp_path / "rows.jsonl", row)
    kept = read_rows(tmp_path / "rows.jsonl")
    kept[0]["suites"] |= dict.fromkeys(("ood", "tools"), suite())
    assert found(kept)["helpdesk.scenarios"].value == 12
