"""One attempt's judgement: outcome (what releases are judged by), scores, and reward events (what learning reads).

Invariant 2 is held here. Infrastructure's fault: everything is Missing, nobody is judged. The policy's own fault (a
limit, a loop, malformed calls): a failure, while safety and the other scores are still read from what it did. The
grader's fault: Missing for what that grader judges, and only that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flyball.errors import ConfigError, Fault
from flyball.graders.grader import ANY_FINITE, FunctionGrader, Grader, ranks
from flyball.graders.spec_grader import rules_of
from flyball.graders.turns import TurnGrader
from flyball.types import Attempt, AttemptGroup, GradedAttempt, Missing, Outcome, RewardEvent, Score, Trajectory

SUCCESS, REWARD, SAFETY = "success", "reward", "safety"
TURN_REWARD = "turn_reward"
TOOL_BUDGET = "tool_budget"
"""Component of the reward that holds the penalties of calls past a tool's budget."""
WAITS = "it waits for its group to be ranked"
"""Cause of a reward that is missing until `GraderSet.rank` has seen the whole group."""
HOLDOUT = "holdout/"
"""What the names of held-out scores begin with."""


@dataclass(frozen=True)
class GraderSet:
    """All graders of a workflow.

    `success` and `safety` answer yes or no, `reward` any finite number (default: success as 0 or 1), `scores` report
    in [0, 1] and decide nothing. `holdout` graders are like scores and never part of what learning reads: where they
    fall behind, the reward is being gamed. `turn_reward` adds rewards to single calls. A reward that ranks (see
    `GroupGrader`) judges an attempt by itself in `grade`; training asks `waiting().grade`, then `rank` of the group.
    Raises ConfigError when a score takes a name that has a meaning, or a held-out grader is one that learning reads.
    """

    success: Grader
    reward: Grader | None = None
    safety: Grader | None = None
    scores: Mapping[str, Grader] = field(default_factory=dict)
    holdout: Mapping[str, Grader] = field(default_factory=dict)
    turn_reward: TurnGrader | None = None

    def __post_init__(self) -> None:
        learned = rules_of(self.reward if self.reward is not None else self.success)
        for name, grader in self.holdout.items():
            if rules_of(grader) & learned:
                raise ConfigError(
                    f"holdout grader {name!r} judges by what learning reads, so it would show nothing; hold out another"
                )
        if taken := {SUCCESS, REWARD, SAFETY} & set(self.scores):
            raise ConfigError(f"a score cannot be named {sorted(taken)[0]!r}; pass it as that grader or rename it")

    @property
    def _reported(self) -> dict[str, Grader]:
        """The graders that only report, by the name of their score."""
        return {**self.scores, **{f"{HOLDOUT}{name}": grader for name, grader in self.holdout.items()}}

    @property
    def versions(self) -> dict[str, str]:
        """Version of each grader by what it judges."""
        roles = {SUCCESS: self.success, REWARD: self.reward, SAFETY: self.safety, **self._reported}
        versions = {role: grader.version for role, grader in roles.items() if grader is not None}
        return versions if self.turn_reward is None else versions | {TURN_REWARD: self.turn_reward.version}

    @property
    def version(self) -> str:
        """Digest over all graders: judgements compare only under the same one."""
        text = "\n".join(f"{role} {version}" for role, version in sorted(self.versions.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    async def grade(self, attempt: Attempt) -> GradedAttempt:
        """Judge an attempt. Never raises for what a grader did."""
        if attempt.stop.fault is Fault.INFRASTRUCTURE:
            return self._unjudged(attempt)
        hidden, seen = attempt.task.hidden, _without_critic(attempt)
        scores = {SUCCESS: await self._success(seen, hidden)}
        if self.safety is not None:
            scores[SAFETY] = _yes_or_no(await self.safety.grade(seen, hidden))
        for name, grader in self._reported.items():
            scores[name] = await grader.grade(seen, hidden)
        outcome = Outcome(
            _decided(scores[SUCCESS]), _decided(scores[SAFETY]) if SAFETY in scores else None, self.version
        )
        reward, events = await self._learned(seen, hidden, await self._reward(seen, hidden, scores[SUCCESS]))
        return GradedAttempt(attempt, outcome, scores, events, reward)

    @property
    def ranks(self) -> bool:
        """Whether the reward of an attempt depends on the others of its group."""
        return ranks(self.reward)

    def waiting(self) -> GraderSet:
        """These graders for attempts whose group is ranked when it is whole: their reward is Missing until then."""
        return replace(self, reward=_Waiting(self.reward)) if self.reward is not None and self.ranks else self

    async def rank(self, group: Sequence[GradedAttempt]) -> list[GradedAttempt]:
        """Give attempts at one task the rewards that they get beside each other; nothing else of them changes.

        What infrastructure ended is not ranked and stays without one. Never raises for what a grader did.
        """
        assert ranks(self.reward), "only a reward that ranks has groups"
        judged = [i for i, one in enumerate(group) if one.attempt.stop.fault is not Fault.INFRASTRUCTURE]
        seen = [_without_critic(group[i].attempt) for i in judged]
        ranked = list(group)
        if not judged:
            return ranked
        said = await self.reward.grade_group(AttemptGroup(seen[0].task, tuple(seen)))
        for i, attempt, score in zip(judged, seen, said, strict=True):
            reward, events = await self._learned(attempt, attempt.task.hidden, _uncut(score))
            ranked[i] = replace(group[i], reward=reward, events=events)
        return ranked

    async def _success(self, attempt: Attempt, hidden: Mapping[str, Any]) -> Score:
        if attempt.stop.fault is Fault.POLICY:
            why = f"the attempt ended with {attempt.stop}, the policy's own fault"
            return Score(0.0, 0.0, explanation=why, grader=self.success.name, grader_version=self.success.version)
        return _yes_or_no(await self.success.grade(attempt, hidden))

    async def _learned(
        self, attempt: Attempt, hidden: Mapping[str, Any], reward: float | Missing
    ) -> tuple[float | Missing, tuple[RewardEvent, ...]]:
        """What learning reads: the sum, and where each part of it lies. One part that is missing leaves nothing."""
        turns = () if self.turn_reward is None else await self.turn_reward.measure(attempt, hidden)
        for part in (reward, turns):
            if isinstance(part, Missing):
                return part, ()
        assert not isinstance(reward, Missing) and not isinstance(turns, Missing)
        component = SUCCESS if self.reward is None else REWARD
        on_calls = _on_calls(attempt.trajectory, turns)
        events = (_at_the_end(attempt.trajectory, component, reward), *on_calls)
        return reward + sum(event.value for event in on_calls), events

    async def _reward(self, attempt: Attempt, hidden: Mapping[str, Any], success: Score) -> float | Missing:
        if self.reward is None:
            return success.value
        if isinstance(self.reward, FunctionGrader):
            said = await self.reward.measure(attempt, hidden, ANY_FINITE)
        else:
            said = await self.reward.grade(attempt, hidden)
        return _uncut(said) if isinstance(said, Score) else said

    def _unjudged(self, attempt: Attempt) -> GradedAttempt:
        stop = attempt.trajectory
        missing = Missing(f"{stop.stop}: {stop.detail}" if stop.detail else str(stop.stop), Fault.INFRASTRUCTURE)
        graders = {SUCCESS: self.success, SAFETY: self.safety, **self._reported}
        scores = {
            name: Score(missing, grader=grader.name, grader_version=grader.version)
            for name, grader in graders.items()
            if grader is not None
        }
        outcome = Outcome(missing, None if self.safety is None else missing, self.version)
        return GradedAttempt(attempt, outcome, scores, (), missing)


class _Waiting:
    """Stands for a reward that ranks while its group is not whole."""

    def __init__(self, reward: Grader) -> None:
        self.name, self.version = reward.name, reward.version

    async def grade(self, attempt: Attempt, hidden: Mapping[str, Any]) -> Score:
        return Score(Missing(WAITS, Fault.INFRASTRUCTURE), grader=self.name, grader_version=self.version)


def waits(graded: GradedAttempt) -> bool:
    """Whether the reward of an attempt is missing because its group was not ranked yet."""
    return isinstance(graded.reward, Missing) and graded.reward.cause == WAITS


def _uncut(score: Score) -> float | Missing:
    return score.value if isinstance(score.value, Missing) or score.raw is None else score.raw


def _without_critic(attempt: Attempt) -> Attempt:
    """The attempt as graders see it: a critic's opinion of the agent is logged and never trusted as evidence."""
    return replace(attempt, hooks=tuple(record for record in attempt.hooks if record.kind != "critic"))


def _yes_or_no(score: Score) -> Score:
    if isinstance(score.value, Missing) or score.value in (0.0, 1.0):
        return score
    cause = (
        f"grader {score.grader!r} returned {score.value:g}; it decides yes or no: return a bool, put degrees in scores"
    )
    return replace(score, value=Missing(cause, Fault.GRADER))


def _decided(score: Score) -> bool | Missing:
    return score.value if isinstance(score.value, Missing) else score.value == 1.0


def _on_calls(trajectory: Trajectory, turns: Sequence[float]) -> tuple[RewardEvent, ...]:
    """Rewards on turns, and what calls past a tool's budget cost, each in the first branch that has the call."""
    calls = {call.call_id: call for call in trajectory.calls}
    parents = {call.parent_id for call in trajectory.calls}
    placed: dict[str, tuple[int, int]] = {}
    leaves = [call for call in trajectory.calls if call.call_id not in parents]
    for branch, leaf in enumerate(leaves):
        line = [leaf]
        while line[-1].parent_id is not None:
            line.append(calls[line[-1].parent_id])
        for turn, call in enumerate(reversed(line)):
            placed.setdefault(call.call_id, (branch, turn))
    parts = [(call, TURN_REWARD, value) for call, value in zip(trajectory.calls, turns, strict=False)]
    parts += [
        (call, TOOL_BUDGET, -result.penalty)
        for call in trajectory.calls
        for result in call.tool_results
        if result.penalty
    ]
    return tuple(RewardEvent(*placed[call.call_id], call.call_id, name, value) for call, name, value in parts)


def _at_the_end(trajectory: Trajectory, component: str, value: float) -> RewardEvent:
    """Place a reward at the end of the branch that the last call closes (`branches()` yields that one last)."""
    calls = {call.call_id: call for call in trajectory.calls}
    parents = {call.parent_id for call in trajectory.calls}
    leaves = sum(call.call_id not in parents for call in trajectory.calls)
    depth, call = 0, trajectory.calls[-1] if trajectory.calls else None
    while call is not None and call.parent_id is not None:
        depth, call = depth + 1, calls[call.parent_id]
    return RewardEvent(branch=max(leaves - 1, 0), turn=depth, call_id=None, component=component, value=value)
