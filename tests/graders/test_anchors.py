"""Cheats, anchors and labels: what is attacked, what is settled, and what people said."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flyball.errors import ConfigError, DatasetError
from flyball.graders.anchors import load_anchors, missed_anchors
from flyball.graders.cheats import CHEATS, Case
from flyball.graders.grade import GraderSet
from flyball.graders.grader import FunctionGrader
from flyball.graders.labels import load_labels
from flyball.graders.make import as_grader
from flyball.types import Attempt, Task
from tests.graders.rows import attempt, tool_call


def gold(task_id: str, answer: str) -> Attempt:
    made = attempt(("", [(tool_call("1", "find", order=task_id), "ok")]), answer, public={"q": "?"})
    return replace(made, task=Task(task_id, {"q": "?"}, {"answer": answer, "n": 3}))


CASE = Case(gold("a", "<answer>blue</answer>"), [gold("b", "<answer>red</answer>"), gold("c", "<answer>blue</answer>")])


def said(name: str, case: Case = CASE) -> str | None:
    turns = next(cheat for cheat in CHEATS if cheat.name == name).turns(case)
    return None if turns is None else " ".join(str(turn["content"]) for turn in turns)


def test_each_cheat_says_what_it_is_called() -> None:
    assert said("empty") == "" and said("prompt_copy") == "please"
    assert json.loads(said("reference_copy") or "") == {"answer": "<answer>blue</answer>", "n": 3}
    assert said("format_only") == "<answer> </answer>" and said("constant_answer") == "<answer>red</answer>"
    assert set((said("all_labels") or "").split(" or ")) == {"<answer>blue</answer>", "<answer>red</answer>"}
    assert "find()" in (said("tool_names") or "") and (said("keyword_stuffing") or "").count("3") == 3
    calls = next(cheat for cheat in CHEATS if cheat.name == "empty_calls").turns(CASE)
    assert calls is not None and calls[0]["tool_calls"][0]["function"] == {"name": "find", "arguments": "{}"}


def test_a_cheat_that_would_be_the_honest_answer_is_not_tried() -> None:
    talks = replace(
        CASE, gold=replace(CASE.gold, messages=(*CASE.gold.messages[:-1], {"role": "assistant", "content": "."}))
    )
    assert said("one_character", talks) is None
    alone = Case(gold("a", "blue"))
    assert said("constant_answer", alone) is None and said("all_labels", alone) is None


def test_the_battery_is_the_same_every_time() -> None:
    assert [cheat.turns(CASE) for cheat in CHEATS] == [cheat.turns(CASE) for cheat in CHEATS]
    assert len({cheat.name for cheat in CHEATS}) == len(CHEATS)


# --- anchors ---------------------------------------------------------------------------------------------------------

PASSES = {"id": "right", "hidden": {"answer": "blue"}, "answer": "blue", "success": True, "scores": {"brief": [0.5, 1]}}
FAILS = {"id": "wrong", "hidden": {"answer": "blue"}, "answer": "red", "success": False}


def file(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def equal(a: Attempt, hidden: Any) -> bool:
    return a.answer == hidden["answer"]


def brief(a: Attempt, hidden: Any) -> float:
    return 1.0 if len(a.answer) < 20 else 0.2


GRADERS = GraderSet(FunctionGrader(equal, "success"), scores={"brief": FunctionGrader(brief, "brief")})


def test_anchors_judged_as_settled_and_otherwise(tmp_path: Path) -> None:
    anchors = load_anchors(file(tmp_path, PASSES, "", FAILS))
    assert asyncio.run(missed_anchors(GRADERS, anchors)) == []
    generous = GraderSet(FunctionGrader(lambda a, hidden: True, "success"), scores=GRADERS.scores)
    (miss,) = asyncio.run(missed_anchors(generous, anchors))
    assert str(miss) == "anchor 'wrong': success is True, people settled on False"
    broken = GraderSet(FunctionGrader(lambda a, hidden: None, "success"), scores=GRADERS.scores)
    assert {miss.anchor for miss in asyncio.run(missed_anchors(broken, anchors))} == {"right", "wrong"}


def test_anchors_hold_conversations_with_tools(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order": 1}'}}
    messages = [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"}, {"role": "assistant", "content": "blue"},
    ]  # fmt: skip
    told = {key: value for key, value in PASSES.items() if key != "answer"} | {"messages": messages, "state": {"x": 1}}
    (anchor, _) = load_anchors(file(tmp_path, told, FAILS))
    assert anchor.attempt.tool_results[0].content == "found" and anchor.attempt.state == {"x": 1}
    assert anchor.attempt.tool_calls[0].name == "find" and anchor.attempt.answer == "blue"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([PASSES], "at least one with success true and one with success false"),
        ([PASSES, FAILS, FAILS], "two anchors have the id 'wrong'"), ([PASSES, "{"], "rows.jsonl:2: not JSON"),
        ([PASSES, {**FAILS, "sucess": True}], "unknown key 'sucess'; did you mean 'success'?"),
        ([PASSES, {**FAILS, "success": "no"}], "it is true or false"), ([], "is empty"),
        ([PASSES, {**FAILS, "reward": [1, 0]}], "it is a range"), ([PASSES, {**FAILS, "messages": []}], "either"),
        ([PASSES, {"id": "x", "answer": "y"}], "nothing is expected"),
        ([PASSES, {"answer": "", "success": False}], "no id"),
    ],
)  # fmt: skip
def test_anchor_files_that_settle_nothing_are_refused(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(DatasetError) as caught:
        load_anchors(file(tmp_path, *rows))
    assert said in str(caught.value)


def test_an_anchor_for_a_score_nobody_gives(tmp_path: Path) -> None:
    anchors = load_anchors(file(tmp_path, {**PASSES, "scores": {"breif": [0, 1]}}, FAILS))
    with pytest.raises(DatasetError, match="did you mean 'brief'"):
        asyncio.run(missed_anchors(GRADERS, anchors))


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_carry_their_attempt_or_name_one(tmp_path: Path) -> None:
    rows = [
        {"attempt": "a1", "rater": "ana", "label": True, "at": "2026-01-02"},
        {"id": "x", "answer": "red", "rater": "ben", "label": 0.25, "rubric": "brief"},
    ]
    stored = attempt("stored")
    first, second = load_labels(file(tmp_path, *rows), lambda attempt_id: stored)
    assert (first.attempt, first.value, first.rubric, first.at) == (stored, 1.0, "success", "2026-01-02")
    assert (second.attempt.answer, second.value, second.rater) == ("red", 0.25, "ben")
    with pytest.raises(DatasetError, match="name the run with --run"):
        load_labels(file(tmp_path, *rows))
    with pytest.raises(DatasetError, match="twice; keep one"):
        load_labels(file(tmp_path, rows[1], rows[1]))
    with pytest.raises(DatasetError, match="label is 2"):
        load_labels(file(tmp_path, {**rows[1], "label": 2}))
    with pytest.raises(DatasetError, match="no `rater`"):
        load_labels(file(tmp_path, {"id": "x", "answer": "", "label": 1}))


# --- holdout ---------------------------------------------------------------------------------------------------------

EXACT = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.answer}}", "operation": "eq"}


def test_a_holdout_grader_is_reported_and_never_one_that_learning_reads() -> None:
    held = GraderSet(FunctionGrader(equal, "success"), holdout={"brief": FunctionGrader(brief, "brief")})
    graded = asyncio.run(held.grade(gold("a", "blue")))
    assert graded.scores["holdout/brief"].value == 1.0 and [event.component for event in graded.events] == ["success"]
    assert held.version != GraderSet(FunctionGrader(equal, "success")).version
    with pytest.raises(ConfigError, match="judges by what learning reads"):
        GraderSet(FunctionGrader(equal, "success"), holdout={"other": FunctionGrader(equal, "other")})
    inside = {"type": "multi", "graders": {"exact": EXACT}, "calculate_output": "exact"}
    with pytest.raises(ConfigError, match="holdout grader 'mine'"):
        GraderSet(
            as_grader(EXACT, "success"), reward=as_grader(inside, "reward"), holdout={"mine": as_grader(EXACT, "mine")}
        )
