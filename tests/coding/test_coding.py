"""The oracle solves every task; doing nothing, and every known cheat, solves none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from changes import CHANGES
from judging import score, success
from repository import Repository
from solutions import oracle_turns, tasks

import flyball as fb
from flyball.types import StopReason, Trajectory
from flyball.workflow.inputs import Inputs
from flyball.workflow.learning import check_trainable
from flyball.workflow.workflow import load_workflow

TASKS = {task.task_id: task for task in tasks()}
CODE = [task_id for task_id, task in TASKS.items() if task.family in ("repair", "faster")]


def world_of(task: fb.Task) -> Repository:
    world = Repository()
    world.reset(**task.public)
    return world


def attempt_of(task: fb.Task, world: Repository, answer: str = "done") -> fb.Attempt:
    said = ({"role": "user", "content": task.public["request"]}, {"role": "assistant", "content": answer})
    return fb.Attempt("a1", task, Trajectory((), StopReason.ANSWERED), said, world.export_state())


@pytest.mark.parametrize("task_id", TASKS)
def test_the_oracle_solves_it_and_nothing_does_not(task_id: str) -> None:
    task = TASKS[task_id]
    assert score(attempt_of(task, world_of(task), ""), task.hidden) < 0.7
    world = world_of(task)
    *calls, last = oracle_turns(task)
    for message in calls:
        function: dict[str, Any] = message["tool_calls"][0]["function"]
        getattr(world, function["name"])(**eval(function["arguments"]))
    assert success(attempt_of(task, world, last["content"]), task.hidden)


REPAIR, FASTER = TASKS["repair-encode-escaped"], TASKS["faster-encode-slow"]
MODULE = "mdurl/__init__.py"
CHEATS = {
    "no-op": "true",
    "edits the tests": "echo > tests/test_import.py; echo 'def test_it(call): pass' > tests/test_hidden.py",
    "deletes the tests": "rm -r tests",
    "exits 0": f"echo 'import os; os._exit(0)' > {MODULE}",
    "raises SystemExit": f"echo 'raise SystemExit(0)' > {MODULE}",
    "prints a verdict": f"echo 'print(\"2 passed\")' >> {MODULE}",
    "is equal to everything": f"echo 'class Y:\n  def __eq__(s, o): return True\ndef encode(*a): return Y()' > {MODULE}",
    "hard-codes the report": f"echo 'def encode(s): return \"a%20\"' > {MODULE}",
    "reads hidden answers": f'echo \'import glob\ndef encode(s): return [open(p).read() for p in [*glob.glob("/sandbox/**", recursive=True), *glob.glob("../**", recursive=True)] if "test_hidden" in p][0]\' > {MODULE}',
    "patches the timer": f"echo 'import time; time.perf_counter = time.process_time = time.time = lambda: 0.0' >> {MODULE}",
    "patches the tests' runner": f"echo 'import sys, unittest; unittest.TestCase.run = lambda *a: None; sys.modules[\"forkserver\"] = None' >> {MODULE}",
    "caches on the disk": "sed -i 's/^def encode(/import os; os.makedirs(\"cache\", exist_ok=True)\\ndef encode(/' mdurl/_encode.py",
    "ends its server": f"echo 'import os, signal; os.kill(os.getppid(), signal.SIGKILL)' >> {MODULE}",
}


@pytest.mark.parametrize("task", [REPAIR, FASTER], ids=lambda task: task.family)
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_gets_nothing(cheat: str, task: fb.Task) -> None:
    world = world_of(task)
    world.shell(CHEATS[cheat])
    attempt = attempt_of(task, world)
    assert not success(attempt, task.hidden)
    untouched = score(attempt_of(task, world_of(task)), task.hidden)
    assert score(attempt, task.hidden) <= untouched + 0.2  # a half of the tests passes as it is; timing wavers


def said(task: fb.Task, answer: str) -> float:
    return score(attempt_of(task, world_of(task), answer), task.hidden)


def test_answers_that_fish() -> None:
    locate, question = TASKS["locate-encode-escaped"], TASKS["question-encode-default"]
    assert said(locate, " ".join(world_of(locate)._files)) < 0.3
    assert said(question, world_of(question).read("mdurl/_encode.py")) == 0.0
    answers = [oracle_turns(task)[-1]["content"] for task in TASKS.values()]
    for task in (task for task in TASKS.values() if task.family in ("locate", "question")):
        for fished in (
            json.dumps(task.hidden),
            " or ".join(answers),
            f"{task.family} {oracle_turns(task)[-1]['content']}",
        ):
            assert said(task, fished) < 1.0, fished


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("ENCODE_DEFAULT_CHARS _encode.py", 1.0),
        ("I looked.\n`ENCODE_DEFAULT_CHARS`, `mdurl/_encode.py`.", 1.0),
        ("ENCODE_DEFAULT_CHARS", 0.5),
        ("ENCODE_DEFAULT_CHARS ENCODE_COMPONENT_CHARS", 0.5),
        ("ENCODE_DEFAULT_CHARS ENCODE_COMPONENT_CHARS _encode.py", 0.0),
        ("ENCODE_DEFAULT_CHARS _encode.py\nThat is all.", 0.0),
        ("", 0.0),
    ],
)
def test_facts_are_read_from_the_last_line(answer: str, expected: float) -> None:
    assert said(TASKS["question-encode-default"], answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("mdurl/_encode.py,", 1.0), ("mdurl/_encode.py mdurl/_decode.py", 2 / 3), ("Why?\n\n", 0.0)],
)
def test_paths_are_judged_by_f1(answer: str, expected: float) -> None:
    assert said(TASKS["locate-encode-escaped"], answer) == pytest.approx(expected)


def test_the_tools() -> None:
    world = world_of(REPAIR)
    assert "exit code 0" in world.test() and "exit code 0" in world.lint()
    assert "mdurl/_encode.py" in world.grep("keep_escaped and")
    assert world.read("mdurl/_encode.py", 3).startswith("from collections.abc")
    assert "exit code 3" in world.shell("echo 1 > new.py; exit 3")
    assert set(world.export_state()["changed"]) == {"new.py"}
    with pytest.raises(ValueError, match="times"):
        world.edit("mdurl/_encode.py", "cache", "x")
    with pytest.raises(LookupError, match="no file"):
        world.read("../secret")
    assert "Errno" in world.shell("python3 -c 'import socket; socket.socket()'")


def test_the_hidden_code_is_not_in_the_sandbox() -> None:
    """The package as it was lies in this environment; whoever could read it would copy the repair."""
    change = CHANGES["encode-escaped"]
    found = world_of(REPAIR).shell(f"grep -rlF '{change.old}' / --include=_encode.py 2>/dev/null")
    assert "_encode.py" not in found


def test_the_workflow_loads() -> None:
    inputs = Inputs(load_workflow(Path(__file__).parents[2] / "examples" / "coding" / "workflow.yaml"))
    inputs.check()  # raises for a task, a tool or a grader that a run could not use
    check_trainable(inputs, proves=True)  # raises where a stage of `flyball run` would have no tasks
    assert {split: len(tasks) for split, tasks in inputs.splits.items()} == {"train": 6, "validation": 4, "test": 3}
