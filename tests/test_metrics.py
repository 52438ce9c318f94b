"""Metrics are declared once, and the page about them is the table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flyball import metrics
from flyball.errors import ConfigError
from flyball.evals.compare import MEASURES
from flyball.evals.summary import summarise
from flyball.types import EvalRun, TaskResult

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def test_the_page_is_made_from_the_table() -> None:
    made = subprocess.run([sys.executable, "-m", "flyball.metrics"], capture_output=True, text=True, check=True).stdout
    assert PAGE.read_text(encoding="utf-8") == made, "run: python -m flyball.metrics > docs/metrics.md"


def test_each_is_declared_once_and_told_in_full() -> None:
    assert len(metrics._TABLE) == len(metrics.METRICS)
    for metric in metrics.METRICS.values():
        assert metric.unit and metric.meaning and metric.healthy and metric.where, metric.name
        assert "|" not in f"{metric.unit}{metric.meaning}{metric.healthy}", f"{metric.name}: a bar would end the cell"
        if isinstance(metric.healthy, tuple):
            low, high = metric.healthy
            assert low is not None or high is not None, metric.name
            assert low is None or high is None or low < high, metric.name


def test_the_monitoring_names_of_a_workflow_file_are_declared() -> None:
    for name in ("human_override_rate", "tool_error_rate", "policy_kl_drift", "task_completion_quality"):
        assert "monitoring" in metrics.check(name).where


def test_what_evaluations_measure_is_declared() -> None:
    trials = [
        TaskResult(
            f"t{i}", trial, "test", "refund", "long", f"c{i}", "a", True, True, 2, 1, 0, 0, 9, 9, 0.1, 0.2, 0.01, ""
        )
        for i in range(3)
        for trial in range(2)
    ]
    run = EvalRun("r", "v", "test", "d", "g", 2, tuple(trials))
    written = {name for row in summarise(run, latency=lambda result: result.tool_seconds) for name in row.numbers}
    assert {"success", "pass_hat_2", "cost_per_success_usd"} <= written
    for name in written | set(MEASURES):
        assert "evaluation" in metrics.check(name).where


def test_a_part_has_the_meaning_of_the_whole() -> None:
    assert metrics.check("success/family=refund") is metrics.METRICS["success"]
    assert metrics.check("pass_hat_4/ood") is metrics.METRICS["pass_hat_k"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sucess", "'sucess' is not declared in flyball.metrics; did you mean 'success'"),
        ("success/", "ends in a slash"),
        ("/success", "valid: "),
        ("success_4", "did you mean 'success'"),
        ("Success", "did you mean 'success'"),
    ],
)
def test_an_undeclared_name_is_refused(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        metrics.check(name)
