"""What is kept of calls: exact tokens where the engine is ours, links by content, no personal data, reports once."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import orjson
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flyball.engine.fake import FakeEngine, Prompt
from flyball.errors import StoreError
from flyball.gateway import serve
from flyball.gateway.conversation import spoken
from flyball.gateway.receipts import Receipt, Receipts
from flyball.gateway.request import Asked
from flyball.gateway.served import Served
from flyball.models.fake import tool_call_text
from flyball.store.records import from_json
from tests.gateway.servers import (
    RECEIPT_KEY,
    Mock,
    go,
    ingested,
    json_answer,
    read_frames,
    running,
    text_answer,
    tool_call,
    with_engine,
)

LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def echo(asked: dict[str, Any]) -> Any:
    return json_answer(text_answer(f"re: {asked['messages'][-1]['content']}"))


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_calls_are_linked_and_retries_branches_and_side_agents_told_apart(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, {"a": Mock(echo)}) as gateway:
            at = {"path": "/s/s1/v1/chat/completions"}
            await gateway.chat("one", **at)
            await gateway.chat("one", said("re: one"), "two", **at)
            await gateway.chat("one", said("re:  one\n"), "two", **at)  # a retry, spaced anew by a framework
            await gateway.chat("one", said("re: one"), "other", **at)  # a branch
            await gateway.chat("one", tools=[LOOK], **at)  # a side agent with other tools
            await gateway.chat("summarise", headers={"x-flyball-agent": "summary"}, **at)
            first, second, retry, branch, side, summary = await gateway.frames("call", 6)
            assert first["parent"] is None and first["messages"] == [{"role": "user", "content": "one"}]
            assert second["parent"] == retry["parent"] == branch["parent"] == first["call_id"]
            assert second["continues"] == first["ends"] and second["num_seen"] == 2
            assert second["messages"] == [{"role": "user", "content": "two"}]
            assert retry["stands_at"] == second["stands_at"] != branch["stands_at"]
            assert side["parent"] is None and side["stands_at"] != first["stands_at"] and side["tools"] == [LOOK]
            assert summary["parent"] is None and summary["agent"] == "summary"

    go(test)


def test_a_session_that_is_remembered_holds_no_body(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, {"a": Mock(echo)}) as gateway:
            await gateway.chat("x" * 1_000_000, path="/s/s1/v1/chat/completions")
            await gateway.frames("call", 1)
            gc.collect()
            held = [each for each in gc.get_objects() if type(each) is Served and each.session == "s1"]
            assert sum(each.size for each in held) == 0

    go(test)


texts = st.text(max_size=8)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)


def asked_of(messages: list[dict[str, Any]]) -> Asked:
    return Asked("chat", {"messages": msgspec.Raw(orjson.dumps(messages))}, False)


@hypothesis_settings(deadline=None)
@given(turns, texts)
def test_a_continuation_continues_and_an_edited_history_does_not(spoken_turns, more: str) -> None:
    messages: list[dict[str, Any]] = []
    ends = ""
    for user, reply in spoken_turns:
        messages.append({"role": "user", "content": user})
        now = spoken(asked_of(messages))
        assert now.continues == ends
        ends = now.ends(said(reply))
        messages.append(said(reply))
    messages.append({"role": "user", "content": more})
    now = spoken(asked_of(messages))
    assert (now.continues, now.num_seen) == (ends, len(messages) - 1)
    edited = [{"role": "user", "content": f"{messages[0]['content']}!"}, *messages[1:]]
    assert spoken(asked_of(edited)).continues != ends


def test_tokens_of_our_own_engine_are_captured_as_it_sampled_them(tmp_path: Path) -> None:
    async def test() -> None:
        def script(prompt: Prompt) -> str:
            if prompt.messages[-1]["content"] == "bye":
                return "mail me at a@b.example"
            return "done" if prompt.turn else tool_call_text("look")

        engine = FakeEngine(script)
        async with with_engine(tmp_path, engine) as gateway:
            at: dict[str, Any] = {"path": "/s/s1/v1/chat/completions", "tools": [LOOK]}
            first = (await gateway.chat("hi", **at)).json()["choices"][0]["message"]
            shown = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "seen"}
            hi = {"role": "user", "content": "hi"}
            streamed = await gateway.chat(hi, first, shown, stream=True, **at)
            assert streamed.text.endswith("data: [DONE]\n\n") and "prompt_tokens" not in streamed.text
            await gateway.chat("bye", **at)
            calls = await gateway.frames("call", 3)
            assert [call["exactness"] for call in calls] == ["exact", "exact", "text"]
            for call, completion, request in zip(calls[:2], engine.completions, engine.requests, strict=False):
                kept = from_json(orjson.dumps(call["tokens"]))
                assert kept.completion_ids == completion.token_ids and kept.sampling_logprobs == completion.logprobs
                assert request.prompt_ids[-len(kept.prompt_ids) :] == kept.prompt_ids
            assert from_json(orjson.dumps(calls[1]["tokens"])).parent_id == "c0"
            assert calls[1]["parent"] == calls[0]["call_id"]
            # Tokens spell what was redacted, so they are not kept.
            assert calls[2]["message"]["content"] == "mail me at [email]" and calls[2]["tokens"] is None

    go(test)


def test_no_personal_data_reaches_the_disk(tmp_path: Path) -> None:
    secrets = [
        "ada@shop.example",
        "4111 1111 1111 1111",
        "DE89 3704 0044 0532 0130 00",
        "+4915112345679",
        "078-05-1120",
    ]

    async def test() -> None:
        def answer(asked: dict[str, Any]) -> Any:
            return json_answer(text_answer(secrets[0], tool_calls=[tool_call("pay", orjson.dumps(secrets).decode())]))

        async with running(tmp_path, {"a": Mock(answer)}) as gateway:
            await gateway.chat(" and ".join(secrets), user="ada@shop.example")
            (call,) = await gateway.frames("call")
            assert call["messages"][0]["content"] == "[email] and [card] and [iban] and [phone] and [ssn]"
            assert call["num_redacted"] == 3
        on_disk = b"".join(frame.body for frame in read_frames(tmp_path / "store" / "spool"))
        assert [secret for secret in secrets if secret.encode() in on_disk] == []

    go(test)


def test_a_session_adds_up(tmp_path: Path) -> None:
    async def test() -> None:
        calls = text_answer("", tool_calls=[tool_call("look")])
        prices = {"input_usd": 1.0, "output_usd": 10.0}
        async with running(tmp_path, {"a": Mock(lambda asked: json_answer(calls))}, upstream=prices) as gateway:
            for text in ("a", "b"):
                await gateway.chat(text, path="/s/s1/v1/chat/completions", user="ana")
            begun = await gateway.frames("request", 2)
            await gateway.frames("call", 2)
            assert [frame["session"] for frame in begun] == ["s1", "s1"]
        (session,) = [orjson.loads(f.body) for f in read_frames(tmp_path / "store" / "spool") if f.kind == "session"]
        wanted = {"calls": 2, "tokens_in": 14, "tokens_out": 6, "tool_calls_count": 2, "errors": 0, "unknown_usage": 0}
        assert {name: session[name] for name in wanted} == wanted
        assert abs(session["cost_usd"] - (14 * 1 + 6 * 10) / 1e6) < 1e-12
        assert session["release_channel"] == "general" and session["first_call"] == begun[0]["call_id"]
        assert session["user"] == Receipts(RECEIPT_KEY).pseudonym("ana")
        with ingested(tmp_path) as store:
            (record,) = store.served_sessions()
        assert record.context["user"] == session["user"]

    go(test)


def test_a_call_whose_tokens_are_being_fetched_is_written_before_the_end(tmp_path: Path, monkeypatch: Any) -> None:
    async def slow(*arguments: Any) -> None:
        await asyncio.sleep(0.2)

    monkeypatch.setattr(serve, "_tokens", slow)

    async def test() -> None:
        async with with_engine(tmp_path, FakeEngine(["done"])) as gateway:
            for i in range(3):
                await gateway.chat("hi", path=f"/s/s{i}/v1/chat/completions")
        kinds = Counter(frame.kind for frame in read_frames(tmp_path / "store" / "spool"))
        assert (kinds["request"], kinds["call"], kinds["session"]) == (3, 3, 3)

    go(test)


def test_reports_are_written_once_and_forged_ones_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, {"a": Mock(echo)}, two_projects=True) as gateway:
            receipt = (await gateway.chat("hi")).headers["x-flyball-receipt"]

            async def report(key: str = "shop-key", **body: Any) -> tuple[int, Any]:
                sent = {"receipt": receipt, "report_id": "r1", **body}
                headers = {"Authorization": f"Bearer {key}"}
                answer = await gateway.http.post("/v1/flyball/report", json=sent, headers=headers)
                return answer.status_code, answer.json().get("error", {}).get("code")

            assert await report(outcome=True) == (202, None)
            assert await report(outcome=True) == (200, None)
            assert await report(outcome=False) == (409, "report_differs")
            edit = {"kind": "edit", "reason": "wrong amount"}
            assert await report(report_id="r2", score=0.5, override=edit) == (202, None)
            assert await report(key="other-key", report_id="r3", outcome=True) == (403, "forged_receipt")
            forged = Receipts("another secret").sign(Receipt("shop", "s", "c"))
            for wrong in (forged, receipt[:-1] + ("A" if receipt[-1] != "A" else "B"), "", "v1~shop~s~c", "~~~~"):
                assert await report(receipt=wrong, report_id="r4", outcome=True) == (403, "forged_receipt")
            for bad in ({}, {"score": 2.0}, {"outcome": "yes"}, {"override": {"kind": "cancel"}}, {"outcme": True}):
                assert await report(report_id="r5", **bad) == (400, "bad_report")
            first, second = await gateway.frames("feedback", 2)
            assert first["outcome"] is True and first["project"] == "shop" and "receipt" not in first
            assert second["override"] == edit and second["score"] == 0.5
            assert (await gateway.frames("call"))[0]["call_id"] == first["call_id"]

    go(test)


class FullSpool:
    """A spool on a disk that is full."""

    def append(self, kind: str, body: bytes, *, arm: str = "") -> Future[None]:
        raise StoreError("the disk is full")

    def close(self) -> None:
        return


def test_a_full_disk_serves_or_refuses_as_the_file_says(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(echo)
        async with running(tmp_path, {"a": mock}, spool=FullSpool()) as gateway:
            assert (await gateway.chat("hi")).status_code == 200
            assert gateway.app.capture.dropped["spool"] >= 1
            assert "disk is full" in (await gateway.http.get("/readyz")).json()["capture"]
        refuse = {"on_full": "refuse"}
        async with running(tmp_path, {"a": mock}, spool=FullSpool(), capture=refuse) as gateway:
            answer = await gateway.chat("hi")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "capture_unavailable")
            assert (await gateway.http.get("/readyz")).status_code == 503
        assert len(mock.bodies) == 1

    go(test)


def test_a_backlog_drops_bodies_and_keeps_the_call(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, {"a": Mock(echo)}, capture={"queue_mb": 1}) as gateway:
            await gateway.chat("x" * (2 << 20))
            (call,) = await gateway.frames("call")
            assert call["problem"] == "backlog" and call["messages"] == [] and call["status"] == 200
            assert gateway.app.capture.dropped == {"backlog": 1}

    go(test)
