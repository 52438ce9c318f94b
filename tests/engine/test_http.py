"""Endpoints that speak messages: the whole path runs over them, and nothing of it can be trained on."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flyball.capture.door import Door, Stopped
from flyball.engine.http import HttpEngine, TextChat, _decode, _encode
from flyball.engine.protocol import Request, SamplingParams
from flyball.errors import ContextError, EngineError, ModelError, TrainError, WeightsError
from flyball.rl.samples import attempt_samples
from flyball.types import (
    UNKNOWN,
    Attempt,
    GradedAttempt,
    Limits,
    Outcome,
    StopReason,
    Task,
    Trajectory,
    WeightsRef,
)
from tests.engine.serving import serving
from tests.train.small import small_learner

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = {"id": "call_xyz", "type": "function", "function": {"name": "look", "arguments": '{"n": 1}'}}
TURNS = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "assistant", "content": "grüße\nund „Schluß“"},
]
ASKED = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]


@dataclass
class Endpoint:
    """Answers in turn. `num_tokens` is what it says a reply cost."""

    turns: list[dict[str, Any]] = field(default_factory=lambda: list(TURNS))
    finish_reason: str | None = None
    num_tokens: int | None = 17
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self.answer, methods=["POST"])])

    async def answer(self, http: HttpRequest) -> Response:
        self.bodies.append(await http.json())
        self.headers.append(dict(http.headers))
        if self.status != 200:
            return JSONResponse({"error": {"message": "too long", "code": "context_length_exceeded"}}, self.status)
        turn = self.turns[(len(self.bodies) - 1) % len(self.turns)]
        finish_reason = self.finish_reason or ("tool_calls" if turn.get("tool_calls") else "stop")
        usage = {"prompt_tokens": 40, "prompt_tokens_details": {"cached_tokens": 30}}
        body = {"choices": [{"message": turn, "finish_reason": finish_reason}]}
        if self.num_tokens is not None:
            body["usage"] = {**usage, "completion_tokens": self.num_tokens}
        return JSONResponse(body)


def run(endpoint: Endpoint, work: Callable[[HttpEngine], Awaitable[Any]], **settings: Any) -> Any:
    async def main() -> Any:
        async with serving(endpoint.app) as url:
            engine = HttpEngine(f"{url}/v1", "gpt-x", api_key="k", num_tries=1, **settings)
            try:
                return await work(engine)
            finally:
                await engine.close()

    return asyncio.run(main())


def open_door(engine: HttpEngine, **rules: Any) -> Door:
    return Door(engine, engine.chat, SamplingParams(0.5, **rules), limits=Limits(), seed=1, session="a")


async def talk(engine: HttpEngine) -> Door:
    """Two turns with a tool between them, as the built-in loop has them."""
    door = open_door(engine, stop=("END",))
    first = await door.complete(ASKED, TOOLS)
    (call,) = first.message["tool_calls"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "found"}
    second = await door.complete([*ASKED, first.message, result], TOOLS)
    assert second.message["content"] == TURNS[1]["content"]
    return door


def test_the_endpoint_sees_the_conversation_as_the_agent_had_it() -> None:
    endpoint = Endpoint()
    door = run(endpoint, talk)
    first, second = endpoint.bodies
    assert first["messages"] == ASKED and first["tools"] == TOOLS and first["model"] == "gpt-x"
    assert (first["temperature"], first["max_tokens"], first["stop"]) == (0.5, 256, ["END"])
    assert endpoint.headers[0]["authorization"] == "Bearer k"
    _s, _u, spoken, result = second["messages"]
    assert spoken["tool_calls"] == [{**CALL, "id": "c0_0"}] and result["tool_call_id"] == "c0_0"
    assert [call.drift for call in door.calls] == ["clean", "clean"]
    assert door.calls[1].parent_id == "c0"


def test_a_reply_counts_as_many_tokens_as_the_endpoint_says() -> None:
    door = run(Endpoint(num_tokens=17), talk)
    assert [len(call.completion_ids) for call in door.calls] == [17, 17]
    assert all(math.isnan(x) for call in door.calls for x in call.sampling_logprobs)
    assert all((call.support.index == UNKNOWN).all() for call in door.calls)
    estimated = run(Endpoint(num_tokens=None), talk)
    assert all(8 < len(call.completion_ids) < 20 for call in estimated.calls)


def test_training_on_what_it_said_is_refused() -> None:
    door = run(Endpoint(), talk)
    attempt = Attempt("a0", Task("t", {}), Trajectory(door.calls, StopReason.ANSWERED), ())
    samples = attempt_samples(GradedAttempt(attempt, Outcome(True)))
    learner = small_learner()
    learner.temperature = 0.5
    with pytest.raises(TrainError, match="by an engine that answers in text"):
        learner.forward(samples)
    with pytest.raises(WeightsError, match="evaluation and shadow traffic only"):
        run(Endpoint(), lambda engine: engine.load_weights(WeightsRef(1, "w", "")))


@pytest.mark.parametrize("rules", [{"top_k": 5}, {"min_p": 0.1}])
def test_sampling_that_the_interface_does_not_know_is_refused(rules: dict[str, Any]) -> None:
    async def work(engine: HttpEngine) -> None:
        with pytest.raises(Stopped, match=rf"{next(iter(rules))} .* is not in OpenAI's interface"):
            await open_door(engine, **rules).complete(ASKED, [])

    run(Endpoint(), work)


def ask(endpoint: Endpoint, **settings: Any) -> Any:
    async def work(engine: HttpEngine) -> Any:
        ids = tuple(engine.chat.render(ASKED, []))
        return await engine.generate(Request(ids, SamplingParams(top_p=0.9), ()))

    return run(endpoint, work, **settings)


def test_finish_reasons_and_fields() -> None:
    endpoint = Endpoint(turns=[TURNS[1]], finish_reason="length")
    assert ask(endpoint, max_tokens_field="max_completion_tokens").finish_reason == "length"
    assert endpoint.bodies[0]["max_completion_tokens"] == 256 and endpoint.bodies[0]["top_p"] == 0.9
    assert not {"tools", "stop", "seed", "max_tokens"} & set(endpoint.bodies[0])
    done = ask(Endpoint(turns=[TURNS[1]]))
    assert (done.finish_reason, done.prefilled) == ("stop", 10)


def test_refusals_of_the_endpoint_are_typed() -> None:
    with pytest.raises(ContextError, match=r"answered 400: .*too long"):
        ask(Endpoint(status=400))
    with pytest.raises(EngineError, match="answered 401"):
        ask(Endpoint(status=401))
    with pytest.raises(EngineError, match="'content_filter' and not with an answer"):
        ask(Endpoint(finish_reason="content_filter"))
    with pytest.raises(ContextError, match="in a context of 5"):
        ask(Endpoint(), max_context=5)


def test_a_prompt_that_the_endpoint_calls_too_long_ends_the_attempt_as_the_policys_own() -> None:
    async def work(engine: HttpEngine) -> None:
        with pytest.raises(Stopped) as stopped:
            await open_door(engine).complete(ASKED, [])
        assert stopped.value.reason is StopReason.MAX_TOKENS

    run(Endpoint(status=400), work)


def test_tokens_of_another_chat_format_are_refused() -> None:
    with pytest.raises(ModelError, match="was not written by TextChat"):
        run(Endpoint(), lambda engine: engine.generate(Request((5, 6, 7), SamplingParams(), ())))


@given(st.text(), st.integers(0, 60) | st.none())
def test_ids_hold_any_text_in_any_number_that_can(text: str, count: int | None) -> None:
    if not text:
        return
    ids = _encode(text, count)
    assert _decode(ids) == text and all(0 < i < 2**63 for i in ids)
    assert np.asarray(ids, np.int64).tolist() == ids
    if count is not None and 6 * count >= len(text.encode("utf-8", "surrogatepass")):
        assert len(ids) == count


def test_a_turn_that_cannot_be_read_is_malformed() -> None:
    chat = TextChat()
    assert chat.parse(_encode("no json")).malformed is not None
    turn = chat.parse(_encode(json.dumps({"say": "x", "calls": [["look", "{}"]]}) + "\n"))
    assert (turn.content, turn.tool_calls[0].name) == ("x", "look")
