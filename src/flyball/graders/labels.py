"""What people said about attempts: one JSON object a line.

    {"attempt": "a1b2", "rater": "ana", "label": true}
    {"attempt": "a1b2", "rater": "ben", "label": 0.5, "rubric": "tone", "at": "2026-03-01"}
    {"id": "x1", "hidden": {...}, "answer": "...", "rater": "ana", "label": false}

`attempt` names one in a store; a line with `answer` or `messages` carries its own. `rubric` is what was judged:
`success` (the default), `safety`, or the name of a score. A label is true, false or a number in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyball.errors import DatasetError, nearest
from flyball.graders.anchors import attempt_of_row, read_jsonl
from flyball.types import Attempt

_KEYS = ("attempt", "rater", "label", "rubric", "at", "id", "public", "hidden", "messages", "answer", "state")


@dataclass(frozen=True)
class Label:
    """One opinion of one person. `value` in [0, 1]; `at` sorts by time as text, '' when nobody noted it."""

    attempt: Attempt
    rater: str
    rubric: str
    value: float
    at: str = ""


def load_labels(path: Path, find: Callable[[str], Attempt] | None = None) -> list[Label]:
    """Read labels; `find` gives a stored attempt by its id. Raises DatasetError naming the line."""
    labels = [_label(row, where, find) for row, where in read_jsonl(path)]
    seen: set[tuple[str, str, str]] = set()
    for label in labels:
        key = (label.attempt.attempt_id, label.rater, label.rubric)
        if key in seen:
            raise DatasetError(f"{path}: {label.rater!r} judged {key[0]!r} by {label.rubric!r} twice; keep one")
        seen.add(key)
    return labels


def _label(row: dict[str, Any], where: str, find: Callable[[str], Attempt] | None) -> Label:
    if unknown := [key for key in row if key not in _KEYS]:
        raise DatasetError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], _KEYS)}")
    value = row.get("label")
    if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
        raise DatasetError(f"{where}: label is {value!r}; it is true, false or a number from 0 to 1")
    if not isinstance(row.get("rater"), str):
        raise DatasetError(f"{where}: no `rater`; agreement needs to know who said it")
    return Label(
        _attempt(row, where, find),
        row["rater"],
        str(row.get("rubric", "success")),
        float(value),
        str(row.get("at", "")),
    )


def _attempt(row: dict[str, Any], where: str, find: Callable[[str], Attempt] | None) -> Attempt:
    if "attempt" not in row:
        return attempt_of_row(row, where)
    if find is None:
        raise DatasetError(f"{where}: attempt {row['attempt']!r} lies in a run; name the run with --run")
    return find(str(row["attempt"]))
