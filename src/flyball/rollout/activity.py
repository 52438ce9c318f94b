"""Who is doing what, and for how long: what a watchdog names and what shares of time are counted from.

Everything an attempt can wait for is an activity on the board while it lasts: a request in the engine, a tool, a method
of the world, the agent's program, a grader. What is left after its attempt has ended (a tool in a thread that nobody
can stop) stays on the board until it returns.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal

from flyball.engine.protocol import Completion, Engine, Request
from flyball.tasks.world import World
from flyball.tools.tool import Tool
from flyball.types import WeightsRef

Kind = Literal["engine", "tool", "world", "agent", "grader"]


@dataclass(frozen=True)
class Activity:
    """Attempt `attempt_id` at `task_id` has been in `name` of this kind since `since` (seconds, the board's clock)."""

    attempt_id: str
    task_id: str
    kind: Kind
    name: str
    since: float


@dataclass(frozen=True)
class Stuck:
    """The longest of `count` activities alike, `seconds` old."""

    activity: Activity
    seconds: float
    count: int

    def __str__(self) -> str:
        a = self.activity
        others = f", and {self.count - 1} more like it" if self.count > 1 else ""
        return f"{a.kind} {a.name} has not returned for {self.seconds:.0f} s: {a.attempt_id}, task {a.task_id}{others}"


class Doing:
    """A context: what an attempt does is on the board until it is left. Every turn passes through it."""

    __slots__ = ("_board", "_key", "_what")

    def __init__(self, board: Board, what: tuple[str, str, Kind, str]) -> None:
        self._board, self._what = board, what

    def __enter__(self) -> None:
        self._key = self._board._begin(self._what)

    def __exit__(self, *_: object) -> None:
        self._board._end(self._key)


class Board:
    """Activities under way. Safe to use from threads, because sync tools run in some."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._current: dict[int, tuple[str, str, Kind, str, float]] = {}
        self._next_key = 0
        self._count: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._busy: dict[str, float] = {}
        self._named: dict[tuple[Kind, str], float] = {}

    def doing(self, attempt_id: str, task_id: str, kind: Kind, name: str) -> Doing:
        """Return a context that keeps an activity on the board while its body runs."""
        return Doing(self, (attempt_id, task_id, kind, name))

    def busy_seconds(self, kind: Kind) -> float:
        """Seconds so far in which at least one activity of this kind was under way."""
        with self._lock:
            running = self.clock() - self._since[kind] if self._count[kind] else 0.0
            return self._busy.get(kind, 0.0) + running

    def _begin(self, what: tuple[str, str, Kind, str]) -> int:
        kind = what[2]
        with self._lock:
            now = self.clock()
            self._next_key += 1
            self._current[self._next_key] = (*what, now)
            if not self._count[kind]:
                self._since[kind] = now
            self._count[kind] += 1
            return self._next_key

    def _end(self, key: int) -> None:
        with self._lock:
            kind = self._current.pop(key)[2]
            self._count[kind] -= 1
            if not self._count[kind]:
                self._busy[kind] = self._busy.get(kind, 0.0) + self.clock() - self._since[kind]

    def newly_stuck(self, after_seconds: float) -> list[Stuck]:
        """What is older than `after_seconds`, alike ones together; each is told again when it is twice as old.

        The agent's program is told only when nothing it waits for is.
        """
        with self._lock:
            now = self.clock()
            current = [Activity(*row) for row in self._current.values()]
        inside = {activity.attempt_id for activity in current if activity.kind != "agent"}
        groups: dict[tuple[Kind, str], list[Activity]] = {}
        for activity in current:
            waits = activity.kind == "agent" and activity.attempt_id in inside
            if now - activity.since >= after_seconds and not waits:
                groups.setdefault((activity.kind, activity.name), []).append(activity)
        self._named = {alike: told for alike, told in self._named.items() if alike in groups}
        found = []
        for alike, members in groups.items():
            longest = min(members, key=lambda activity: activity.since)
            seconds = now - longest.since
            if seconds >= 2 * self._named.get(alike, after_seconds / 2):
                self._named[alike] = seconds
                found.append(Stuck(longest, seconds, len(members)))
        return found


@dataclass(frozen=True)
class OnBoard:
    """The board as one attempt sees it."""

    board: Board
    attempt_id: str
    task_id: str

    def doing(self, kind: Kind, name: str) -> Doing:
        """Return a context that keeps an activity of this attempt on the board."""
        return self.board.doing(self.attempt_id, self.task_id, kind, name)

    def tool(self, tool: Tool) -> Tool:
        """Return the tool with its time on the board; waiting for its turn is not its time."""
        fn, name = tool.fn, tool.origin or tool.name

        @wraps(fn)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with self.doing("tool", name):
                return await fn(*args, **kwargs)

        @wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.doing("tool", name):
                return fn(*args, **kwargs)

        return replace(tool, fn=run_async if inspect.iscoroutinefunction(fn) else run)

    def world(self, world: World, name: str) -> None:
        """Let the tools and the simulated user of this attempt's world be on the board."""
        world.tools = {shown: self.tool(tool) for shown, tool in world.tools.items()}
        answer = world.user_reply

        async def user_reply(text: str) -> str | None:
            with self.doing("world", f"{name}.user_reply"):
                return await answer(text)

        if world.has_user:
            world.user_reply = user_reply  # type: ignore[method-assign]


class EngineOnBoard:
    """An engine whose requests are on the board for one attempt."""

    def __init__(self, engine: Engine, attempt: OnBoard) -> None:
        self._engine, self._attempt = engine, attempt

    @property
    def max_context(self) -> int:
        return self._engine.max_context

    @property
    def version(self) -> int:
        return self._engine.version

    @property
    def adapters(self) -> Mapping[str, str]:
        return self._engine.adapters

    async def generate(self, request: Request) -> Completion:
        with self._attempt.doing("engine", "generate"):
            return await self._engine.generate(request)

    async def abort(self, session: str) -> None:
        await self._engine.abort(session)

    async def load_weights(self, ref: WeightsRef) -> None:
        await self._engine.load_weights(ref)

    async def end_session(self, session: str) -> None:
        await self._engine.end_session(session)

    async def close(self) -> None:
        await self._engine.close()


class Watchdog:
    """Tells what is stuck while the body of the `with` runs, from a thread of its own.

    A thread, because code that blocks the event loop must be named, too. `tell` is called in that thread, for whatever
    takes longer than `after_seconds`.
    """

    def __init__(self, board: Board, tell: Callable[[Stuck], None], after_seconds: float = 60.0) -> None:
        self._board, self._tell, self._after = board, tell, after_seconds
        self._every = min(5.0, after_seconds / 2)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flyball watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            for stuck in self._board.newly_stuck(self._after):
                self._tell(stuck)
