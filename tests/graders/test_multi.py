"""`multi`: the formula language, and parts that have no grade."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flyball.errors import ConfigError, Fault
from flyball.graders.flags import NotGraded, error_flags
from flyball.graders.formula import FUNCTIONS, Formula
from flyball.graders.make import as_grader, grader_from
from flyball.types import Missing
from tests.graders.rows import score


def value(text: str, **variables: float) -> float:
    return Formula(text, list(variables), "g").value(variables)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("8 / 2 / 2", 2), ("8 - 2 - 2", 4), ("2 ^ 3 ^ 2", 512),
        ("-2 ^ 2", -4), ("(-2) ^ 2", 4), ("2 ^ -1", 0.5), ("2 ^ -3 ^ 2", 2**-9), ("--3", 3), ("+-3", -3),
        ("2 * -3", -6),
        ("1e-3 * 2", 0.002), (".5 + 1.", 1.5), ("2.5E1", 25), ("a", 0.25), ("a*b - (1-a)/b", 0.125),
        ("min(3, a, 2)", 0.25), ("max(a, 1)", 1), ("min(b)", 2), ("abs(-3)", 3), ("floor(-1.5)", -2), ("ceil(1.2)", 2),
        ("exp(0)", 1), ("sqrt(16)", 4), ("log(exp(3))", 3), ("max(min(a, 1), abs(-1)) ^ 2", 1),
    ],
)  # fmt: skip
def test_formulas(text: str, expected: float) -> None:
    assert value(text, a=0.25, b=2.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "1 / (a - a)",
        "log(a - a)",
        "sqrt(0 - a)",
        "(0-1) ^ 0.5",
        "0 ^ -1",
        "exp(1000)",
        "9 ^ 9 ^ 9",
        "1e999",
        "log(0-1)",
    ],
)
def test_a_formula_without_a_value_is_typed(text: str) -> None:
    with pytest.raises(NotGraded, match=r"has no value at a = 0\.25") as caught:
        value(text, a=0.25)
    assert (caught.value.flag, caught.value.fault) == ("formula_parse_error", Fault.GRADER)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found 'the end'"), ("1 +", "found 'the end'"), ("(1", "where ')' belongs"), ("1)", "found ')'"),
        ("a b", "found 'b'"), ("scor + 1", "no grader is called 'scor'; did you mean 'score'?"),
        ("sum(a)", "no function 'sum'"), ("sqrt", "write sqrt(...)"), ("sqrt(a, a)", "takes one argument"),
        ("min()", "found ')'"), ("a ** 2", "found '*'"), ("a % 2", "'%' is no part"), ("a.real", "'.' is no part"),
        ("__import__('os')", "no part of the language"), ("open(a)", "no function 'open'"), ("[a]", "'[' is no part"),
        ("lambda: 1", "':' is no part"), ("a if a else 1", "found 'if'"), ("1_000", "found '_000'"),
        ("(" * 60 + "1" + ")" * 60, "more than 50 deep"), ("1" * 10_001, "at most 10000"),
    ],
)  # fmt: skip
def test_what_is_no_formula_is_refused_when_it_is_made(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Formula(text, ["a", "score"], "g")
    assert said in str(caught.value)


def test_long_formulas_are_worked_out_without_recursion() -> None:
    assert value("+".join(["1"] * 5000)) == 5000
    assert value("^".join(["1"] * 5000)) == 1
    assert value("-" * 9_998 + "1") == 1
    assert math.isclose(value("*".join(["1.001"] * 1600)), 1.001**1600)


EXACT = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.answer}}", "operation": "eq"}
ALIKE = {
    "type": "text_similarity", "input": "{{sample.output_text}}", "reference": "{{item.answer}}",
    "evaluation_metric": "rouge_1",
}  # fmt: skip


def multi(formula: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "multi",
        "name": "m",
        "graders": {"exact": EXACT, "alike": ALIKE},
        "calculate_output": formula,
        **more,
    }


def test_a_multi_is_its_formula_and_its_parts_are_the_variables() -> None:
    found = score(multi("0.25 * exact + 0.75 * alike"), "sky blue", {"answer": "blue sky"})
    assert found.value == found.raw == 0.75 and found.parts == {"exact": 0.0, "alike": 1.0}
    assert score(multi("0.25 * exact + 0.75 * alike"), "blue", {"answer": "blue"}).value == 1.0


def test_a_result_outside_the_range_is_reported_cut_and_rewarded_whole() -> None:
    found = score(multi("exact - 3"), "no", {"answer": "blue"})
    assert (found.value, found.raw) == (0.0, -3.0) and "-3 is outside 0 to 1" in found.explanation


def test_a_part_without_a_grade_leaves_the_whole_without_one_unless_invalid_grade_says_otherwise() -> None:
    found = score(multi("exact + alike"), "blue", {"answr": "blue"})
    assert isinstance(found.value, Missing) and found.value.cause.startswith("exact: item.answer: no 'answer'")
    assert found.value.fault is Fault.GRADER and error_flags(found)["invalid_variable_error"]
    stood_in = score(multi("exact + alike", invalid_grade=0.25), "blue", {"answr": "blue"})
    assert stood_in.value == 0.5 and stood_in.parts["exact"] == 0.25 and error_flags(stood_in)["invalid_variable_error"]


def test_a_part_that_the_policy_spoilt_is_a_zero_and_flagged() -> None:
    spec = multi("exact + alike")
    spec["graders"]["exact"] = {**EXACT, "input": "{{sample.output_json.a}}"}
    found = score(spec, "blue", {"answer": "blue"})
    assert found.value == 1.0 and found.parts == {"exact": 0.0, "alike": 1.0, "exact/sample_parse_error": 1.0}


def test_a_division_by_zero_is_missing_by_the_graders_fault() -> None:
    found = score(multi("alike / exact"), "no", {"answer": "blue"})
    assert isinstance(found.value, Missing) and found.value.fault is Fault.GRADER
    assert error_flags(found)["formula_parse_error"] and "exact = 0" in found.value.cause


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"calculate_output": "exakt"}, "did you mean 'exact'?"),
        ({"graders": {}}, "graders is {}"),
        ({"graders": {"a b": EXACT}}, "'a b' is no variable"),
        ({"graders": {"exact": {"type": "multi"}}}, "multi inside a multi"),
        ({"graders": {"exact": {"type": "nope"}}}, "grader type 'nope' does not exist"),
        ({"graders": {"max": EXACT}, "calculate_output": "1"}, "cannot be called 'max'"),
        ({"graders": {"other_error": EXACT}, "calculate_output": "1"}, "cannot be called 'other_error'"),
        ({"graders": [EXACT]}, "graders is ["),
        ({"invalid_grade": math.inf}, "invalid_grade is inf"),
    ],
)
def test_a_multi_is_read_strictly(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grader_from({**multi("exact + alike"), **changed})
    assert said in str(caught.value)


def test_a_new_part_is_a_new_version() -> None:
    parts = {**multi("exact + alike")["graders"], "alike": {**ALIKE, "evaluation_metric": "rouge_2"}}
    assert grader_from(multi("exact + alike")).version != grader_from(multi("exact + alike", graders=parts)).version


def test_a_threshold_tells_what_passed_and_makes_degrees_decide() -> None:
    spec = {**multi("alike"), "pass_threshold": 0.6}
    passed = score(spec, "blue sky", {"answer": "the blue sky"})
    assert passed.value == pytest.approx(0.8) and passed.parts["passed"] == 1.0
    decided = score(as_grader(spec, "success", decides=True), "blue sky", {"answer": "the blue sky"})
    assert (decided.value, decided.raw) == (1.0, pytest.approx(0.8))
    assert score(as_grader(spec, "success", decides=True), "blue", {"answer": "the blue sky"}).value == 0.0
    with pytest.raises(ConfigError, match="give it a pass_threshold"):
        as_grader(multi("alike"), "success", decides=True)
    assert as_grader(EXACT, "success", decides=True).name == "success"


def test_the_functions_are_those_of_the_language() -> None:
    assert set(FUNCTIONS) == {"min", "max", "abs", "floor", "ceil", "exp", "sqrt", "log"}
