"""Workflows from Python and YAML; every mistake of the user is one message with the user's line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flyball.errors import ConfigError
from flyball.tools.tool import tool
from flyball.types import Limits, Task
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import Workflow, load_workflow

CODE = """
from flyball.workflow.workflow import Workflow
from helper import NAME

class Desk:
    def reset(self, ticket: str) -> str:
        return ticket

def success(a, hidden):
    return True

workflow = Workflow(world=Desk, tasks="tasks.jsonl", success=success, name=NAME,
                    training={"rl": {"num_steps": 3, "group_size": 4}})
"""


class Desk:
    def reset(self, ticket: str) -> str:
        return ticket


def success(a: Any, hidden: Any) -> bool:
    return True


def project(folder: Path, name: str = "first", code: str = CODE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "helper.py").write_text(f"NAME = {name!r}\n")
    (folder / "workflow.py").write_text(code)
    return folder / "workflow.py"


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_workflow(path)
    return str(caught.value)


def test_python_file_finds_its_neighbours(tmp_path: Path) -> None:
    path = project(tmp_path)
    workflow = load_workflow(path)
    assert workflow.name == "first"
    assert workflow.source == path
    assert workflow.settings.training.rl is not None
    assert workflow.settings.training.rl.num_steps == 3


def test_two_projects_with_the_same_module_names_do_not_mix(tmp_path: Path) -> None:
    one, two = project(tmp_path / "a", "one"), project(tmp_path / "b", "two")
    assert [load_workflow(one).name, load_workflow(two).name, load_workflow(one).name] == ["one", "two", "one"]


def test_yaml_wins_key_by_key(tmp_path: Path) -> None:
    project(tmp_path)
    yaml = tmp_path / "more.yaml"
    yaml.write_text(
        "python: workflow.py\npolicy: smollm2-135m\ntraining: {rl: {num_steps: 9}}\nlimits: {max_turns: 5}\n"
    )
    workflow = load_workflow(yaml)
    assert workflow.policy == "smollm2-135m"
    assert workflow.name == "first"
    assert workflow.settings.limits.max_turns == 5
    rl = workflow.settings.training.rl
    assert rl is not None
    assert (rl.num_steps, rl.group_size) == (9, 4)
    assert workflow.folder == tmp_path


@pytest.mark.parametrize(
    ("code", "line", "words"),
    [
        ("x = 1\ny = x +\n", 2, "not Python"),
        ("x = 1\n\n1 / 0\n", 3, "ZeroDivisionError"),
        ("import nosuchmodule\n", 1, "no module named 'nosuchmodule'; install it"),
        ("import helper\n\nraise SystemExit(3)\n", 3, "SystemExit"),
        (CODE.replace("success=success", "success=3"), 12, "success is 3; it is a function"),
        (CODE.replace("world=Desk", "world=Desk()"), 12, "pass the class itself"),
        (CODE.replace("num_steps", "num_step"), 12, "did you mean 'num_steps'?"),
        (CODE.replace("def reset", "def restart"), 12, "has no method `reset`"),
        (CODE.replace('"tasks.jsonl"', "7"), 12, "tasks is 7; give a JSONL file"),
    ],
)
def test_mistakes_in_python_name_the_users_line(tmp_path: Path, code: str, line: int, words: str) -> None:
    message = refusal(project(tmp_path, code=code))
    assert f"workflow.py:{line}: " in message
    assert words in message


def test_an_error_in_a_neighbour_names_the_neighbours_line(tmp_path: Path) -> None:
    path = project(tmp_path)
    (tmp_path / "helper.py").write_text("\n\nNAME = undefined\n")
    assert "helper.py:3: NameError" in refusal(path)


def test_files_that_are_no_workflow(tmp_path: Path) -> None:
    assert "no such file; `flyball init helpdesk`" in refusal(tmp_path / "none.py")
    assert "is a folder; name the file" in refusal(tmp_path)
    assert "a workflow is a .py or .yaml file" in refusal(tmp_path / "w.toml")
    assert "call it `workflow`" in refusal(project(tmp_path, code=CODE.replace("workflow = ", "flow = ")))
    assert "no object `workflow = fb.Workflow(" in refusal(project(tmp_path, code="x = 1\n"))
    yaml = tmp_path / "w.yaml"
    yaml.write_text("name: x\n")
    assert "no key `python`" in refusal(yaml)
    yaml.write_text("name: x\npython: nope.py\n")
    assert "w.yaml:2: python is 'nope.py': no such file" in refusal(yaml)


def test_limits_may_be_the_dataclass() -> None:
    workflow = Workflow(world=Desk, tasks=[], success=success, limits=Limits(max_turns=3))
    assert workflow.settings.limits.max_turns == 3


def test_monitoring_as_a_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="it is a list of metric names"):
        Workflow(world=Desk, tasks=[], success=success, monitoring="tool_error_rate")


class Till(Desk):
    @tool(writes=True, approval="human")
    def refund(self, cents: int) -> str:
        """Refund."""
        return "refunded"


def flow(world: Any, **changes: Any) -> Workflow:
    return Workflow(world=world, tasks=[Task("t", {"ticket": "hello"}, split="test")], success=success, **changes)


def test_a_tool_that_needs_approval_is_refused_without_an_approver_before_any_work() -> None:
    with pytest.raises(ConfigError, match=r"tool 'refund' has approval=\"human\" and no approver is declared"):
        Inputs(flow(Till)).check()
    for approver in ("approve", "deny", "expire", lambda call: "deny"):
        Inputs(flow(Till, approver=approver)).check()


def test_an_approver_that_cannot_answer_or_is_never_asked_is_refused() -> None:
    with pytest.raises(ConfigError, match="approver is 'no'"):
        flow(Till, approver="no")
    with pytest.raises(ConfigError, match='approver would be ignored: no tool of Desk has approval="human"'):
        Inputs(flow(Desk, approver="deny")).check()


def test_the_approver_and_hooks_of_a_workflow_are_what_attempts_run_with() -> None:
    def careful(view: Any) -> None:
        return None

    inputs = Inputs(flow(Till, approver="deny", policy_checks=[careful]))
    assert inputs.world.approver is not None
    assert inputs.world.approver.name == "deny"
    assert "policy_check=" in inputs.runner.name
    assert inputs.fingerprint["world"] != Inputs(flow(Till, approver="approve")).fingerprint["world"]


@pytest.mark.parametrize(
    ("rl", "says"),
    [
        ({"max_off_policy_steps": 2}, "training.rl.max_off_policy_steps would be ignored: set `schedule: async`"),
        ({"schedule": "async", "curriculum": {}}, "training.rl.curriculum draws the tasks of a step by what"),
        ({"version_mode": "in_flight"}, "training.rl.version_mode would be ignored: set `schedule: async`"),
        (
            {"schedule": "async", "version_mode": "own_version", "on_new_weights": "keep"},
            "training.rl.on_new_weights would be ignored: no attempt meets new weights under own_version",
        ),
        ({"schedule": "async", "reference": True, "on_new_weights": "keep"}, "on_new_weights would be ignored"),
    ],
)
def test_a_setting_of_another_schedule_is_refused(rl: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Inputs(flow(Desk, training={"rl": rl})).check()


@pytest.mark.parametrize(
    ("rl", "says"),
    [
        ({"schedule": "async", "reference": True, "version_mode": "in_flight"}, "use version_mode own_version"),
        ({"reference": True, "max_minutes": 3.0}, "max_minutes lets the clock set the learning rate"),
    ],
)
def test_reference_mode_refuses_what_depends_on_time(rl: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        flow(Desk, training={"rl": rl})


def test_attempts_get_new_weights_unless_it_must_be_exact() -> None:
    def rl(**settings: Any) -> Any:
        return flow(Desk, training={"rl": settings}).settings.training.rl

    assert (rl().lead, rl(schedule="async").lead, rl(schedule="async", max_off_policy_steps=0).lead) == (0, 1, 0)
    assert not rl(schedule="async").keeps_versions
    assert rl(schedule="async", reference=True).keeps_versions
