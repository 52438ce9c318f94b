"""What a request demands of the form of its answer holds by construction, whatever the weights; the rest is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
import torch

from flyball.capture.constraint import Constraint, read_constraint
from flyball.capture.door import Door, Stopped
from flyball.capture.http import DoorApp, OpenAttempt
from flyball.engine.fake import FakeEngine
from flyball.engine.http import HttpEngine
from flyball.engine.local import LocalEngine
from flyball.engine.protocol import SamplingParams
from flyball.errors import GrammarError
from flyball.models.fake import tool_call_text
from flyball.models.hf_chat import HfChat
from flyball.rl.support import is_truncated
from flyball.types import Limits
from tests.engine.test_stop_strings import TOKENIZER, speaking_model

HI = [{"role": "user", "content": "desk refund order"}]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, **more}}


TOOLS = [tool("look"), tool("stop")]
STRICT = [tool("look", strict=True), tool("stop")]
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def answers(*bodies: dict[str, Any], path: str = "chat/completions", chat: Any = None) -> tuple[list[Any], Door]:
    """Send requests to one door of an untrained model, in turn."""
    engine = LocalEngine(speaking_model(), max_context=4096, tokenizer=TOKENIZER)
    door = Door(
        engine,
        chat or HfChat(TOKENIZER),
        SamplingParams(temperature=1.5, max_new_tokens=90),
        limits=Limits(),
        seed=3,
        session="a",
    )
    app = DoorApp()

    async def go() -> list[Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            with app.open("a", OpenAttempt(door)):
                return [await client.post(f"/a/v1/{path}", json=body) for body in bodies]

    return asyncio.run(go()), door


def messages(responses: list[Any]) -> list[Any]:
    assert [r.status_code for r in responses] == [200] * len(responses), responses[0].text
    return [r.json()["choices"][0] for r in responses]


def test_an_untrained_model_answers_in_the_schema_and_its_tokens_train() -> None:
    responses, door = answers(*[{"messages": HI, "response_format": FORMAT}] * 3)
    for choice in messages(responses):
        assert choice["finish_reason"] == "stop" and 0 <= json.loads(choice["message"]["content"])["n"] <= 9
    for call in door.calls:
        assert call.support is not None and is_truncated(call.sampling)


def test_an_untrained_model_calls_what_it_must() -> None:
    named = {"type": "function", "function": {"name": "stop"}}
    asked = {"messages": HI, "tools": TOOLS}
    responses, _ = answers(
        {**asked, "tool_choice": "required", "parallel_tool_calls": False}, {**asked, "tool_choice": named}
    )
    first, second = messages(responses)
    for choice in (first, second):
        (call,) = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls" and 0 <= json.loads(call["function"]["arguments"])["n"] <= 9
    assert second["message"]["tool_calls"][0]["function"]["name"] == "stop"


def test_the_responses_form_asks_in_its_own_words() -> None:
    tools = [{"type": "function", **each["function"]} for each in TOOLS]
    text = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}
    responses, _ = answers(
        {"input": "hi", "tools": tools, "tool_choice": {"type": "function", "name": "look"}},
        {"input": "hi", "text": text},
        path="responses",
    )
    called, said = [r.json() for r in responses]
    assert called["output"][0]["name"] == "look" and called["tool_choice"] == {"type": "function", "name": "look"}
    assert 0 <= json.loads(said["output"][0]["content"][0]["text"])["n"] <= 9 and said["text"] == text


def sent(**asked: Any) -> str:
    """The grammar that reaches the engine."""
    engine = FakeEngine(["x"])
    app, door = DoorApp(), Door(engine, engine.chat, SamplingParams(), limits=Limits(), seed=0, session="a")

    async def go() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            with app.open("a", OpenAttempt(door)):
                return await client.post("/a/v1/chat/completions", json={"messages": HI, **asked})

    assert asyncio.run(go()).status_code == 200
    return engine.requests[-1].sampling.grammar


def test_what_demands_nothing_needs_no_grammar() -> None:
    assert sent(tools=TOOLS, tool_choice="auto", parallel_tool_calls=True, response_format={"type": "text"}) == ""
    assert sent(tool_choice="none", parallel_tool_calls=False) == ""


@pytest.mark.parametrize(
    ("asked", "holds", "lacks"),
    [
        ({"tools": STRICT}, ["said", '"maximum": 9', '"const": "stop"'], ["|  %json"]),
        ({"tools": TOOLS, "parallel_tool_calls": False}, ["last | said call"], ["(said call)*"]),
        ({"tools": TOOLS, "tool_choice": "none"}, ["~/"], ["%json"]),
        ({"tools": TOOLS, "tool_choice": "none", "response_format": FORMAT}, ["%json"], ["call"]),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, ["(call)*", "| %json"], ["said"]),
        ({"tools": TOOLS, "tool_choice": "required", "response_format": FORMAT}, ["start: call"], ["| %json"]),
    ],
    ids=["strict", "one call", "none", "none, JSON", "calls or JSON", "required beside JSON"],
)
def test_each_demand_becomes_its_grammar(asked: dict[str, Any], holds: list[str], lacks: list[str]) -> None:
    grammar = sent(**asked)
    assert all(part in grammar for part in holds) and not any(part in grammar for part in lacks), grammar


def test_a_tool_that_is_not_strict_may_be_called_with_any_object() -> None:
    constraint = read_constraint(STRICT, "auto", None, None, answer_field="response_format")
    assert constraint is not None and constraint.strict_only
    assert [each["function"]["parameters"] for each in constraint.tools] == [SCHEMA, {"type": "object"}]


def refusal(responses: list[Any]) -> tuple[str, str]:
    assert responses[0].status_code == 400
    error = responses[0].json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["param"], error["message"]


def test_a_schema_that_no_grammar_holds_is_refused_and_the_attempt_goes_on() -> None:
    impossible = {"type": "json_schema", "json_schema": {"schema": {"type": "no such type"}}}
    responses, door = answers({"messages": HI, "response_format": impossible}, {"messages": HI})
    param, said = refusal(responses)
    assert param == "response_format" and "the grammar cannot be read" in said
    assert responses[1].status_code == 200 and door.ended is None and len(door.calls) == 1


def test_calls_that_no_grammar_holds_are_refused() -> None:
    python = HfChat(TOKENIZER, tool_format="llama_pythonic")
    plain = HfChat(TOKENIZER, tool_format="llama_json")
    asked = {"messages": HI, "tools": STRICT}
    assert refusal(answers({**asked, "tool_choice": "required"}, chat=python)[0])[0] == "tool_choice"
    param, said = refusal(answers(asked, chat=plain)[0])
    assert param == "tools" and "nothing that free text could not hold" in said


def test_strict_tools_are_left_to_an_endpoint_and_other_demands_on_it_refused() -> None:
    engine = HttpEngine("http://nowhere.invalid/v1", "m", num_tries=1)
    door = Door(engine, engine.chat, SamplingParams(), limits=Limits(), seed=0, session="a")

    async def go(constraint: Constraint) -> None:
        await door.complete(HI, STRICT, constraint=constraint)

    with pytest.raises(GrammarError, match="takes no grammars"):
        asyncio.run(go(Constraint("response_format", schema=SCHEMA)))
    assert door.ended is None
    with pytest.raises(Stopped, match="is the server up"):  # asked, and not refused
        asyncio.run(go(Constraint("tools", STRICT, strict_only=True)))


def test_stop_strings_of_a_request_join_the_declared_ones_and_are_not_told() -> None:
    engine = FakeEngine(["Thought: look.\nObservation: made up", tool_call_text("look")])
    sampling = SamplingParams(stop=("\nUser:",))
    app, door = DoorApp(), Door(engine, engine.chat, sampling, limits=Limits(), seed=0, session="a")

    async def go() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            with app.open("a", OpenAttempt(door)):
                first = await client.post(
                    "/a/v1/chat/completions", json={"messages": HI, "stop": ["\nObservation:", "\nUser:"]}
                )
                said = first.json()["choices"][0]["message"]
                again = [*HI, said, {"role": "user", "content": "Observation: 3"}]
                return [first, await client.post("/a/v1/chat/completions", json={"messages": again, "stop": "\nUser:"})]

    first, second = asyncio.run(go())
    assert first.json()["choices"][0]["message"]["content"] == "Thought: look."
    assert [r.sampling.stop for r in engine.requests] == [("\nUser:", "\nObservation:"), ("\nUser:",)]
    assert second.status_code == 200
    before, after = door.calls
    assert after.parent_id == before.call_id and after.drift == "clean"
    assert engine.chat.decode(before.completion_ids) == "Thought: look.\nObservation:", "what was sampled stays whole"
