"""The sessions of a release as gateways served them, read from the store: what a look judges when no file is given.

Who belongs to the experiment, and when a session was assigned, is what the gateway wrote before the upstream was asked;
so a session whose gateway died, or that nobody told an outcome of, is there all the same and its label is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from flyball.release.canary.units import Arm, Label, ServedSession
from flyball.release.routing import RoutingTable
from flyball.store.served import AskedCall, Fact
from flyball.store.store import Store


def release_sessions(store: Store, table: RoutingTable) -> list[ServedSession]:
    """Sessions in canary and holdback; once everybody has the release, those that began since then.

    Calls that a person pinned count nowhere, and neither does what was told of a session before it met the release.
    `seconds`: what its model calls took together. `tool_error`: a call of a tool was refused. A session has ended when
    its gateway said so, which it does after `session_idle_seconds`. Raises StoreError.
    """
    of_session: defaultdict[tuple[str, str], list[AskedCall]] = defaultdict(list)
    begun_before: set[tuple[str, str]] = set()
    for call in store.asked_calls(table.release_id):
        if table.stage == "general" and call.table < table.version:
            begun_before.add((call.project, call.session))
        elif _counts(call, table):
            of_session[call.project, call.session].append(call)
    told: defaultdict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in store.feedback():
        told[fact.project, fact.session].append(fact)
    silent = store.silent_since()
    found = []
    for key, calls in of_session.items():
        if key not in begun_before:
            calls.sort(key=lambda call: call.at)  # workers' spools are not read in the order of time
            found.append(_session(calls, told[key], ended=silent.get(key, -1.0) >= calls[-1].at))
    return found


def _counts(call: AskedCall, table: RoutingTable) -> bool:
    return call.reason in ("split", "session") if table.stage == "general" else call.in_experiment


def _session(calls: Sequence[AskedCall], told: Iterable[Fact], *, ended: bool) -> ServedSession:
    first, ids = calls[0], {call.call_id for call in calls}
    arm: Arm = "holdback" if first.arm == "holdback" else "canary"
    # A session that goes on for long may have been told of under an earlier release. Clocks of two workers may differ
    # by more than a quick report takes: no outcome comes before its session.
    told = [fact for fact in told if fact.at >= first.at or fact.call_id in ids]
    labels = tuple(Label(fact.outcome, max(fact.at, first.at)) for fact in told if fact.outcome is not None)
    harm = {fact.facts.get("harm") for fact in told}
    return ServedSession(
        session_id=f"{first.project}~{first.session}",
        key=first.user if first.unit == "user" else f"{first.project}~{first.session}",
        arm=arm,
        assigned_at=first.at,
        ended_at=max(call.at + call.seconds for call in calls) if ended else None,
        labels=labels,
        override=any(fact.override and fact.override["kind"] != "approve" for fact in told),
        tool_error=any(call.refused_tools for call in calls),
        unsafe=bool(harm & {"unsafe", "critical"}),
        critical="critical" in harm,
        cost_usd=sum(call.cost_usd for call in calls),
        seconds=sum(call.seconds for call in calls),
    )
