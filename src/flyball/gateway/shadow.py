"""Shadow traffic: the candidate answers what users asked, nobody sees it, nothing of it is carried out.

A shadow request is a copy of one that was answered, sent after the answer, with the conversation of the version in
force. So tools are never run for it: their results are those that the user's own session had, and they fit as long as
both versions called alike. At the first turn where they differ the shadow of that session stops (`diverged`). It has
connections, a bound on what is in flight and a bound on what it may use of its own; beyond them it is dropped and
counted. Its calls are captured under arm `shadow` and never billed to a session's budget.

What `shadow_facts.py` compares is written with the calls: in the primary's what became of its copy (`shadow`), in the
shadow's whose copy it is (`shadow_of`), where the two turns differ first, and the tools that each called.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Mapping

from flyball.capture.ledger import json_form
from flyball.gateway.answer import read_answer
from flyball.gateway.capture import Capture
from flyball.gateway.relay import Relay
from flyball.gateway.router import Assignment
from flyball.gateway.served import Served
from flyball.gateway.settings import ShadowSettings
from flyball.gateway.upstream import UpstreamError
from flyball.types import Message

MOST_DIVERGED = 100_000
ACTED_OTHERWISE = ("tool", "arguments", "number")
"""Differences after which the results of the primary's tools do not fit any more."""


class Shadow:
    """Sends copies by `relay`, which is the shadow's own: its connections serve nobody else."""

    def __init__(self, settings: ShadowSettings, relay: Relay, capture: Capture) -> None:
        self.counts: Counter[str] = Counter()
        """copies by what became of them: same, differs, failed, and dropped by reason"""
        self._settings = settings
        self._relay = relay
        self._capture = capture
        self._sending: set[asyncio.Task[None]] = set()
        self._sent: Counter[str] = Counter()
        """copies by the version that they went to"""
        self._diverged: OrderedDict[str, None] = OrderedDict()

    def follow(self, served: Served, version: str, headers: Mapping[str, str]) -> str:
        """Let `version` answer a copy of what was just answered, if there is room. Returns at once: `sent`, or why no
        copy was sent; '' for what has no answer."""
        if not 200 <= served.status < 300 or served.problem:
            return ""
        if dropped := self._dropped(served, version):
            self.counts[dropped] += 1
            return dropped
        self._sent[version] += 1
        task = asyncio.create_task(self._answer(served, version, headers, b"".join(served.body)))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return "sent"

    def _dropped(self, served: Served, version: str) -> str:
        if _followed(served, version) in self._diverged:
            return "after divergence"
        if self._relay.find(version) is None:
            return "no upstream"
        if len(self._sending) >= self._settings.concurrency:
            return "busy"
        return "budget" if self._sent[version] >= self._settings.max_calls else ""

    async def close(self) -> None:
        """Drop what is in flight, and the connections."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._relay.close()

    async def _answer(self, primary: Served, version: str, headers: Mapping[str, str], answered: bytes) -> None:
        given = primary.assigned
        assigned = Assignment("stable", version, given.reason, given.table, given.release_id, given.unit)
        copy = Served(
            f"{primary.call_id}s",
            primary.caller,
            primary.session,
            primary.agent,
            primary.user,
            primary.asked,
            assigned,
            "shadow",
            shadow_of=primary.call_id,
        )
        self._relay.choose(copy)
        ours: Message | None = None
        try:
            raw, _ = await self._relay.whole(copy, copy.asked, headers)
            copy.body.append(raw)
            if 200 <= copy.status < 300:
                ours = read_answer(copy.asked.form, copy.content_type, raw).message
        except UpstreamError as error:
            copy.problem, copy.status = error.code, error.status
        theirs = read_answer(primary.asked.form, primary.content_type, answered).message
        difference = first_difference(theirs, ours)
        tools = {"stable": _tools(theirs), "tools": _tools(ours)}
        copy.checks.append({"kind": "shadow", "name": "agreement", "said": difference or "same", **tools})
        self.counts[difference or "same"] += 1
        if difference in ACTED_OTHERWISE:
            self._diverged[_followed(primary, version)] = None
            if len(self._diverged) > MOST_DIVERGED:
                self._diverged.popitem(last=False)
        self._capture.end(copy)


def first_difference(theirs: Message | None, ours: Message | None) -> str:
    """Where two turns differ first: `number` of tool calls, `tool`, `arguments`, `text`; '' where they do not."""
    if theirs is None or ours is None:
        return "failed"
    left, right = theirs.get("tool_calls") or [], ours.get("tool_calls") or []
    if len(left) != len(right):
        return "number"
    for mine, other in zip(left, right, strict=True):
        if mine["function"]["name"] != other["function"]["name"]:
            return "tool"
        if json_form(mine["function"]["arguments"]) != json_form(other["function"]["arguments"]):
            return "arguments"
    same = " ".join(str(theirs.get("content")).split()) == " ".join(str(ours.get("content")).split())
    return "" if same else "text"


def _followed(served: Served, version: str) -> str:
    return f"{version}~{served.caller.project}~{served.session}"


def _tools(message: Message | None) -> list[str]:
    """The tools that a turn calls, in order."""
    return [call["function"]["name"] for call in (message or {}).get("tool_calls") or []]
