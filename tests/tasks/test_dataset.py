"""Task files: every bad line is named with its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from flyball.errors import DatasetError
from flyball.tasks.dataset import dataset_digest, load_tasks, select
from flyball.types import Limits, Task


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "tasks.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_row_becomes_a_task(tmp_path: Path) -> None:
    row = {
        "id": "t1",
        "ticket": "Where is my order?",
        "snapshot": 7,
        "hidden": {"state": {"a": [1]}},
        "split": "test",
        "family": "status",
        "stage": "single_tool",
        "cluster": "c1",
        "tools": ["find_order"],
        "limits": {"max_turns": 3, "max_seconds": 1.5},
        "surface": {"rename": {}},
    }
    (task,) = load_tasks(write(tmp_path, row), Limits(max_tokens=99))
    assert task == Task(
        "t1",
        {"ticket": "Where is my order?", "snapshot": 7},
        {"state": {"a": [1]}},
        ("find_order",),
        Limits(max_turns=3, max_seconds=1.5, max_tokens=99),
        "test",
        "status",
        "single_tool",
        "c1",
        {"rename": {}},
    )


def test_defaults_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes('\ufeff{"id": "a", "q": "é"}\n\n  \n{"id": "b", "tools": []}\n'.encode())
    first, second = load_tasks(path)
    assert (first.task_id, first.public, first.tools, first.split, first.cluster) == (
        "a",
        {"q": "é"},
        None,
        "train",
        "a",
    )
    assert second.tools == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "x",', "not JSON: Expecting property name enclosed in double quotes at column 12"),
        ("[1]", "a row is a JSON object, got [1]"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": "x", "q": NaN}', "NaN is not a JSON number"),
        ({"ticket": "x"}, "id: Field required"),
        ({"id": 3}, "id: Input should be a valid string, got 3"),
        ({"id": ""}, "id: String should have at least 1 character"),
        ({"id": "x", "hidden": "secret"}, "hidden: Input should be a valid dictionary, got"),
        ({"id": "x", "split": 1}, "split: Input should be a valid string, got 1"),
        ({"id": "x", "tools": "all"}, "tools: Input should be a valid list, got"),
        ({"id": "x", "tools": [1]}, "tools.0: Input should be a valid string, got 1"),
        ({"id": "x", "limits": {"max_turn": 3}}, "limits: 'max_turn' is not a limit; did you mean 'max_turns'?"),
        ({"id": "x", "limits": {"max_turns": 1.5}}, "limits: max_turns must be a positive whole number, got 1.5"),
        ({"id": "x", "limits": {"max_seconds": 0}}, "limits: max_seconds must be a positive number, got 0"),
        ({"id": "x", "limits": {"max_turns": True}}, "limits"),
        ({"id": "ok"}, "id 'ok' is already used on line 1"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path, {"id": "ok"}, "", row)
    with pytest.raises(DatasetError) as refused:
        load_tasks(path)
    assert f"{path}:3: " in str(refused.value) and message in str(refused.value)
    assert str(refused.value).startswith("[dataset] ")


def test_all_bad_rows_are_told_at_once_up_to_ten(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as refused:
        load_tasks(write(tmp_path, *(["{"] * 12)))
    assert str(refused.value).count("not JSON") == 10 and "and 2 more" in str(refused.value)


def test_files_that_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        load_tasks(tmp_path / "none.jsonl")
    with pytest.raises(DatasetError, match="cannot be read: Is a directory"):
        load_tasks(tmp_path)
    with pytest.raises(DatasetError, match="has no tasks"):
        load_tasks(write(tmp_path, "", ""))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"id": "a"}\n{"id": "\xe9"}\n')
    with pytest.raises(DatasetError, match=r"latin.jsonl:2: not UTF-8"):
        load_tasks(latin)


def test_digest_is_of_what_the_tasks_say() -> None:
    a, b = Task("a", {"q": 1, "r": 2}), Task("b", {"q": 1})
    assert dataset_digest([a, b]) == dataset_digest([b, Task("a", {"r": 2, "q": 1})])
    assert dataset_digest([a]) != dataset_digest([Task("a", {"q": 1, "r": 2}, hidden={"state": 1})])
    with pytest.raises(DatasetError, match="task 'x' is not JSON"):
        dataset_digest([Task("x", {"q": object()})])


def test_a_split_that_is_not_there() -> None:
    tasks = [Task("a", {}, split="test"), Task("b", {}, split="train")]
    assert [t.task_id for t in select(tasks, "test")] == ["a"]
    with pytest.raises(DatasetError, match="no task has split 'tst'; did you mean 'test'"):
        select(tasks, "tst")
