"""Which tasks the next step of RL is at: levels with promotion, families by a bandit, room that grows with the need.

    levels     `Task.stage` in the order of the settings. Up when the lower bound of success at the level reaches
               `promote_at`, down when the upper bound falls below `demote_at`; some tasks are of earlier levels
    families   SEC (arXiv 2505.14970): Q(c) <- (1 - a) Q(c) + a r(c), r = mean |advantage| of the family's attempts,
               P(c) = softmax(Q / tau). A family that was not drawn keeps its Q, and none falls below a floor
    streams    families side by side: each has its share of every step, exactly over the steps together
    room       an attempt's tokens: half as many again when the 90th percentile of what was used nears the limit

Everything is a fold over what the steps before gave, so a resumed run draws what an unbroken one would have.
Deviations from SEC: advantages are centred and not divided by a deviation (divided ones are near 1 whatever the
family), and the floor.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from flyball.rng import derive
from flyball.stats.binomial import wilson
from flyball.types import GradedAttempt, Missing, Task

GROWTH, FULL, QUANTILE = 1.5, 0.9, 0.9
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class CurriculumPlan:
    """`levels` () = one level of all tasks; `by_family`: families by the bandit; `room`: tokens at first, or None.

    `streams`: weight of each family that is trained, in place of the bandit.
    """

    levels: tuple[str, ...] = ()
    promote_at: float = 0.7
    demote_at: float = 0.2
    review_share: float = 0.2
    by_family: bool = False
    streams: Mapping[str, float] = field(default_factory=dict)
    step_size: float = 0.5
    temperature: float = 0.2
    floor: float = 0.05
    room: int | None = None


@dataclass(frozen=True)
class CurriculumState:
    """Where it stands. `succeeded` of `judged` attempts at the level since it was entered; `values`: Q by family."""

    level: int = 0
    succeeded: int = 0
    judged: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    room: int | None = None


def begin(plan: CurriculumPlan, tasks: Sequence[Task]) -> CurriculumState:
    """The state before the first step: lowest level, every Q at 0."""
    return CurriculumState(values={task.family: 0.0 for task in tasks}, room=plan.room)


def advance(plan: CurriculumPlan, state: CurriculumState, groups: Sequence[Sequence[GradedAttempt]]) -> CurriculumState:
    """The state after a step whose groups of attempts are these."""
    attempts = [one for group in groups for one in group]
    values = updated_values(state.values, family_signals(groups), plan.step_size)
    room = state.room and grown(state.room, [g.attempt.usage.tokens_in + g.attempt.usage.tokens_out for g in attempts])
    at_level = [g for g in attempts if not plan.levels or g.attempt.task.stage == plan.levels[state.level]]
    known = [g.outcome.success for g in at_level if not isinstance(g.outcome.success, Missing)]
    counted = replace(
        state, values=values, room=room, succeeded=state.succeeded + sum(known), judged=state.judged + len(known)
    )
    move = _move(plan, counted)
    return replace(counted, level=counted.level + move, succeeded=0, judged=0) if move else counted


def _move(plan: CurriculumPlan, state: CurriculumState) -> int:
    """1 up, -1 down, 0 where the bounds do not say so."""
    if not state.judged:
        return 0
    success = wilson(state.succeeded, state.judged)
    up = success.low >= plan.promote_at and state.level + 1 < len(plan.levels)
    down = success.high < plan.demote_at and state.level > 0
    return int(up) - int(down)


def grown(room: int, used: Sequence[int]) -> int:
    """Tokens that an attempt may use from now on: more when one in ten came within a tenth of the limit."""
    if used and float(np.quantile(used, QUANTILE)) >= FULL * room:
        return math.ceil(GROWTH * room)
    return room


def family_signals(groups: Sequence[Sequence[GradedAttempt]]) -> dict[str, float]:
    """r(c): mean |reward - mean of the others in its group| of each family that was drawn, without missing rewards."""
    found: dict[str, list[float]] = {}
    for group in groups:
        rewards = np.array([g.reward for g in group if not isinstance(g.reward, Missing)], np.float64)
        if len(rewards) > 1:
            centred = (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)
            found.setdefault(group[0].attempt.task.family, []).extend(np.abs(centred).tolist())
    return {family: float(np.mean(each)) for family, each in found.items()}


def updated_values(values: Mapping[str, float], signals: Mapping[str, float], step_size: float) -> dict[str, float]:
    """Q after a step; families without a signal keep theirs."""
    return {
        family: (1 - step_size) * value + step_size * signals[family] if family in signals else value
        for family, value in values.items()
    }


def family_shares(values: Mapping[str, float], temperature: float, floor: float) -> dict[str, float]:
    """P by family: softmax(Q / tau), mixed with equal shares so that none is below floor / families."""
    q = np.array(list(values.values())) / temperature
    soft = np.exp(q - q.max())
    mixed = (1 - floor) * soft / soft.sum() + floor / len(q)
    return dict(zip(values, mixed.tolist(), strict=True))


def draw(
    plan: CurriculumPlan, state: CurriculumState, tasks: Sequence[Task], size: int, seed: int, step: int
) -> list[Task]:
    """The tasks of a step: each once while there are enough of its kind."""
    rng = np.random.default_rng(derive(seed, "curriculum", step))
    now = [t for t in tasks if not plan.levels or t.stage == plan.levels[state.level]]
    before = [t for t in tasks if t.stage in plan.levels[: state.level]]
    reviewed = min(round(plan.review_share * size), size - 1) if before else 0
    shares = family_shares(state.values, plan.temperature, plan.floor) if plan.by_family else None
    drawn: list[Task] = []
    for pool, count in ((now, size - reviewed), (before, reviewed)):
        if not plan.streams:
            drawn += _pick(pool, count, shares, rng)
            continue
        there = {name: weight for name, weight in plan.streams.items() if any(t.family == name for t in pool)}
        for name, n in stream_sizes(there, count, step).items():
            drawn += _pick([t for t in pool if t.family == name], n, None, rng)
    if state.room is None:
        return drawn
    return [replace(t, limits=replace(t.limits, max_tokens=min(state.room, t.limits.max_tokens))) for t in drawn]


def stream_sizes(weights: Mapping[str, float], size: int, step: int) -> dict[str, int]:
    """How many of the `size` places of a step each stream has.

    Places are given out one after the other over all steps, each to the stream that is furthest behind its share: in
    the end each has it, however small a step is.
    """
    total, given = sum(weights.values()), dict.fromkeys(weights, 0)
    sizes = dict.fromkeys(weights, 0)
    for place in range((step + 1) * size if weights else 0):
        next_one = max(weights, key=lambda name: weights[name] * (place + 1) / total - given[name])
        given[next_one] += 1
        sizes[next_one] += place >= step * size
    return sizes


def _pick(tasks: Sequence[Task], n: int, shares: Mapping[str, float] | None, rng: np.random.Generator) -> list[Task]:
    """`n` tasks, each with the share of its family spread over the family's tasks; none twice before all were drawn."""
    if not n:
        return []
    counts = {family: sum(t.family == family for t in tasks) for family in {t.family for t in tasks}}
    weights = np.array([1.0 if shares is None else shares[t.family] / counts[t.family] for t in tasks])
    picked: list[Task] = []
    while len(picked) < n:
        some = min(n - len(picked), len(tasks))
        rows = rng.choice(len(tasks), some, replace=False, p=weights / weights.sum())
        picked += [tasks[int(row)] for row in rows]
    return picked


def needs_tools(
    with_tools: Mapping[K, float],
    without: Mapping[K, float],
    gain: float = 0.0,
    least_with: float = 0.0,
    most_without: float = 1.0,
) -> list[K]:
    """Tasks where tools can be learned: s_with - s_without > gain, s_with > least_with and s_without < most_without.

    LongCat-Flash-Thinking (arXiv 2509.18883) filters its agentic tasks so; its thresholds are not published. Both map a
    task to its mean score over the same number of attempts; tasks that were not tried both ways are left out.
    """
    return [
        task
        for task, score in with_tools.items()
        if task in without and score - without[task] > gain and score > least_with and without[task] < most_without
    ]
