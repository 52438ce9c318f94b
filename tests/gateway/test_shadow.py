"""The candidate answers copies that nobody sees, within bounds of its own, until it would have acted otherwise."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flyball.gateway.shadow import first_difference
from tests.gateway.servers import Mock, go, json_answer, running, text_answer, tool_call
from tests.gateway.test_router import TABLE, Tables

SHADOW = replace(TABLE, stage="shadow", share=0.0)


def said(text: str = "", *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {})}


@pytest.mark.parametrize(
    ("theirs", "ours", "difference"),
    [
        (said("a  b"), said("a b\n"), ""),
        (said("a"), said("b"), "text"),
        (said("", tool_call("look")), said("a"), "number"),
        (said("", tool_call("look")), said("", tool_call("find")), "tool"),
        (said("", tool_call("look", '{"a":1}')), said("", tool_call("look", '{"a": 2}')), "arguments"),
        (said("", tool_call("look", '{"a":1}')), said("", tool_call("look", '{ "a" : 1}', "other")), ""),
        (None, said("a"), "failed"),
    ],
)
def test_where_two_turns_differ_first(theirs: Any, ours: Any, difference: str) -> None:
    assert first_difference(theirs, ours) == difference


async def settled(gateway: Any, **wanted: int) -> None:
    for _ in range(2000):
        if dict(gateway.app._shadow.counts) == wanted:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{dict(gateway.app._shadow.counts)}, expected {wanted}")


def test_a_shadow_stops_where_it_would_have_acted_otherwise(tmp_path: Path) -> None:
    old = Mock(lambda asked: json_answer(text_answer("", tool_calls=[tool_call("look", '{"n": 1}')])))
    new = Mock(
        lambda asked: json_answer(
            text_answer("", tool_calls=[tool_call("look", f'{{"n":{1 if len(new.bodies) < 3 else 2}}}')])
        )
    )

    async def test() -> None:
        budget = {"tokens": 45}
        async with running(tmp_path, {"old": old, "new": new}, table=Tables(SHADOW), budget=budget) as gateway:
            for i in range(4):
                answer = await gateway.chat(f"turn {i}", path="/s/s1/v1/chat/completions")
                assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"n": 1}'
                await gateway.frames("call", min(2 * i + 2, 7))
            await settled(gateway, **{"same": 2, "arguments": 1, "after divergence": 1})
            assert [body["messages"] for body in new.bodies] == [body["messages"] for body in old.bodies[:3]]
            calls = await gateway.frames("call", 7)
            shadows = [call for call in calls if call["arm"] == "shadow"]
            assert [call["checks"][0]["said"] for call in shadows] == ["same", "same", "arguments"]
            assert shadows[2]["checks"][0]["stable"] == shadows[2]["checks"][0]["tools"] == ["look"]
            assert all(call["upstream_seconds"] > 0 for call in calls)
            assert {call["version"] for call in shadows} == {"new"}
            first = next(call for call in calls if call["arm"] == "stable")
            assert shadows[0]["shadow_of"] == first["call_id"]

    go(test)


def test_a_session_that_left_one_candidate_is_followed_by_the_next(tmp_path: Path) -> None:
    old, new = (
        Mock(lambda asked, tool=tool: json_answer(text_answer("", tool_calls=[tool_call(tool)]))) for tool in "ab"
    )
    tables, upstreams = Tables(SHADOW), {"old": old, "new": new, "next": old}

    async def test() -> None:
        async with running(tmp_path, upstreams, table=tables, shadow={"max_calls": 1}) as gateway:
            await gateway.chat("hi", path="/s/s1/v1/chat/completions")
            await settled(gateway, tool=1)
            assert len(new.bodies) == 1
            tables.table = replace(SHADOW, version=2, release_id="r2", candidate="next")
            while gateway.app.router.table.version < 2:
                await asyncio.sleep(0.005)
            await gateway.chat("hi", path="/s/s1/v1/chat/completions")
            await settled(gateway, tool=1, same=1)
            await gateway.chat("hi", path="/s/s2/v1/chat/completions")
            await settled(gateway, tool=1, same=1, budget=1)
            calls = await gateway.frames("call", 5)
            copies = [(call["session"], call["version"]) for call in calls if call["arm"] == "shadow"]
            assert copies == [("s1", "new"), ("s1", "next")], "s2 is past the bound of the second candidate"
            assert [call["shadow"] for call in calls if call["arm"] == "stable"] == ["sent", "sent", "budget"]

    go(test)


def test_a_shadow_is_bounded_and_never_delays_anybody(tmp_path: Path) -> None:
    old = Mock(lambda asked: json_answer(text_answer("ok")))
    new = Mock(lambda asked: json_answer(text_answer("ok"), delay=30.0))

    async def test() -> None:
        shadow = {"concurrency": 2, "max_calls": 3}
        async with running(tmp_path, {"old": old, "new": new}, table=Tables(SHADOW), shadow=shadow) as gateway:
            for i in range(5):
                assert (await gateway.chat("hi", path=f"/s/s{i}/v1/chat/completions")).status_code == 200
            await settled(gateway, busy=3)
            told = [call["shadow"] for call in await gateway.frames("call", 5) if call["arm"] == "stable"]
            assert told == ["sent", "sent", "busy", "busy", "busy"]

    go(test)


def test_a_shadow_that_fails_or_has_no_upstream_is_counted(tmp_path: Path) -> None:
    old, new = Mock(lambda asked: json_answer(text_answer("ok"))), Mock(lambda asked: json_answer({}, 500))

    async def test() -> None:
        async with running(tmp_path / "1", {"old": old, "new": new}, table=Tables(SHADOW)) as gateway:
            await gateway.chat("hi")
            await settled(gateway, failed=1)
        async with running(tmp_path / "2", {"old": old}, table=Tables(SHADOW)) as gateway:
            await gateway.chat("hi")
            await settled(gateway, **{"no upstream": 1})
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "KILL").touch()
        async with running(tmp_path / "3", {"old": old, "new": new}, table=Tables(SHADOW)) as gateway:
            await gateway.chat("hi")
            await gateway.frames("call")
            assert len(new.bodies) == 1 and not gateway.app._shadow.counts

    go(test)
