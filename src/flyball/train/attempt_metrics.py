"""What the attempts of a step say about it: what they earned, how old their tokens are, and who never got to teach.

A scheduler that loses slow attempts hides it, because curves show the survivors. So the fate of every attempt is kept
with its duration: `trained` (it was in a batch), `dropped` (it has no reward), `cancelled` (it was ended from outside),
`stale` (older than the preset's `max_age`).
The censoring index is the share of the slowest decile among the trained over its share among all: 1 when slow attempts
teach like any other, 0 when they never do.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flyball.graders.grade import HOLDOUT
from flyball.metrics import measured
from flyball.rl.algorithms import Algorithm
from flyball.rl.samples import is_stale
from flyball.stats.intervals import mean_interval, proportion_interval
from flyball.types import GradedAttempt, Missing, StopReason, TrainingSample

DECILES = 10
MAX_PRODUCT = 3.0
"""TRL's default bound of a mask by sequence."""
LENGTHS = (64, 256, 1024, 4096)
"""Upper ends of the classes of length, in trained tokens; the last class is open."""


def attempt_metrics(graded: Sequence[GradedAttempt]) -> dict[str, float]:
    """Means over the attempts of a step; attempts without a reward or outcome are left out of that mean.

    Reward and success come with intervals, clustered by task: attempts at one task are alike.
    """
    rewards = [(g.reward, g.attempt.task.task_id) for g in graded if not isinstance(g.reward, Missing)]
    outcomes = [
        (float(g.outcome.success), g.attempt.task.task_id) for g in graded if not isinstance(g.outcome.success, Missing)
    ]
    limits = [reason for reason in StopReason if reason.value.startswith("max_")]
    n = max(len(graded), 1)
    metrics = {
        "completion_tokens_mean": sum(g.attempt.usage.tokens_out for g in graded) / n,
        "tool_calls_mean": sum(g.attempt.num_tool_calls for g in graded) / n,
        "turns_mean": sum(len(g.attempt.trajectory.calls) for g in graded) / n,
        "truncated_share": sum(g.attempt.stop in limits for g in graded) / n,
        "malformed_share": sum(g.attempt.stop is StopReason.MALFORMED for g in graded) / n,
    }
    drifts = [(drift, g.attempt.task.task_id) for g in graded for drift in g.attempt.drifts]
    for drift in ("realigned", "forked") if drifts else ():
        shares = proportion_interval([float(d == drift) for d, _ in drifts], clusters=[task for _, task in drifts])
        metrics |= measured(f"{drift}_share", shares)
    metrics |= {f"score/{name}": float(np.mean(found)) for name, found in _scores(graded).items()}
    for name in {name for g in graded for name in g.scores if name.startswith(HOLDOUT)}:
        found = [(g.scores[name].value, g.attempt.task.task_id) for g in graded if name in g.scores]
        metrics |= _clustered(f"score/{name}", found)
    if rewards:
        values, tasks = zip(*rewards, strict=True)
        metrics["reward_mean"] = float(np.mean(values))
        if np.isfinite(values).all():
            metrics |= measured("reward_mean", mean_interval(values, clusters=tasks))
        metrics["reward_std"] = float(np.std(values))
    if outcomes:
        values, tasks = zip(*outcomes, strict=True)
        metrics |= measured("success_rate", proportion_interval(values, clusters=tasks))
    return metrics


def peak_memory() -> float:
    """The most memory that this process has held so far, GiB."""
    units = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units / 2**30


def _clustered(name: str, found: Sequence[tuple[float | Missing, str]]) -> dict[str, float]:
    """Mean with interval, clustered by task, of what is not missing."""
    known = [(value, task) for value, task in found if not isinstance(value, Missing)]
    if not known:
        return {}
    values, tasks = zip(*known, strict=True)
    return measured(name, mean_interval(values, clusters=tasks))


def _scores(graded: Sequence[GradedAttempt]) -> dict[str, list[float]]:
    """Values of every grader but that of success, by name, and of its parts as `NAME.PART`; missing ones left out."""
    found: dict[str, list[float]] = {}
    for name, score in ((n, s) for g in graded for n, s in g.scores.items() if n != "success"):
        if not isinstance(score.value, Missing):
            found.setdefault(name, []).append(score.value)
            for part, value in score.parts.items():
                found.setdefault(f"{name}.{part}", []).append(value)
    return found


def settle(
    settled: dict[str, list[float]], graded: Sequence[GradedAttempt], algorithm: Algorithm, version: int
) -> None:
    """Add the seconds of attempts that were given to the trainer, at `version`, to `settled`, under their fate."""
    for one in graded:
        fate = _fate(one, algorithm, version)
        settled.setdefault(fate, []).append(round(one.attempt.usage.wall_seconds, 3))


def _fate(one: GradedAttempt, algorithm: Algorithm, version: int) -> str:
    if one.attempt.stop is StopReason.CANCELLED:
        return "cancelled"
    if isinstance(one.reward, Missing):
        return "dropped"
    return "stale" if is_stale(one, algorithm, version) else "trained"


def censoring(settled: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """`censoring_index` over all attempts so far, and `attempts/FATE/decile=D` (1 = fastest) for each fate that occurs.

    `attempts/admitted/...` counts every fate. Empty when nothing is settled; no index when nothing was trained.
    """
    seconds = [(second, fate) for fate, row in settled.items() for second in row]
    if not seconds:
        return {}
    order = sorted(range(len(seconds)), key=lambda i: seconds[i][0])
    counts: dict[str, list[int]] = {fate: [0] * DECILES for fate in ("admitted", *settled)}
    for rank, i in enumerate(order):
        decile = rank * DECILES // len(order)
        counts["admitted"][decile] += 1
        counts[seconds[i][1]][decile] += 1
    metrics = {
        f"attempts/{fate}/decile={d + 1}": float(count) for fate, row in counts.items() for d, count in enumerate(row)
    }
    trained, admitted = counts.get("trained", [0] * DECILES), counts["admitted"]
    if sum(trained) and admitted[-1]:
        index = (trained[-1] / sum(trained)) / (admitted[-1] / sum(admitted))
        metrics |= {"censoring_index": index, "censoring_index/n": float(len(seconds))}
    return metrics


def ages(sample: TrainingSample, version: int) -> npt.NDArray[np.int64]:
    """Versions between the learner, at `version`, and what sampled each trained token [N]; empty when none is known."""
    if sample.policy_versions is None:
        return np.zeros(0, np.int64)
    return version - sample.policy_versions[sample.loss_mask]


def staleness(samples: Sequence[TrainingSample], version: int, max_age: int) -> dict[str, float]:
    """Age of the trained tokens in versions: mean, largest, and the share older than the bound at admission.

    Empty when no token is trained or none carries its version.
    """
    flat = np.concatenate([ages(s, version) for s in samples]) if samples else np.zeros(0)
    if not flat.size:
        return {}
    n = float(flat.size)
    return {
        "staleness": float(flat.mean()),
        "staleness/n": n,
        "staleness/max": float(flat.max()),
        "stale_share": float((flat > max_age).mean()),
        "stale_share/n": n,
    }


def mismatch(
    samples: Sequence[TrainingSample], logprobs: Sequence[npt.NDArray[np.float32]], version: int
) -> dict[str, float]:
    """What separates sampler and trainer, by cause and by length. `logprobs` [T]: of the learner before the update.

    `sampler_gap/age=A`: mean |log pi - log mu| of tokens that are A versions old. At age 0 the weights are the same and
    the gap is arithmetic; what older tokens have more of is staleness. `sequence_accepted/length=...`: share of the
    attempts whose product of pi/mu is at most `MAX_PRODUCT`, so that a mask by sequence would keep them.
    """
    by_age: dict[int, list[npt.NDArray[np.float64]]] = {}
    by_length: dict[str, list[float]] = {}
    for sample, now in zip(samples, logprobs, strict=True):
        log_ratio = (now - sample.sampling_logprobs)[sample.loss_mask].astype(np.float64)
        for age in np.unique(age_of := ages(sample, version)):
            by_age.setdefault(int(age), []).append(np.abs(log_ratio[age_of == age]))
        longest = next((str(n) for n in LENGTHS if len(log_ratio) <= n), "more")
        by_length.setdefault(longest, []).append(float(log_ratio.sum() <= math.log(MAX_PRODUCT)))
    metrics: dict[str, float] = {}
    for age, gaps in sorted(by_age.items()):
        flat = np.concatenate(gaps)
        metrics |= {f"sampler_gap/age={age}": float(flat.mean()), f"sampler_gap/age={age}/n": float(flat.size)}
    for length, kept in by_length.items():
        name = f"sequence_accepted/length={length}"
        metrics |= {name: float(np.mean(kept)), f"{name}/n": float(len(kept))}
    return metrics
