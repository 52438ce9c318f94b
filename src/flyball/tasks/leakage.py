"""Tasks that appear in training and again, as they are or nearly, in a split that judges.

Similarity is Jaccard over shingles of three words of the normalised public text (Broder 1997). All pairs above the
threshold are found without comparing all pairs: two sets that similar share at least one of their rarest shingles
(prefix filter; Chaudhuri, Ganti and Kaushik 2006), so only those are indexed.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flyball.types import Task

SHINGLE_WORDS = 3
_WORD = re.compile(r"\w+")
Shingle = tuple[str, ...]


@dataclass(frozen=True)
class Leak:
    """A task of a judging split and the training task it repeats. `similarity` is in [0, 1]."""

    kind: Literal["same_id", "same_task", "near_duplicate"]
    train_id: str
    other_id: str
    other_split: str
    similarity: float


def leakage(
    train: Sequence[Task], others: Sequence[Task], *, threshold: float = 0.8, compare: Sequence[str] | None = None
) -> list[Leak]:
    """Return the closest training task of every other task that leaks, in the order of `others`.

    `compare` names the public fields that are read (default: all). Leaves out tasks without a word in those fields.
    """
    ids = {task.task_id for task in train}
    bodies = {_body(task, compare): task.task_id for task in reversed(train)}
    index = _Index([(task.task_id, shingles(task, compare)) for task in train], threshold)
    leaks = []
    for task in others:
        if task.task_id in ids:
            leaks.append(Leak("same_id", task.task_id, task.task_id, task.split, 1.0))
        elif twin := bodies.get(_body(task, compare)):
            leaks.append(Leak("same_task", twin, task.task_id, task.split, 1.0))
        elif match := index.closest(shingles(task, compare)):
            leaks.append(Leak("near_duplicate", match[0], task.task_id, task.split, match[1]))
    return leaks


def near_duplicates(tasks: Sequence[Task], threshold: float = 0.8) -> dict[str, str]:
    """Return for every task that nearly repeats an earlier one the id of that one, the first of its kind."""
    owned = [shingles(task) for task in tasks]
    index = _Index([(task.task_id, one) for task, one in zip(tasks, owned, strict=True)], threshold)
    twins: dict[str, str] = {}
    for i, task in enumerate(tasks):
        earlier = [tasks[j].task_id for j, _ in index.matches(owned[i]) if j < i and tasks[j].task_id not in twins]
        if earlier:
            twins[task.task_id] = earlier[0]
    return twins


def shingles(task: Task, compare: Sequence[str] | None = None) -> frozenset[Shingle]:
    """Return the sets of consecutive words that stand for a task: lower case, no punctuation, compatible characters."""
    text = unicodedata.normalize("NFKC", " ".join(_texts(_compared(task, compare)))).casefold()
    words = _WORD.findall(text)
    count = max(len(words) - SHINGLE_WORDS + 1, min(len(words), 1))
    return frozenset(tuple(words[i : i + SHINGLE_WORDS]) for i in range(count))


class _Index:
    """The training tasks by their rarest shingles."""

    def __init__(self, tasks: Sequence[tuple[str, frozenset[Shingle]]], threshold: float) -> None:
        self._tasks = tasks
        self._threshold = threshold
        self._frequency = Counter(shingle for _, owned in tasks for shingle in owned)
        self._postings: dict[Shingle, list[int]] = defaultdict(list)
        for position, (_, owned) in enumerate(tasks):
            for shingle in self._prefix(owned):
                self._postings[shingle].append(position)

    def matches(self, wanted: frozenset[Shingle]) -> list[tuple[int, float]]:
        """Positions of the tasks that are similar enough, and how similar, the first task first."""
        candidates = {i for shingle in self._prefix(wanted) for i in self._postings.get(shingle, ())}
        found = [(i, jaccard(wanted, self._tasks[i][1])) for i in sorted(candidates)]
        return [(i, similarity) for i, similarity in found if similarity >= self._threshold]

    def closest(self, wanted: frozenset[Shingle]) -> tuple[str, float] | None:
        best = max(self.matches(wanted), key=lambda pair: pair[1], default=None)
        return None if best is None else (self._tasks[best[0]][0], best[1])

    def _prefix(self, owned: frozenset[Shingle]) -> list[Shingle]:
        ordered = sorted(owned, key=lambda shingle: (self._frequency[shingle], shingle))
        return ordered[: len(ordered) - math.ceil(self._threshold * len(ordered)) + 1] if ordered else []


def jaccard(a: frozenset[Shingle], b: frozenset[Shingle]) -> float:
    """Return the share of shingles that two sets have in common, in [0, 1]; 0 when both are empty."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def _compared(task: Task, compare: Sequence[str] | None) -> dict[str, Any]:
    return {name: value for name, value in sorted(task.public.items()) if compare is None or name in compare}


def _body(task: Task, compare: Sequence[str] | None) -> str:
    return json.dumps(_compared(task, compare), sort_keys=True, default=str)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for _, inner in sorted(value.items()) for text in _texts(inner)]
    if isinstance(value, (list, tuple)):
        return [text for inner in value for text in _texts(inner)]
    return [str(value)]
