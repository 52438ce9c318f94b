"""The door in OpenAI's form: what a request may say, streams, errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from flyball.capture.door import Door
from flyball.capture.http import DoorApp, OpenAttempt
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import SamplingParams
from flyball.models.fake import tool_call_text
from flyball.types import Limits, ToolResult

HI = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def post(
    body: Any, *, engine: FakeEngine | None = None, limits: Limits | None = None, path: str = "/a/v1/chat/completions"
) -> httpx.Response:
    engine = engine or FakeEngine(["hello"])
    door = Door(engine, engine.chat, SamplingParams(temperature=0.7), limits=limits or Limits(), seed=0, session="a")
    return ask("POST", path, OpenAttempt(door), json=body)


def ask(method: str, path: str, attempt: OpenAttempt, **request: Any) -> httpx.Response:
    app = DoorApp()

    async def go() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            with app.open("a", attempt):
                return await client.request(method, path, **request)

    return asyncio.run(go())


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["x-should-retry"] == "false"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


def test_an_answer_has_openais_form() -> None:
    body = post({"model": "gpt-4o", "messages": HI}).json()
    choice = body["choices"][0]
    assert (body["object"], body["model"]) == ("chat.completion", "gpt-4o")
    assert choice["message"] == {"role": "assistant", "content": "hello"}
    assert choice["finish_reason"] == "stop"
    # user role + "hi" + end + assistant role; "hello" + end
    assert body["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 6,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_a_stream_ends_with_usage_and_done() -> None:
    engine = FakeEngine(["look " + tool_call_text("a", x=1) + tool_call_text("b")])
    asked = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    response = post(asked, engine=engine)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "look "}
    calls = [call for c in chunks for choice in c["choices"] for call in choice["delta"].get("tool_calls", [])]
    assert [(call["index"], call.get("id"), call["function"]) for call in calls] == [
        (0, "c0_0", {"name": "a", "arguments": ""}),
        (0, None, {"arguments": '{"x": 1}'}),
        (1, "c0_1", {"name": "b", "arguments": ""}),
        (1, None, {"arguments": "{}"}),
    ]
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0
    last = json.loads(post({"messages": HI, "stream": True}).text.split("\n\n")[-3].removeprefix("data: "))
    assert (last["choices"][0]["finish_reason"], "usage" in last) == ("stop", False)


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": 0.7},
        {"temperature": None},
        {"max_tokens": 256},
        {"n": 1},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "parallel_tool_calls": True},
        {"tool_choice": "auto"},
        {"top_p": 1.0, "frequency_penalty": 0, "presence_penalty": 0.0, "stop": None},
        {"response_format": {"type": "text"}},
        {"stop": ["\nUser:"]},
        {"tool_choice": "none"},
        {"parallel_tool_calls": False},
    ],
)
def test_what_changes_nothing_is_accepted(field: dict[str, Any]) -> None:
    assert post({"messages": HI, **field}).status_code == 200


@pytest.mark.parametrize(
    ("field", "param", "said"),
    [
        ({"temperature": 0.2}, "temperature", "0.2 in the request and 0.7 in the declared"),
        ({"max_tokens": 10}, "max_tokens", "10 in the request and 256 in the declared"),
        ({"max_completion_tokens": 9}, "max_completion_tokens", "9 in the request and 256"),
        ({"top_p": 0.5}, "top_p", "0.5 in the request and 1.0 in the declared"),
        ({"n": 2}, "n", "serves 1 only"),
        ({"seed": 3}, "seed", "would be ignored"),
        ({"temprature": 0.7}, "temprature", "did you mean 'temperature'"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "it is true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "beside `stream: true`"),
        ({"stream": True, "stream_options": {"obfuscate": True}}, "stream_options.obfuscate", "would be ignored"),
        ({"tool_choice": "required"}, "tool_choice", "offers no tools"),
        ({"tool_choice": "sometimes", "tools": TOOLS}, "tool_choice", "served are 'auto', 'none', 'required'"),
        ({"tool_choice": {"type": "function", "function": {"name": "fly"}}, "tools": TOOLS}, "tool_choice", "'fly'"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": TOOLS}, "tool_choice", "served are"),
        ({"response_format": {"type": "xml"}}, "response_format", "served are text, json_object"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "with its schema"),
        ({"stop": ""}, "stop", "none of them empty"),
        ({"stop": [1]}, "stop", "a list of texts"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": [{"role": "robot"}]}, "messages[0]", "needs a role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "text parts"),
        ({"messages": [{"role": "assistant", "audio": {"id": 1}}]}, "messages[0].audio", "would be ignored"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]}, "messages[0].tool_calls", "a call is"),
        ({"tools": [{"type": "web_search"}]}, "tools", "a tool is"),
    ],
)
def test_what_would_be_ignored_or_differ_is_refused(field: dict[str, Any], param: str, said: str) -> None:
    engine = FakeEngine(["x"])
    error = refused(post({"messages": HI, **field}, engine=engine))
    assert error["param"] == param
    assert said in error["message"]
    assert engine.requests == []


def test_malformed_bodies_and_unknown_attempts() -> None:
    assert "JSON object" in refused(post([1]))["message"]
    assert refused(post({}, path="/other/v1/chat/completions"), 404)["code"] == "attempt_not_found"
    engine = FakeEngine(["x"])
    door = Door(engine, engine.chat, SamplingParams(), limits=Limits(), seed=0, session="a")
    response = ask("POST", "/a/v1/chat/completions", OpenAttempt(door), content=b"{oops")
    assert "not JSON" in refused(response)["message"]
    assert "no tools over HTTP" in refused(ask("GET", "/a/tools", OpenAttempt(door)), 404)["message"]
    assert ask("GET", "/a/v1/models", OpenAttempt(door)).json()["data"][0]["id"] == "policy"


@pytest.mark.parametrize(("form", "asked"), [("chat/completions", {"messages": HI}), ("responses", {"input": "hi"})])
def test_a_request_chooses_an_adapter_by_model(form: str, asked: dict[str, Any]) -> None:
    engine = FakeEngine(["hello"], version=3, adapters={"desk": "d1", "shop": "d2"})
    door = Door(engine, engine.chat, SamplingParams(), limits=Limits(), seed=0, session="a")
    path = f"/a/v1/{form}"
    for model in ("shop", "policy", None):
        answer = ask("POST", path, OpenAttempt(door), json={**asked, **({"model": model} if model else {})})
        assert answer.status_code == 200 and answer.json()["model"] == (model or "policy")
    assert [request.adapter for request in engine.requests] == ["shop", None, None]
    by_adapter, by_policy, _ = door.calls
    assert (by_adapter.sampling["adapter"], by_adapter.sampling["adapter_version"]) == ("shop", "d2")
    assert set(by_adapter.policy_versions) == {3} and "adapter" not in by_policy.sampling

    unknown = refused(ask("POST", path, OpenAttempt(door), json={**asked, "model": "dexk"}), 404)
    assert (unknown["param"], unknown["code"]) == ("model", "model_not_found")
    assert "desk" in unknown["message"] and len(engine.requests) == 3
    models = ask("GET", "/a/v1/models", OpenAttempt(door)).json()["data"]
    assert [model["id"] for model in models] == ["policy", "desk", "shop"]


def test_the_end_of_an_attempt_is_told_apart_by_whose_fault_it_is() -> None:
    limit = refused(post({"messages": HI}, limits=Limits(max_turns=0)))
    assert (limit["type"], limit["code"]) == ("invalid_request_error", "max_turns")
    failure = refused(post({"messages": HI}, engine=FakeEngine(["x"], fail_at=[0])), 500)
    assert (failure["type"], failure["code"]) == ("server_error", "engine_error")


class Shelf:
    """The world's side, as the app needs it."""

    def __init__(self) -> None:
        self.schemas = [{"type": "function", "function": {"name": "look"}}]
        self.used: list[tuple[str, str, str | None]] = []

    async def use_tool(self, name: str, arguments: str, tool_call_id: str | None = None) -> ToolResult:
        self.used.append((name, arguments, tool_call_id))
        return ToolResult("x", name, "found", "raised")

    async def user_reply(self, text: str) -> str | None:
        return text.upper() if text else None


def test_tools_and_the_user_are_reachable() -> None:
    engine = FakeEngine(["x"])
    shelf = Shelf()
    door = Door(engine, engine.chat, SamplingParams(), limits=Limits(), seed=0, session="a")
    attempt = OpenAttempt(door, shelf)
    assert ask("GET", "/a/tools", attempt).json() == {"tools": shelf.schemas}
    body = {"arguments": {"n": 1}, "tool_call_id": "c0_0"}
    answer = ask("POST", "/a/tools/look", attempt, json=body).json()
    assert answer == {"content": "found", "problem": "raised", "truncated": False}
    ask("POST", "/a/tools/look", attempt, json={"arguments": "{oops"})
    assert shelf.used == [("look", '{"n": 1}', "c0_0"), ("look", "{oops", None)]
    assert ask("POST", "/a/user", attempt, json={"text": "yes"}).json() == {"reply": "YES"}
    assert ask("POST", "/a/user", attempt, json={"text": ""}).json() == {"reply": None}
    assert refused(ask("POST", "/a/user", attempt, json={}))["param"] == "text"
