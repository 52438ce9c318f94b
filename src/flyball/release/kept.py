"""What a decision rests on, kept in the store under its own digest: plan, detection, shadow, sessions, verdict.

A route in the audit log names these digests, so the decision can be worked out again from what is stored, years later
and by somebody else (`replay.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import orjson
from pydantic import TypeAdapter

from flyball.release.canary.detection import Detection, DetectionTable
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.read import plan_from_json, sessions_from_lines
from flyball.release.canary.units import ServedSession
from flyball.release.canary.verdict import CanaryVerdict
from flyball.release.shadow import Shadowed
from flyball.store import records
from flyball.store.store import Store

_SHADOW = TypeAdapter(Shadowed)


def keep_plan(store: Store, plan: CanaryPlan) -> str:
    """Store a plan; the digest is the plan's own."""
    return store.artifacts.put_bytes(plan.to_json())


def kept_plan(store: Store, digest: str) -> CanaryPlan:
    """Read a plan back. Raises StoreError when it is absent or damaged."""
    return plan_from_json(store.artifacts.get_bytes(digest))


def keep_detection(store: Store, table: DetectionTable) -> str:
    """Store what a canary was said to see before it began."""
    return store.artifacts.put_bytes(records.to_json(asdict(table)).encode())


def kept_detection(store: Store, digest: str) -> DetectionTable:
    """Read the table back. Raises StoreError when it is absent or damaged."""
    kept = records.from_json(store.artifacts.get_bytes(digest))
    return DetectionTable(**{**kept, "rows": tuple(Detection(**row) for row in kept["rows"])})


def keep_sessions(store: Store, sessions: Sequence[ServedSession]) -> str:
    """Store sessions as the lines that `flyball canary judge` reads, every number exact."""
    lines = b"".join(orjson.dumps(session) + b"\n" for session in sessions)
    return store.artifacts.put_bytes(lines or b"\n")


def kept_sessions(store: Store, digest: str) -> list[ServedSession]:
    """Read sessions back. Raises StoreError when they are absent or damaged."""
    text = store.artifacts.get_bytes(digest).decode()
    return sessions_from_lines(text, f"sessions {digest[:12]}") if text.strip() else []


def keep_verdict(store: Store, verdict: CanaryVerdict) -> str:
    """Store a verdict to its last bit."""
    return store.artifacts.put_bytes(verdict_bytes(verdict))


def verdict_bytes(verdict: CanaryVerdict) -> bytes:
    """A verdict as text in which every float comes back as it was."""
    return records.to_json(asdict(verdict)).encode()


def keep_shadow(store: Store, found: Shadowed) -> str:
    """Store shadowed sessions, every number exact."""
    return store.artifacts.put_bytes(orjson.dumps(found))


def kept_shadow(store: Store, digest: str) -> Shadowed:
    """Read shadowed sessions back. Raises StoreError when they are absent or damaged."""
    return _SHADOW.validate_json(store.artifacts.get_bytes(digest))
