"""Live traffic judged by the graders of training: a sample of sessions, the same share in canary and holdback.

It runs beside the gateway and reads the store, so a slow judge delays nobody. Which sessions are drawn depends on their
names and the salt alone: a second run draws the same ones, and grades only those that have no grade yet. A grade is a
late fact with an id made of session and grader version; a grader that fails writes none, for a missing score is not a
zero (invariant 2).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flyball.errors import ConfigError
from flyball.evals.run import grade_again_if_missing
from flyball.gateway.captured import Captured, Session, attempt_of, captured_sessions
from flyball.graders.grade import GraderSet
from flyball.release.routing import bucket
from flyball.store.serving_frames import FeedbackFrame
from flyball.store.store import Store
from flyball.types import GradedAttempt, Missing

T = TypeVar("T")
BY = "grader"
"""What a late fact that is a grade says of where it comes from."""


@dataclass(frozen=True)
class Graded:
    """What one round did. `missing`: sessions whose grader failed, with the cause."""

    drawn: int
    graded: int
    missing: Mapping[Session, str]


def draw(
    sessions: Mapping[Session, T], arms: Mapping[Session, str], shares: Mapping[str, float], salt: str
) -> dict[Session, T]:
    """The sample: of each arm its share. Canary and holdback are compared, so they must have the same share.

    Raises ConfigError for a share that is none, or differs between the two.
    """
    if bad := [share for share in shares.values() if not 0 <= share <= 1]:
        raise ConfigError(f"share {bad[0]:g} is outside 0 to 1")
    if shares.get("canary", 0.0) != shares.get("holdback", 0.0):
        raise ConfigError("canary and holdback are compared with each other, so both are graded at the same share")
    return {key: each for key, each in sessions.items() if bucket(salt, "/".join(key)) < shares.get(arms[key], 0.0)}


async def grade_live(
    store: Store, graders: GraderSet, *, shares: Mapping[str, float], project: str | None = None, salt: str = "grading"
) -> Graded:
    """Grade the sessions of the sample that `graders` have not graded yet, and write what they said.

    A session is graded as it is known now; grade those that are over. Raises StoreError.
    """
    sessions = captured_sessions(store, project=project)
    drawn = draw(sessions, {key: calls[0].call.arm for key, calls in sessions.items()}, shares, salt)
    known = {fact.report_id for fact in store.feedback(project)}
    missing: dict[Session, str] = {}
    count = 0
    for key, calls in drawn.items():
        if report_id(key, graders.version) in known:
            continue
        graded = await grade_again_if_missing(graders, attempt_of(calls))
        if isinstance(success := graded.outcome.success, Missing):
            missing[key] = success.cause
            continue
        count += store.add_feedback(_fact(key, calls[-1], graders.version, success, graded))
    return Graded(len(drawn), count, missing)


def report_id(session: Session, grader_version: str) -> str:
    """The id of a grade: the same session and graders give the same one."""
    return f"grade-{hashlib.sha256(chr(10).join((*session, grader_version)).encode()).hexdigest()[:32]}"


def _fact(session: Session, last: Captured, version: str, success: bool, graded: GradedAttempt) -> FeedbackFrame:
    value = graded.scores["success"].value
    scores = {name: None if score.missing else score.value for name, score in graded.scores.items()}
    more: dict[str, Any] = {"by": BY, "grader": version, "scores": scores}
    return FeedbackFrame(
        project=session[0],
        session=session[1],
        at=time.time(),
        report_id=report_id(session, version),
        call_id=last.call.call_id,
        outcome=success,
        score=None if isinstance(value, Missing) else value,
        **more,
    )
