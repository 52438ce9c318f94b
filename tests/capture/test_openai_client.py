"""The official client, as it comes, against the door: both APIs, sync and async, streaming or not, token for token."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from flyball.agent.loopback import Loopback
from flyball.capture.door import Door
from flyball.capture.http import OpenAttempt
from flyball.engine.fake import FakeEngine
from flyball.models.fake import tool_call_text
from flyball.types import Limits, StopReason, Trajectory
from tests.agent.desk import assert_exact, open_door

openai = pytest.importorskip("openai")

PARAMETERS = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
CHAT_TOOLS = [{"type": "function", "function": {"name": "double", "description": "Twice n.", "parameters": PARAMETERS}}]
TOOLS = [{"type": "function", "name": "double", "description": "Twice n.", "parameters": PARAMETERS, "strict": True}]
SCRIPT = [
    "Both. " + tool_call_text("double", n=2) + tool_call_text("double", n=3),
    tool_call_text("double", n=5),
    "It is 10.",
]


def double(arguments: str) -> str:
    return str(2 * json.loads(arguments)["n"])


def chat_agent(client: Any) -> str:
    messages: list[Any] = [{"role": "user", "content": "go"}]
    while True:
        done = client.chat.completions.create(model="m", messages=messages, tools=CHAT_TOOLS, parallel_tool_calls=True)
        message = done.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            assert done.choices[0].finish_reason == "stop"
            return str(message.content)
        for call in message.tool_calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": double(call.function.arguments)})


def chat_streaming_agent(client: Any) -> str:
    messages: list[Any] = [{"role": "user", "content": "go"}]
    while True:
        with client.chat.completions.stream(
            model="m", messages=messages, tools=CHAT_TOOLS, stream_options={"include_usage": True}
        ) as stream:
            done = stream.get_final_completion()
        assert done.usage.total_tokens > 0
        message = done.choices[0].message
        said = message.model_dump(include={"role", "content"})
        if not message.tool_calls:
            return str(message.content)
        functions = [call.function.model_dump(include={"name", "arguments"}) for call in message.tool_calls]
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": function}
            for call, function in zip(message.tool_calls, functions, strict=True)
        ]
        messages.append(said)
        for call in message.tool_calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": double(call.function.arguments)})


def responses_agent(client: Any) -> str:
    items: list[Any] = [{"role": "user", "content": "go"}]
    while True:
        done = client.responses.create(model="m", instructions="be brief", input=items, tools=TOOLS)
        assert (done.status, done.usage.total_tokens > 0) == ("completed", True)
        items += done.output
        calls = [item for item in done.output if item.type == "function_call"]
        if not calls:
            return str(done.output_text)
        items += [
            {"type": "function_call_output", "call_id": call.call_id, "output": double(call.arguments)}
            for call in calls
        ]


def responses_streaming_agent(client: Any) -> str:
    """Continues by `previous_response_id`, with the client's own reading of the events."""
    given: Any = "go"
    previous = None
    while True:
        with client.responses.stream(
            model="m", instructions="be brief", input=given, tools=TOOLS, previous_response_id=previous
        ) as stream:
            heard = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            done = stream.get_final_response()
        assert heard == done.output_text
        calls = [item for item in done.output if item.type == "function_call"]
        if not calls:
            return str(heard)
        previous = done.id
        given = [
            {"type": "function_call_output", "call_id": call.call_id, "output": double(call.arguments)}
            for call in calls
        ]


async def chat_async_agent(client: Any) -> str:
    messages: list[Any] = [{"role": "user", "content": "go"}]
    while True:
        text, calls = "", {}
        async for chunk in await client.chat.completions.create(
            model="m", messages=messages, tools=CHAT_TOOLS, stream=True
        ):
            assert chunk.usage is None
            for choice in chunk.choices:
                text += choice.delta.content or ""
                for part in choice.delta.tool_calls or ():
                    call = calls.setdefault(
                        part.index, {"id": part.id, "type": "function", "function": {"arguments": ""}}
                    )
                    if part.function.name:
                        call["function"]["name"] = part.function.name
                    call["function"]["arguments"] += part.function.arguments
        messages.append(
            {"role": "assistant", "content": text} | ({"tool_calls": list(calls.values())} if calls else {})
        )
        if not calls:
            return text
        for call in calls.values():
            messages.append(
                {"role": "tool", "tool_call_id": call["id"], "content": double(call["function"]["arguments"])}
            )


async def responses_async_agent(client: Any) -> str:
    given: Any = "go"
    previous = openai.omit if hasattr(openai, "omit") else openai.NOT_GIVEN
    while True:
        done, names = None, []
        async for event in await client.responses.create(
            model="m", instructions="be brief", input=given, tools=TOOLS, previous_response_id=previous, stream=True
        ):
            names.append(event.type)
            if event.type == "response.completed":
                done = event.response
        assert names[:2] == ["response.created", "response.in_progress"] and done is not None
        calls = [item for item in done.output if item.type == "function_call"]
        if not calls:
            return str(done.output_text)
        previous = done.id
        given = [
            {"type": "function_call_output", "call_id": call.call_id, "output": double(call.arguments)}
            for call in calls
        ]


def drive(agent: Callable[[Any], Any], engine: FakeEngine) -> tuple[str, Door]:
    """Run an agent in a thread against a real socket, or on this loop when it is async."""
    door = open_door(engine, Limits())
    loopback = Loopback()

    async def go() -> str:
        async with loopback.serving() as url:
            with loopback.app.open("a", OpenAttempt(door)):
                base_url = f"{url}/a/v1"
                if asyncio.iscoroutinefunction(agent):
                    async with openai.AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0) as client:
                        return str(await agent(client))
                with openai.OpenAI(base_url=base_url, api_key="k", max_retries=0) as client:
                    return str(await asyncio.to_thread(agent, client))

    return asyncio.run(go()), door


@pytest.mark.parametrize(
    "agent",
    [
        chat_agent,
        chat_streaming_agent,
        chat_async_agent,
        responses_agent,
        responses_streaming_agent,
        responses_async_agent,
    ],
)
def test_every_trained_token_is_the_engines(agent: Callable[[Any], Any]) -> None:
    engine = FakeEngine(SCRIPT, version=2)
    answer, door = drive(agent, engine)
    assert answer == "It is 10."
    assert_exact(door.calls, engine)
    assert [call.drift for call in door.calls] == ["clean"] * 3
    (branch,) = Trajectory(door.calls, StopReason.ANSWERED).branches()
    drawn = [
        (token, logprob) for c in engine.completions for token, logprob in zip(c.token_ids, c.logprobs, strict=True)
    ]
    trained = branch.loss_mask
    assert list(branch.token_ids[trained]) == [token for token, _ in drawn]
    assert list(branch.sampling_logprobs[trained]) == pytest.approx([logprob for _, logprob in drawn])
    assert set(branch.policy_versions[trained]) == {2}


def test_refusals_reach_the_client_as_its_own_errors() -> None:
    def agent(client: Any) -> str:
        with pytest.raises(openai.BadRequestError) as refusal:
            client.responses.create(model="m", input="x", tool_choice="required")
        assert refusal.value.param == "tool_choice"
        with pytest.raises(openai.BadRequestError) as refusal:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], n=2)
        assert refusal.value.param == "n"
        with pytest.raises(openai.InternalServerError) as failure:
            client.responses.create(model="m", input="x", stream=True)
        assert failure.value.code == "engine_error"
        return "refused"

    answer, _ = drive(agent, FakeEngine(["x"], fail_at=[0]))
    assert answer == "refused"
