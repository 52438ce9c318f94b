"""Which tasks are worth attempting: GRESO, arXiv 2506.02177, as a state machine over what the groups of tasks earned.

A task whose last z visits in a row taught nothing (all attempts earned the same) is skipped before its rollout with
probability 1 - max(p^z, 0.01): it will probably teach nothing again, and keeps a chance. p_easy is for tasks that every
attempt solved, p_hard for those that none or only some did; after every step each moves by 0.01 so that the share of
such groups stays at its target, a third of 25 % for easy and two thirds for hard.

Deviations: a visit teaches nothing by the advantages of the preset, not by its outcomes; easy means that every attempt
succeeded (the code: mean reward at least 0.98). The generation batch is not adapted, `max_refills` fills it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Visit = Literal["easy", "hard", "mixed"]

FLOOR = 0.01
STEP = 0.01
BOUNDS = (0.05, 0.95)
TARGETS: Mapping[Visit, float] = {"easy": 0.25 / 3, "hard": 0.25 * 2 / 3}


def skip_probability(run: int, keep: float) -> float:
    """1 - max(p^z, 0.01); 0 for a run of z = 0."""
    return 1.0 - max(keep**run, FLOOR)


def adjusted(keep: float, observed: float, target: float) -> float:
    """p - 0.01 (skip more) where the target share of groups or more was of this kind, else p + 0.01."""
    low, high = BOUNDS
    return min(max(keep - STEP if observed >= target else keep + STEP, low), high)


@dataclass
class Visits:
    """How the tasks went. `runs`: kind of the last visit and how many in a row, of tasks that taught nothing.

    `keep`: p_easy and p_hard.
    """

    runs: dict[Hashable, tuple[Visit, int]] = field(default_factory=dict)
    keep: dict[Visit, float] = field(default_factory=lambda: {"easy": 0.5, "hard": 0.5})

    def skips(self, task: Hashable, draw: float) -> bool:
        """Whether a task is skipped now; `draw` is uniform on [0, 1)."""
        kind, run = self.runs.get(task, ("mixed", 0))
        return kind != "mixed" and draw < skip_probability(run, self.keep[kind])

    def add(self, step: Iterable[tuple[Hashable, Visit]]) -> None:
        """Take in the groups of one step: their tasks, then p_easy and p_hard once. No groups change nothing."""
        visits = list(step)
        for task, kind in visits:
            _before, run = self.runs.pop(task, (kind, 0))
            if kind != "mixed":
                self.runs[task] = (kind, run + 1)
        for kind in self.keep if visits else ():
            observed = sum(found == kind for _task, found in visits) / len(visits)
            self.keep[kind] = adjusted(self.keep[kind], observed, TARGETS[kind])
