"""What an RL run sets out to do: how long, how fast, and with which algorithm."""

from __future__ import annotations

from dataclasses import dataclass

from flyball.rl.algorithms import Algorithm
from flyball.train.guards import lr_adjustment
from flyball.train.progress import Progress, share_done
from flyball.train.replay import ReplayPlan


@dataclass(frozen=True)
class RLPlan:
    """How long, how much per step, and when to stop.

    `max_off_policy_steps`: how many batches may begin ahead. `compare_halves`: take the gradient of each half of an
    update by itself and measure the angle between them (`gradient_cosine`).
    """

    algorithm: Algorithm
    num_steps: int
    tasks_per_step: int
    seed: int
    validate_every: int
    patience: int | None = None
    max_seconds: float | None = None
    warmup_steps: int = 3
    horizon: int | None = None
    updates_per_batch: int = 1
    attempts_per_step: int = 1
    max_off_policy_steps: int = 0
    compare_halves: bool = False
    replay: ReplayPlan | None = None

    def lr_scale(self, progress: Progress) -> float:
        """Share of the peak for the step that comes next: warm-up, then down to a tenth in a straight line.

        What guards have adjusted comes on top.
        """
        warm = min(1.0, (progress.step + 1) / self.warmup_steps)
        fall = 1 - 0.9 * share_done(progress, self.num_steps, self.max_seconds)
        return warm * fall * lr_adjustment(progress)

    def kl_coef(self, progress: Progress) -> float:
        """Weight of the KL for the step that comes next: a function of what is recorded, so a resumed run goes on."""
        measured = [step["kl"] for step in progress.history if "kl" in step]
        schedule = self.algorithm.kl_schedule.scaled(self.algorithm.kl_coef)
        return schedule.weight(progress.step, self.num_steps, measured, self.attempts_per_step)
