"""The board: what is stuck is named with its attempt, task and age, and time is counted once however many are busy."""

from __future__ import annotations

import asyncio
import threading

from flyball.agent.loop import ToolLoop
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import SamplingParams
from flyball.models.fake import tool_call_text
from flyball.rollout.activity import Board, Kind, Watchdog
from flyball.rollout.attempt import run_attempt
from flyball.tasks.world import WorldSpec
from flyball.types import Limits, Task


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def names(board: Board, after: float) -> list[str]:
    return [str(found) for found in board.newly_stuck(after)]


def test_time_in_which_several_are_busy_counts_once() -> None:
    clock = Clock()
    board = Board(clock)
    with board.doing("a", "t", "engine", "generate"):
        clock.now = 2.0
        with board.doing("b", "t", "engine", "generate"):
            clock.now = 5.0
        assert board.busy_seconds("engine") == 5.0
    clock.now = 9.0
    with board.doing("a", "t", "engine", "generate"):
        clock.now = 10.0
    assert (board.busy_seconds("engine"), board.busy_seconds("tool")) == (6.0, 0.0)


def test_alike_ones_are_one_line_told_again_when_twice_as_old() -> None:
    clock = Clock()
    board = Board(clock)
    with board.doing("at_1", "t1", "engine", "generate"):
        clock.now = 10.0
        with board.doing("at_2", "t2", "engine", "generate"):
            assert names(board, 30) == []
            clock.now = 45.0
            said = "engine generate has not returned for 45 s: at_1, task t1, and 1 more like it"
            assert names(board, 30) == [said]
            clock.now = 80.0
            assert names(board, 30) == []
            clock.now = 90.0
            assert len(names(board, 30)) == 1
    assert names(board, 30) == []


def test_an_agent_is_named_only_when_nothing_it_waits_for_is() -> None:
    clock = Clock()
    board = Board(clock)
    with board.doing("at_1", "t1", "agent", "callable"):
        with board.doing("at_1", "t1", "tool", "find"):
            clock.now = 60.0
            assert [said.split()[1] for said in names(board, 30)] == ["find"]
        clock.now = 70.0
        assert names(board, 30) == ["agent callable has not returned for 70 s: at_1, task t1"]


class Stuck:
    """A world in which one thing never returns until the test lets it."""

    gate = threading.Event()
    place = ""

    def reset(self) -> str:
        self._wait("reset")
        return "go"

    def search(self, words: str) -> str:
        """Search."""
        self._wait("tool")
        return words

    def user_reply(self, text: str) -> str | None:
        self._wait("user_reply")
        return None

    def export_state(self) -> int:
        self._wait("export_state")
        return 1

    def _wait(self, place: str) -> None:
        if place == self.place:
            self.gate.wait(10)


def found_while(place: str, engine: FakeEngine) -> tuple[Kind, str, str]:
    """What the board names while an attempt waits at this place."""

    class World(Stuck):
        pass

    World.place, World.gate, World.__qualname__ = place, threading.Event(), "Desk"
    board, task = Board(), Task("t7", {}, limits=Limits(tool_timeout_seconds=5.0))

    async def go() -> tuple[Kind, str, str]:
        running = asyncio.create_task(
            run_attempt(
                task,
                world=WorldSpec(World),
                runner=ToolLoop(),
                engine=engine,
                chat=engine.chat,
                sampling=SamplingParams(),
                seed=0,
                board=board,
            )
        )
        for _ in range(2000):
            await asyncio.sleep(0.001)
            if found := board.newly_stuck(0.05):
                break
        World.gate.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        (one,) = found
        assert one.activity.attempt_id.startswith("at_") and one.seconds >= 0.05
        return one.activity.kind, one.activity.name, one.activity.task_id

    return asyncio.run(go())


def test_the_tool_the_environment_or_the_engine_is_named() -> None:
    calls = [tool_call_text("search", words="x"), "done"]
    assert found_while("tool", FakeEngine(calls)) == ("tool", "search", "t7")
    assert found_while("reset", FakeEngine(calls)) == ("world", "Desk.reset", "t7")
    assert found_while("user_reply", FakeEngine(calls)) == ("world", "Desk.user_reply", "t7")
    assert found_while("export_state", FakeEngine(calls)) == ("world", "Desk.export_state", "t7")
    assert found_while("", FakeEngine(calls, delay_seconds=5)) == ("engine", "generate", "t7")


def test_the_watchdog_names_what_blocks_the_event_loop_itself() -> None:
    said: list[str] = []
    told = threading.Event()

    def tell(stuck: object) -> None:
        said.append(str(stuck))
        told.set()

    board = Board()

    async def blocked() -> None:
        with board.doing("at_1", "t1", "tool", "sleeper"):
            assert told.wait(10), "nobody was told while the event loop stood still"

    with Watchdog(board, tell, after_seconds=0.02):
        asyncio.run(blocked())
    assert said[0].startswith("tool sleeper has not returned for 0 s: at_1, task t1")
