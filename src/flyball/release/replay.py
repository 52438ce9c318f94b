"""`flyball verify RELEASE`: every decision of a release worked out again from what is stored, to the last bit.

The audit log says which plan, which sessions and which time a decision rests on. The same pure functions are asked
again; verdict and move must come out as they were written down. The log itself, its signatures and who approved are
verified by `verifier/flyball_verify.py`, which shares no code with this.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flyball.errors import FlyballError, ReleaseError
from flyball.release.canary.steps import Standing, decide
from flyball.release.canary.verdict import judge_canary
from flyball.release.kept import kept_plan, kept_sessions, kept_shadow, verdict_bytes
from flyball.release.online import shadow_result
from flyball.release.verdict import content_id
from flyball.store.audit import Entry
from flyball.store.store import Store


@dataclass(frozen=True)
class Replayed:
    """One decision. `seq` is its entry in the audit log (-1: the offline gates); `problem` is "" when it came out the
    same."""

    seq: int
    what: str
    problem: str = ""


def replay_release(store: Store, release_id: str) -> tuple[Replayed, ...]:
    """Work out every decision of a release again. Raises StoreError for an unknown release."""
    release = store.release(release_id)
    found = content_id(release.baseline, release.candidate, release.gates)
    changed = "" if found == release.release_id else f"its content has digest {found[:12]}: versions or gates changed"
    offline = Replayed(-1, f"offline gates: {release.verdict}", changed)
    looks = [e for e in store.acts(subject=release.release_id) if e.action == "shadow" or "look" in e.detail]
    return (offline, *(_replay(store, entry) for entry in looks))


def _replay(store: Store, entry: Entry) -> Replayed:
    if entry.action == "shadow":
        what = f"shadow {entry.detail['state']}: {entry.reason}"
    else:
        look = entry.detail["look"]
        what = f"{look['move']} at share {look['share']:g}: {entry.reason}"
    try:
        with _no_collection():
            return Replayed(entry.seq, what, _differs(store, entry))
    except FlyballError as error:
        return Replayed(entry.seq, what, str(error))


def _differs(store: Store, entry: Entry) -> str:
    """How the decision comes out differently, or ""."""
    if entry.action == "shadow":
        again = shadow_result(kept_shadow(store, entry.evidence["sessions"]))
        same = (again.state, again.reason) == (entry.detail["state"], entry.reason)
        return "" if same else f"these sessions give {again.state} ({again.reason}), which is not what was written down"
    look = entry.detail["look"]
    plan = kept_plan(store, entry.evidence["plan"])
    verdict = judge_canary(kept_sessions(store, entry.evidence["sessions"]), plan, look["now"])
    if verdict_bytes(verdict) != store.artifacts.get_bytes(entry.evidence["verdict"]):
        return f"these sessions give {verdict.word} ({verdict.reasons[0]}), which is not what was written down"
    if look["move"] == "promoted_by_owner":
        ready = verdict.word == "ready" and look["share"] >= plan.stages[-1]
        return "" if ready else f"promoted while {verdict.word} at share {look['share']:g}"
    standing = Standing(look["share"], look["since"], look["begun"], look["held_by"])
    decision = decide(plan, standing, verdict, look["now"])
    if decision.move != look["move"]:
        return f"the plan says {decision.move} ({decision.reason}), the log {look['move']}"
    return ""


@contextmanager
def _no_collection() -> Iterator[None]:
    """A replay makes millions of small objects that live to its end; the collector would walk all of them in vain."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def check_replayed(decisions: tuple[Replayed, ...]) -> None:
    """Raise ReleaseError naming the first decision that came out differently."""
    if wrong := [decision for decision in decisions if decision.problem]:
        raise ReleaseError(f"entry {wrong[0].seq}, {wrong[0].what}: {wrong[0].problem}")
