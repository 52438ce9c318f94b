"""Files of pairs: two forms, what is shared is given, and every wrong row is named with its line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from flyball.errors import DatasetError
from flyball.workflow.inputs import Inputs
from flyball.workflow.labels import read_labels
from flyball.workflow.preferences import read_pairs
from flyball.workflow.trainer import WrittenPair
from flyball.workflow.workflow import load_workflow

ASKED = {"role": "user", "content": "Where is it?"}
YES, NO = {"role": "assistant", "content": "In the shelf."}, {"role": "assistant", "content": "No idea."}


def read(project: Path, *rows: Any) -> list[WrittenPair]:
    path = project.with_name("pairs.jsonl")
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return read_pairs(path, Inputs(load_workflow(project)))


def test_both_forms_say_the_same(project: Path) -> None:
    trl, bare, openai = read(
        project,
        {"prompt": [ASKED], "chosen": [YES], "rejected": [NO]},
        {"chosen": [ASKED, YES], "rejected": [ASKED, NO]},
        {"input": {"messages": [ASKED]}, "preferred_output": [YES], "non_preferred_output": [NO]},
    )
    for pair in (trl, bare, openai):
        assert (pair.given, pair.chosen, pair.rejected) == ((ASKED,), (YES,), (NO,))
        assert math.isnan(pair.margin)
    assert trl.task_id == bare.task_id == openai.task_id, "pairs with one prompt belong together"


def test_the_tools_are_those_of_the_task(project: Path) -> None:
    task_id = Inputs(load_workflow(project)).tasks[0].task_id
    (pair,) = read(project, {"id": task_id, "chosen": [ASKED, YES], "rejected": [ASKED, NO], "margin": 0.5})
    assert [tool["function"]["name"] for tool in pair.tools] == ["take"] and pair.margin == 0.5


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("nonsense\n", "pairs.jsonl:2: not JSON"),
        ([1], "pairs.jsonl:2: a row is a JSON object"),
        ({"chosen": [ASKED, YES]}, "pairs.jsonl:2: rejected is 'None'"),
        ({"chosen": [ASKED, YES], "rejected": [ASKED, YES]}, "chosen holds no turn of the assistant that the other"),
        ({"chosen": [ASKED, YES], "rejected": [ASKED, NO], "margin": -1}, "margin is -1"),
        ({"prompt": "Where?", "chosen": [YES], "rejected": [NO]}, r"the prompt is 'Where\?'"),
    ],
)
def test_a_wrong_row_is_named(project: Path, row: Any, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        read(project, {"chosen": [ASKED, YES], "rejected": [ASKED, NO]}, row)


def test_a_file_without_pairs_is_refused(project: Path) -> None:
    with pytest.raises(DatasetError, match="no pair in this file"):
        read(project)


@pytest.mark.parametrize(
    ("kind", "row", "words"),
    [
        ("outcome", {"label": 0.5}, None),
        ("process", {"labels": [0.0, 1]}, None),
        ("outcome", {"labels": [1, 1]}, "needs label, one number from 0 to 1; it has .None."),
        ("outcome", {"label": True}, "it has .True."),
        ("process", {"labels": [1]}, "needs labels, a list of 2 numbers from 0 to 1"),
        ("process", {"labels": [1, 2]}, "a list of 2 numbers"),
    ],
)
def test_labels_are_one_for_the_whole_or_one_for_each_turn(
    tmp_path: Path, kind: str, row: dict[str, Any], words: str | None
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"id": "t", "messages": [ASKED, NO, ASKED, YES], **row}) + "\n")
    if words is None:
        (found,) = read_labels(path, kind)
        assert found.labels == tuple(row.get("labels", [row.get("label")]))
    else:
        with pytest.raises(DatasetError, match=words):
            read_labels(path, kind)
