"""Doors that open when a session first knocks: an engine of our own, serving behind the gateway."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

from flyball.capture.best_of import BestOf
from flyball.capture.door import Door
from flyball.capture.http import DoorApp, OpenAttempt
from flyball.engine.protocol import Engine, SamplingParams
from flyball.models.chat import ChatFormat
from flyball.rng import derive
from flyball.types import Limits

MOST_SESSIONS = 10_000
ENDLESS = 10**9


class SessionDoors(DoorApp):
    """`DoorApp` for sessions that nobody opens and nobody closes.

    A session that is silent for `idle_seconds` is over, and of more than MOST_SESSIONS the one that was longest silent:
    its next request starts a conversation of its own, whose tokens are encoded anew.
    """

    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        sampling: SamplingParams,
        *,
        seed: int = 0,
        idle_seconds: float = 1800.0,
        best_of: BestOf | None = None,
    ) -> None:
        super().__init__()
        self._engine, self._format, self._sampling = engine, chat, sampling
        self._seed = seed
        self._best_of = best_of
        self._idle_seconds = idle_seconds
        self._last: OrderedDict[str, float] = OrderedDict()
        self._ending: set[asyncio.Task[None]] = set()
        self._limits = Limits(
            max_turns=ENDLESS,
            max_tool_calls=ENDLESS,
            max_new_tokens=sampling.max_new_tokens,
            max_tokens=engine.max_context,
        )

    def _opened(self, name: str) -> OpenAttempt:
        now = time.monotonic()
        self._last[name] = now
        self._last.move_to_end(name)
        while len(self._last) > MOST_SESSIONS or next(iter(self._last.values())) < now - self._idle_seconds:
            self._end(self._last.popitem(last=False)[0])
        found = self._attempts.get(name)
        if found is None or found.door.ended is not None:
            seed = derive(self._seed, name)
            door = Door(
                self._engine,
                self._format,
                self._sampling,
                limits=self._limits,
                seed=seed,
                session=name,
                best_of=self._best_of,
            )
            found = self._attempts[name] = OpenAttempt(door)
        return found

    def _end(self, name: str) -> None:
        if (attempt := self._attempts.pop(name, None)) is not None:
            task = asyncio.create_task(attempt.door.end_session())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
