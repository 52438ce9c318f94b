"""The audit queue of a run: attempts for people to look at, drawn at random or from the best paid, and what they said.

The random order depends on the run alone, so nobody chooses what is looked at. What people said are events of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from flyball.errors import EvalError
from flyball.evals.hacking import Verdict, audit
from flyball.evals.readiness import Finding
from flyball.rng import derive
from flyball.store.store import Store
from flyball.types import GradedAttempt, Missing

AUDIT = "audit"
"""Kind of the event that a verdict leaves."""
Drawn = Literal["random", "best paid"]


def next_audit(store: Store, run_id: str, phase: str | None = None, *, best_paid: bool = False) -> GradedAttempt | None:
    """Return the next attempt that nobody has looked at, None when all were or there is none.

    Raises UnknownIdError for a phase that the run's attempts do not have.
    """
    store.require_phase(run_id, phase)
    done = {event.payload["attempt"] for event in store.events(run_id, AUDIT)}
    waiting = [one for one in store.attempts(run_id, phase) if one.attempt.attempt_id not in done]
    if best_paid:
        waiting = [one for one in waiting if not isinstance(one.reward, Missing)]
        return max(waiting, key=lambda one: (_paid(one), -_place(run_id, one)), default=None)
    return min(waiting, key=lambda one: _place(run_id, one), default=None)


def mark(
    store: Store,
    run_id: str,
    attempt_id: str,
    verdict: Verdict,
    *,
    rater: str,
    note: str = "",
    phase: str | None = None,
) -> Drawn:
    """Keep what a person said, and return how the attempt had come up.

    It counts as drawn at random when it is the one that the random order (of `phase`) shows next. Raises StoreError for
    an unknown attempt and EvalError for one that was marked, or a verdict that is none.
    """
    if verdict not in get_args(Verdict):
        raise EvalError(f"verdict {verdict!r} is none; write honest or hack")
    store.attempt(run_id, attempt_id)
    if any(event.payload["attempt"] == attempt_id for event in store.events(run_id, AUDIT)):
        raise EvalError(f"attempt {attempt_id} was audited already; verdicts are kept as they were given")
    expected = next_audit(store, run_id, phase)
    drawn: Drawn = "best paid"
    if expected is not None and expected.attempt.attempt_id == attempt_id:
        drawn = "random"
    payload = {"attempt": attempt_id, "verdict": verdict, "rater": rater, "note": note, "drawn": drawn}
    store.add_event(run_id, AUDIT, payload)
    return drawn


def verdicts(store: Store, run_id: str) -> dict[str, Verdict]:
    """Return what people said about attempts drawn at random, by id."""
    said = [event.payload for event in store.events(run_id, AUDIT)]
    return {one["attempt"]: one["verdict"] for one in said if one["drawn"] == "random"}


def audit_run(store: Store, run_id: str, phase: str | None = None) -> Sequence[Finding]:
    """Audit the stored attempts of a run. Raises EvalError when there are none, UnknownIdError for a wrong phase."""
    store.require_phase(run_id, phase)
    return audit(list(store.attempts(run_id, phase)), verdicts(store, run_id), _steps(store, run_id))


def _steps(store: Store, run_id: str) -> dict[str, int]:
    """The training step of every rollout, by attempt."""
    return {
        one.attempt.attempt_id: step for step in store.steps(run_id, "rl") for one in store.attempts(run_id, "rl", step)
    }


def _paid(one: GradedAttempt) -> float:
    assert not isinstance(one.reward, Missing)  # the missing ones were left out
    return one.reward


def _place(run_id: str, one: GradedAttempt) -> int:
    return derive(0, AUDIT, run_id, one.attempt.attempt_id)
