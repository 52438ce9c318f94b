"""Whatever comes in is refused or passed through as documented: never a crash, never somebody else's data."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flyball.capture.openai_form import BadRequest
from flyball.gateway.answer import Answer, read_answer
from flyball.gateway.conversation import opening, spoken
from flyball.gateway.extras import Extras, Withheld, sse_data
from flyball.gateway.request import named_session, read_body, read_headers
from tests.gateway.servers import USAGE_CHUNK, Mock, chunk, go, json_answer, running, sse, text_answer

patient = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "tool_calls", "function", "name", "arguments", "type", "output", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
EVENTS = [orjson.dumps(chunk({"content": "x"})), orjson.dumps(USAGE_CHUNK), sse(USAGE_CHUNK), sse(chunk({}))]
BITS = [b"data: ", b"data:", b"\n", b"\n\n", b"\r\n\r\n", b": c\n", b"{", b"}", b"[DONE]", b'"choices":[]', b"\xff"]
PIECES = st.lists(st.sampled_from([*BITS, *EVENTS]), max_size=12).map(b"".join)


@patient
@given(st.binary(max_size=60) | JSON.map(orjson.dumps))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    for form in ("chat", "responses"):
        try:
            asked = read_body(form, body)
        except BadRequest:
            continue
        assert isinstance(asked.fields, dict)


@patient
@given(JSON, JSON, JSON)
def test_any_conversation_is_read(messages: Any, tools: Any, instructions: Any) -> None:
    bodies = (
        ("chat", {"messages": messages if isinstance(messages, list) and messages else [messages], "tools": tools}),
        ("responses", {"input": messages, "instructions": instructions, "tools": tools}),
    )
    for form, body in bodies:
        asked = read_body(form, orjson.dumps(body))
        try:
            assert opening(asked) == opening(asked)
            assert spoken(asked).num_seen <= len(spoken(asked).messages)
        except BadRequest:
            assert not isinstance(instructions, str | None)


@patient
@given(st.binary(max_size=80) | PIECES | JSON.map(orjson.dumps) | JSON.map(lambda value: sse(value)))
@example(b'{"choices": [{"message": {"content": 1}}]}')
def test_any_answer_is_read_or_says_why_not(body: bytes) -> None:
    for form in ("chat", "responses"):
        for kind in ("application/json", "text/event-stream", ""):
            answer = read_answer(form, kind, body)
            assert isinstance(answer, Answer) and (answer.message is not None or answer.problem)


@patient
@given(PIECES, st.lists(st.integers(1, 9), min_size=1))
def test_withholding_usage_takes_nothing_else_however_the_stream_is_cut(stream: bytes, sizes: list[int]) -> None:
    withheld, got, at, i = Withheld(Extras(usage=True), "text/event-stream"), b"", 0, 0
    while at < len(stream):
        got += withheld.feed(stream[at : at + sizes[i % len(sizes)]])
        at += sizes[i % len(sizes)]
        i += 1
    got += withheld.rest()
    usage = orjson.dumps(USAGE_CHUNK)
    assert got == stream or usage in stream
    assert [d for d in sse_data(got) if usage not in d] == [d for d in sse_data(stream) if usage not in d]


def test_nesting_without_an_end_is_refused() -> None:
    deep = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(BadRequest, match="cannot be read"):
        read_body("chat", deep)


def test_a_key_that_comes_twice_means_the_same_here_and_at_the_upstream(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok")))
        async with running(tmp_path, {"a": mock}, upstream={"model": "allowed"}) as gateway:
            body = b'{"messages":[{"role":"user","content":"first"}],"messages":[{"role":"user","content":"last"}]}'
            await gateway.http.post("/v1/chat/completions", content=body)
            assert mock.raw[0].count(b'"messages"') == 1
            (call,) = await gateway.frames("call")
            assert call["messages"] == mock.bodies[0]["messages"] == [{"role": "user", "content": "last"}]

    go(test)


def test_headers_that_decide_something_come_once() -> None:
    for name in (b"authorization", b"x-flyball-session", b"content-length", b"x-flyball-pin"):
        with pytest.raises(BadRequest, match="comes twice"):
            read_headers([(name, b"a"), (b"accept", b"b"), (name, b"a")])
    for bad in ("a/b", "a b", "../x", "ä", "x" * 129, "a\n"):
        with pytest.raises(BadRequest):
            named_session(bad)


async def raw(url: str, request: bytes, *, wait: float = 10.0) -> bytes:
    """What a server says to bytes of our own."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    try:
        return await asyncio.wait_for(reader.read(65536), wait)
    finally:
        writer.close()


def test_smuggled_requests_reach_no_upstream(tmp_path: Path) -> None:
    hidden = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer operator-key\r\n\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop-key\r\n"
    attacks = (
        head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
        head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden,
        head + b"Content-Length: 0\r\nContent-Length: 30\r\n\r\n" + hidden,
        head + b"Content-Length: 2\r\nx-flyball-session: a\r\nX-Flyball-Session: b\r\n\r\n{}",
        head.replace(b"Bearer shop-key", b"Bearer shop-key\r\nAuthorization: Bearer operator-key")
        + b"Content-Length: 2\r\n\r\n{}",
        b"\x16\x03\x01\x02\x00\x01" * 20,
    )

    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok")))
        async with running(tmp_path, {"a": mock}) as gateway:
            for attack in attacks:
                answers = (await raw(gateway.url, attack)).split(b"HTTP/1.1 ")[1:]
                assert all(answer[:2] == b"40" for answer in answers), answers
            assert mock.bodies == []
            assert (await gateway.chat("still here")).status_code == 200

    go(test)


def test_only_named_headers_go_to_the_upstream_and_ours_do_not_come_back(tmp_path: Path) -> None:
    async def test() -> None:
        theirs = (("x-flyball-session", "spoofed"), ("set-cookie", "c=1"), ("openai-version", "v"))
        mock = Mock(lambda asked: json_answer(text_answer("ok"), headers=theirs))
        async with running(tmp_path, {"a": mock}) as gateway:
            sent = {"cookie": "c=2", "x-api-key": "k", "x-forwarded-for": "1.2.3.4", "traceparent": "00-1"}
            answer = await gateway.chat("hi", path="/s/mine/v1/chat/completions", headers=sent)
            assert answer.headers.get_list("x-flyball-session") == ["mine"]
            assert "set-cookie" not in answer.headers and answer.headers["openai-version"] == "v"
            (seen,) = mock.headers
            assert seen["traceparent"] == "00-1"
            assert not {"authorization", "cookie", "x-api-key", "x-forwarded-for", "x-flyball-session"} & set(seen)

    go(test)


def test_projects_never_meet(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok")))
        async with running(tmp_path, {"a": mock}, two_projects=True) as gateway:
            at = {"path": "/s/same/v1/chat/completions"}
            other = {"headers": {"Authorization": "Bearer other-key"}}
            await gateway.chat("hi", **at)
            await gateway.chat("hi", {"role": "assistant", "content": "ok"}, "more", **at, **other)
            first, second = await gateway.frames("call", 2)
            assert (first["project"], second["project"]) == ("shop", "other")
            assert second["continues"] == first["ends"] and second["parent"] is None
            for name in ("previous_response_id", "conversation"):
                answer = await gateway.http.post("/v1/responses", json={"input": "hi", name: "resp_of_other"})
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
            for key in ("none", "shop-ke", "shop-keyy", "SHOP-KEY"):
                answer = await gateway.chat("hi", headers={"Authorization": f"Bearer {key}"})
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            for path in ("/v1/files", "/v1/responses/resp_1", "/s/same", "/", "/v1/flyball/sessions", "/../etc/passwd"):
                assert (await gateway.http.get(path)).status_code == 404
            assert len(mock.bodies) == 2

    go(test)


def test_a_prompt_of_ten_megabytes_passes_and_a_larger_body_than_allowed_does_not(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok")))
        async with running(tmp_path, {"a": mock}, max_body_mb=11.0) as gateway:
            long = "word " * (2 << 20)
            assert (await gateway.chat(long)).status_code == 200
            assert mock.bodies[0]["messages"][0]["content"] == long
            (call,) = await gateway.frames("call")
            assert call["messages"][0]["content"] == long
            told = await gateway.chat(long + long)
            assert (told.status_code, told.json()["error"]["code"]) == (413, "too_large")

            async def endless():
                for _ in range(12):
                    yield b"x" * (1 << 20)

            told = await gateway.http.post("/v1/chat/completions", content=endless())
            assert told.status_code == 413

    go(test)


def test_slow_clients_are_let_go(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok")))
        async with running(tmp_path, {"a": mock}, client_seconds=0.2) as gateway:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop-key\r\n"
            answer = await raw(gateway.url, head + b"Content-Length: 100\r\n\r\n{")
            assert answer.startswith(b"HTTP/1.1 408") and b"too_slow" in answer
            assert mock.bodies == []

    go(test)


def test_a_body_that_is_compressed_or_not_json_is_refused_in_words(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok")))
        async with running(tmp_path, {"a": mock}) as gateway:
            for body in (
                gzip.compress(b"{}"),
                b"",
                b"[]",
                b"null",
                b'{"messages": "hi"}',
                b'{"messages": [ ]}',
                b'{"messages": [1,}',
                b"\xff",
            ):
                answer = await gateway.http.post("/v1/chat/completions", content=body)
                assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"
            assert mock.bodies == []

    go(test)


def test_raw_values_go_on_as_they_were_written() -> None:
    written = b'{"messages":[{"role":"user","content":"\\u00e4"}],"seed":12345678901234567890,"t":1.10}'
    asked = read_body("chat", written)
    assert asked.body(model=None, prompt=None, more={}) == written
