"""Sampled live tokens scored again by a frozen reference: what `policy_kl_drift` rests on.

With p the policy that drew a token and q the reference, both over what the token was drawn among,

    k3 = q/p - 1 - log(q/p)        its mean over tokens drawn from p is KL(p || q)    (J. Schulman; rl/kl.py)

log p is what the engine kept when it sampled; log q is computed here, beside the gateway and long after the answer. A
session's sum and its number of tokens are a late fact with an id made of session and reference, so a second round
scores only what is new. Sessions without token ids (a hosted model) cannot be scored, and are counted as such.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flyball.errors import Fault
from flyball.gateway.captured import Session, attempt_of, captured_sessions
from flyball.gateway.grading import draw
from flyball.rl.samples import attempt_samples
from flyball.rl.token_credit import KL_VALUES
from flyball.store.served import Fact
from flyball.store.serving_frames import FeedbackFrame
from flyball.store.store import Store
from flyball.types import Attempt, GradedAttempt, Missing, Outcome, TrainingSample

SOURCE = "rescoring"
ScoreTokens = Callable[[Sequence[TrainingSample]], Sequence[npt.NDArray[np.float32]]]
"""Logprobs [T] of every sample's sampled tokens under the reference."""


@dataclass(frozen=True)
class Rescored:
    """What one round did. `without_tokens`: sessions of the sample in which no token id was kept, or only tokens that
    were not drawn at random (temperature 0)."""

    drawn: int
    scored: int
    without_tokens: int


def rescore(
    store: Store,
    score: ScoreTokens,
    *,
    reference: str,
    shares: Mapping[str, float],
    project: str | None = None,
    salt: str = SOURCE,
) -> Rescored:
    """Score the sampled sessions that this reference (a version id) has not scored yet. Raises StoreError."""
    sessions = captured_sessions(store, project=project)
    drawn = draw(sessions, {key: calls[0].call.arm for key, calls in sessions.items()}, shares, salt)
    known = {fact.report_id for fact in store.feedback(project)}
    scored = without = 0
    for key, calls in drawn.items():
        if (name := _report_id(key, reference)) in known:
            continue
        samples = _drawn_at_random(attempt_of(calls))
        if not samples:
            without += 1
            continue
        k3, tokens = distance(samples, score(samples))
        facts: dict[str, Any] = {"by": SOURCE, "reference": reference, "k3": k3, "tokens": tokens}
        frame = FeedbackFrame(project=key[0], session=key[1], at=time.time(), report_id=name, **facts)
        scored += store.add_feedback(frame)
    return Rescored(len(drawn), scored, without)


def distance(samples: Sequence[TrainingSample], reference: Sequence[npt.NDArray[np.float32]]) -> tuple[float, int]:
    """The sum of k3 over the sampled tokens, in nats, and how many they are."""
    total, tokens = 0.0, 0
    for sample, logprobs in zip(samples, reference, strict=True):
        log_r = (logprobs - sample.sampling_logprobs)[sample.loss_mask].astype(np.float64)
        total += float(KL_VALUES["k3"](log_r).sum())
        tokens += len(log_r)
    return total, tokens


def is_rescored(fact: Fact) -> bool:
    """Whether a late fact is one of `rescore`."""
    return fact.facts.get("by") == SOURCE


def _drawn_at_random(attempt: Attempt) -> list[TrainingSample]:
    """The branches whose every call kept its tokens, drawn at one temperature above 0."""
    ungraded = GradedAttempt(attempt, Outcome(Missing("nobody asked", Fault.GRADER)))
    whole = [all(call.completion_ids for call in branch.calls) for branch in attempt.trajectory.branches()]
    return [
        one
        for one in attempt_samples(ungraded)
        if whole[one.branch] and len(one.temperatures) == 1 and one.temperatures[0] > 0.0
    ]


def _report_id(session: Session, reference: str) -> str:
    return f"{SOURCE}-{hashlib.sha256(chr(10).join((*session, reference)).encode()).hexdigest()[:32]}"
