"""Where a training loop is, on disk: the learner's state and a small record; a kill loses no step that was saved.

    step-N/learner.pt       the learner after step N
    step-N/progress.json    the record of it, written last: a folder without one was never saved
    best-N/                 a policy to keep, as it was after step N; the record of a step names its own

What no record names is made again, or removed at the next save.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flyball.types import WeightsRef

MAX_SHARE = 20
"""A checkpoint is due once the time since the last one is this many times what it took to write."""


@dataclass
class Progress:
    """Steps done, the best validation so far and the step it was at, and the metrics that guards look at.

    `stopped_early` says why training ended before its last step; '' while it goes on and when it got there. It is
    saved, so a loop that ended is not taken up again. `settled` holds the seconds of the attempts whose fate is known,
    by fate (see `train/attempt_metrics.py`), `replays` how often groups were replayed (see `train/replay.py`), `alarms`
    what guards said, and `paused` why a person should look before it goes on ('' where nobody need; see
    `train/guards.py`).
    """

    step: int = 0
    best: float = float("-inf")
    best_step: int = -1
    seconds: float = 0.0
    stopped_early: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    settled: dict[str, list[float]] = field(default_factory=dict)
    replays: dict[str, int] = field(default_factory=dict)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    paused: str = ""


def share_done(progress: Progress, num_steps: int, max_seconds: float | None) -> float:
    """How much of its steps or its time, whichever is further on, a loop has used; 0 to 1."""
    by_time = progress.seconds / max_seconds if max_seconds else 0.0
    return min(1.0, max(progress.step / num_steps, by_time))


class Saved(Protocol):
    """What is saved and resumed: a learner of a policy, a critic or a reward model."""

    def save(self, path: Path) -> None: ...

    def load(self, path: Path) -> None: ...

    def publish(self, path: Path) -> WeightsRef: ...


class Checkpoints:
    """Saves and resumes one training loop in `folder`.

    Small learners are saved at every step, large ones as often as a twentieth of the time allows. `beside` are learners
    of other networks, saved and loaded with it, by the name of their folder in that of the step.
    """

    def __init__(self, folder: Path, learner: Saved, beside: Mapping[str, Saved] | None = None) -> None:
        self.folder, self.learner, self.beside = folder, learner, dict(beside or {})
        self._written_at, self._took = time.monotonic(), 0.0

    @property
    def steps(self) -> list[int]:
        """Steps that are saved, oldest first."""
        return sorted(int(record.parent.name[5:]) for record in self.folder.glob("step-*/progress.json"))

    def resume(self, at_most: int | None = None) -> Progress:
        """Load the last step that was saved, or the last that is not after `at_most`; without one, start.

        A loop that had ended early is returned as it ended.
        """
        steps = self.steps
        if steps and (ended := self._read(steps[-1])).stopped_early:
            at_most, steps = ended.step, steps[-1:]
        wanted = [step for step in steps if at_most is None or step <= at_most]
        if not wanted:
            return Progress()
        self.learner.load(self.folder / f"step-{wanted[-1]}")
        for name, other in self.beside.items():
            other.load(self.folder / f"step-{wanted[-1]}" / name)
        return self._read(wanted[-1])

    def save(self, progress: Progress, *, force: bool = False, needed: int | None = None) -> None:
        """Save if due. The record is written last, so state and record always fit together.

        `needed` is the oldest step whose weights may be asked for again: what a resume at it needs is kept.
        """
        if not force and time.monotonic() - self._written_at < MAX_SHARE * self._took:
            return
        started = time.monotonic()
        current = self.folder / f"step-{progress.step}"
        self.learner.save(current)
        for name, other in self.beside.items():
            other.save(current / name)
        beside = current / "progress.json.partial"
        beside.write_text(json.dumps(asdict(progress)))
        beside.replace(current / "progress.json")
        self._remove_old(progress.step if needed is None else needed)
        self._written_at = time.monotonic()
        self._took = self._written_at - started

    def _read(self, step: int) -> Progress:
        return Progress(**json.loads((self.folder / f"step-{step}" / "progress.json").read_text()))

    def _remove_old(self, needed: int) -> None:
        first = max((step for step in self.steps if step <= needed), default=0)
        kept = [self._read(step) for step in self.steps if step >= first]
        named = {path for p in kept for path in (self.folder / f"step-{p.step}", self.best(p))}
        for old in (*self.folder.glob("step-*"), *self.folder.glob("best-*")):
            if old not in named:
                shutil.rmtree(old)

    def keep_best(self, progress: Progress, value: float) -> bool:
        """Publish the current weights as the best when `value` is not below the best so far; whole or not at all."""
        if value < progress.best:
            return False
        progress.best, progress.best_step = value, progress.step
        beside, best = self.folder / "publishing", self.best(progress)
        for old in (beside, best):  # left by a step that was killed before it was saved
            shutil.rmtree(old, ignore_errors=True)
        self.learner.publish(beside)
        beside.rename(best)
        return True

    def best(self, progress: Progress) -> Path:
        """Return where the best policy of this progress lies."""
        return self.folder / f"best-{progress.best_step}"
