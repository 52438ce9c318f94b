"""From graded attempts at one task to pairs of answers, one better than the other, with the margin between them.

    attempts of a task, best first:   a1 > a2 > ... > an      pairs (a1, an), (a2, an-1), ... while the margin is enough

An attempt is in one pair at most, so that no answer is taught twice in a row; attempts whose reward is Missing are in
none. What a method trains is a matter of its scope: all that was sampled, or from the first turn in which the two
answers differ after the same beginning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from flyball.errors import TrainError
from flyball.rl.samples import attempt_samples
from flyball.rng import derive
from flyball.types import GradedAttempt, Missing, TrainingSample

Ints = npt.NDArray[np.int64]
Scope = Literal["all", "segment", "step"]
"""What of an answer is trained: all of it, from the first turn that differs on, or that turn alone."""


@dataclass(frozen=True)
class Answer:
    """One side of a pair: a sample for each branch, and the turn [T] each token was sampled in (-1 = given).

    Turns count from 0 over all branches; the whole distribution is scored at temperature 1, as text.
    """

    samples: tuple[TrainingSample, ...]
    turns: tuple[Ints, ...]

    @property
    def num_turns(self) -> int:
        return 1 + max((int(turn.max(initial=-1)) for turn in self.turns), default=-1)


@dataclass(frozen=True)
class Pair:
    """Two answers to one task. `margin`: reward of the chosen minus that of the rejected; `source`: where it is from.

    `margin` is NaN where people chose and gave no numbers.
    """

    task_id: str
    chosen: Answer
    rejected: Answer
    margin: float
    source: str


def answer_of(graded: GradedAttempt) -> Answer:
    """An attempt as an answer, token for token as it was sampled. Raises TrainError for one that sampled nothing."""
    samples = attempt_samples(graded)
    if not samples:
        raise TrainError(f"attempt {graded.attempt.attempt_id!r} sampled no token, so there is nothing to prefer")
    branches = list(graded.attempt.trajectory.branches())
    calls = [np.where(s.loss_mask, branches[s.branch].call_index, -1) for s in samples]
    order = np.unique(np.concatenate([c[c >= 0] for c in calls]))
    turns = tuple(np.where(c >= 0, np.searchsorted(order, c), -1).astype(np.int64) for c in calls)
    return Answer(tuple(replace(s, support=None, temperatures=()) for s in samples), turns)


def pairs_from_attempts(graded: Iterable[GradedAttempt], min_margin: float, per_task: int, source: str) -> list[Pair]:
    """The matched attempts as pairs of answers, token for token."""
    return [
        Pair(
            better.attempt.task.task_id,
            answer_of(better),
            answer_of(worse),
            _reward(better) - _reward(worse),
            f"{source}: {better.attempt.attempt_id} over {worse.attempt.attempt_id}",
        )
        for better, worse in matched(graded, min_margin, per_task)
    ]


def matched(
    graded: Iterable[GradedAttempt], min_margin: float, per_task: int
) -> list[tuple[GradedAttempt, GradedAttempt]]:
    """At most `per_task` pairs (better, worse) of each task; rewards differ by more than 0 and by `min_margin`."""
    by_task: dict[str, list[GradedAttempt]] = {}
    for one in graded:
        if not isinstance(one.reward, Missing) and any(call.completion_ids for call in one.attempt.trajectory.calls):
            by_task.setdefault(one.attempt.task.task_id, []).append(one)
    pairs = []
    for attempts in by_task.values():
        best_first = sorted(attempts, key=lambda g: (-_reward(g), g.attempt.attempt_id))
        number = min(per_task, len(attempts) // 2)
        for better, worse in zip(best_first[:number], best_first[::-1][:number], strict=True):
            margin = _reward(better) - _reward(worse)
            if margin > 0 and margin >= min_margin:
                pairs.append((better, worse))
    return pairs


def best_attempts(graded: Iterable[GradedAttempt], per_task: int) -> list[GradedAttempt]:
    """Rejection sampling: of each task the `per_task` successes with the highest reward, the shorter one first."""
    by_task: dict[str, list[GradedAttempt]] = {}
    for one in graded:
        if one.outcome.success is True and not isinstance(one.reward, Missing):
            by_task.setdefault(one.attempt.task.task_id, []).append(one)

    def best_first(one: GradedAttempt) -> tuple[float, int, str]:
        return -_reward(one), one.attempt.usage.tokens_out, one.attempt.attempt_id

    return [one for attempts in by_task.values() for one in sorted(attempts, key=best_first)[:per_task]]


def first_difference(pair: Pair) -> int | None:
    """The turn in which the two answers part after the very same tokens; None where no turn does.

    None too where what a tool or a user said parts them: the turns after it answer different questions.
    """
    if len(pair.chosen.samples) > 1 or len(pair.rejected.samples) > 1:
        return None
    chosen, rejected = pair.chosen.samples[0].token_ids, pair.rejected.samples[0].token_ids
    shared = min(len(chosen), len(rejected))
    differs = np.flatnonzero(chosen[:shared] != rejected[:shared])
    if not len(differs):
        return None  # one is the beginning of the other
    at = int(differs[0])
    turns = {int(side.turns[0][at]) for side in (pair.chosen, pair.rejected)}
    return turns.pop() if len(turns) == 1 and -1 not in turns else None


def in_scope(pair: Pair, scope: Scope) -> Pair | None:
    """The pair with only the tokens that `scope` trains; None where the scope needs a turn that parts the answers."""
    if scope == "all":
        return pair
    first = first_difference(pair)
    if first is None:
        return None
    last = first if scope == "step" else None
    return replace(pair, chosen=_turns(pair.chosen, first, last), rejected=_turns(pair.rejected, first, last))


def held_out_tasks(task_ids: Iterable[str], share: float, seed: int) -> set[str]:
    """The tasks to hold out, a seeded `share` of them, whole: what is judged was not seen in another pair.

    At least one task stays on each side where there are two; with one task nothing is held out.
    """
    tasks = sorted(set(task_ids), key=lambda task: derive(seed, "held out", task))
    number = 0 if len(tasks) < 2 or share == 0 else min(max(round(share * len(tasks)), 1), len(tasks) - 1)
    return set(tasks[:number])


def _turns(answer: Answer, first: int, last: int | None) -> Answer:
    kept = [(t >= first) & ((last is None) | (t <= (first if last is None else last))) for t in answer.turns]
    samples = tuple(replace(s, loss_mask=s.loss_mask & k) for s, k in zip(answer.samples, kept, strict=True))
    turns = tuple(np.where(k, t - first, -1) for t, k in zip(answer.turns, kept, strict=True))
    return Answer(samples, turns)


def _reward(graded: GradedAttempt) -> float:
    assert not isinstance(graded.reward, Missing)
    return graded.reward
