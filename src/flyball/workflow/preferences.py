"""Pairs that somebody wrote down: one JSON object a line, in the form of TRL or of OpenAI's preference fine-tuning.

    {"id": "t-1", "prompt": [messages], "chosen": [messages], "rejected": [messages]}       `prompt` may be left out
    {"input": {"messages": [...]}, "preferred_output": [messages], "non_preferred_output": [messages]}

`id` says which pairs belong together (a task); without one, those with the same prompt do. `tools` are OpenAI schemas;
without them those of the task with this id are taken, if there is one. What both answers begin with is given, not
learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from flyball.errors import DatasetError
from flyball.store.records import digest
from flyball.types import Message
from flyball.workflow.inputs import Inputs
from flyball.workflow.trainer import WrittenPair


def read_pairs(path: Path, inputs: Inputs) -> list[WrittenPair]:
    """Read a file of pairs. Raises DatasetError with file:line for a row that is none, and for a file without rows."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise DatasetError(f"{path}: cannot be read: {exc.strerror}; training.preference.pairs names the file") from exc
    schemas = {task.task_id: task for task in inputs.tasks}
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            raise DatasetError(f"{where}: not JSON: {exc}") from exc
        pair = _pair(row, where)
        task = schemas.get(pair.task_id)
        if not pair.tools and task is not None:
            pair = WrittenPair(**{**vars(pair), "tools": tuple(inputs.world.schemas(task))})
        pairs.append(pair)
    if not pairs:
        raise DatasetError(f"{path}: no pair in this file; a row is {{prompt, chosen, rejected}}")
    return pairs


def _pair(row: Any, where: str) -> WrittenPair:
    if not isinstance(row, Mapping):
        raise DatasetError(f"{where}: a row is a JSON object {{prompt, chosen, rejected}}")
    openai = "preferred_output" in row
    given = row.get("input", {}) if openai else row
    names = ("preferred_output", "non_preferred_output") if openai else ("chosen", "rejected")
    prompt = _messages(given.get("messages" if openai else "prompt", []), "the prompt", where, empty=True)
    chosen, rejected = (_messages(row.get(name), name, where) for name in names)
    shared = _shared(chosen, rejected)
    prompt, chosen, rejected = [*prompt, *chosen[:shared]], chosen[shared:], rejected[shared:]
    for name, said in zip(names, (chosen, rejected), strict=True):
        if not any(message["role"] == "assistant" for message in said):
            raise DatasetError(f"{where}: {name} holds no turn of the assistant that the other does not begin with")
    margin = row.get("margin", math.nan)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or margin <= 0:
        raise DatasetError(f"{where}: margin is {margin!r}; it is a number above 0: the chosen answer is the better")
    task_id, tools = str(row.get("id") or digest(prompt)), tuple(given.get("tools", ()))
    return WrittenPair(task_id, tuple(prompt), tuple(chosen), tuple(rejected), tools, margin)


def _messages(value: Any, name: str, where: str, *, empty: bool = False) -> list[Message]:
    good = isinstance(value, list) and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in value)
    if not good or not (value or empty):
        raise DatasetError(f"{where}: {name} is {str(value)[:60]!r}; it is a list of messages {{role, content}}")
    return list(value)


def _shared(one: Sequence[Message], other: Sequence[Message]) -> int:
    """How many messages two conversations begin with in common."""
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)
