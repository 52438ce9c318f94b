"""An engine that says what a script tells it, in tokens, with logprobs and versions. Public, for tests and benchmarks.

    engine = FakeEngine(["<tool_call>...</tool_call>", "done"])              # the replies of turn 1, 2, ...
    engine = FakeEngine(lambda prompt: prompt.messages[-1]["content"].upper())

It keeps every request and completion, so a test can ask whether what reached the ledger is what was sampled. The
completions use spellings that no renderer produces (see `models/fake.py`), and the logprob of a token is a function of
the token, so a shifted or re-tokenized ledger shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from flyball.engine.protocol import Completion, FinishReason, Request
from flyball.engine.stop_strings import StopStrings
from flyball.errors import EngineError
from flyball.models.fake import ROLES, FakeChat
from flyball.types import Message, WeightsRef


@dataclass(frozen=True)
class Prompt:
    """What a script may look at. `messages` is read back from the tokens on first use."""

    request: Request
    chat: FakeChat

    @cached_property
    def messages(self) -> list[Message]:
        return self.chat.messages(self.request.prompt_ids)

    @property
    def seed(self) -> int:
        return self.request.sampling.seed or 0

    @property
    def turn(self) -> int:
        """Assistant turns already in the prompt."""
        return self.request.prompt_ids.count(ROLES["assistant"]) - 1


Script = Callable[[Prompt], str]


def fake_logprob(token_id: int) -> float:
    """The logprob the fake reports for a token."""
    return -(1 + token_id % 7) / 8


class FakeEngine:
    """An Engine driven by a script: a function of the prompt, or the replies in turn (the last one repeats).

    `fail_at` numbers the calls (from 0) that raise EngineError; `delay_seconds` is how long each call takes.
    """

    def __init__(
        self,
        script: Script | Sequence[str],
        chat: FakeChat | None = None,
        *,
        max_context: int = 1_000_000,
        fail_at: Collection[int] = (),
        delay_seconds: float = 0.0,
        version: int = 0,
        adapters: Mapping[str, str] | None = None,
    ) -> None:
        self.chat = chat or FakeChat()
        self.requests: list[Request] = []
        self.completions: list[Completion] = []
        self.ended_sessions: list[str] = []
        self._script = script if callable(script) else _in_turn(script)
        self._max_context = max_context
        self._fail_at = frozenset(fail_at)
        self._delay_seconds = delay_seconds
        self._version = version
        self._adapters = adapters or {}
        self._delayed: list[tuple[str, asyncio.Future[None]]] = []

    @property
    def max_context(self) -> int:
        return self._max_context

    @property
    def version(self) -> int:
        return self._version

    @property
    def adapters(self) -> Mapping[str, str]:
        return self._adapters

    async def generate(self, request: Request) -> Completion:
        number = len(self.requests)
        self.requests.append(request)
        if self._delay_seconds and not await self._delay(request.session):
            return Completion((), (), (), "abort")
        if number in self._fail_at:
            raise EngineError(f"call {number} fails because the script of this fake engine says so")
        completion = self._complete(request)
        self.completions.append(completion)
        return completion

    def _complete(self, request: Request) -> Completion:
        room = request.room(self._max_context)
        ids = self.chat.encode_sampled(self._script(Prompt(request, self.chat)))
        kept, finish_reason = self._ended(ids, room, request.sampling.stop)
        return Completion(
            token_ids=kept,
            logprobs=tuple([fake_logprob(token) for token in kept]),
            policy_versions=(self._version,) * len(kept),
            finish_reason=finish_reason,
            prefilled=len(request.prompt_ids),
            seconds=self._delay_seconds,
        )

    def _ended(self, ids: Sequence[int], room: int, stop: Sequence[str]) -> tuple[tuple[int, ...], FinishReason]:
        watch = StopStrings(stop) if stop else None
        for i, token in enumerate(ids[:room]):
            if watch and watch.ends(self.chat.decode_bytes([token])):
                return tuple(ids[: i + 1]), "stop"
        return tuple(ids[:room]), "stop" if len(ids) <= room else "length"

    async def abort(self, session: str) -> None:
        """End the delay of the session's calls; what they would have said is not said."""
        for delayed, aborted in self._delayed:
            if delayed == session and not aborted.done():
                aborted.set_result(None)

    async def _delay(self, session: str) -> bool:
        """Whether the whole delay passed, and nobody aborted."""
        entry = session, asyncio.get_running_loop().create_future()
        self._delayed.append(entry)
        try:
            await asyncio.wait_for(entry[1], self._delay_seconds)
        except TimeoutError:
            return True
        finally:
            self._delayed.remove(entry)
        return False

    async def load_weights(self, ref: WeightsRef) -> None:
        self._version = ref.version

    async def end_session(self, session: str) -> None:
        self.ended_sessions.append(session)

    async def close(self) -> None:
        """Nothing is held."""


def _in_turn(replies: Sequence[str]) -> Script:
    if not replies:
        raise ValueError("the script has no replies; give at least one")
    return lambda prompt: replies[min(prompt.turn, len(replies) - 1)]
