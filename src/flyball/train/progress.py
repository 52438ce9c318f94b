"""Where a training loop is, on disk: the learner's state and a small record; a kill loses no step that was saved.

    progress.json     the record; it names the two folders that belong to it, so it is replaced last
    step-N/           the learner after step N
    best-N/           the policy to keep, as it was after step N

Whatever the record does not name is of a step that was never saved: it is made again, or removed at the next save.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flyball.train.learner import LocalLearner

MAX_SHARE = 20
"""A checkpoint is due once the time since the last one is this many times what it took to write."""


@dataclass
class Progress:
    """Steps done, the best validation so far and the step it was at, and the metrics that guards look at.

    `stopped_early` says why training ended before its last step; '' while it goes on and when it got there. It is
    saved, so a loop that ended is not taken up again.
    """

    step: int = 0
    best: float = float("-inf")
    best_step: int = -1
    seconds: float = 0.0
    stopped_early: str = ""
    history: list[dict[str, float]] = field(default_factory=list)


def share_done(progress: Progress, num_steps: int, max_seconds: float | None) -> float:
    """How much of its steps or its time, whichever is further on, a loop has used; 0 to 1."""
    by_time = progress.seconds / max_seconds if max_seconds else 0.0
    return min(1.0, max(progress.step / num_steps, by_time))


class Checkpoints:
    """Saves and resumes one training loop in `folder`.

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
        current = self.folder / f"step-{progress.step}"
        self.learner.save(current)
        beside = self.folder / "progress.json.partial"
        beside.write_text(json.dumps(asdict(progress)))
        beside.replace(self.folder / "progress.json")
        for old in (*self.folder.glob("step-*"), *self.folder.glob("best-*")):
            if old not in (current, self.best(progress)):
                shutil.rmtree(old)
        self._written_at = time.monotonic()
        self._took = self._written_at - started

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
