"""Results are written whole, with provenance, and a miss never without its reason."""

import dataclasses
import json

import pytest

from benchmarks.result import Finding, Result, append_row, bounds, machine, publish, read_rows, rows_file
from flyball.errors import EvalError
from flyball.types import Estimate

GOOD = Finding("job.fast", "it is fast", "at most 2 min", 1.5, (None, None), 1, "min", True)
BAD = Finding("job.right", "it is right", "at least 85 %", 80.0, (70.0, 90.0), 5, "%", False, {"by_seed": {"0": 80.0}})


def test_results_carry_claim_numbers_and_provenance(tmp_path):
    publish("job", [GOOD, BAD], command="python run", reasons={"job.right": "too few steps"}, folder=tmp_path)
    first, second = json.loads((tmp_path / "job.json").read_text())
    assert {field.name for field in dataclasses.fields(Result)} == first.keys()
    assert (first["holds"], first["reason"], first["interval"]) == (True, "", [None, None])
    assert (second["holds"], second["reason"], second["value"]) == (False, "too few steps", 80.0)
    assert first["machine"].keys() == {"cpu", "cores", "memory_gib"}
    assert first["versions"].keys() == {"python", "torch", "transformers", "flyball"}
    assert (first["kind"], first["command"]) == ("target", "python run")


@pytest.mark.parametrize("reasons", [{}, {"job.right": "  "}])
def test_nothing_is_written_while_a_miss_has_no_reason(tmp_path, reasons):
    with pytest.raises(EvalError, match=r"each has a reason[\s\S]*job.right: it is right: 80 %") as refused:
        publish("job", [GOOD, BAD], command="python run", reasons=reasons, folder=tmp_path)
    assert "job.fast" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_result_itself_refuses_a_miss_without_a_reason():
    with pytest.raises(EvalError, match=r"job\.right: the claim was missed and has no reason"):
        Result(**vars(BAD), kind="target", command="x", reason="", machine=machine(), versions={}, date="2026-01-01")


def test_a_reason_for_a_claim_that_holds_is_left_out_and_an_unknown_claim_refused(tmp_path):
    (result,) = publish("job", [GOOD], command="x", reasons={"job.fast": "was slow once"}, folder=tmp_path)
    assert result.reason == ""
    with pytest.raises(EvalError, match=r"'job.fats', which is no claim; did you mean 'job.fast'"):
        publish("job", [GOOD], command="x", reasons={"job.fats": "why"}, folder=tmp_path)


def test_rows_are_appended_and_a_broken_line_is_named(tmp_path):
    path = rows_file("job", tmp_path / "new")
    assert read_rows(path) == []
    append_row(path, {"seed": 0})
    append_row(path, {"seed": 1})
    assert read_rows(path) == [{"seed": 0}, {"seed": 1}]
    path.write_text('{"seed": 0}\n{"se')
    with pytest.raises(EvalError, match=r"job\.rows\.jsonl:2: no JSON object"):
        read_rows(path)


def test_an_infinite_bound_is_an_open_side():
    assert bounds(Estimate(0.5, float("-inf"), 0.75, 1), 100) == (None, 75.0)
