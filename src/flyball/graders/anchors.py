"""Anchors: attempts whose judgement people have settled. Graders that judge them otherwise judge nothing else.

One JSON object a line:

    {"id": "refund-right", "public": {...}, "hidden": {...}, "messages": [...], "state": {...}, "success": true}
    {"id": "only-talks", "hidden": {...}, "answer": "Done.", "success": false, "scores": {"tone": [0, 0.5]}}

`messages` are OpenAI's, tool calls and results included; `answer` alone stands for one message. What is expected of
`success` and `safe` is true or false, of a score a range, both ends included; the reward has its range as `reward`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyball.errors import DatasetError, nearest
from flyball.graders.grade import GraderSet
from flyball.graders.row import attempt_of_messages
from flyball.types import Attempt, GradedAttempt, Missing, Task

_KEYS = ("id", "public", "hidden", "messages", "answer", "state", "success", "safe", "scores", "reward")
_EXPECTS = ("success", "safe", "scores", "reward")


@dataclass(frozen=True)
class Anchor:
    """An attempt and what is expected: `success`, `safe` as True or False, anything else as (lowest, highest)."""

    attempt: Attempt
    expects: Mapping[str, bool | tuple[float, float]]


@dataclass(frozen=True)
class Miss:
    """One expectation that was not met."""

    anchor: str
    what: str
    expected: bool | tuple[float, float]
    found: bool | float | Missing | None

    def __str__(self) -> str:
        found = self.found.cause if isinstance(self.found, Missing) else self.found
        return f"anchor {self.anchor!r}: {self.what} is {found}, people settled on {self.expected}"


def load_anchors(path: Path) -> list[Anchor]:
    """Read anchors. Raises DatasetError naming the line; a set needs one that passes and one that fails."""
    anchors = [_anchor(row, where) for row, where in read_jsonl(path)]
    ids = [anchor.attempt.attempt_id for anchor in anchors]
    if twice := [one for one in ids if ids.count(one) > 1]:
        raise DatasetError(f"{path}: two anchors have the id {twice[0]!r}; ids are unique")
    settled = {anchor.expects.get("success") for anchor in anchors}
    if not {True, False} <= settled:
        raise DatasetError(f"{path}: anchors need at least one with success true and one with success false")
    return anchors


async def missed_anchors(graders: GraderSet, anchors: Sequence[Anchor]) -> list[Miss]:
    """Judge every anchor and return what was judged otherwise. Raises DatasetError for a score that does not exist."""
    missed: list[Miss] = []
    for anchor in anchors:
        graded = await graders.grade(anchor.attempt)
        for what, expected in anchor.expects.items():
            found = _found(graded, what, anchor.attempt.attempt_id)
            if not _met(expected, found):
                missed.append(Miss(anchor.attempt.attempt_id, what, expected, found))
    return missed


def read_jsonl(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Return the objects of a JSONL file, each with its `file:line`. Raises DatasetError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as UTF-8 text: {error}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DatasetError(f"{path}:{number}: {line[:60]!r} is no object; write one object a line")
        rows.append((row, f"{path}:{number}"))
    if not rows:
        raise DatasetError(f"{path} is empty; write one object a line")
    return rows


def attempt_of_row(row: Mapping[str, Any], where: str) -> Attempt:
    """Return the attempt that a line tells by `messages` or `answer`. Raises DatasetError."""
    if ("messages" in row) == ("answer" in row):
        raise DatasetError(f"{where}: give either `messages` or `answer`")
    said = row.get("messages") or [{"role": "assistant", "content": row["answer"]}]
    try:
        task = Task(str(row["id"]), dict(row.get("public") or {}), dict(row.get("hidden") or {}))
        return attempt_of_messages(str(row["id"]), task, said, row.get("state"))
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{where}: {type(error).__name__} {error}: no id, or messages not in OpenAI's form"
        ) from None


def _anchor(row: Mapping[str, Any], where: str) -> Anchor:
    if unknown := [key for key in row if key not in _KEYS]:
        raise DatasetError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], _KEYS)}")
    expects: dict[str, bool | tuple[float, float]] = {}
    for what, value in {**{key: row[key] for key in _EXPECTS if key in row}, **row.get("scores", {})}.items():
        if what == "scores":
            continue
        expects[what] = _expected(what, value, where)
    if not expects:
        raise DatasetError(f"{where}: nothing is expected; give `success`, `safe`, `reward` or `scores`")
    return Anchor(attempt_of_row(row, where), expects)


def _expected(what: str, value: Any, where: str) -> bool | tuple[float, float]:
    if what in ("success", "safe"):
        if isinstance(value, bool):
            return value
        raise DatasetError(f"{where}: {what} is {value!r}; it is true or false")
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 2 or not all(isinstance(n, (int, float)) for n in numbers) or numbers[0] > numbers[1]:
        raise DatasetError(f"{where}: {what} is {value!r}; it is a range [lowest, highest]")
    return float(numbers[0]), float(numbers[1])


def _found(graded: GradedAttempt, what: str, anchor: str) -> bool | float | Missing | None:
    known = {"success": graded.outcome.success, "safe": graded.outcome.safe, "reward": graded.reward}
    scores = {name: score.value for name, score in graded.scores.items() if name not in known}
    both = {**scores, **known}
    if what not in both:
        raise DatasetError(f"anchor {anchor!r} expects a score {what!r}{nearest(what, both)}")
    return both[what]


def _met(expected: bool | tuple[float, float], found: bool | float | Missing | None) -> bool:
    if found is None or isinstance(found, Missing):
        return False
    return found == expected if isinstance(expected, bool) else expected[0] <= found <= expected[1]
