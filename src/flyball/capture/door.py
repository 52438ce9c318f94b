"""One attempt's door to the policy: the only way in, for the built-in loop and for every foreign agent (invariant 5).

The door turns messages into tokens, continues the exact tokens that were sampled before (never decoding and encoding
them again, invariant 1), draws with the declared sampling, and keeps the ledger. It also holds the limits that
concern the policy; past one of them, or after the engine failed, it answers every request with the same `Stopped`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flyball.capture.best_of import BEST_OF, NOT_GIVEN_TOKENS, BestOf
from flyball.capture.constraint import Constraint
from flyball.capture.ledger import Ledger, Place, text_of
from flyball.engine.protocol import Completion, Engine, Request, SamplingParams
from flyball.errors import ConfigError, ContextError, EngineError, EngineLostError, GrammarError
from flyball.models.chat import ChatFormat, Parsed
from flyball.rng import derive
from flyball.types import Call, Limits, Message, StopReason, ToolCall, ToolResult


class Stopped(Exception):
    """The attempt is over: `reason` says why and `detail` in which words. Not an error of the program."""

    def __init__(self, reason: StopReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Reply:
    """What the policy said. `message` is what to append to the conversation, as it stands.

    `num_cached_tokens`: prompt tokens that the engine did not have to compute again.
    """

    message: Message
    parsed: Parsed
    call_id: str
    finish_reason: str
    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int = 0


class Door:
    """The policy as one attempt sees it. `seed` makes each call's sampling seed; `session` names its cached prefix.

    `cost_usd` prices the calls so far, their tool results included; a limit in money needs it. `best_of` draws several
    answers to each request and gives one; raises ConfigError at temperature 0, where all would be the same.
    """

    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        sampling: SamplingParams,
        *,
        limits: Limits,
        seed: int,
        session: str,
        cost_usd: Callable[[Sequence[Call]], float] | None = None,
        best_of: BestOf | None = None,
    ) -> None:
        if best_of is not None and sampling.temperature == 0:
            raise ConfigError(f"best of {best_of.n} at temperature 0 draws one answer {best_of.n} times; raise it")
        if limits.max_cost_usd is not None and cost_usd is None:
            raise ConfigError(f"limits.max_cost_usd {limits.max_cost_usd:g} would be ignored: no prices were given")
        self.sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, limits.max_new_tokens))
        self.session = session
        self.limits = limits
        self.ended: Stopped | None = None
        self.lost: EngineLostError | None = None
        """set when the engine's process has ended, so that no further attempt can be made"""
        self._over = asyncio.Event()
        self._cost_usd = cost_usd
        self._best_of = best_of
        self._engine = engine
        self._chat = chat
        self._seed = seed
        self._ledger = Ledger()
        self._num_calls = 0
        self._num_tool_calls = 0
        self._transcript: tuple[Message, ...] = ()
        self._script: Callable[[Sequence[Message]], Message] | None = None

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every finished model call, parents before children."""
        return self._ledger.calls

    @property
    def adapters(self) -> Mapping[str, str]:
        """What `complete` may take in the place of the policy, each with a digest of its weights."""
        return self._engine.adapters

    @property
    def transcript(self) -> tuple[Message, ...]:
        """The conversation of the main agent as of its last call, reply included."""
        return self._transcript

    @property
    def scripted(self) -> bool:
        """Whether the turns come from a script and not from a policy."""
        return self._script is not None

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        agent: str = "main",
        constraint: Constraint | None = None,
        stop: Sequence[str] = (),
        adapter: str | None = None,
    ) -> Reply:
        """Draw the next assistant turn. Raises Stopped; ModelError when the template cannot render the messages.

        `constraint` holds the answer to a form: GrammarError where engine or model cannot, and the attempt goes on.
        `stop`: strings that end this turn beside the declared ones; what is told does not hold them, as with OpenAI.
        `adapter`: one of `adapters`, in the place of the policy; the call then says so, and is never trained.
        """
        grammar = self._grammar(constraint)
        index = self._admit()
        place = self._ledger.place(messages, tools)
        if self._script is not None:
            return self._follow(self._script, place, f"c{index}", messages, agent)
        place, seen, given = self._prompt(place, messages, tools)
        request = self._request(seen + given, index, grammar, stop, adapter)
        call_id = f"c{index}"
        requests = self._draws(request, index)
        drawn = [await self._generate(each) for each in requests]
        readings = [self._parse(each.token_ids, call_id, stop) for each in drawn]
        answers = [_assistant_message(each) for each in readings]
        best = await self._best_of.choose(messages, answers) if self._best_of else 0
        completion, parsed, message = drawn[best], readings[best], answers[best]
        num_drawn = sum(len(each.token_ids) for each in drawn)
        call = Call(
            call_id=call_id,
            parent_id=place.parent.call_id if place.parent else None,
            agent=agent,
            prompt_ids=tuple(given),
            completion_ids=completion.token_ids,
            sampling_logprobs=completion.logprobs,
            policy_versions=completion.policy_versions,
            sampling=self._drawn_by(requests[best]) | self._choice(num_drawn - len(completion.token_ids)),
            finish_reason=completion.finish_reason,
            message=message,
            tool_calls=parsed.tool_calls,
            drift=place.drift,
            seconds=sum(each.seconds for each in drawn),
            support=completion.support,
        )
        self._ledger.add(place.node, call)
        if agent == "main":
            self._transcript = (*messages, message)
        return Reply(
            message,
            parsed,
            call_id,
            completion.finish_reason,
            num_prompt_tokens=len(request.prompt_ids),
            num_completion_tokens=num_drawn,
            num_cached_tokens=len(request.prompt_ids) - drawn[0].prefilled,
        )

    def follow(self, script: Callable[[Sequence[Message]], Message]) -> None:
        """Take the assistant's turns from a script of the conversation so far: an oracle, a baseline that does nothing.

        Its calls carry no tokens: nothing was sampled, so nothing can be trained. The script may raise Stopped.
        """
        self._script = script

    def record_results(self, call_id: str, results: Sequence[ToolResult]) -> None:
        """Write what the model will be shown next to the call that asked for it."""
        self._ledger.add_results(call_id, results)

    def claim_tool_call(self, name: str, arguments: str, tool_call_id: str | None) -> tuple[str | None, ToolCall]:
        """Attribute a tool used by a foreign agent: (model call that asked, its tool call). See `Ledger.claim`."""
        return self._ledger.claim(name, arguments, tool_call_id)

    def record_foreign_result(self, call_id: str | None, result: ToolResult) -> None:
        """As `record_results`, for a tool used by a foreign agent, perhaps before any model call (None)."""
        self._ledger.add_results(call_id, [result])

    def count_tool_calls(self, num_calls: int) -> None:
        """Admit this many further tool calls, or raise Stopped."""
        self._refuse_if_ended()
        self._refuse_if_spent()
        allowed = self.limits.max_tool_calls
        if self._num_tool_calls + num_calls > allowed:
            raise self.stop(
                StopReason.MAX_TOOL_CALLS, f"{self._num_tool_calls + num_calls} tool calls wanted, {allowed} allowed"
            )
        self._num_tool_calls += num_calls

    def stop(self, reason: StopReason, detail: str) -> Stopped:
        """Close the door; the first reason stands. Returns what every request is answered with from now on."""
        if self.ended is None:
            self.ended = Stopped(reason, detail)
            self._over.set()
        return self.ended

    async def wait_until_ended(self) -> Stopped:
        """Return what ended the attempt, once something has."""
        await self._over.wait()
        assert self.ended is not None
        return self.ended

    async def end_session(self) -> None:
        """Let the engine reuse the cached prefix of this attempt."""
        await self._engine.end_session(self.session)

    def _follow(
        self,
        script: Callable[[Sequence[Message]], Message],
        place: Place,
        call_id: str,
        messages: Sequence[Message],
        agent: str,
    ) -> Reply:
        turn = script(messages)
        named = [
            ToolCall(f"{call_id}_{i}", tc["function"]["name"], tc["function"]["arguments"])
            for i, tc in enumerate(turn.get("tool_calls") or ())
        ]
        parsed = Parsed(text_of(turn.get("content")), tuple(named))
        message = _assistant_message(parsed)
        parent_id = place.parent.call_id if place.parent else None
        call = Call(
            call_id, parent_id, agent, (), (), (), (), {}, "stop", message, parsed.tool_calls, drift=place.drift
        )
        self._ledger.add(place.node, call)
        if agent == "main":
            self._transcript = (*messages, message)
        return Reply(message, parsed, call_id, "stop", 0, 0)

    def _refuse_if_ended(self) -> None:
        if self.ended is not None:
            raise Stopped(self.ended.reason, self.ended.detail)

    def _refuse_if_spent(self) -> None:
        allowed = self.limits.max_cost_usd
        if allowed is None or self._cost_usd is None:
            return
        if (spent := self._cost_usd(self.calls)) >= allowed:
            raise self.stop(StopReason.MAX_COST, f"{spent:.4g} USD were spent, {allowed:g} are allowed")

    def _admit(self) -> int:
        self._refuse_if_ended()
        if self._num_calls >= self.limits.max_turns:
            raise self.stop(StopReason.MAX_TURNS, f"{self.limits.max_turns} model calls are allowed")
        self._refuse_if_spent()
        index = self._num_calls
        self._num_calls += 1
        return index

    def _prompt(
        self, place: Place, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> tuple[Place, list[int], list[int]]:
        """(place, tokens already in the ledger, tokens this request adds)."""
        if place.parent is not None:
            ended = any(token in self._chat.stop_ids for token in place.parent.completion_ids[-1:])
            given = self._chat.render_more(_plain(messages), tools, place.num_seen, ended)
            if given is not None:
                return place, self._ledger.tokens(place.parent), given
            place = Place(place.node, None, 0, "forked")
        return place, [], self._chat.render(_plain(messages), tools)

    def _grammar(self, constraint: Constraint | None) -> str:
        """The grammar in force. Strict tools are left to an endpoint that sees them as they are."""
        if constraint is None or (constraint.strict_only and self._chat.keeps_strict):
            return self.sampling.grammar
        if self.sampling.grammar:
            raise GrammarError(f"{constraint.field} cannot be combined with the grammar of the declared sampling")
        return constraint.grammar(self._chat.call_form)

    def _request(
        self, prompt_ids: list[int], index: int, grammar: str, stop: Sequence[str], adapter: str | None
    ) -> Request:
        bound = min(self.limits.max_tokens, self._engine.max_context)
        room = bound - len(prompt_ids)
        if room < 1:
            raise self.stop(
                StopReason.MAX_TOKENS,
                f"the prompt has {len(prompt_ids)} tokens and the branch may have {bound} "
                f"(limits.max_tokens {self.limits.max_tokens}, context {self._engine.max_context})",
            )
        sampling = replace(
            self.sampling,
            max_new_tokens=min(self.sampling.max_new_tokens, room),
            seed=derive(self._seed, index),
            grammar=grammar,
            stop=tuple(dict.fromkeys((*self.sampling.stop, *stop))),
        )
        return Request(tuple(prompt_ids), sampling, self._chat.stop_ids, self.session, adapter)

    def _drawn_by(self, request: Request) -> dict[str, Any]:
        """What is kept of how a completion was drawn."""
        kept = dict(vars(request.sampling))
        if request.adapter is not None:
            kept |= {"adapter": request.adapter, "adapter_version": self.adapters[request.adapter]}
        return kept

    def _draws(self, request: Request, index: int) -> list[Request]:
        """The request, once for each answer to draw; the first is the one that would be drawn alone."""
        n = self._best_of.n if self._best_of else 1
        seeds = [derive(self._seed, index, i) for i in range(1, n)]
        others = [replace(request, sampling=replace(request.sampling, seed=seed)) for seed in seeds]
        return [request, *others]

    def _choice(self, not_given_tokens: int) -> dict[str, Any]:
        return {BEST_OF: self._best_of.n, NOT_GIVEN_TOKENS: not_given_tokens} if self._best_of else {}

    async def _generate(self, request: Request) -> Completion:
        try:
            completion = await self._engine.generate(request)
        except ContextError as error:
            raise self.stop(StopReason.MAX_TOKENS, str(error)) from error
        except EngineError as error:
            if isinstance(error, EngineLostError):
                self.lost = error
            if isinstance(error, GrammarError) and request.sampling.grammar != self.sampling.grammar:
                raise  # the agent may ask without it
            raise self.stop(StopReason.ENGINE_ERROR, str(error)) from error
        n = len(completion.token_ids)
        if not n == len(completion.logprobs) == len(completion.policy_versions):
            raise self.stop(
                StopReason.ENGINE_ERROR,
                f"the engine returned {n} tokens, {len(completion.logprobs)} logprobs and "
                f"{len(completion.policy_versions)} versions; every token needs one of each (invariant 1)",
            )
        return completion

    def _parse(self, token_ids: Sequence[int], call_id: str, stop: Sequence[str]) -> Parsed:
        """Read the turn; tool calls get ids that are unique in the attempt, so results find their way back."""
        parsed = self._chat.parse(token_ids)
        if ends := [at for each in stop if (at := parsed.content.find(each)) >= 0]:
            parsed = replace(parsed, content=parsed.content[: min(ends)])
        if not parsed.tool_calls:
            return parsed
        named = [ToolCall(f"{call_id}_{i}", tc.name, tc.arguments) for i, tc in enumerate(parsed.tool_calls)]
        return Parsed(parsed.content, tuple(named))


def _plain(messages: Sequence[Message]) -> Sequence[Message]:
    """Messages whose content is text; a list of parts (OpenAI's long form) is joined, everything else is untouched."""
    if not any(isinstance(message.get("content"), list) for message in messages):
        return messages
    return [{**message, "content": text_of(message.get("content"))} for message in messages]


def _assistant_message(parsed: Parsed) -> Message:
    message: Message = {"role": "assistant", "content": parsed.content}
    if parsed.tool_calls:
        message["tool_calls"] = [
            {"id": tc.call_id, "type": "function", "function": {"name": tc.name, "arguments": tc.arguments}}
            for tc in parsed.tool_calls
        ]
    return message
