"""The loop of supervised training, whatever is learned: seeded batches, checkpoints, and the best one kept.

    each step:  a batch -> one update -> at times a validation -> a checkpoint

Batches come from a seeded permutation of each epoch, so a resumed run sees what an unbroken one would have. The
checkpoint is picked by the success of real attempts where a `validate` is given, else by what `judge` says of data held
out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flyball.errors import TrainError
from flyball.metrics import measured
from flyball.rng import derive
from flyball.train.progress import Checkpoints, Progress, share_done
from flyball.types import Estimate

OnStep = Callable[[int, int, Mapping[str, float]], None]
Validate = Callable[[], Awaitable[Estimate]]
"""Success of real attempts by the learner's current weights."""


Judge = Callable[[], tuple[float, Mapping[str, float]]]
"""What data held out say about the current weights: a number that is better when higher, and metrics."""


@dataclass(frozen=True)
class FitPlan:
    """How long and how fast.

    The learning rate warms up over `warmup_steps`, then falls as a cosine to a tenth at the last step, or at the end of
    the time where that comes first.
    """

    num_steps: int
    batch_size: int
    seed: int
    validate_every: int
    warmup_steps: int = 20
    max_seconds: float | None = None

    def lr_scale(self, progress: Progress) -> float:
        """Share of the peak for the step that comes next."""
        warm = min(1.0, (progress.step + 1) / self.warmup_steps)
        done = share_done(progress, self.num_steps, self.max_seconds)
        return warm * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def batch_at(num_samples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of step `step`: consecutive pieces of one seeded permutation per epoch.

    Raises TrainError when there is nothing to take from.
    """
    if num_samples < 1:
        raise TrainError("nothing to train on: 0 samples; give at least one")
    picked: list[int] = []
    position = step * batch_size
    while len(picked) < batch_size:
        epoch, offset = divmod(position, num_samples)
        order = np.random.default_rng(derive(seed, "epoch", epoch)).permutation(num_samples)
        take = order[offset : offset + batch_size - len(picked)]
        picked += take.tolist()
        position += len(take)
    return picked


async def fit(
    plan: FitPlan,
    checkpoints: Checkpoints,
    learn: Callable[[Sequence[int], float], Mapping[str, float]],
    *,
    num_rows: int,
    on_step: OnStep,
    should_stop: Callable[[], bool],
    judge: Judge | None = None,
    validate: Validate | None = None,
) -> Progress:
    """Train until the plan ends, time is up or it is asked to stop. `checkpoints.best` holds the picked result.

    `learn(rows, lr_scale)` updates on these of the `num_rows` rows and returns metrics. With neither `validate` nor
    `judge` there is nothing to pick by, and the last weights are the best.
    """
    progress = checkpoints.resume()
    earlier, started = progress.seconds, time.monotonic()
    while progress.step < plan.num_steps and not progress.stopped_early:
        rows = batch_at(num_rows, plan.batch_size, plan.seed, progress.step)
        shown = dict(learn(rows, plan.lr_scale(progress)))
        progress.step += 1
        progress.seconds = earlier + time.monotonic() - started
        progress.stopped_early = out_of_time(progress, plan.max_seconds)
        last = progress.step == plan.num_steps or bool(progress.stopped_early)
        if last or progress.step % plan.validate_every == 0:
            value, found = judge() if judge is not None else (0.0, {})
            shown |= found
            if validate is not None:
                success = await validate()
                value = success.value
                shown |= measured("validation_success", success)
            checkpoints.keep_best(progress, value)
        on_step(progress.step, plan.num_steps, shown)
        stopping = should_stop()
        checkpoints.save(progress, force=last or stopping)
        if stopping:
            break
    return progress


def out_of_time(progress: Progress, max_seconds: float | None) -> str:
    """Why training ends now if its time is up, else ''."""
    if max_seconds is None or progress.seconds <= max_seconds:
        return ""
    return f"{progress.seconds / 60:.1f} of {max_seconds / 60:.1f} minutes are up"
