"""From stored calls back to attempts: what the graders of training, and whoever makes tasks, can read.

A captured session has no task: nobody said what success was, and no world was exported. Its attempt says so: the
task's id is the session's, `hidden` is empty and the state is None. Tool results are those that the conversation shows;
whether a tool failed is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from flyball.store.records import from_json
from flyball.store.served import Said, ServedCall
from flyball.store.store import Store
from flyball.types import Attempt, Call, Message, StopReason, Task, ToolCall, ToolResult, Trajectory, Usage

Session = tuple[str, str]
"""(project, session)."""


@dataclass(frozen=True)
class Captured:
    """A call that was answered and whose body is kept. `parent` is found by content, whichever worker served it."""

    call: ServedCall
    said: Said
    parent: str | None

    @property
    def message(self) -> Message:
        return dict(self.said.message or {})


def captured_sessions(store: Store, *, project: str | None = None, since: float = 0.0) -> dict[Session, list[Captured]]:
    """The sessions of a store with their calls, in the order of their beginning; shadow calls are left out.

    Calls that broke off and calls whose body was erased are no part of them. `since`: seconds since 1970.
    """
    found: dict[Session, list[ServedCall]] = {}
    for call in store.calls(project=project, since=since):
        if call.arm != "shadow" and call.ok and call.exactness != "cut" and call.body is not None:
            found.setdefault((call.project, call.session), []).append(call)
    return {key: _linked(store, sorted(calls, key=lambda call: call.call_id)) for key, calls in found.items()}


def attempt_of(calls: Sequence[Captured]) -> Attempt:
    """The attempt of one session. `messages` are the main agent's last conversation, its answer included."""
    by_id = {each.call.call_id: each for each in calls}
    main = [each for each in calls if each.call.agent == "main"] or list(calls)
    first, last = calls[0].call, calls[-1].call
    kept = _tokens(calls)
    used = Usage(
        tokens_in=sum(each.call.tokens_in or 0 for each in calls),
        tokens_out=sum(each.call.tokens_out or 0 for each in calls),
        model_seconds=sum(each.call.seconds for each in calls),
        wall_seconds=last.at - first.at + last.seconds,
    )
    return Attempt(
        attempt_id=f"live_{first.call_id}",
        task=Task(f"{first.project}/{first.session}", {}, split="live"),
        trajectory=Trajectory(
            tuple(_call(each, calls, kept[each.call.call_id]) for each in calls), StopReason.ANSWERED
        ),
        messages=tuple(_conversation(main[-1], by_id)),
        usage=used,
        cost_usd=sum(each.call.cost_usd for each in calls),
        session_id=first.session,
        versions={"policy": main[-1].call.version_id},
    )


def _linked(store: Store, calls: Sequence[ServedCall]) -> list[Captured]:
    ends: dict[str, str] = {}
    linked = []
    for call in calls:
        linked.append(Captured(call, store.said(call), call.parent or ends.get(call.continues or "")))
        if call.ends:
            ends[call.ends] = call.call_id
    return linked


def _conversation(each: Captured, by_id: Mapping[str, Captured]) -> list[Message]:
    """What was said up to and including a call; one without a written parent holds its whole conversation."""
    own = [*map(dict, each.said.messages), each.message]
    before = by_id.get(each.call.parent or "")
    return [*_conversation(before, by_id), *own] if before else own


def _tokens(calls: Sequence[Captured]) -> dict[str, Call | None]:
    """The kept tokens of each call, as what they add to its parent's.

    A record without a parent holds its whole prompt. Where that goes on from the parent's tokens, only the rest is
    kept; where it does not (a template wrote the turn anew), the call begins a branch of its own.
    """
    found: dict[str, Call | None] = {}
    whole: dict[str, tuple[int, ...]] = {}
    for each in calls:
        exact: Call | None = from_json(orjson.dumps(each.said.tokens)) if each.said.tokens is not None else None
        before = whole.get(each.parent or "")
        if exact is not None and exact.parent_id is None:
            whole[each.call.call_id] = exact.prompt_ids + exact.completion_ids
            if before is not None and exact.prompt_ids[: len(before)] == before:
                exact = replace(exact, parent_id=each.parent, prompt_ids=exact.prompt_ids[len(before) :])
            elif each.parent is not None:
                exact = replace(exact, drift="forked")
        elif exact is not None:
            exact = replace(exact, parent_id=each.parent)
            if before is not None:
                whole[each.call.call_id] = before + exact.prompt_ids + exact.completion_ids
        found[each.call.call_id] = exact
    return found


def _call(each: Captured, calls: Sequence[Captured], exact: Call | None) -> Call:
    asked = [
        ToolCall(str(called["id"]), called["function"]["name"], called["function"]["arguments"])
        for called in each.message.get("tool_calls") or ()
    ]
    call = each.call
    return Call(
        call_id=call.call_id,
        parent_id=exact.parent_id if exact else each.parent,
        agent=call.agent,
        prompt_ids=exact.prompt_ids if exact else (),
        completion_ids=exact.completion_ids if exact else (),
        sampling_logprobs=exact.sampling_logprobs if exact else (),
        policy_versions=exact.policy_versions if exact else (),
        sampling=exact.sampling if exact else {},
        finish_reason=str(call.facts.get("finish_reason", "")),
        message=each.message,
        tool_calls=tuple(asked),
        tool_results=_results(each, asked, calls),
        drift=exact.drift if exact else "clean",
        seconds=call.seconds,
        support=exact.support if exact else None,
    )


def _results(each: Captured, asked: Sequence[ToolCall], calls: Sequence[Captured]) -> tuple[ToolResult, ...]:
    """What the calls that go on from this one show for the tools it asked for; of a retry the latest."""
    names = {called.call_id: called.name for called in asked}
    found: dict[str, ToolResult] = {}
    for other in calls:
        for message in other.said.messages if other.parent == each.call.call_id else ():
            called = str(message.get("tool_call_id"))
            if message.get("role") == "tool" and called in names:
                found[called] = ToolResult(called, names[called], _text(message.get("content")))
    return tuple(found.values())


def _text(content: Any) -> str:
    return content if isinstance(content, str) else orjson.dumps(content).decode()
