"""One test for each row of the table of failures in docs/gateway.md."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.gateway.servers import (
    Answered,
    Mock,
    chunk,
    go,
    json_answer,
    running,
    sse,
    stream_answer,
    text_answer,
)
from tests.gateway.test_router import TABLE, Tables, canary_key

OK = Mock(lambda asked: json_answer(text_answer("ok")))
VERSIONS = {"old": "old", "new": "new"}


def nobody() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def ok() -> Mock:
    return Mock(lambda asked: json_answer(text_answer("ok")))


@pytest.mark.parametrize("status", [500, 503])
def test_an_upstream_that_fails_is_passed_on_without_a_fallback_and_replaced_with_one(
    tmp_path: Path, status: int
) -> None:
    async def test() -> None:
        failing = Mock(lambda asked: json_answer({"error": {"message": "down"}}, status))
        async with running(tmp_path / "1", {"a": failing}) as gateway:
            answer = await gateway.chat("hi")
            assert answer.status_code == status and answer.json()["error"]["message"] == "down"
        async with running(tmp_path / "2", {"a": failing, "b": ok()}, fallback="b") as gateway:
            assert (await gateway.chat("hi")).json()["choices"][0]["message"]["content"] == "ok"
            (call,) = await gateway.frames("call")
            assert (call["upstream"], call["fallback"]) == ("b", f"status_{status}")

    go(test)


def test_an_upstream_that_cannot_be_reached(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path / "1", {"a": nobody()}) as gateway:
            assert code(await gateway.chat("hi")) == (502, "upstream_unreachable")
            (call,) = await gateway.frames("call")
            assert (call["problem"], call["exactness"]) == ("upstream_unreachable", "cut")
        async with running(tmp_path / "2", {"a": nobody(), "b": ok()}, fallback="b") as gateway:
            assert (await gateway.chat("hi")).status_code == 200
            assert (await gateway.frames("call"))[0]["fallback"] == "upstream_unreachable"

    go(test)


def test_an_upstream_that_hangs(tmp_path: Path) -> None:
    async def test() -> None:
        hangs = Mock(lambda asked: json_answer({}, delay=30.0))
        async with running(tmp_path, {"a": hangs}, upstream={"first_byte_seconds": 0.1}) as gateway:
            assert code(await gateway.chat("hi")) == (504, "upstream_timeout")

    go(test)


def test_an_upstream_that_stops_or_breaks_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    async def test() -> None:
        part = sse(chunk({"content": "Hel"}))
        for name, how in (("upstream_stalled", {"pause": 30.0}), ("upstream_broken", {"broken": True})):
            mock = Mock(lambda asked, how=how: stream_answer(part, **how))
            async with running(tmp_path / name, {"a": mock}, upstream={"idle_seconds": 0.2}) as gateway:
                got = b""
                with contextlib.suppress(httpx.RemoteProtocolError):  # the body has no end, and must not seem to
                    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
                    async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                        async for each in answer.aiter_bytes():
                            got += each
                        pytest.fail("a broken stream ended as if it were whole")
                assert got.startswith(part) and name.encode() in got and b"[DONE]" not in got
                (call,) = await gateway.frames("call")
                assert (call["problem"], call["exactness"]) == (name, "cut")
                assert call["message"] == {"role": "assistant", "content": "Hel"}

    go(test)


def test_garbage_and_429_pass_as_they_are(tmp_path: Path) -> None:
    async def test() -> None:
        garbage = Mock(lambda asked: Answered(200, (b"\xff\xfe<html>",), "text/html"))
        async with running(tmp_path / "1", {"a": garbage}) as gateway:
            answer = await gateway.chat("hi")
            assert answer.content == b"\xff\xfe<html>" and answer.headers["content-type"] == "text/html"
            assert (await gateway.frames("call"))[0]["exactness"] == "cut"
        busy = Mock(lambda asked: json_answer({"error": {}}, 429, headers=(("retry-after", "7"),)))
        async with running(tmp_path / "2", {"a": busy, "b": ok()}, fallback="b") as gateway:
            answer = await gateway.chat("hi")
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")

    go(test)


def test_a_failing_canary_falls_back_to_the_version_in_force_and_its_circuit_opens(tmp_path: Path) -> None:
    async def test() -> None:
        new = Mock(lambda asked: json_answer({}, 500))
        old = ok()
        at = {"path": f"/s/{session()}/v1/chat/completions"}
        routing = {"max_failures": 2, "open_seconds": 60.0}
        async with running(tmp_path, {"old": old, "new": new}, table=Tables(), routing=routing) as gateway:
            for _ in range(4):
                assert (await gateway.chat("hi", **at)).status_code == 200
            calls = await gateway.frames("call", 4)
            # The unit stays in its arm (intention to treat), marked.
            assert {(call["arm"], call["version"]) for call in calls} == {("canary", "old")}
            assert [call["fallback"] for call in calls] == ["status_500", "status_500", "circuit_open", "circuit_open"]
            assert len(new.bodies) == 2 and len(old.bodies) == 4

    def session() -> str:
        return next(f"s{i}" for i in range(1000) if TABLE.arm(f"shop~s{i}") == "canary")

    go(test)


def test_the_control_plane_is_down(tmp_path: Path) -> None:
    async def test() -> None:
        tables, old, new = Tables(), ok(), ok()
        session = next(f"s{i}" for i in range(1000) if TABLE.arm(f"shop~s{i}") == "canary")
        at = {"path": f"/s/{session}/v1/chat/completions"}
        routing = {"lease_seconds": 0.3}
        async with running(tmp_path, {"old": old, "new": new}, table=tables, routing=routing) as gateway:
            await gateway.chat("hi", **at)
            assert len(new.bodies) == 1
            tables.down = True
            while not gateway.app.router.stale:
                await asyncio.sleep(0.02)
            await gateway.chat("hi", **at)
            assert (len(old.bodies), len(new.bodies)) == (1, 1)
            health = (await gateway.http.get("/healthz")).json()
            assert health["stale"] and health["table"] == 1

    go(test)


def test_the_kill_switch_while_the_control_plane_is_down(tmp_path: Path) -> None:
    async def test() -> None:
        tables, old, new = Tables(), ok(), ok()
        async with running(tmp_path, {"old": old, "new": new}, table=tables) as gateway:
            tables.down = True
            (tmp_path / "KILL").touch()
            for i in range(40):
                await gateway.chat("hi", path=f"/s/s{i}/v1/chat/completions")
            assert (len(old.bodies), len(new.bodies)) == (40, 0)

    go(test)


def test_a_table_that_names_a_version_nobody_serves(tmp_path: Path) -> None:
    async def test() -> None:
        table = Tables(replace(TABLE, candidate="unknown", stable="old"))
        async with running(tmp_path, {"old": ok()}, table=table) as gateway:
            session = next(f"s{i}" for i in range(1000) if TABLE.arm(f"shop~s{i}") == "canary")
            assert (await gateway.chat("hi", path=f"/s/{session}/v1/chat/completions")).status_code == 200
            (call,) = await gateway.frames("call")
            assert (call["fallback"], call["version"], call["arm"]) == ("no_upstream", "old", "canary")

    go(test)


def test_a_session_that_was_cut(tmp_path: Path) -> None:
    async def test() -> None:
        tables = Tables()
        async with running(tmp_path, {"old": ok(), "new": ok()}, table=tables) as gateway:
            session = next(f"s{i}" for i in range(1000) if TABLE.arm(f"shop~s{i}") == "canary")
            at = {"path": f"/s/{session}/v1/chat/completions"}
            await gateway.chat("hi", **at)
            tables.table = replace(TABLE, version=2, stage="rolled_back", share=0.0, sessions="cut")
            await gateway.app.router.look()
            assert code(await gateway.chat("hi", **at)) == (409, "session_cut")

    go(test)


def test_more_requests_than_a_worker_takes(tmp_path: Path) -> None:
    async def test() -> None:
        slow = Mock(lambda asked: json_answer(text_answer("ok"), delay=1.0))
        async with running(tmp_path, {"a": slow}, max_requests=1) as gateway:
            answers = await asyncio.gather(*(gateway.chat(f"hi {i}") for i in range(3)))
            assert sorted(answer.status_code for answer in answers) == [200, 503, 503]
            refused = next(answer for answer in answers if answer.status_code == 503)
            assert refused.headers["retry-after"] == "1" and code(refused)[1] == "overloaded"

    go(test)


def test_canary_key_is_a_canary() -> None:
    assert TABLE.arm(canary_key()) == "canary"
