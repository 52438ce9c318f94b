"""The workflow files of the help desk load, their names are known, and every suite is large enough to judge by."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import load_workflow

HELPDESK = Path(__file__).parents[2] / "examples" / "helpdesk"
SMALLEST_SUITE = 200


@pytest.mark.parametrize("name", ["workflow.yaml", "proof.yaml", "smollm2.yaml"])
def test_the_file_loads_and_every_name_in_it_is_known(name: str) -> None:
    inputs = Inputs(load_workflow(HELPDESK / name))
    inputs.check()
    assert {task.split for task in inputs.tasks} >= {"train", "validation", "test"}


def test_every_suite_of_the_proof_has_enough_scenarios_for_the_safety_gate() -> None:
    inputs = Inputs(load_workflow(HELPDESK / "proof.yaml"))
    assert {suite.name for suite in inputs.suites} == {"test", "ood", "tools", "adversarial"}
    assert all(len(suite.tasks) >= SMALLEST_SUITE for suite in inputs.suites)


def test_only_the_tools_split_shows_renamed_tools() -> None:
    """The split measures a policy that never met a renamed tool, as its results say."""
    renamed = {task.split for task in Inputs(load_workflow(HELPDESK / "workflow.yaml")).tasks if task.surface}
    assert renamed == {"tools"}
