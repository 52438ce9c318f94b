"""What the store knows of a release's shadow: its sessions as pairs for `release/shadow.py`, read from calls alone.

A session is compared over its turns from the first that the candidate was to answer too, until the first at which their
tool calls differ: behind it the results of the user's tools fit the candidate no more. A copy that failed, that could
not be read or of which no record came within `LATE_SECONDS` is a failure of the candidate and ends its session. A copy
that was not sent (no room, no upstream), is still awaited, or has no answer of the version in force beside it, is
nobody's: where it comes before either version called a tool, the session is left out and counts as chosen only. So is
one without a tool call whose last turn is younger than `LATE_SECONDS`: it may call its first tool yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from flyball.gateway.shadow import ACTED_OTHERWISE
from flyball.release.routing import RoutingTable
from flyball.release.shadow import ShadowAnswer, Shadowed, ShadowPair
from flyball.store.served import ServedCall
from flyball.store.store import Store

LATE_SECONDS = 600.0
"""After the answer that it copies; a gateway that was stopped writes nothing of the copies it had sent."""

Copies = Mapping[tuple[str, str], ServedCall]
"""(project, id of the primary) -> the call of the shadow."""


def shadowed_sessions(store: Store, table: RoutingTable, *, now: float) -> Shadowed:
    """The sessions that were shadowed at `now` (seconds since 1970) in the shadow stage of the release of `table`.

    Only its own calls count: those by the version in force that no operator pinned. A session's key is its user where
    one is known, since sessions of one user are not independent. Raises StoreError.
    """
    stages = [RoutingTable.from_json(stored.body) for stored in store.routes(table.release_id)]
    since = min(stage.since for stage in stages)
    until = next((stage.since for stage in stages if stage.stage != "shadow"), now)
    copies = {
        (call.project, str(call.facts.get("shadow_of"))): call
        for call in store.calls(arm="shadow", since=since)
        if call.release_id == table.release_id and call.at < now
    }
    turns: defaultdict[tuple[str, str], list[ServedCall]] = defaultdict(list)
    for call in store.calls(since=since, until=min(until, now)):
        if call.release_id == table.release_id and call.arm == "stable" and call.facts.get("shadow"):
            turns[call.project, call.session].append(call)
    pairs = (_pair(sorted(calls, key=lambda call: call.call_id), copies, table, now) for calls in turns.values())
    return Shadowed(tuple(pair for pair in pairs if pair is not None), len(turns))


def _pair(calls: Sequence[ServedCall], copies: Copies, table: RoutingTable, now: float) -> ShadowPair | None:
    """The two answers to one session, None where nothing can be said of its first tool calls."""
    stable: list[str] = []
    shadow: list[str] = []
    seconds = [0.0, 0.0]
    failed = cut = False
    for call in calls:
        copy = copies.get((call.project, call.call_id))
        awaited = copy is None and now < call.at + call.seconds + LATE_SECONDS
        cut = call.facts["shadow"] != "sent" or not call.ok or call.version_id != table.stable or awaited
        if cut:
            break
        said = _agreement(copy)
        failed = copy is None or said["said"] == "failed"
        stable += said["stable"]
        shadow += said["tools"]
        if failed or copy is None:
            break
        for i, answered in enumerate((call, copy)):
            seconds[i] += answered.facts["upstream_seconds"]
        if said["said"] in ACTED_OTHERWISE:
            break
    goes_on = now < calls[-1].at + calls[-1].seconds + LATE_SECONDS
    if (cut or goes_on) and not (stable or shadow or failed):
        return None
    first = calls[0]
    key = first.facts.get("user") or f"{first.project}~{first.session}"
    answers = (ShadowAnswer(tuple(stable), seconds[0]), ShadowAnswer(tuple(shadow), seconds[1], not failed))
    return ShadowPair(key, *answers)


def _agreement(copy: ServedCall | None) -> Mapping[str, Any]:
    """What the gateway wrote of a copy beside its primary; without a readable record it failed."""
    checks: list[dict[str, Any]] = copy.facts.get("checks") or [] if copy else []
    told = [check for check in checks if check["kind"] == "shadow" and "tools" in check]
    return told[0] if told else {"said": "failed", "stable": (), "tools": ()}
