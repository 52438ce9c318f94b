"""A trace: one conversation from its beginning to an end, whoever recorded it.

What a gateway stored is a tree of calls, each with the messages since its parent; a trace is one way from the root to a
leaf. Traces of other systems come without token ids: good for tasks, grading, evaluation, SFT and preferences, never
for a policy gradient.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from flyball.errors import StoreError
from flyball.store.ingest import write_calls
from flyball.store.served import Fact, Said, ServedCall
from flyball.store.serving_frames import CallFrame
from flyball.store.store import Store
from flyball.types import Message


@dataclass(frozen=True)
class Trace:
    """One conversation. `messages` and `tools` in the form of Chat Completions; None = not known.

    `meta`: where it comes from (project, call, version, arm, the system that recorded it), JSON values.
    """

    session: str
    messages: tuple[Message, ...]
    agent: str = "main"
    model: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None
    seconds: float | None = None
    at: float | None = None
    outcome: bool | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 of what was said, in hex."""
        said = [self.session, self.agent, self.messages, self.tools]
        return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()


def traces_of(
    store: Store,
    *,
    project: str | None = None,
    session: str | None = None,
    version_id: str | None = None,
    since: float = 0.0,
) -> Iterator[Trace]:
    """Yield a trace for each last call of the sessions that match, sessions in the order they began.

    Calls whose body was erased or never kept, and what continues them, are left out. Sessions of shadow are traces of
    their own, without an outcome.
    """
    sessions: defaultdict[tuple[str, str, bool], list[ServedCall]] = defaultdict(list)
    for call in store.calls(project=project, session=session, version_id=version_id, since=since):
        sessions[call.project, call.session, call.arm == "shadow"].append(call)
    for (of, name, shadow), calls in sessions.items():
        yield from _branches(store, calls, [] if shadow else store.feedback(of, name))


def leaves(traces: Iterable[Trace]) -> list[Trace]:
    """Return the traces that no other one of the same session goes on from, each once."""
    by_session: defaultdict[tuple[str, str], dict[bytes, Trace]] = defaultdict(dict)
    for trace in traces:
        by_session[trace.session, trace.agent].setdefault(_key(trace.messages), trace)
    found = []
    for known in by_session.values():
        beginnings = {_key(one.messages[:end]) for one in known.values() for end in range(len(one.messages))}
        found += [trace for key, trace in known.items() if key not in beginnings]
    return found


def add_traces(store: Store, project: str, traces: Iterable[Trace]) -> int:
    """Write traces of another system as calls of `project`, and return how many were new.

    Each is one call of its session under the digest of what was said, so the same trace again is no other one. Raises
    StoreError for a trace that does not end with an assistant's turn.
    """
    return write_calls(store._db, [_frame(project, trace) for trace in traces])


def _frame(project: str, trace: Trace) -> CallFrame:
    if not trace.messages or trace.messages[-1].get("role") != "assistant":
        raise StoreError(f"a trace of session {trace.session!r} does not end with an assistant's turn; leave it out")
    return CallFrame(
        project=project,
        session=trace.session,
        at=trace.at or 0.0,
        call_id=trace.digest[:40],
        agent=trace.agent,
        version=str(trace.meta.get("version", "")),
        exactness="text",
        status=200,
        model=trace.model,
        tokens_in=trace.tokens_in,
        tokens_out=trace.tokens_out,
        cost_usd=trace.cost_usd or 0.0,
        seconds=trace.seconds or 0.0,
        messages=list(trace.messages[:-1]),
        message=trace.messages[-1],
        tools=list(trace.tools) or None,
        imported=dict(trace.meta),  # type: ignore[call-arg]
    )


def _branches(store: Store, calls: Sequence[ServedCall], told: Sequence[Fact]) -> Iterator[Trace]:
    by_id = {call.call_id: call for call in calls}
    by_end = {call.ends: call.call_id for call in calls if call.ends}
    parents = {call.call_id: call.parent or by_end.get(call.continues or "") for call in calls}
    went_on = set(parents.values())
    for call in calls:
        if not call.ok or call.call_id in went_on or call.body is None:
            continue
        way = [call]
        while (parent := by_id.get(way[-1].parent or "")) is not None:
            way.append(parent)
        try:
            yield _trace(way[::-1], [store.said(one) for one in reversed(way)], told)
        except StoreError:  # erased, or never kept
            continue


def _trace(way: Sequence[ServedCall], said: Sequence[Said], told: Sequence[Fact]) -> Trace:
    messages: list[Message] = []
    for part in said:
        messages += map(dict, part.messages)
        if part.message is not None:
            messages.append(dict(part.message))
    last = way[-1]
    outcomes = [fact.outcome for fact in told if fact.outcome is not None]
    overrides = [fact.override for fact in told if fact.override is not None and fact.override["kind"] != "approve"]
    return Trace(
        session=last.session,
        messages=tuple(messages),
        agent=last.agent,
        model=last.model,
        tools=said[0].tools,
        tokens_in=_sum(call.tokens_in for call in way),
        tokens_out=_sum(call.tokens_out for call in way),
        cost_usd=sum(call.cost_usd for call in way),
        seconds=sum(call.seconds for call in way),
        at=way[0].at,
        outcome=outcomes[-1] if outcomes else None,
        meta={
            "project": last.project,
            "call_id": last.call_id,
            "version": last.version_id,
            "arm": last.arm,
            "exactness": "exact" if all(call.exactness == "exact" for call in way) else "text",
            **({"override": overrides[-1]} if overrides else {}),
        },
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _key(messages: Sequence[Message]) -> bytes:
    return hashlib.sha256(orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)).digest()
