"""The rollback drill: go to the candidate and come back, with a clock running and the answer checked.

A flag that was written is not a rollback. The drill ends when a probe task has been answered by the old weights, and
every sampled token of that answer says so. It runs on an alias of its own: rehearsing on the production alias would
expose users to a candidate that has passed nothing.

    alias -> candidate | load candidate | probe answered by candidate        preparation, not counted
    alias -> baseline  | check old weights | load them | probe answered by baseline        the rollback, timed
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from flyball.engine.protocol import Engine
from flyball.errors import Fault, FlyballError, ReleaseError
from flyball.release.registry import PRODUCTION, Registry, weights_digest
from flyball.types import Attempt, PolicyVersion, WeightsRef

DRILL_ALIAS = "drill"

Load = Callable[[PolicyVersion], Awaitable[int]]
"""Puts the weights of a version into the engine; returns the number that its sampled tokens will carry."""

Probe = Callable[[], Awaitable[Attempt]]
"""Runs one small task through the same door as users would."""


@dataclass(frozen=True)
class DrillStep:
    """One step of the way there or back. `counts`: it is part of the rollback time."""

    name: str
    seconds: float
    counts: bool


@dataclass(frozen=True)
class Drill:
    """What happened. `seconds` is the rollback alone. Only a `verified` drill proves anything; else see `problem`.

    `baseline` and `candidate` are version ids; `probe_attempt` is the attempt that the old version answered.
    """

    baseline: str
    candidate: str
    steps: tuple[DrillStep, ...]
    verified: bool
    problem: str = ""
    probe_attempt: str = ""

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps if step.counts)


def loader(engine: Engine) -> Load:
    """How a version gets into an engine: its folder, under the engine's next number."""

    async def load(version: PolicyVersion) -> int:
        ref = WeightsRef(engine.version + 1, version.path, version.weights)
        await engine.load_weights(ref)
        return ref.version

    return load


async def drill_rollback(
    registry: Registry,
    *,
    baseline: PolicyVersion,
    candidate: PolicyVersion,
    load: Load,
    probe: Probe,
    alias: str = DRILL_ALIAS,
    step_seconds: float = 600.0,
    clock: Callable[[], float] = time.monotonic,
) -> Drill:
    """Rehearse the way back from `candidate` to `baseline` and time it.

    A step that fails, takes longer than `step_seconds` or is answered by the wrong version ends the drill with
    `verified=False`; the old weights are loaded again in any case. Raises ReleaseError for the production alias, for
    two equal versions, and when the old weights cannot be put back.
    """
    if alias == PRODUCTION:
        raise ReleaseError(
            f"alias {alias!r}: a drill must not point users at an unproven candidate; use {DRILL_ALIAS!r}"
        )
    if baseline.version_id == candidate.version_id:
        raise ReleaseError(f"baseline and candidate are both {baseline.version_id}; there is nothing to roll back")
    registry.place_alias(alias, baseline.version_id, "a rollback drill starts")
    rehearsal = _Rehearsal(registry, alias, load, probe, step_seconds, clock)
    problem, attempt_id = "", ""
    try:
        away = await rehearsal.switch(baseline, candidate, counts=False)
        attempt_id = await rehearsal.switch(candidate, baseline, counts=True)
        if away == attempt_id:
            raise ReleaseError(f"both probes are attempt {away}; the probe must run anew each time")
    except (FlyballError, TimeoutError) as error:
        problem = str(error) or f"a step took longer than {step_seconds:g} s"
        attempt_id = ""
        await rehearsal.restore(baseline)
    steps = tuple(rehearsal.steps)
    return Drill(baseline.version_id, candidate.version_id, steps, not problem, problem, attempt_id)


class _Rehearsal:
    """One drill under way: the steps so far and how to take the next one."""

    def __init__(
        self,
        registry: Registry,
        alias: str,
        load: Load,
        probe: Probe,
        step_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.steps: list[DrillStep] = []
        self._registry, self._alias = registry, alias
        self._load, self._probe = load, probe
        self._step_seconds, self._clock = step_seconds, clock
        self._numbers: dict[int, str] = {}

    async def switch(self, old: PolicyVersion, new: PolicyVersion, *, counts: bool) -> str:
        """Alias, weights, probe; returns the id of the attempt that `new` answered."""
        started = self._clock()
        self._registry.move_alias(self._alias, expected=old.version_id, to=new.version_id, reason="rollback drill")
        started = self._note(f"alias to {new.name}", started, counts)
        async with asyncio.timeout(self._step_seconds):
            await asyncio.to_thread(_check_weights, new)
        started = self._note(f"check weights of {new.name}", started, counts)
        async with asyncio.timeout(self._step_seconds):
            number = await self._load(new)
        if self._numbers.setdefault(number, new.version_id) != new.version_id:
            raise ReleaseError(f"the engine gave number {number} to two versions, so answers cannot be told apart")
        started = self._note(f"load weights of {new.name}", started, counts)
        async with asyncio.timeout(self._step_seconds):
            attempt = await self._probe()
        _check_answer(attempt, number, new)
        self._note(f"probe answered by {new.name}", started, counts)
        return attempt.attempt_id

    async def restore(self, baseline: PolicyVersion) -> None:
        """After a failed drill: alias and engine as they were before it."""
        self._registry.place_alias(self._alias, baseline.version_id, "a rollback drill failed")
        try:
            async with asyncio.timeout(self._step_seconds):
                await self._load(baseline)
        except (FlyballError, TimeoutError) as error:
            raise ReleaseError(
                f"the drill failed and the weights of {baseline.name} could not be loaded again ({error}); "
                f"this engine must not serve: restart it with {baseline.path or baseline.version_id}"
            ) from error

    def _note(self, name: str, started: float, counts: bool) -> float:
        now = self._clock()
        self.steps.append(DrillStep(name, now - started, counts))
        return now


def _check_weights(version: PolicyVersion) -> None:
    """A version without a folder (a prompt on a hosted model) has nothing on disk to check."""
    if version.path and (found := weights_digest(Path(version.path))) != version.weights:
        raise ReleaseError(
            f"{version.path} has digest {found}, the registry entry {version.name} says {version.weights}: "
            "the weights on disk are not those that were evaluated"
        )


def _check_answer(attempt: Attempt, number: int, version: PolicyVersion) -> None:
    """Who answered is checked, not how well: a limit the policy ran into is no failure of the rollback."""
    if attempt.stop.fault is Fault.INFRASTRUCTURE:
        raise ReleaseError(f"the probe of {version.name} ended as {attempt.stop.value}: {attempt.trajectory.detail}")
    answered = {v for call in attempt.trajectory.calls for v in call.policy_versions}
    if answered != {number}:
        raise ReleaseError(
            f"the probe of {version.name} (engine version {number}) was answered by engine versions {sorted(answered)}"
        )
