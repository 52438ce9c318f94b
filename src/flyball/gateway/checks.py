"""Checks between the model and the agent: scopes of tools, a person's approval, policy checks, budgets.

They are those of training (invariant 5) where there is no loop of ours to hold them: the gateway looks at the whole
answer before the agent does, so a checked answer is held and then sent as it came. A turn that calls a tool it may not
use, or that a policy check wants said differently, never reaches the agent: the model is told and asked again. What
cannot be checked is not passed on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from msgspec import Raw

from flyball.agent.hooks import Block, Hook, Revise, View, check, name_of
from flyball.errors import ConfigError, FlyballError
from flyball.gateway.answer import Answer, read_answer
from flyball.gateway.conversation import Spoken, spoken
from flyball.gateway.extras import Withheld, extras
from flyball.gateway.memory import Memory
from flyball.gateway.relay import Headers, Relay, Send
from flyball.gateway.request import Asked
from flyball.gateway.served import Served, cost_usd
from flyball.gateway.settings import BudgetSettings, CheckSettings
from flyball.tools.approval import Asked as Approver
from flyball.types import Message, ToolCall
from flyball.workflow.user_code import import_file

MOST_SESSIONS = 100_000
HOOK_SECONDS = 10.0
WAITING_APPROVALS = 64
_REFUSED = "This call was not carried out: {why}. No call of this turn was."


class Blocked(Exception):
    """The agent gets no answer. `code` names the rule."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class _Objection:
    """Why a turn must not go on as it is; `calls` by their ids, or `instruction` for what was said."""

    calls: Mapping[str, str]
    instruction: str = ""


class Checks:
    """The checks of the file. `approver` asks the person (see `tools/inbox.py`), None where no rule needs one.

    `memory` is what all workers know of what sessions have spent; without it each counts for itself.
    """

    def __init__(
        self,
        settings: CheckSettings,
        budget: BudgetSettings,
        approver: Approver | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._memory = memory
        self._settings = settings
        self._budget = budget
        self._approver = approver
        self._hooks = read_policy(settings.policy)
        self._spent: OrderedDict[str, Sequence[float]] = OrderedDict()
        self._waiting = ThreadPoolExecutor(WAITING_APPROVALS, "approval")

    def admit(self, served: Served) -> None:
        """Count one call of a session. Raises Blocked when its budget is spent."""
        if self._budget == BudgetSettings():
            return
        spent = self._add(served, calls=1)
        before = (spent[0] - 1, *spent[1:])
        for used, name in zip(before, ("calls", "tokens", "cost_usd"), strict=True):
            allowed = getattr(self._budget, name)
            if allowed is not None and used >= allowed:
                self._add(served, calls=-1)
                raise Blocked("budget_spent", f"this session has used {used:g} {name}, {allowed:g} are allowed")

    def spend(self, served: Served, answer: Answer) -> None:
        """Note what a call of a session used."""
        if self._budget != BudgetSettings():
            tokens = (answer.tokens_in or 0) + (answer.tokens_out or 0)
            self._add(served, tokens=tokens, cost_usd=cost_usd(served, answer))

    def _add(self, served: Served, *, calls: int = 0, tokens: int = 0, cost_usd: float = 0.0) -> Sequence[float]:
        """What the session has spent with this: calls, tokens, dollars."""
        key = f"{served.caller.project}~{served.session}"
        spent = self._memory.spend(key, calls=calls, tokens=tokens, cost_usd=cost_usd) if self._memory else None
        if spent is None:
            before = self._spent.get(key, (0.0, 0.0, 0.0))
            spent = [old + new for old, new in zip(before, (calls, tokens, cost_usd), strict=True)]
        self._spent[key] = spent
        self._spent.move_to_end(key)
        if len(self._spent) > MOST_SESSIONS:
            self._spent.popitem(last=False)
        return spent

    def hold(self, served: Served) -> bool:
        """Whether answers to this request are looked at before the agent gets them."""
        return bool(self._hooks or self._settings.tools)

    async def serve(self, served: Served, relay: Relay, headers: Mapping[str, str], own: Headers, send: Send) -> None:
        """Answer one request with a turn that passed. Raises Blocked, UpstreamError."""
        asked = served.asked
        said, longer = spoken(asked), asked
        added: list[Message] = []
        for _ in range(self._settings.max_revisions + 1):
            raw, theirs = await relay.whole(served, longer, headers)
            if not 200 <= served.status < 300:
                break
            answer = read_answer(asked.form, served.content_type, raw)
            if answer.message is None or answer.problem:
                raise Blocked("not_checked", f"the answer cannot be checked ({answer.problem}), so it is not passed on")
            objection = await self._review(served, said, added, answer.message)
            if objection is None:
                break
            added += _told(answer.message, objection)
            longer = _with(asked, added)
        else:
            raise Blocked("not_revised", f"no answer passed the checks in {self._settings.max_revisions + 1} tries")
        served.body[:] = [raw]
        withheld = Withheld(extras(relay.upstreams[served.upstream].settings, asked), served.content_type)
        raw = withheld.feed(raw) + withheld.rest()
        length = (b"content-length", str(len(raw)).encode())
        await send({"type": "http.response.start", "status": served.status, "headers": [*theirs, length, *own]})
        await send({"type": "http.response.body", "body": raw})

    async def _review(
        self, served: Served, said: Spoken, added: Sequence[Message], message: Message
    ) -> _Objection | None:
        calls = [_call(each) for each in message.get("tool_calls") or ()]
        if calls:
            refused = {c.call_id: why for c in calls if (why := await self._refusal(served, c))}
            return _Objection({c.call_id: refused.get(c.call_id, "") for c in calls}) if refused else None
        view = View(served.session, {}, [dict(tool) for tool in said.tools], (*said.messages, *added, message))
        for hook in self._hooks:
            try:
                found = await check(hook, view, HOOK_SECONDS)
            except FlyballError as error:
                raise Blocked("check_failed", f"{error}; an answer that was not checked is not passed on") from error
            if found is None:
                continue
            name = name_of(hook)
            if isinstance(found, Block):
                served.checks.append({"kind": "policy", "name": name, "said": "block", "detail": found.reason})
                raise Blocked("blocked", f"policy check {name}: {found.reason}")
            assert isinstance(found, Revise)
            served.checks.append({"kind": "policy", "name": name, "said": "revise", "detail": found.instruction})
            return _Objection({}, found.instruction)
        return None

    async def _refusal(self, served: Served, call: ToolCall) -> str:
        """Why a call may not be made, '' when it may."""
        rule = self._settings.tools.get(call.name)
        if rule is None:
            return ""
        if lacking := sorted(set(rule.scopes) - served.caller.scopes):
            why, said = f"{call.name} needs the scope {lacking[0]}, which was not granted", "out_of_scope"
        elif rule.approval == "human":
            said = await self._ask(served, call)
            why = "" if said == "approve" else f"a person was asked about {call.name} and the answer is {said}"
        else:
            return ""
        served.checks.append({"kind": "approval" if not why else "tool", "name": call.name, "said": said})
        return why

    async def _ask(self, served: Served, call: ToolCall) -> str:
        """Wait for a person in a thread of its own: the inbox is a database."""
        assert self._approver is not None
        bound = self._approver.for_attempt(f"{served.caller.project}~{served.session}")

        def wait() -> str:
            return asyncio.run(bound.decide(call, self._settings.approval_seconds))

        return await asyncio.get_running_loop().run_in_executor(self._waiting, wait)


def read_policy(path: str | None) -> tuple[Hook, ...]:
    """The policy checks of a Python file. Raises ConfigError for a file without any."""
    if path is None:
        return ()
    found = getattr(import_file(Path(path)), "policy_checks", None)
    if not isinstance(found, (list, tuple)) or not found or not all(map(callable, found)):
        raise ConfigError(f"{path}: policy_checks is {found!r:.80}; define a list with at least one function")
    return tuple(found)


def _call(raw: Mapping[str, Any]) -> ToolCall:
    function = raw.get("function") or {}
    return ToolCall(str(raw.get("id")), str(function.get("name")), str(function.get("arguments")))


def _told(message: Message, objection: _Objection) -> list[Message]:
    """What the model reads after a turn that was not passed on."""
    if objection.instruction:
        return [message, {"role": "user", "content": objection.instruction}]
    return [
        message,
        *(
            {"role": "tool", "tool_call_id": call_id, "content": _REFUSED.format(why=why or "another one was refused")}
            for call_id, why in objection.calls.items()
        ),
    ]


def _with(asked: Asked, added: Sequence[Message]) -> Asked:
    """The request with further messages behind its own."""
    if asked.form == "chat":
        longer = {"messages": [*asked.value("messages"), *added]}
    else:
        given = asked.value("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or ())
        longer = {"input": [*items, *(item for message in added for item in _items(message))]}
    return replace(asked, fields={**asked.fields, **{name: Raw(orjson.dumps(each)) for name, each in longer.items()}})


def _items(message: Message) -> list[dict[str, Any]]:
    """One message as items of the Responses form."""
    if message["role"] == "tool":
        output = {"call_id": message["tool_call_id"], "output": message["content"]}
        return [{"type": "function_call_output", **output}]
    said = [{"role": message["role"], "content": message["content"]}] if message.get("content") else []
    calls = [
        {"type": "function_call", "call_id": call["id"], **call["function"]} for call in message.get("tool_calls") or ()
    ]
    return [*said, *calls]
