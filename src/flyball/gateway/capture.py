"""What is kept of every call: frames for the spool, written after the answer has gone to the agent.

    request   before the upstream is asked: who, which arm, which version; without a `call` the gateway died in between
    call      the whole call: conversation since its parent, answer, tokens, times, checks; tokens where exact
    session   what one worker saw of one session, when it fell silent; parts of one session add up
    feedback  see `feedback.py`

Exactness is graded. `exact`: token ids and sampling logprobs are those of the engine, or as a vLLM server told them.
`text`: the upstream gave none;
fit for tasks, SFT, preferences and evaluation, never for a policy gradient. `cut`: the answer was not read to its end.
Personal data is replaced before anything is written; where it stood in an exact call, its tokens are left out as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from flyball.capture.openai_form import BadRequest
from flyball.errors import FlyballError
from flyball.gateway.answer import Answer, read_answer
from flyball.gateway.conversation import Spoken, spoken
from flyball.gateway.extras import Sampled
from flyball.gateway.log import note
from flyball.gateway.request import Asked
from flyball.gateway.served import Served, cost_usd
from flyball.gateway.settings import CaptureSettings
from flyball.graders.personal_data import without_personal_data
from flyball.store.frames import Arm, Kind
from flyball.store.records import to_json
from flyball.store.spool import Spool
from flyball.types import Call, Message

Exactness = Literal["exact", "text", "cut"]
FRAME_VERSION = 1
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "max_completion_tokens")
"""What of a request says how its answer was sampled."""
MOST_SESSIONS = 50_000
MOST_ENDS = 256
"""Calls of one session that a worker remembers as possible parents."""
LOOK_SECONDS = 5.0
"""Between two looks at which sessions have fallen silent."""
IN_THREAD_BYTES = 256 << 10
"""A call larger than this is read and written in a thread, so that it holds up nobody."""


@dataclass(slots=True)
class _Part:
    """What this worker saw of one session since it last fell silent. Holds no body: thousands of them are kept."""

    names: Mapping[str, Any]
    """of its first call, as in the frames"""
    started: float
    last: float
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    unknown_usage: int = 0
    tool_calls: int = 0
    refused_calls: int = 0
    errors: int = 0
    fallbacks: int = 0
    cost_usd: float = 0.0
    ends: OrderedDict[str, str] = field(default_factory=OrderedDict)
    responses: dict[str, str] = field(default_factory=dict)


ExactTokens = Callable[["Served", str], Awaitable[Mapping[str, Any] | None]]
"""(call, response id) -> the engine's own record of that call, None where it has none any more."""


class Capture:
    """Writes to `spool`. `pseudonym` makes names that stand for users; `tokens` fetches the records of exact calls;
    `on_frame` gets the frame of each call as it is written, `on_call` each answer that was read.

    `dropped` counts calls by why their bodies are not there; the calls themselves are written all the same.
    """

    def __init__(
        self,
        settings: CaptureSettings,
        spool: Spool,
        pseudonym: Callable[[str], str],
        tokens: ExactTokens | None = None,
        on_call: Callable[[Served, Spoken, Answer], None] | None = None,
        on_frame: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.dropped: Counter[str] = Counter()
        self.failing = ""
        """why the last frame could not be spooled, '' while all is well"""
        self._settings = settings
        self._spool = spool
        self._pseudonym = pseudonym
        self._tokens = tokens
        self._on_call = on_call
        self._on_frame = on_frame
        self._waiting: deque[Served] = deque()
        self._waiting_bytes = 0
        self._more = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._closing = False
        self._parts: OrderedDict[str, _Part] = OrderedDict()

    def begin(self, served: Served) -> None:
        """Write that a call is about to be served. Raises BadRequest, 503, where `on_full` says refuse."""
        given = served.assigned
        self._append(
            "request",
            served.arm,
            {
                **self._names(served),
                "unit": {"level": given.unit, "key": self._pseudonym(served.user) if given.unit == "user" else None},
                "reason": given.reason,
                "in_experiment": given.in_experiment,
            },
        )
        if self.failing and self._settings.on_full == "refuse":
            raise BadRequest(f"this call could not be recorded ({self.failing})", None, "capture_unavailable", 503)

    def end(self, served: Served) -> None:
        """Take over a call that is over. Returns at once."""
        served.ended = served.ended or time.monotonic()
        size = served.size
        if self._waiting_bytes + size > self._settings.queue_mb << 20:
            self.dropped["backlog"] += 1
            served.problem = served.problem or "backlog"
            served.body.clear()
            served.asked = Asked(served.asked.form, {}, served.asked.stream)
            size = 0
        self._waiting.append(served)
        self._waiting_bytes += size
        self._more.set()

    def feedback(self, frame: Mapping[str, Any]) -> Future[None]:
        """Write a report; done once it is on disk. Raises StoreError when it cannot be taken."""
        return self._spool.append("feedback", orjson.dumps({"v": FRAME_VERSION, **frame}))

    def start(self) -> None:
        """Begin to write, on the running event loop."""
        self._working = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Write what is waiting or under way, end every session, and close the spool."""
        self._closing = True
        self._more.set()
        if self._working is not None:
            await self._working
        self._end_silent(float("inf"))
        await asyncio.to_thread(self._spool.close)

    async def _work(self) -> None:
        while self._waiting or not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._more.wait()
            self._more.clear()
            while self._waiting:
                await self._next()
            self._end_silent(time.monotonic() - self._settings.session_idle_seconds)

    async def _next(self) -> None:
        served = self._waiting.popleft()
        size = served.size
        self._waiting_bytes = max(0, self._waiting_bytes - size)
        try:
            in_turn = asyncio.to_thread if size > IN_THREAD_BYTES else _at_once
            said, answer = await in_turn(_read, served, self._previous(served))
            tokens = await self._exact(served, answer)
            await in_turn(self._write, served, said, answer, tokens)
        except Exception as error:  # one call that cannot be kept must not end the keeping of the others
            self.dropped["unreadable"] += 1
            note("not_captured", logging.ERROR, request_id=served.call_id, error=type(error).__name__)
            fault = {"problem": f"capture: {type(error).__name__}: {str(error)[:200]}", "exactness": "cut"}
            self._append("call", served.arm, {**self._names(served), "status": served.status, **fault})

    async def _exact(self, served: Served, answer: Answer) -> Mapping[str, Any] | None:
        if served.exact and answer.response_id and self._tokens:
            return await self._tokens(served, answer.response_id)
        if served.asked.form == "chat" and served.prices is not None and served.prices.tokens == "vllm":
            if answer.tokens is not None:
                return _told(served, answer, answer.tokens)
            self.dropped["no_tokens"] += answer.message is not None and not answer.problem
        return None

    def _previous(self, served: Served) -> str:
        """The digest at which the response ended that this request goes on from."""
        part = self._parts.get(_key(served))
        raw = served.asked.fields.get("previous_response_id")
        return "" if raw is None or part is None else part.responses.get(bytes(raw).decode().strip('"'), "")

    def _write(self, served: Served, said: Spoken, answer: Answer, tokens: Mapping[str, Any] | None) -> None:
        if served.problem == "client_gone" and answer.message is not None and not answer.problem:
            served.problem = ""  # it had the whole answer: clients close a stream at its last event
        part = self._part(served)
        parent = part.ends.get(said.continues) if said.continues else None
        ends = said.ends(answer.message) if answer.message is not None and not answer.problem else ""
        self._add(part, served, answer, ends)
        messages = said.messages[said.num_seen :] if parent else said.messages
        kept, num_redacted = self._kept(messages, answer.message)
        cut = bool(answer.problem or served.problem) or answer.message is None
        if tokens is not None and (not self._settings.bodies or self._spells(tokens, said, num_redacted)):
            self.dropped["tokens"] += 1
            tokens = None
        exactness: Exactness = "cut" if cut else "exact" if tokens is not None else "text"
        frame = {
            **self._names(served),
            "exactness": exactness,
            "parent": parent,
            "continues": said.continues or None,
            "stands_at": said.stands_at,
            "ends": ends or None,
            "num_seen": said.num_seen if parent else 0,
            **(kept if self._settings.bodies else {}),
            "tools": said.tools if self._settings.bodies and not parent else None,
            "num_redacted": num_redacted,
            "tokens": tokens,
            **_numbers(served, answer),
        }
        self._append("call", served.arm, frame)
        if self._on_frame is not None:
            self._on_frame(frame)
        if self._on_call is not None and not cut:
            self._on_call(served, said, answer)

    def _names(self, served: Served) -> dict[str, Any]:
        given = served.assigned
        return {
            "v": FRAME_VERSION,
            "call_id": served.call_id,
            "project": served.caller.project,
            "session": served.session,
            "user": self._pseudonym(served.user) if served.user else None,
            "agent": served.agent,
            "at": served.at,
            "arm": served.arm,
            "version": served.version,
            "upstream": served.upstream,
            "table": given.table,
            "release_id": given.release_id,
            "fallback": served.fallback or None,
            "shadow_of": served.shadow_of or None,
            "shadow": served.shadow or None,
            "traceparent": served.traceparent or None,
        }

    def _kept(self, messages: Any, reply: Message | None) -> tuple[dict[str, Any], int]:
        clean = _Redactor(self._settings.redact)
        kept = {"messages": clean.value(list(messages)), "message": clean.value(reply)}
        return kept, clean.num_texts

    def _spells(self, tokens: Mapping[str, Any], said: Spoken, num_redacted: int) -> bool:
        """Whether tokens spell what was replaced. Those of a root call are of the whole conversation."""
        is_root = tokens["body"]["parent_id"] is None
        return num_redacted > 0 or (is_root and self._kept(said.messages, None)[1] > 0)

    def _part(self, served: Served) -> _Part:
        key = _key(served)
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _Part(self._names(served), served.started, served.ended)
            if len(self._parts) > MOST_SESSIONS:
                self._end(self._parts.popitem(last=False)[1])
        self._parts.move_to_end(key)
        return part

    def _add(self, part: _Part, served: Served, answer: Answer, ends: str) -> None:
        part.last = served.ended
        part.calls += 1
        part.tokens_in += answer.tokens_in or 0
        part.tokens_out += answer.tokens_out or 0
        part.unknown_usage += answer.tokens_in is None and 200 <= served.status < 300
        part.tool_calls += len((answer.message or {}).get("tool_calls") or ())
        part.refused_calls += sum(check["kind"] == "tool" for check in served.checks)
        part.errors += served.status >= 400 or bool(served.problem)
        part.fallbacks += bool(served.fallback)
        part.cost_usd += cost_usd(served, answer)
        if ends:
            part.ends[ends] = served.call_id
            if answer.response_id:
                part.responses[answer.response_id] = ends
            if len(part.ends) > MOST_ENDS:
                part.ends.popitem(last=False)

    def _end_silent(self, before: float) -> None:
        while self._parts and next(iter(self._parts.values())).last < before:
            self._end(self._parts.popitem(last=False)[1])

    def _end(self, part: _Part) -> None:
        arm: Arm = part.names["arm"]
        sums = {
            "calls": part.calls,
            "tokens_in": part.tokens_in,
            "tokens_out": part.tokens_out,
            "unknown_usage": part.unknown_usage,
            "tool_calls_count": part.tool_calls,
            "tool_error_count": part.refused_calls,
            "errors": part.errors,
            "fallbacks": part.fallbacks,
            "cost_usd": part.cost_usd,
            "duration_ms": 1e3 * (part.last - part.started),
        }
        channel = "offline_eval" if arm == "shadow" else "canary" if arm == "canary" else "general"
        first_call = {"first_call": part.names["call_id"], "release_channel": channel}
        self._append("session", arm, {**part.names, **first_call, **sums})

    def _append(self, kind: Kind, arm: Arm, frame: Mapping[str, Any]) -> None:
        try:
            body = orjson.dumps(frame, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
            self._spool.append(kind, body, arm=arm).add_done_callback(self._note)
        except FlyballError as error:
            self.failing = str(error)[:200]
            self.dropped["spool"] += 1

    def _note(self, written: Future[None]) -> None:
        error = written.exception()
        if bool(error) != bool(self.failing):
            note("capture", logging.ERROR if error else logging.WARNING, state="failing" if error else "ok")
        self.failing = "" if error is None else str(error)[:200]


async def _at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _told(served: Served, answer: Answer, tokens: Sampled) -> Mapping[str, Any]:
    """The record of a call whose upstream told its tokens. It has no parent: its prompt is the whole one."""
    call = Call(
        call_id=served.call_id,
        parent_id=None,
        agent=served.agent,
        prompt_ids=tokens.prompt_ids,
        completion_ids=tokens.completion_ids,
        sampling_logprobs=tokens.logprobs,
        policy_versions=(0,) * len(tokens.completion_ids),
        sampling={name: value for name in SAMPLING if (value := served.asked.value(name)) is not None},
        finish_reason=answer.finish_reason,
        message=answer.message or {},
    )
    told: Mapping[str, Any] = orjson.loads(to_json(call))
    return told


def _key(served: Served) -> str:
    return f"{served.caller.project}~{served.session}~{served.arm if served.arm == 'shadow' else ''}"


def _read(served: Served, previous: str) -> tuple[Spoken, Answer]:
    said = spoken(served.asked, previous)
    if not 200 <= served.status < 300:
        return said, Answer(None, problem=f"status {served.status}")
    return said, read_answer(served.asked.form, served.content_type, b"".join(served.body))


def _numbers(served: Served, answer: Answer) -> dict[str, Any]:
    seconds = served.ended - served.started
    return {
        "form": served.asked.form,
        "stream": served.asked.stream,
        "status": served.status,
        "problem": served.problem or answer.problem or None,
        "finish_reason": answer.finish_reason,
        "response_id": answer.response_id,
        "model": answer.model,
        "tokens_in": answer.tokens_in,
        "tokens_out": answer.tokens_out,
        "tokens_cached": answer.tokens_cached,
        "cost_usd": cost_usd(served, answer),
        "seconds": seconds,
        "first_byte_seconds": served.first_byte - served.started if served.first_byte else None,
        "upstream_seconds": served.upstream_seconds,
        "checks": served.checks or None,
    }


class _Redactor:
    """Replaces personal data in every text of a value, and counts the texts that held some."""

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        self._kinds = kinds
        self.num_texts = 0

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            clean = without_personal_data(value, self._kinds)
            self.num_texts += clean is not value
            return clean
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            return {name: self.value(each) for name, each in value.items()}
        return value
