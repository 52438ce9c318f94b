"""Graders that run code: what they answer, whose fault a failure is, and that known cheats get nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from flyball.errors import ConfigError, Fault
from flyball.graders.flags import error_flags
from flyball.graders.make import grader_from
from flyball.graders.python import PythonGrader
from flyball.graders.spec import Python
from flyball.sandbox.calls import GRADER_BOUNDS
from flyball.types import Missing, Score
from tests.graders.rows import attempt, score, score_of

SOURCE = """
import os

def grade(sample, item):
    return eval(item["do"])(sample, item)

def nested(depth):
    return 1.0 if depth == 0 else nested(depth - 1)

def endless(sample, item):
    while True:
        pass

def prints(sample, item):
    os.write(1, b"x" * 5_000_000)
    print("y" * 5_000_000)
    return 1

def leaves(sample, item):
    left = os.path.exists("left") or os.path.exists(os.environ["TMPDIR"] + "/left")
    for folder in (".", os.environ["TMPDIR"]):
        open(folder + "/left", "w").close()
    return float(left)
"""


@pytest.fixture(scope="module")
def grader() -> PythonGrader:
    spec = Python(type="python", name="g", source=SOURCE)
    return PythonGrader(spec, bounds=replace(GRADER_BOUNDS, seconds=0.5))


def said(grader: PythonGrader, do: str, text: str = "") -> Score:
    return score(grader, text, {"do": do, "n": 3})


@pytest.mark.parametrize(
    ("do", "value", "raw"),
    [
        ("lambda sample, item: sample['output_text'] == 'yes'", 1.0, 1.0),
        ("lambda sample, item: item['n'] / 4", 0.75, 0.75),
        ("lambda sample, item: item['n']", 1.0, 3.0),
        ("lambda sample, item: len(sample['choices'])", 1.0, 1.0),
        ("prints", 1.0, 1.0),
    ],
)
def test_numbers(grader: PythonGrader, do: str, value: float, raw: float) -> None:
    got = said(grader, do, "yes")
    assert (got.value, got.raw, got.grader) == (value, raw, "g")


@pytest.mark.parametrize(
    ("do", "cause"),
    [
        ("lambda sample, item: float('nan')", "returned nan"),
        ("lambda sample, item: '0.5'", "returned str '0.5'; return a number"),
        ("lambda sample, item: None", "returned NoneType"),
        ("lambda sample, item: 1 / 0", "raised ZeroDivisionError: division by zero (line 5)"),
        ("lambda sample, item: item['absent']", "raised KeyError: 'absent'"),
        ("lambda sample, item: nested(10**6)", "raised RecursionError"),
        ("lambda sample, item: len(bytearray(1 << 33))", "raised MemoryError"),
        ("endless", "did not return within 0.5 s"),
        ("lambda sample, item: os._exit(0)", "ended its process before it returned"),
        ("lambda sample, item: exit(0)", "raised"),
        ("lambda sample, item: __import__('socket').create_connection(('127.0.0.1', 1))", "raised PermissionError"),
    ],
)
def test_what_is_no_number_is_the_graders_fault(grader: PythonGrader, do: str, cause: str) -> None:
    got = said(grader, do)
    assert isinstance(got.value, Missing) and got.value.fault is Fault.GRADER and cause in got.value.cause
    assert [flag for flag, up in error_flags(got).items() if up] == ["python_grader_runtime_error"]


def test_reading_json_that_the_policy_did_not_write_is_the_policys_fault(grader: PythonGrader) -> None:
    got = said(grader, "lambda sample, item: sample['output_json']['x']", "no json")
    assert got.value == 0.0 and error_flags(got)["sample_parse_error"]
    assert said(grader, "lambda sample, item: sample['output_json']['x']", '{"x": 0.5}').value == 0.5


def test_calls_leave_nothing_to_each_other(grader: PythonGrader) -> None:
    assert [said(grader, "leaves").value for _ in range(4)] == [0.0] * 4
    said(grader, "lambda sample, item: globals().update(nested=None) or os.fork() and 1.0")
    assert said(grader, "lambda sample, item: nested(3)").value == 1.0


def test_a_call_cannot_end_its_server(grader: PythonGrader) -> None:
    got = said(grader, "lambda sample, item: os.kill(os.getppid(), 9) or 1.0")
    assert isinstance(got.value, Missing) and "python_grader_runtime_error" in got.parts
    assert said(grader, "lambda sample, item: 1").value == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "x = 1"}, "defines no"),
        ({"source": "import flybull\ndef grade(sample, item): return 1"}, "imports 'flybull', which is not installed"),
        (
            {"source": "def grade(sample, item): return 1", "image_tag": "2024-01-01"},
            "image_tag '2024-01-01' is not known",
        ),
        ({"source": "def grade(sample, item): return 1", "timeout": 1}, "timeout"),
    ],
)
def test_what_is_refused_before_anything_runs(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grader_from({"type": "python", "name": "g", **fields})


def test_source_that_fails_as_it_is_loaded() -> None:
    got = score({"type": "python", "source": "def grade(sample, item): return 1\n1 / 0"})
    assert isinstance(got.value, Missing) and "ZeroDivisionError: division by zero (line 2)" in got.value.cause


def test_the_version_follows_source_and_packages() -> None:
    one, two = (grader_from({"type": "python", "name": "g", "source": s}) for s in (SOURCE, SOURCE + "\nimport numpy"))
    assert one.version != two.version
    assert score(two, "", {"do": "lambda sample, item: numpy.float32(0.5)"}).value == 0.5


def test_a_part_of_a_multi() -> None:
    python = {"type": "python", "name": "p", "source": "def grade(sample, item): return 0.5"}
    assert score({"type": "multi", "graders": {"p": python}, "calculate_output": "p * 2"}).value == 1.0


# --- unit_tests ---------------------------------------------------------------------------------------------------------

TESTS = """
def test_adds(call):
    assert call("sums.total", [1, 2, 3]) == 6

def test_nothing(call):
    assert call("sums.total", []) == 0

def test_refuses(call):
    try:
        call("sums.total", None)
    except Raised as error:
        assert error.type == "TypeError"
    else:
        raise AssertionError("None was added up")
"""
UNIT_TESTS = {
    "type": "unit_tests",
    "files": {"sums.py": "{{sample.output_text}}"},
    "tests": {"test_sums.py": "{{item.tests}}"},
}
HONEST = "def total(numbers):\n    return sum(numbers)\n"


def hidden_tests_of(code: str) -> Score:
    return score(UNIT_TESTS, code, {"tests": TESTS})


def test_code_that_passes_hidden_tests() -> None:
    got = hidden_tests_of(HONEST)
    assert (got.value, got.parts["passed_tests"]) == (1.0, 3.0)
    half = hidden_tests_of("def total(numbers):\n    return 6 if numbers else 1\n")
    assert half.value == pytest.approx(1 / 3) and "test_nothing: AssertionError" in half.explanation


@pytest.mark.parametrize(
    "cheat",
    [
        "",
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "import builtins\nclass Yes:\n    def __eq__(self, other): return True\ndef total(numbers): return Yes()",
        "def total(numbers): return open('../fixed/tests/test_sums.py').read()",
        "import unittest, sys\nsys.modules['pytest'] = None\nprint('3 passed')",
        "import glob\ndef total(numbers): return [open(f).read() for f in glob.glob('/**/test_sums.py', recursive=True)]",
        "def total(numbers):\n    while True: pass",
        "import os\ndef total(numbers): os.kill(os.getppid(), 9)",
    ],
)
def test_cheats_pass_no_hidden_test(cheat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyball.sandbox.examine.code_calls.__defaults__", (replace(GRADER_BOUNDS, seconds=0.5),))
    monkeypatch.setattr("flyball.sandbox.examine.examine.__defaults__", (replace(GRADER_BOUNDS, seconds=0.5),))
    assert hidden_tests_of(cheat).value == 0.0


def test_code_of_the_exported_state() -> None:
    spec = {"type": "unit_tests", "state": "files", "tests": {"test_sums.py": "{{item.tests}}"}}
    done = attempt("done", state={"files": {"sums.py": HONEST, "test_sums.py": "def test_it(call): pass"}})
    assert score_of(spec, done, {"tests": TESTS}).value == 1.0
    lost = score_of(spec, attempt("done", state={}), {"tests": TESTS})
    assert isinstance(lost.value, Missing) and "has no 'files'" in lost.value.cause


def test_tests_that_are_none_are_the_graders_fault() -> None:
    for tests in ("x = 1", "def test_a(call) return 1"):
        assert isinstance(score(UNIT_TESTS, HONEST, {"tests": tests}).value, Missing)


# --- speedup --------------------------------------------------------------------------------------------------------------

SLOW = "def unique(xs):\n    out = []\n    for x in xs:\n        if x not in out:\n            out.append(x)\n    return out\n"
FAST = "def unique(xs):\n    return list(dict.fromkeys(xs))\n"
SPEEDUP = {
    "type": "speedup",
    "files": {"lists.py": "{{sample.output_text}}"},
    "baseline": {"lists.py": SLOW},
    "function": "lists.unique",
    "cases": "{{item.cases}}",
    "repeats": 3,
}
CASES = [[[i * 7919 % 3001 for i in range(3000)]], [[]]]


@pytest.fixture(scope="module")
def cases() -> Iterator[dict[str, Any]]:
    yield {"cases": CASES}


def test_faster_code(cases: dict[str, Any]) -> None:
    got = score(SPEEDUP, FAST, cases)
    assert got.value == 1.0 and got.parts["correct"] == 1.0 and got.parts["speedup"] > 2


@pytest.mark.parametrize(
    "cheat",
    [
        SLOW,
        "def unique(xs): return []",
        "def unique(xs): return xs[:1]",
        "import time\ntime.perf_counter = time.process_time = time.time = lambda: 0.0\n" + SLOW,
        "import os\nos._exit(0)",
    ],
)
def test_no_gain_without_being_right_and_faster(cheat: str, cases: dict[str, Any]) -> None:
    assert float(score(SPEEDUP, cheat, cases).value) < 0.5  # type: ignore[arg-type]


def test_cases_and_baselines_that_are_none(cases: dict[str, Any]) -> None:
    assert isinstance(score(SPEEDUP, FAST, {"cases": "no"}).value, Missing)
    broken = score({**SPEEDUP, "baseline": {"lists.py": "x"}}, FAST, cases)
    assert isinstance(broken.value, Missing) and broken.value.fault is Fault.INFRASTRUCTURE


# --- on the rung for snippets ---------------------------------------------------------------------------------------------


@pytest.fixture
def on_monty(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pydantic_monty", reason="the extra monty is not installed")
    monkeypatch.setenv("FLYBALL_SANDBOX", "monty")


@pytest.mark.parametrize(
    ("body", "value", "flag"),
    [
        ("return sample['output_text'] == 'yes'", 1.0, ""),
        ("return float('nan')", "returned nan", "python_grader_runtime_error"),
        ("return 'one'", "returned str 'one'", "python_grader_runtime_error"),
        ("return item['absent']", "KeyError: 'absent' (line 2)", "python_grader_runtime_error"),
        ("return sample['output_json']['a']", "KeyError: 'output_json'", "sample_parse_error"),
        ("import numpy", "No module named 'numpy'", "python_grader_runtime_error"),
    ],
)
def test_monty_judges_as_the_other_rungs_do(on_monty: None, body: str, value: object, flag: str) -> None:
    got = score({"type": "python", "source": f"def grade(sample, item):\n    {body}"}, "yes", {})
    if not flag:
        assert got.value == value
    else:
        told = got.value.cause if isinstance(got.value, Missing) else got.explanation
        assert str(value) in told and error_flags(got)[flag] and not got.raw


def test_what_monty_cannot_load_is_refused_before_anything_is_judged(on_monty: None) -> None:
    with pytest.raises(ConfigError, match="No module named 'numpy'"):
        grader_from({"type": "python", "name": "g", "source": "import numpy\ndef grade(sample, item): return 1"})
    with pytest.raises(ConfigError, match="a program is to be run"):
        grader_from({"name": "g", **UNIT_TESTS})


def test_another_interpreter_is_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pydantic_monty", reason="the extra monty is not installed")
    spec = {"type": "python", "name": "g", "source": "def grade(sample, item): return 1"}
    here = grader_from(spec).version
    monkeypatch.setenv("FLYBALL_SANDBOX", "monty")
    assert grader_from(spec).version != here
