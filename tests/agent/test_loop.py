"""The built-in loop: turns, tools, users, limits, and policies that misbehave."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, ClassVar

import pytest

from flyball.agent.loop import ToolLoop
from flyball.agent.runner import AgentEnd
from flyball.capture.door import Door
from flyball.engine.fake import FakeEngine
from flyball.errors import ConfigError
from flyball.models.fake import tool_call_text
from flyball.tasks.world import WorldSpec
from flyball.tools.tool import tool
from flyball.types import Limits, StopReason
from tests.agent.desk import Desk, assert_exact, open_door, task

FIND = tool_call_text("find_order", order_id="A1")


def converse(
    *script: str,
    limits: Limits | None = None,
    loop: ToolLoop | None = None,
    engine: FakeEngine | None = None,
    approver: Any = "approve",
    **public: Any,
) -> tuple[AgentEnd, Door, list[str], FakeEngine]:
    limits = limits or Limits()
    engine = engine or FakeEngine(script)
    door = open_door(engine, limits)

    async def go() -> tuple[AgentEnd, list[str]]:
        world = await WorldSpec(Desk, approver).open(task(limits=limits, **public))
        end = await (loop or ToolLoop()).run(world, door, limits)
        return end, await world.export_state()

    end, state = asyncio.run(go())
    return end, door, state, engine


def test_tools_are_run_and_shown_until_the_policy_answers() -> None:
    end, door, state, engine = converse(FIND, "It has shipped.")
    assert (end.stop, state) == (StopReason.ANSWERED, ["find A1"])
    assert [m["role"] for m in end.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert end.messages[0]["content"] == "You are the order desk."
    assert end.messages[-1]["content"] == "It has shipped."
    (result,) = door.calls[0].tool_results
    assert (result.call_id, result.problem) == (door.calls[0].tool_calls[0].call_id, None)
    assert result.content == end.messages[3]["content"]
    assert "shipped" in result.content
    assert_exact(door.calls, engine)
    assert {call.drift for call in door.calls} == {"clean"}
    assert door.calls[1].parent_id == door.calls[0].call_id


def test_reading_tools_of_one_turn_run_at_the_same_time() -> None:
    gate = asyncio.Barrier(2)

    class Meeting:
        def reset(self, ticket: str) -> str:
            return ticket

        async def meet(self) -> str:
            """Return once two are here."""
            await gate.wait()
            return "met"

    async def go() -> Door:
        limits = Limits(tool_timeout_seconds=5)
        door = open_door(FakeEngine([tool_call_text("meet") * 2, "done"]), limits)
        await ToolLoop().run(await WorldSpec(Meeting).open(task()), door, limits)
        return door

    assert [result.content for result in asyncio.run(go()).calls[0].tool_results] == ["met", "met"]


def test_a_turn_that_writes_runs_in_the_order_it_was_written() -> None:
    class Ledger:
        def reset(self, ticket: str) -> str:
            self.log: list[str] = []
            return ticket

        async def read(self) -> str:
            """Take a while."""
            await asyncio.sleep(0.01)
            self.log.append("read")
            return "read"

        @tool(writes=True)
        async def write(self) -> str:
            """Be done at once."""
            self.log.append("written")
            return "written"

        def export_state(self) -> list[str]:
            return self.log

    async def go() -> list[str]:
        world = await WorldSpec(Ledger).open(task())
        turn = tool_call_text("read") + tool_call_text("write")
        await ToolLoop().run(world, open_door(FakeEngine([turn, "done"]), Limits()), Limits())
        return await world.export_state()

    assert asyncio.run(go()) == ["read", "written"]


def test_what_tools_refuse_is_shown_to_the_policy_and_recorded() -> None:
    turn = tool_call_text("find_ordr", order_id="A1") + tool_call_text("find_order") + tool_call_text("broken")
    end, door, _, _ = converse(turn, "sorry")
    assert end.stop is StopReason.ANSWERED
    problems = [result.problem for result in door.calls[0].tool_results]
    assert problems == ["unknown_tool", "bad_arguments", "raised"]


def test_approvals_are_answered_by_the_declared_simulator() -> None:
    refund = tool_call_text("refund", order_id="A1", cents=500)
    _, door, state, _ = converse(refund, "done")
    assert (state, door.calls[0].tool_results[0].approval) == (["refund A1 500"], "approve")
    for decision, problem in (("deny", "denied"), ("expire", "expired")):
        end, door, state, _ = converse(refund, "I may not.", approver=decision)
        (result,) = door.calls[0].tool_results
        assert (state, result.problem, result.approval) == ([], problem, decision)
        assert (end.stop, end.messages[3]["content"]) == (StopReason.ANSWERED, result.content)


def test_a_policy_that_insists_on_what_was_refused_is_ended() -> None:
    refund = [tool_call_text("refund", order_id="A1", cents=cents) for cents in (500, 400)]
    again = '<tool_call>{"name": "refund", "arguments": {"cents": 500, "order_id": "A1"}}</tool_call>'
    end, door, state, _ = converse(*refund, again, "never said", approver="deny")
    assert (end.stop, len(door.calls), state) == (StopReason.APPROVAL_DENIED, 3, [])
    assert end.detail == 'refund was refused before and asked for again, with {"cents": 500, "order_id": "A1"}'
    assert door.calls[2].tool_results[0].problem == "denied"


def test_a_tool_that_nobody_may_approve_stops_the_program() -> None:
    with pytest.raises(ConfigError, match="no approver is declared"):
        converse(tool_call_text("refund", order_id="A1", cents=500), approver=None)


class Waiting:
    """Tools that end when they are let go, or never."""

    cancelled: ClassVar[list[str]] = []

    def reset(self, ticket: str) -> str:
        return ticket

    async def wait(self, who: str) -> str:
        """Take for ever."""
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled.append(who)
            raise
        return ""

    async def soon(self) -> str:
        """Take a moment."""
        return "here"

    @tool(writes=True)
    async def write(self) -> str:
        """Write."""
        return "written"

    @tool(approval="human")
    async def ask(self) -> str:
        """Ask a person."""
        return "asked"


def wait_in(turn: str, limits: Limits, approver: Any = "approve") -> tuple[AgentEnd, Door]:
    Waiting.cancelled = []

    async def go() -> tuple[AgentEnd, Door]:
        door = open_door(FakeEngine([turn, "done"]), limits)
        return await ToolLoop().run(await WorldSpec(Waiting, approver).open(task()), door, limits), door

    return asyncio.run(go())


def test_the_end_of_an_attempt_cancels_its_tools_and_says_which() -> None:
    turn = tool_call_text("wait", who="one") + tool_call_text("soon") + tool_call_text("wait", who="two")
    end, door = wait_in(turn, Limits(max_seconds=0.1))
    assert (end.stop, sorted(Waiting.cancelled)) == (StopReason.MAX_SECONDS, ["one", "two"])
    results = door.calls[0].tool_results
    assert [result.problem for result in results] == ["cancelled", None, "cancelled"]
    assert [result.call_id for result in results] == [tc.call_id for tc in door.calls[0].tool_calls]
    assert results[0].seconds > 0.05 > results[1].seconds


def test_tools_that_had_not_begun_have_no_result() -> None:
    turn = tool_call_text("wait", who="one") + tool_call_text("write")
    _, door = wait_in(turn, Limits(max_seconds=0.1))
    assert [result.problem for result in door.calls[0].tool_results] == ["cancelled"]


def test_a_call_that_cannot_go_on_cancels_the_others() -> None:
    def gone(call: Any) -> str:
        raise RuntimeError("on holiday")

    end, door = wait_in(tool_call_text("wait", who="one") + tool_call_text("ask"), Limits(), gone)
    assert (end.stop, Waiting.cancelled) == (StopReason.WORLD_ERROR, ["one"])
    assert "on holiday" in end.detail
    assert [result.problem for result in door.calls[0].tool_results] == ["cancelled"]


def test_one_slow_tool_delays_no_other_attempt() -> None:
    async def go() -> list[float]:
        async def attempt(turn: str) -> float:
            door = open_door(FakeEngine([turn, "done"]), Limits(tool_timeout_seconds=1.0))
            world = await WorldSpec(Waiting, "approve").open(task())
            started = time.perf_counter()
            await ToolLoop().run(world, door, door.limits)
            return time.perf_counter() - started

        others = [attempt(tool_call_text("soon")) for _ in range(20)]
        return await asyncio.gather(attempt(tool_call_text("wait", who="stuck")), *others)

    stuck, *others = asyncio.run(go())
    assert stuck >= 1.0
    assert max(others) < stuck


def test_tools_of_many_attempts_wait_at_the_same_time() -> None:
    """32 attempts of 4 turns: a call returns only when those of all the others are under way too."""
    together = threading.Barrier(32, timeout=60)

    class Sociable:
        def reset(self, ticket: str) -> str:
            return ticket

        def meet(self, i: int) -> str:
            """Wait for everybody."""
            together.wait()
            return "met"

    async def go() -> None:
        async def attempt() -> set[str | None]:
            door = open_door(FakeEngine([*(tool_call_text("meet", i=i) for i in range(4)), "done"]), Limits())
            end = await ToolLoop().run(await WorldSpec(Sociable).open(task()), door, door.limits)
            assert end.stop is StopReason.ANSWERED
            return {result.problem for call in door.calls for result in call.tool_results}

        assert await asyncio.gather(*(attempt() for _ in range(32))) == [{None}] * 32

    asyncio.run(go())


def test_the_user_answers_until_there_is_nothing_more_to_say() -> None:
    end, door, _, engine = converse("Which order?", "Thanks, A1 has shipped.", answers=["A1"])
    assert [m["content"] for m in end.messages[2:]] == ["Which order?", "A1", "Thanks, A1 has shipped."]
    assert_exact(door.calls, engine)


def test_a_malformed_call_is_an_observation_and_counts() -> None:
    end, door, _, _ = converse("<tool_call>{oops</tool_call>", "sorry")
    assert end.stop is StopReason.ANSWERED
    (result,) = door.calls[0].tool_results
    assert (result.problem, end.messages[3]["role"]) == ("malformed", "tool")
    assert "is not JSON" in end.messages[3]["content"]


def test_malformed_again_and_again_ends_the_attempt() -> None:
    end, door, _, _ = converse(*(f"<tool_call>{i}" for i in range(9)))
    assert (end.stop, len(door.calls)) == (StopReason.MALFORMED, 3)


def test_the_same_turn_three_times_is_a_loop() -> None:
    end, door, state, _ = converse(FIND)
    assert (end.stop, len(door.calls), state) == (StopReason.LOOP, 3, ["find A1", "find A1"])


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_turns=2), StopReason.MAX_TURNS),
        (Limits(max_tool_calls=2), StopReason.MAX_TOOL_CALLS),
        (Limits(max_tokens=1500), StopReason.MAX_TOKENS),
        (Limits(max_new_tokens=5), StopReason.MAX_TOKENS),
    ],
)
def test_every_limit_has_its_reason(limits: Limits, reason: StopReason) -> None:
    script = [tool_call_text("find_order", order_id=f"A{i}") for i in range(99)]
    end, _, state, _ = converse(*script, limits=limits)
    assert end.stop is reason
    assert end.detail
    assert len(state) <= 11


def test_the_clock_ends_an_attempt_in_a_slow_engine() -> None:
    engine = FakeEngine(["x"], delay_seconds=30)
    end, door, _, _ = converse(engine=engine, limits=Limits(max_seconds=1.0))  # the world must open within it
    assert (end.stop, door.calls) == (StopReason.MAX_SECONDS, ())
    assert [m["role"] for m in end.messages] == ["system", "user"]


def test_engine_and_world_failures_are_named() -> None:
    end, *_ = converse(engine=FakeEngine([FIND], fail_at=[1]))
    assert end.stop is StopReason.ENGINE_ERROR
    assert "call 1 fails" in end.detail

    class Rude(Desk):
        def user_reply(self, text: str) -> str | None:
            raise ValueError("no words")

    async def go() -> AgentEnd:
        world = await WorldSpec(Rude).open(task())
        return await ToolLoop().run(world, open_door(FakeEngine(["hi"]), Limits()), Limits())

    end = asyncio.run(go())
    assert end.stop is StopReason.WORLD_ERROR
    assert "no words" in end.detail
