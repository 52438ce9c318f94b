"""An agent written with the OpenAI client: its requests reach the door, its tokens are the engine's."""

from __future__ import annotations

import asyncio
import builtins
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flyball.agent.callable import CallableAgent
from flyball.agent.foreign import AttemptHandle
from flyball.agent.runner import AgentEnd
from flyball.capture.door import Door
from flyball.engine.fake import FakeEngine
from flyball.errors import AgentError
from flyball.models.fake import tool_call_text
from flyball.tasks.world import WorldSpec
from flyball.types import Limits, StopReason, Trajectory
from tests.agent.desk import Desk, assert_exact, open_door, task

openai = pytest.importorskip("openai")

FIND = tool_call_text("find_order", order_id="A1")
Agent = Callable[[AttemptHandle, Any], Awaitable[str]]


def drive(
    agent: Any, engine: FakeEngine, limits: Limits | None = None, approver: Any = "approve", **public: Any
) -> tuple[AgentEnd, Door, list[str]]:
    limits = limits or Limits()
    door = open_door(engine, limits)

    async def go() -> tuple[AgentEnd, list[str]]:
        world = await WorldSpec(Desk, approver).open(task(limits=limits, **public))
        end = await CallableAgent(agent).run(world, door, limits)
        return end, await world.export_state()

    end, state = asyncio.run(go())
    return end, door, state


async def plain_agent(attempt: AttemptHandle, client: Any) -> str:
    """What a user of the OpenAI SDK writes."""
    messages: list[Any] = [
        {"role": "system", "content": attempt.system},
        {"role": "user", "content": attempt.observation},
    ]
    while True:
        response = await client.chat.completions.create(model="gpt-4o", messages=messages, tools=attempt.schemas)
        message = response.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return str(message.content)
        for call in message.tool_calls:
            shown = await attempt.call_tool(call.function.name, call.function.arguments, call.id)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": shown})


async def streaming_agent(attempt: AttemptHandle, client: Any) -> str:
    messages: list[Any] = [{"role": "user", "content": attempt.observation}]
    while True:
        text, calls = "", {}
        async for chunk in await client.chat.completions.create(
            model="m", messages=messages, tools=attempt.schemas, stream=True, stream_options={"include_usage": True}
        ):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                for part in choice.delta.tool_calls or ():
                    if part.index in calls:
                        calls[part.index].function.arguments += part.function.arguments
                    else:
                        calls[part.index] = part
        assert chunk.usage.total_tokens > 0
        written = [{"id": c.id, "type": "function", "function": c.function.model_dump()} for c in calls.values()]
        messages.append({"role": "assistant", "content": text} | ({"tool_calls": written} if written else {}))
        if not calls:
            return text
        for call in calls.values():
            shown = await attempt.tools[call.function.name](**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": shown})


@pytest.mark.parametrize("agent", [plain_agent, streaming_agent])
def test_every_token_of_an_sdk_agent_is_the_engines(agent: Agent) -> None:
    engine = FakeEngine([FIND, tool_call_text("cancel", order_id="A1"), "Cancelled."], version=3)
    end, door, state = drive(agent, engine)
    assert (end.stop, end.messages[-1]["content"]) == (StopReason.ANSWERED, "Cancelled.")
    assert state == ["find A1", "cancel A1"]
    assert_exact(door.calls, engine)
    assert [call.drift for call in door.calls] == ["clean"] * 3
    assert len(list(Trajectory(door.calls, end.stop).branches())) == 1
    for call in door.calls[:2]:
        assert [result.call_id for result in call.tool_results] == [tc.call_id for tc in call.tool_calls]


def test_sub_agents_and_parallel_calls_become_branches() -> None:
    async def agent(attempt: AttemptHandle, client: Any) -> str:
        async def ask(text: str) -> str:
            response = await client.with_options(default_headers={"x-flyball-agent": "helper"}).chat.completions.create(
                model="m", messages=[{"role": "user", "content": text}]
            )
            return str(response.choices[0].message.content)

        found = await asyncio.gather(ask("one"), ask("two"))
        response = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": " and ".join(found)}]
        )
        return str(response.choices[0].message.content)

    engine = FakeEngine(lambda prompt: prompt.messages[-1]["content"].upper())
    end, door, _ = drive(agent, engine)
    assert end.messages[-1]["content"] == "ONE AND TWO"
    assert sorted(call.agent for call in door.calls) == ["helper", "helper", "main"]
    assert len(list(Trajectory(door.calls, end.stop).branches())) == 3
    assert_exact(door.calls, engine)


def test_an_answer_worded_anew_ends_the_conversation() -> None:
    async def agent(attempt: AttemptHandle, client: Any) -> str:
        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hm"}])
        return "my own words"

    end, _, _ = drive(agent, FakeEngine(["thinking"]))
    assert [m["content"] for m in end.messages] == ["hm", "thinking", "my own words"]


def test_tools_and_users_without_any_model_call() -> None:
    async def agent(attempt: AttemptHandle, client: Any) -> str:
        assert attempt.task == {"ticket": "Where is order A1?", "answers": ["A1"]}
        assert not hasattr(attempt, "hidden")
        order = await attempt.user_reply("Which order?")
        return await attempt.tools["cancel"](order_id=order)

    end, _, state = drive(agent, FakeEngine(["x"]), answers=["A1"])
    assert (end.stop, end.messages[-1]["content"], state) == (StopReason.ANSWERED, "cancelled", ["cancel A1"])


def test_limits_end_the_attempt_however_the_agent_takes_it() -> None:
    async def stubborn(attempt: AttemptHandle, client: Any) -> str:
        for _ in range(20):
            try:
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
            except openai.BadRequestError as error:
                assert error.code == "max_turns"
        return "fine"

    end, door, _ = drive(stubborn, FakeEngine(["x"]), Limits(max_turns=2))
    assert (end.stop, len(door.calls)) == (StopReason.MAX_TURNS, 2)

    async def busy(attempt: AttemptHandle, client: Any) -> str:
        while True:
            await attempt.tools["find_order"](order_id="A1")

    end, _, state = drive(busy, FakeEngine(["x"]), Limits(max_tool_calls=3))
    assert (end.stop, len(state)) == (StopReason.MAX_TOOL_CALLS, 3)

    async def asleep(attempt: AttemptHandle, client: Any) -> str:
        await asyncio.sleep(60)
        return "too late"

    end, _, _ = drive(asleep, FakeEngine(["x"]), Limits(max_seconds=0.05))
    assert end.stop is StopReason.MAX_SECONDS


def test_an_engine_failure_is_the_engines_even_when_the_agent_hides_it() -> None:
    async def agent(attempt: AttemptHandle, client: Any) -> str:
        try:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        except openai.InternalServerError:
            return "all is well"
        raise AssertionError("the failure did not arrive")

    engine = FakeEngine(["x"], fail_at=[0])
    end, _, _ = drive(agent, engine)
    assert end.stop is StopReason.ENGINE_ERROR
    assert len(engine.requests) == 1


def test_what_the_function_raises_or_returns_is_named() -> None:
    async def raises(attempt: AttemptHandle, client: Any) -> str:
        raise KeyError("order")

    async def returns_nothing(attempt: AttemptHandle, client: Any) -> None:
        return None

    def not_async(attempt: AttemptHandle, client: Any) -> str:
        return "x"

    async def times_out(attempt: AttemptHandle, client: Any) -> str:
        raise TimeoutError("its own")

    for agent, said in [
        (raises, "raised KeyError: 'order' (test_callable.py:"),
        (returns_nothing, "returned NoneType"),
        (not_async, "write `async def"),
        (times_out, "raised TimeoutError: its own"),
    ]:
        end, _, _ = drive(agent, FakeEngine(["x"]))
        assert end.stop is StopReason.AGENT_ERROR
        assert said in end.detail


def test_without_the_openai_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openai":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(AgentError, match="pip install openai"):
        drive(plain_agent, FakeEngine(["x"]))


def refund(cents: int) -> str:
    return tool_call_text("refund", order_id="A1", cents=cents)


def test_approvals_are_answered_by_the_declared_simulator() -> None:
    end, door, state = drive(plain_agent, FakeEngine([refund(5), "sorry"]), approver="deny")
    assert (end.stop, state, door.calls[0].tool_results[0].approval) == (StopReason.ANSWERED, [], "deny")
    end, door, state = drive(plain_agent, FakeEngine([refund(5), refund(5), "never said"]), approver="expire")
    assert (end.stop, len(door.calls), state) == (StopReason.APPROVAL_DENIED, 2, [])
    assert [call.tool_results[0].problem for call in door.calls] == ["expired", "expired"]


def test_an_approver_that_fails_is_the_worlds_failure() -> None:
    end, _, state = drive(plain_agent, FakeEngine([refund(5), "x"]), approver=lambda call: "maybe")
    assert (end.stop, state) == (StopReason.WORLD_ERROR, [])
    assert "returned 'maybe'" in end.detail


def test_a_tool_that_the_end_of_the_attempt_cut_off_is_recorded_so() -> None:
    slow = tool_call_text("slow", seconds=3.0)
    end, door, _ = drive(plain_agent, FakeEngine([slow, "x"]), Limits(max_seconds=0.1))
    assert end.stop is StopReason.MAX_SECONDS
    assert [result.problem for result in door.calls[0].tool_results] == ["cancelled"]
