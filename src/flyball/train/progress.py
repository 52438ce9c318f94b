"""Where a training loop is, on disk: the learner's state and a small record; a kill loses no step that was saved."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flyball.train.learner import LocalLearner

MAX_SHARE = 20
"""A checkpoint is due once the time since the last one is this many times what it took to write."""


@dataclass
class Progress:
    """Steps done, the best validation so far and the step it was at, and the metrics that guards look at."""

    step: int = 0
    best: float = float("-inf")
    best_step: int = -1
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Checkpoints:
    """`folder/learner.pt` + `folder/progress.json` for going on, `folder/best/` the policy to keep.

    Small learners are saved at every step, large ones as often as a twentieth of the time allows.
    """

    def __init__(self, folder: Path, learner: LocalLearner) -> None:
        self.folder, self.learner = folder, learner
        self._written_at, self._took = time.monotonic(), 0.0

    def resume(self) -> Progress:
        """Load what was saved last, or start."""
        record = self.folder / "progress.json"
        if not record.is_file():
            return Progress()
        progress = Progress(**json.loads(record.read_text()))
        self.learner.load(self.folder / f"step-{progress.step}")
        return progress

    def save(self, progress: Progress, *, force: bool = False) -> None:
        """Save if due. The record names the saved state, so the two always fit together."""
        if not force and time.monotonic() - self._written_at < MAX_SHARE * self._took:
            return
        started = time.monotonic()
        self.learner.save(self.folder / f"step-{progress.step}")
        beside = self.folder / "progress.json.partial"
        beside.write_text(json.dumps(asdict(progress)))
        beside.replace(self.folder / "progress.json")
        for old in self.folder.glob("step-*"):
            if old.name != f"step-{progress.step}":
                for file in old.iterdir():
                    file.unlink()
                old.rmdir()
        self._written_at = time.monotonic()
        self._took = self._written_at - started

    def keep_best(self, progress: Progress, value: float) -> bool:
        """Publish the current weights as the best when `value` is not below the best so far."""
        if value < progress.best:
            return False
        progress.best, progress.best_step = value, progress.step
        self.learner.publish(self.folder / "best")
        return True

    @property
    def best(self) -> Path:
        return self.folder / "best"
