"""How well a learned reward still tells success from failure, by the age of the policy that it judges.

Of each task every success is compared with every failure: the reward is right when the success has more. A policy that
learns from a reward model goes where that model was never trained; its accuracy then falls, long before success does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flyball.stats.intervals import rate_interval
from flyball.stats.written import format_estimate
from flyball.store.store import Store
from flyball.types import Estimate, GradedAttempt, Missing

REFRESHED = "reward_model_refreshed"
"""Kind of event of a run: {step, version}; with `failed` where the old version goes on."""


def reward_accuracy(graded: Iterable[GradedAttempt]) -> Estimate | None:
    """Share of pairs (success, failure) at the same task that the reward orders right; ties are half right.

    The interval follows the tasks. None where no task has both.
    """
    by_task: dict[str, tuple[list[float], list[float]]] = {}
    for one in graded:
        if isinstance(one.outcome.success, Missing) or isinstance(one.reward, Missing):
            continue
        succeeded, failed = by_task.setdefault(one.attempt.task.task_id, ([], []))
        (succeeded if one.outcome.success else failed).append(one.reward)
    both = {task: sides for task, sides in by_task.items() if all(sides)}
    if not both:
        return None
    right = [sum((a > b) + 0.5 * (a == b) for a in good for b in bad) for good, bad in both.values()]
    pairs = [float(len(good) * len(bad)) for good, bad in both.values()]
    return rate_interval(right, pairs, clusters=list(both))


def accuracy_by_version(graded: Iterable[GradedAttempt]) -> Mapping[int, Estimate]:
    """Accuracy by the newest policy version that sampled in an attempt; versions without such pairs are left out."""
    by_version: dict[int, list[GradedAttempt]] = {}
    for one in graded:
        versions = [v for call in one.attempt.trajectory.calls for v in call.policy_versions]
        if versions:
            by_version.setdefault(max(versions), []).append(one)
    found = {version: reward_accuracy(attempts) for version, attempts in sorted(by_version.items())}
    return {version: accuracy for version, accuracy in found.items() if accuracy is not None}


def needs_refresh(first: Estimate, now: Estimate, fall: float = 0.1) -> str:
    """Why a reward model should be trained anew on attempts of the policy of today, or ''.

    It has fallen when the upper bound of its accuracy now lies more than `fall` below the lower bound of what it was:
    noise alone starts nothing.
    """
    if now.high >= first.low - fall:
        return ""
    return f"its accuracy fell from {format_estimate(first)} to {format_estimate(now)}"


def refreshed_after(store: Store, run_id: str) -> Sequence[int]:
    """The steps of RL after which a run trained its reward model anew."""
    events = store.events(run_id, REFRESHED)
    return [event.payload["step"] for event in events if "failed" not in event.payload]


def newest_judge(store: Store, run_id: str) -> str | None:
    """The version that the run trained anew last; None where it trained none."""
    made = [event.payload["version"] for event in store.events(run_id, REFRESHED)]
    return made[-1] if made else None
