"""Task files: one JSON object a line, to `Task`.

    {"id": "t1", "ticket": "Where is my order?", "hidden": {"state": {...}}, "split": "test", "family": "status"}

`id` names the task, `hidden` reaches graders only, the other reserved keys set how it is run and counted; every
further key is a public field, handed to the world's `reset` by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flyball.errors import DatasetError, nearest
from flyball.types import Limits, Task

MAX_PROBLEMS_SHOWN = 10
_DEFAULT_LIMITS = Limits()
_Text = Annotated[str, Field(min_length=1)]


class _Row(BaseModel):
    """One line of the file; what is not named here is a public field."""

    model_config = ConfigDict(extra="allow", strict=True)
    id: _Text
    hidden: dict[str, Any] = {}
    split: _Text = "train"
    family: _Text = "default"
    stage: _Text = "default"
    cluster: str = ""
    tools: list[str] | None = None
    limits: dict[str, int | float] = {}
    surface: dict[str, Any] = {}


RESERVED_KEYS = frozenset(_Row.model_fields)


def load_tasks(path: str | Path, limits: Limits = _DEFAULT_LIMITS) -> list[Task]:
    """Read a JSONL task file; a row's `limits` replace those given here one by one.

    Raises DatasetError naming file and line for every malformed row (the first ten), a duplicate id, or no rows.
    """
    path = Path(path)
    tasks: list[Task] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for line, text in _lines(path):
        try:
            task = _task(text, limits)
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
            continue
        if task.task_id in seen:
            problems.append(f"{path}:{line}: id {task.task_id!r} is already used on line {seen[task.task_id]}")
        seen.setdefault(task.task_id, line)
        tasks.append(task)
    if problems:
        more = f"\n... and {len(problems) - MAX_PROBLEMS_SHOWN} more" if len(problems) > MAX_PROBLEMS_SHOWN else ""
        raise DatasetError("\n".join(problems[:MAX_PROBLEMS_SHOWN]) + more)
    if not tasks:
        raise DatasetError(f"{path} has no tasks; write one JSON object a line with an id and the fields of reset")
    return tasks


def dataset_digest(tasks: Iterable[Task]) -> str:
    """Return sha256 (hex) of what the tasks say, whatever their order. Raises DatasetError when one is not JSON."""
    rows = []
    for task in sorted(tasks, key=lambda t: t.task_id):
        try:
            rows.append(json.dumps(asdict(task), sort_keys=True, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise DatasetError(f"task {task.task_id!r} is not JSON: {error}") from error
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def select(tasks: Sequence[Task], split: str) -> list[Task]:
    """Return the tasks of one split. Raises DatasetError naming the splits there are when it is empty."""
    chosen = [task for task in tasks if task.split == split]
    if not chosen:
        raise DatasetError(f"no task has split {split!r}{nearest(split, {task.split for task in tasks})}")
    return chosen


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                try:
                    text = raw.decode("utf-8-sig" if line == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    raise DatasetError(
                        f"{path}:{line}: not UTF-8 text ({error.reason}); save the file as UTF-8"
                    ) from error
                if text:
                    yield line, text
    except FileNotFoundError as error:
        raise DatasetError(f"task file {path} does not exist") from error
    except OSError as error:
        raise DatasetError(f"task file {path} cannot be read: {error.strerror}") from error


def _task(text: str, limits: Limits) -> Task:
    """Read one line. Raises ValueError (in pydantic's or our words) without the place, which the caller knows."""
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise ValueError(f"a row is a JSON object, got {text[:40]}")
    try:
        known = _Row.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}, got {json.dumps(first['input'])[:60]}") from error
    return Task(
        task_id=known.id,
        public={key: value for key, value in row.items() if key not in RESERVED_KEYS},
        hidden=known.hidden,
        tools=None if known.tools is None else tuple(known.tools),
        limits=_limits(known.limits, limits),
        split=known.split,
        family=known.family,
        stage=known.stage,
        cluster=known.cluster,
        surface=known.surface,
    )


def _limits(given: dict[str, int | float], limits: Limits) -> Limits:
    if not given:
        return limits
    counts = {field.name: isinstance(field.default, int) for field in fields(Limits)}
    for name, value in given.items():
        if name not in counts:
            raise ValueError(f"limits: {name!r} is not a limit{nearest(name, counts)}")
        if value <= 0 or (counts[name] and not isinstance(value, int)):
            raise ValueError(f"limits: {name} must be a positive {'whole ' if counts[name] else ''}number, got {value}")
    return replace(limits, **given)  # type: ignore[arg-type]  # each value was checked against its field above


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number; write null or leave the field out")


def task_row(task: Task) -> dict[str, Any]:
    """A task as a line of a task file. Raises DatasetError for a public field that a file cannot hold."""
    if taken := RESERVED_KEYS & task.public.keys():
        raise DatasetError(f"task {task.task_id!r} has a public field {sorted(taken)[0]!r}, which a task file reserves")
    row: dict[str, Any] = {
        "id": task.task_id,
        **task.public,
        "hidden": dict(task.hidden),
        "surface": dict(task.surface),
    }
    row |= {"split": task.split, "family": task.family, "stage": task.stage, "cluster": task.cluster}
    return row | ({} if task.tools is None else {"tools": list(task.tools)})


def write_tasks(path: Path, tasks: Iterable[Task]) -> None:
    """Write a new task file. Raises DatasetError where it exists: what lies there may have been reviewed."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(task_row(task))}\n" for task in tasks)
    except OSError as error:
        raise DatasetError(f"tasks were not written to {path}: {error}; name a new file") from error
