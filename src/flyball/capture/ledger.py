"""The tree of one attempt's conversations: which sampled call a new request continues.

Agents speak in messages, training needs the tokens that were sampled. Each distinct conversation so far is a node; the
edge to the next node is a message. A node at which a sampled turn ends remembers its call. Walking a request down the
tree costs one dictionary lookup a message (strings cache their hash), copies nothing, and notices a message edited in
place, because the edge is made of its text and not of its identity.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from flyball.types import Call, Drift, Message, ToolCall, ToolResult

_SORTED = json.JSONEncoder(sort_keys=True)

Edge = tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    """Where a request stands. `messages[:num_seen]` are the tokens up to and including `parent`."""

    node: int
    parent: Call | None
    num_seen: int
    drift: Drift


class Ledger:
    """Calls of one attempt and the conversations they belong to."""

    def __init__(self) -> None:
        self._calls: dict[str, Call] = {}
        self._toolsets: list[tuple[dict[str, Any], ...]] = []
        self._edges: dict[tuple[int, Edge], int] = {}
        self._respaced: dict[tuple[int, Edge], int] = {}
        self._sampled: set[Edge] = set()
        self._ends: dict[int, str] = {}
        self._num_nodes = 0
        self._early_results: list[ToolResult] = []
        self._claimed: set[str] = set()

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(self._calls.values())

    def place(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Place:
        """Find the call this request continues: the one whose conversation ends with the request's last assistant turn.

        A turn written again with other spacing, or with call ids of the agent's own, is still that turn: `realigned`.
        Without a turn to continue the request starts a branch of its own. That is `forked` when it carries assistant
        turns and has something in common with what was said here: its first message, or the text of a turn that was
        sampled. Else it is `clean`: a first call, a sub-agent with its examples, a summary that takes the place of the
        conversation.
        """
        node = self._root(tools)
        parent: str | None = None
        num_seen = 0
        respaced = related = False
        for i, message in enumerate(messages):
            edge = _edge(message)
            following = self._edges.get((node, edge))
            related = related or (i == 0 and following is not None)
            if message["role"] == "assistant":
                plain = _as_said(edge)
                if following is None:
                    following = self._respaced.get((node, plain))
                    respaced = respaced or following is not None
                parent = None if following is None else self._ends.get(following)
                num_seen = i + 1
                related = related or plain in self._sampled
            node = self._grow(node, edge) if following is None else following
        if parent is not None:
            return Place(node, self._calls[parent], num_seen, "realigned" if respaced else "clean")
        return Place(node, None, 0, "forked" if num_seen and related and self._calls else "clean")

    def add(self, node: int, call: Call) -> None:
        """Record a call drawn at `node`; its reply is the edge to a new node."""
        if self._early_results:
            call = replace(call, tool_results=tuple(self._early_results))
            self._early_results.clear()
        self._calls[call.call_id] = call
        edge = _edge(call.message)
        end = self._edges.get((node, edge))
        if end is None:
            end = self._grow(node, edge)
        plain = _as_said(edge)
        self._respaced[(node, plain)] = end
        self._sampled.add(plain)
        self._ends[end] = call.call_id

    def tokens(self, call: Call) -> list[int]:
        """Every token up to and including `call`, as given and as sampled."""
        line = [call]
        while line[-1].parent_id is not None:
            line.append(self._calls[line[-1].parent_id])
        ids: list[int] = []
        for each in reversed(line):
            ids += each.prompt_ids
            ids += each.completion_ids
        return ids

    def add_results(self, call_id: str | None, results: Iterable[ToolResult]) -> None:
        """Write what the model was shown next to the call that asked for it; None = before any model call."""
        if call_id is None:
            self._early_results += results
            return
        call = self._calls[call_id]
        self._calls[call_id] = replace(call, tool_results=(*call.tool_results, *results))

    def claim(self, name: str, arguments: str, tool_call_id: str | None) -> tuple[str | None, ToolCall]:
        """Say which model call asked for this use of a tool, and which of its tool calls it answers.

        Agents that run their own tools rarely say; latest first, the same id wins, then the same name and arguments,
        then the same name. A use nobody asked for is attributed to the latest model call.
        """
        owner = next(reversed(self._calls), None)
        found = self._find_unanswered(name, arguments, tool_call_id)
        if found is None:
            return owner, ToolCall(tool_call_id or f"unasked-{len(self._claimed)}", name, arguments)
        owner, tool_call = found
        self._claimed.add(tool_call.call_id)
        return owner, ToolCall(tool_call.call_id, name, arguments)

    def _find_unanswered(self, name: str, arguments: str, tool_call_id: str | None) -> tuple[str, ToolCall] | None:
        open_calls = [
            (call.call_id, tool_call)
            for call in reversed(self._calls.values())
            for tool_call in call.tool_calls
            if tool_call.call_id not in self._claimed
        ]
        same_name = [pair for pair in open_calls if pair[1].name == name]
        same_use = [pair for pair in same_name if _same_json(pair[1].arguments, arguments)]
        same_id = [pair for pair in open_calls if pair[1].call_id == tool_call_id]
        return next(iter((*same_id, *same_use, *same_name)), None)

    def _root(self, tools: Sequence[dict[str, Any]]) -> int:
        """The node before the first message; tools are part of the prompt, so each set of tools has its own."""
        wanted = tuple(tools)
        if wanted not in self._toolsets:
            self._toolsets.append(wanted)
        return -1 - self._toolsets.index(wanted)

    def _grow(self, node: int, edge: Edge) -> int:
        self._num_nodes += 1
        self._edges[(node, edge)] = self._num_nodes
        return self._num_nodes


def text_of(content: Any) -> str:
    """Text of a message's content: a string, null, or OpenAI's list of text parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""


def _edge(message: Mapping[str, Any]) -> Edge:
    calls = message.get("tool_calls")
    return (
        message["role"],
        text_of(message.get("content")),
        message.get("tool_call_id"),
        tuple([(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls]) if calls else (),
    )


def _as_said(edge: Edge) -> Edge:
    """An assistant's turn without what agents change and policies do not see: spacing and the ids of calls."""
    role, text, _, calls = edge
    return (role, "".join(text.split()), tuple((name, json_form(raw)) for _, name, raw in calls))


@lru_cache(maxsize=1024)  # a conversation is placed anew with every call, its earlier calls included
def json_form(raw: str) -> str:
    """Arguments of a call in one spelling; what is no JSON without its spaces."""
    try:
        return _SORTED.encode(json.loads(raw))
    except json.JSONDecodeError:
        return "".join(raw.split())


def _same_json(left: str, right: str) -> bool:
    return left == right or json_form(left) == json_form(right)
