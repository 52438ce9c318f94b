"""Requests go to the upstream and answers come back byte for byte, in both forms, by the official client too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import orjson
import pytest
from openai import AsyncOpenAI

from flyball.errors import ConfigError
from flyball.gateway.settings import read_gateway_file
from tests.gateway.servers import (
    USAGE_CHUNK,
    Mock,
    chunk,
    go,
    json_answer,
    running,
    sse,
    stream_answer,
    text_answer,
    tool_call,
)

STREAM = sse(chunk({"role": "assistant", "content": "Hel"}), chunk({"content": "lo"}), chunk({}, "stop"))
DONE = sse(b"[DONE]")
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [
        {"type": "reasoning", "id": "rs", "summary": []},
        {
            "type": "message",
            "id": "msg",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "ok", "annotations": []}],
        },
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 1,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 6,
    },
}


def test_an_answer_passes_unchanged_with_session_and_receipt(tmp_path: Path) -> None:
    async def test() -> None:
        body = text_answer("hello", unknown_field={"kept": True})
        mock = Mock(lambda asked: json_answer(body, headers=(("x-request-id", "r1"), ("set-cookie", "a=b"))))
        async with running(tmp_path, {"a": mock}, upstream={"model": "large"}) as gateway:
            answer = await gateway.chat("hi", path="/s/s1/v1/chat/completions", temperature=0.5, odd={"b": [1]})
            assert answer.status_code == 200 and answer.content == orjson.dumps(body)
            assert answer.headers["x-request-id"] == "r1" and "set-cookie" not in answer.headers
            assert answer.headers["x-flyball-session"] == "s1" and answer.headers["x-flyball-receipt"].startswith("v1~")
            said = [{"role": "user", "content": "hi"}]
            assert mock.bodies == [{"model": "large", "messages": said, "temperature": 0.5, "odd": {"b": [1]}}]
            assert mock.paths == ["/v1/chat/completions"]

    go(test)


def test_a_stream_passes_byte_for_byte_and_its_usage_is_withheld(tmp_path: Path) -> None:
    async def test() -> None:
        whole = STREAM + sse(USAGE_CHUNK) + DONE
        cut = [whole[i : i + 7] for i in range(0, len(whole), 7)]
        mock = Mock(lambda asked: stream_answer(*cut))
        async with running(tmp_path, {"a": mock}) as gateway:
            answer = await gateway.chat("hi", stream=True)
            assert answer.content == STREAM + DONE
            assert mock.bodies[0]["stream_options"] == {"include_usage": True}
            asked = await gateway.chat("hi", stream=True, stream_options={"include_usage": True})
            assert asked.content == whole
            calls = await gateway.frames("call", 2)
            assert {(c["tokens_in"], c["tokens_out"], c["exactness"]) for c in calls} == {(7, 3, "text")}
            assert calls[0]["message"] == {"role": "assistant", "content": "Hello"}

    go(test)


def test_the_official_client_streams_and_uses_both_forms(tmp_path: Path) -> None:
    def answer(asked: dict):
        return json_answer(RESPONSE) if "input" in asked else stream_answer(STREAM, sse(USAGE_CHUNK), DONE)

    async def test() -> None:
        async with (
            running(tmp_path, {"a": Mock(answer)}) as gateway,
            AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="shop-key/run-7") as client,
        ):
            asked = [{"role": "user", "content": "hi"}]
            stream = await client.chat.completions.create(model="m", messages=asked, stream=True)
            assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "Hello"
            said = await client.responses.create(model="m", input="hi", instructions="Be brief.")
            assert said.output_text == "ok"
            listed = [model.id async for model in client.models.list()]
            assert listed == ["a"]
            calls = await gateway.frames("call", 2)
            assert {call["session"] for call in calls} == {"run-7"}
            by_form = {call["form"]: call for call in calls}
            assert by_form["responses"]["tokens_cached"] == 2
            assert by_form["responses"]["messages"][0] == {"role": "system", "content": "Be brief."}
            assert by_form["responses"]["message"]["content"] == "ok"

    go(test)


def test_a_prompt_of_the_upstream_takes_the_place_of_the_agents(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("New prompt.")

    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok")))
        async with running(tmp_path, {"a": mock}, upstream={"prompt": str(tmp_path / "prompt.txt")}) as gateway:
            await gateway.chat({"role": "system", "content": "Old."}, "hi")
            await gateway.chat("hi")
            new = [{"role": "system", "content": "New prompt."}, {"role": "user", "content": "hi"}]
            assert [body["messages"] for body in mock.bodies] == [new, new]

    go(test)


def test_sessions_by_path_header_and_key_and_by_their_opening(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok")))
        async with running(tmp_path, {"a": mock}) as gateway:
            header = await gateway.chat("a", headers={"x-flyball-session": "h1"})
            key = await gateway.chat("a", headers={"Authorization": "Bearer shop-key/k1"})
            assert (header.headers["x-flyball-session"], key.headers["x-flyball-session"]) == ("h1", "k1")
            first = await gateway.chat("a")
            longer = await gateway.chat("a", {"role": "assistant", "content": "ok"}, "b")
            other = await gateway.chat("c")
            named = [answer.headers["x-flyball-session"] for answer in (first, longer, other)]
            assert named[0] == named[1] != named[2]
            two = await gateway.chat("a", path="/s/p1/v1/chat/completions", headers={"x-flyball-session": "h1"})
            assert two.status_code == 400 and two.json()["error"]["code"] == "ambiguous_session"

    go(test)


def test_a_client_that_leaves_ends_the_upstreams_work(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok"), delay=30.0))
        async with running(tmp_path, {"a": mock}) as gateway:
            with pytest.raises(httpx.ReadTimeout):
                await gateway.http.post(
                    "/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]}, timeout=0.3
                )
            await asyncio.wait_for(mock.gone.wait(), 20)
            (call,) = await gateway.frames("call")
            assert call["problem"] == "client_gone" and call["exactness"] == "cut"

    go(test)


def test_a_client_that_leaves_at_the_last_event_had_its_answer(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: stream_answer(STREAM + DONE, pause=30.0))
        async with running(tmp_path, {"a": mock}) as gateway:
            body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
            async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for line in answer.aiter_lines():
                    if line == "data: [DONE]":
                        break
            (call,) = await gateway.frames("call")
            assert (call["problem"], call["exactness"]) == (None, "text")
            assert call["message"]["content"] == "Hello"

    go(test)


def test_tool_calls_of_a_stream_are_put_together(tmp_path: Path) -> None:
    async def test() -> None:
        deltas = [
            chunk({"tool_calls": [{"index": 0, **tool_call("look", "")}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
            chunk({"tool_calls": [{"index": 1, **tool_call("find", "{}", "c2")}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}, "tool_calls"),
        ]
        async with running(tmp_path, {"a": Mock(lambda asked: stream_answer(sse(*deltas), DONE))}) as gateway:
            await gateway.chat("hi", stream=True)
            (call,) = await gateway.frames("call")
            assert call["message"]["tool_calls"] == [tool_call("look", '{"a": 1}'), tool_call("find", "{}", "c2")]

    go(test)


def test_the_file_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    good = 'keys: [{key_env: K}]\nupstreams:\n  a: {url: "http://x/v1"}\ndefault: a\n'
    file.write_text(good)
    assert read_gateway_file(file).spool == tmp_path / ".flyball" / "spool"
    for wrong, told in (
        ("defualt: a\n", r"gateway.yaml:5: unknown key 'defualt'; did you mean 'default'"),
        ("fallback: b\n", "fallback 'b' is no upstream; valid: a"),
        ("store: [a]\n", "store"),
        ("routing: {poll_seconds: 0}\n", "poll_seconds"),
        ("routing: {pol_seconds: 1}\n", "did you mean 'poll_seconds'"),
    ):
        file.write_text(good + wrong)
        with pytest.raises(ConfigError, match=told):
            read_gateway_file(file)
    file.write_text(good.replace('url: "http://x/v1"', "local: m, model: n"))
    with pytest.raises(ConfigError, match="model would be ignored beside `local`"):
        read_gateway_file(file)
    for local, told in (
        ("local: m, best_of: 4", "best_of and reward_model belong together"),
        ("local: m, best_of: 4, reward_model: r, temperature: 0", "at temperature 0 the best of 4 is one answer"),
        ('url: "http://x/v1", best_of: 4, reward_model: r', "best_of would be ignored beside `url`"),
    ):
        file.write_text(good.replace('url: "http://x/v1"', local))
        with pytest.raises(ConfigError, match=told):
            read_gateway_file(file)
