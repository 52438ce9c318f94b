"""Training of reward models: on pairs by Bradley-Terry, on labels from 0 to 1 by soft cross-entropy; then calibrated.

    pairs      -log s(f(chosen) - f(rejected)), scores at the end of the answers
    outcome    -[q log s(f) + (1 - q) log(1 - s(f))], score at the end of the attempt, q = it succeeded (or a rubric's)
    process    the same at the end of every turn, q = what the step is worth (`rl/process_targets.py`, or labels)
    implicit   that of outcomes, and the score is hidden in the log ratios of a language model (PRIME)

Whole tasks are held out. On one half of them the temperature is fitted, on the other half everything is reported: the
share of right answers, the calibration error and the curve behind it, with intervals clustered by task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flyball.errors import TrainError
from flyball.metrics import measured
from flyball.models.reward_head import AnyRewardModel, Facts, Kind, Talk, save_reward_model
from flyball.rl.pairs import held_out_tasks
from flyball.rl.preference import bradley_terry, soft_labels
from flyball.stats.calibration import Bin, brier_score, expected_calibration_error, fit_temperature, reliability_curve
from flyball.stats.intervals import mean_interval, proportion_interval
from flyball.train.fit import FitPlan, OnStep, fit
from flyball.train.progress import Checkpoints, Progress
from flyball.types import Estimate, WeightsRef

Floats = npt.NDArray[np.float64]
SCORED_AT_A_TIME = 16
"""Conversations of one forward pass without a gradient."""


@dataclass(frozen=True)
class RewardRow:
    """One row of training data: a better and a worse talk, or one talk with a label from 0 to 1 at each place."""

    task_id: str
    talk: Talk
    worse: Talk | None = None
    labels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.worse is None and len(self.labels) != len(self.talk.places):
            raise TrainError(
                f"task {self.task_id!r}: {len(self.labels)} labels for {len(self.talk.places)} places; give one each"
            )
        if any(not 0 <= label <= 1 for label in self.labels):
            raise TrainError(f"task {self.task_id!r}: labels are {self.labels}; a label is a number from 0 to 1")


class RewardLearner:
    """The learner of a reward model: body and head with one AdamW. Saved, resumed and published like a policy's."""

    def __init__(self, model: AnyRewardModel, tokenizer: Any, lr: float, max_grad_norm: float = 1.0) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.version = 0
        self._lr, self._max_grad_norm = lr, max_grad_norm
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)

    def scores(self, talks: Sequence[Talk]) -> list[Floats]:
        """The scores [K] of each talk at its places, without a gradient."""
        self.model.eval()
        out: list[Floats] = []
        with torch.no_grad():
            for start in range(0, len(talks), SCORED_AT_A_TIME):
                some = talks[start : start + SCORED_AT_A_TIME]
                out += _split(self._forward(some).double().numpy(), some)
        return out

    def update(self, rows: Sequence[RewardRow], lr_scale: float = 1.0) -> dict[str, float]:
        """One step on the mean loss of the rows. Raises TrainError for a loss or gradient that is not finite."""
        self.model.train()
        talks = _talks(rows)
        scores = self._forward(talks)
        loss, by_score = _loss(rows, _split(scores.detach().double().numpy(), talks))
        scores.backward(torch.from_numpy(by_score).to(scores.dtype))  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
        if not torch.isfinite(norm):
            self._optimizer.zero_grad(set_to_none=True)
            raise TrainError(f"gradient norm is {float(norm)}; the step was dropped, weights are unchanged")
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * lr_scale
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.version += 1
        return {"reward_loss": loss, "grad_norm": float(norm)}

    def save(self, path: Path) -> None:
        """Weights, optimizer and version: what `load` needs to go on."""
        path.mkdir(parents=True, exist_ok=True)
        state = {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict(), "version": self.version}
        partial = path / "learner.pt.partial"
        torch.save(state, partial)
        partial.rename(path / "learner.pt")

    def load(self, path: Path) -> None:
        """Go on from `save`."""
        state = torch.load(path / "learner.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.version = int(state["version"])

    def publish(self, path: Path) -> WeightsRef:
        """Write the folder that graders load."""
        return WeightsRef(self.version, str(path), save_reward_model(self.model, self.tokenizer, path))

    def _forward(self, talks: Sequence[Talk]) -> torch.Tensor:
        scores: torch.Tensor = self.model(talks)
        return scores


def _talks(rows: Sequence[RewardRow]) -> list[Talk]:
    return [talk for row in rows for talk in (row.talk, row.worse) if talk is not None]


def _split(scores: npt.NDArray[Any], talks: Sequence[Talk]) -> list[Floats]:
    ends = np.cumsum([len(talk.places) for talk in talks])
    return [np.asarray(part, np.float64) for part in np.split(scores, ends[:-1])]


def _loss(rows: Sequence[RewardRow], scores: Sequence[Floats]) -> tuple[float, Floats]:
    """Mean loss of the rows, and its derivative by every score in the order of `_talks`."""
    given, total, by_score = iter(scores), 0.0, list[Floats]()
    for row in rows:
        mine = next(given)
        if row.worse is not None:
            loss, better, worse = bradley_terry(mine[-1:], next(given)[-1:])
            by_score += [better, worse]
        else:
            loss, by = soft_labels(mine, np.array(row.labels))
            by_score.append(by / len(by))
        total += float(loss.mean())
    return total / len(rows), np.concatenate(by_score) / len(rows)


# --- what it is worth ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """A reward model on tasks held out. `accuracy`: right answers; `error`: expected calibration error."""

    facts: Facts
    accuracy: Estimate
    error: Estimate
    brier: Estimate
    curve: tuple[Bin, ...]


def verdicts(
    rows: Sequence[RewardRow], scores: Sequence[Floats], centre: float = 0.0
) -> tuple[Floats, Floats, list[str]]:
    """Logits, outcomes (0 or 1) and tasks of what can be right or wrong: pairs, and labels that are not 0.5.

    A pair's logit is |f(chosen) - f(rejected)| and it came true if the chosen won: the claim is the winner's. A label
    is right above 0.5.
    """
    given, logits, truth, tasks = iter(scores), list[float](), list[float](), list[str]()
    for row in rows:
        mine = next(given)
        if row.worse is not None:
            margin = float(mine[-1] - next(given)[-1])
            logits.append(abs(margin))
            truth.append(0.5 if margin == 0 else float(margin > 0))
            tasks.append(row.task_id)
        else:
            for score, label in zip(mine, row.labels, strict=True):
                if label != 0.5:
                    logits.append(float(score) - centre)
                    truth.append(float(label > 0.5))
                    tasks.append(row.task_id)
    return np.array(logits), np.array(truth), tasks


def accuracy_of(rows: Sequence[RewardRow], scores: Sequence[Floats], centre: float = 0.0) -> Estimate:
    """Share of pairs that are ordered right, or of labels that are told from their opposite; a tie is half right."""
    logits, truth, tasks = verdicts(rows, scores, centre)
    if not len(logits):
        raise TrainError("nothing can be right or wrong: every label is 0.5; label what is good and what is not")
    pairs = np.array([row.worse is not None for row in rows]).all()
    right = truth if pairs else np.where(logits == 0, 0.5, (logits > 0) == (truth > 0.5))
    return proportion_interval(right, clusters=tasks)


def calibrate(learner: RewardLearner, held_out: Sequence[RewardRow], kind: Kind, seed: int) -> Calibration:
    """Fit centre and temperature on half of the held-out tasks and report on the other half.

    Raises TrainError when there are not two tasks, or one half has nothing to judge.
    """
    first = held_out_tasks((row.task_id for row in held_out), 0.5, seed)
    fitted, reported = ([r for r in held_out if (r.task_id in first) is side] for side in (True, False))
    if not fitted or not reported:
        raise TrainError(
            f"{len(held_out)} held-out rows are of one task; calibration needs two: give more tasks or a larger "
            "held_out_share"
        )
    scores = learner.scores(_talks(fitted))
    centre = float(np.mean(np.concatenate(scores))) if kind == "pairs" else 0.0
    logits, truth, _tasks = verdicts(fitted, scores)
    known = truth != 0.5
    temperature = fit_temperature(logits[known], truth[known]) if known.any() else 1.0
    facts = replace(learner.model.facts, kind=kind, temperature=temperature, centre=centre)
    found = learner.scores(_talks(reported))
    logits, truth, tasks = verdicts(reported, found)
    claimed = 1 / (1 + np.exp(-logits / temperature))
    known = truth != 0.5
    kept, clusters = claimed[known], [task for task, sure in zip(tasks, known, strict=True) if sure]
    if not len(kept):
        raise TrainError("the reward model scores every held-out pair alike; train it longer, or on more pairs")
    truth = truth[known]
    return Calibration(
        facts,
        accuracy_of(reported, found),
        expected_calibration_error(kept, truth, clusters=clusters),
        brier_score(kept, truth, clusters=clusters),
        reliability_curve(kept, truth, clusters=clusters),
    )


async def run_reward_model(
    learner: RewardLearner,
    rows: Sequence[RewardRow],
    held_out: Sequence[RewardRow],
    plan: FitPlan,
    checkpoints: Checkpoints,
    *,
    on_step: OnStep,
    should_stop: Callable[[], bool],
) -> Progress:
    """Train on `rows`; see `fit`. The checkpoint with the least held-out loss is picked."""

    def judge() -> tuple[float, Mapping[str, float]]:
        scores = learner.scores(_talks(held_out))
        each = []
        for row in held_out:
            mine, scores = scores[: 1 + (row.worse is not None)], scores[1 + (row.worse is not None) :]
            each.append(_loss([row], mine)[0])
        loss = mean_interval(each, clusters=[row.task_id for row in held_out])
        right = accuracy_of(held_out, learner.scores(_talks(held_out)))
        return -loss.value, measured("reward_validation_loss", loss) | measured("reward_accuracy", right)

    return await fit(
        plan,
        checkpoints,
        lambda picked, lr_scale: learner.update([rows[i] for i in picked], lr_scale),
        num_rows=len(rows),
        on_step=on_step,
        should_stop=should_stop,
        judge=judge if held_out else None,
    )
