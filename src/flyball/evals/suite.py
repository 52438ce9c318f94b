"""A suite: the frozen tasks that versions are judged on, named and fixed by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from flyball.errors import EvalError
from flyball.tasks.dataset import dataset_digest
from flyball.types import Task


@dataclass(frozen=True)
class Suite:
    """Tasks of one split. `digest` covers the tasks and the world they run in; equal digests may be compared."""

    name: str
    split: str
    tasks: tuple[Task, ...]
    digest: str

    @classmethod
    def of(cls, name: str, tasks: Iterable[Task], *, world_version: str = "") -> Suite:
        """Freeze tasks. Raises EvalError when there are none, an id is there twice, or splits are mixed."""
        frozen = tuple(tasks)
        if not frozen:
            raise EvalError(f"suite {name!r} has no tasks; name a split that the dataset has")
        ids = [task.task_id for task in frozen]
        if len(set(ids)) != len(ids):
            twice = next(task_id for task_id in ids if ids.count(task_id) > 1)
            raise EvalError(f"suite {name!r} has task {twice!r} twice; every task counts once")
        splits = sorted({task.split for task in frozen})
        if len(splits) > 1:
            raise EvalError(f"suite {name!r} mixes the splits {', '.join(splits)}; make one suite for each")
        digest = hashlib.sha256(f"{dataset_digest(frozen)}\n{world_version}".encode()).hexdigest()
        return cls(name, splits[0], frozen, digest)
