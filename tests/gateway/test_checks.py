"""What the agent may not get is not passed on: tools without a scope, calls nobody approved, what must not be said."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from flyball.store.store import Store
from tests.gateway.servers import Mock, Running, go, json_answer, running, sse, stream_answer, text_answer, tool_call

POLICY = """
import flyball as fb
def no_promises(view):
    if "guarantee" in view.answer:
        return fb.Revise("Promise nothing.")
    if "secret" in view.answer:
        return fb.Block("it tells a secret")
def breaks(view):
    if "crash" in view.answer:
        raise RuntimeError("boom")
policy_checks = [no_promises, breaks]
"""
REFUND = tool_call("refund", '{"cents": 100}')


def in_turn(*answers: dict[str, Any]) -> Mock:
    """Answers one after the other, the last one for ever."""
    left = list(answers)
    return Mock(lambda asked: json_answer(left.pop(0) if len(left) > 1 else left[0]))


async def refused(gateway: Running, text: str = "hi", **more: Any) -> str:
    answer = await gateway.chat(text, **more)
    assert answer.status_code == 400
    return answer.json()["error"]["code"]


def test_a_tool_without_its_scope_is_refused_to_the_model_and_never_reaches_the_agent(tmp_path: Path) -> None:
    rule = {"tools": {"refund": {"scopes": ["money"]}}}

    async def test() -> None:
        mock = in_turn(text_answer("", tool_calls=[tool_call("look", "{}", "c0"), REFUND]), text_answer("I cannot."))
        async with running(tmp_path / "1", {"a": mock}, checks=rule) as gateway:
            answer = await gateway.chat("refund me")
            assert answer.json()["choices"][0]["message"]["content"] == "I cannot."
            told = mock.bodies[1]["messages"]
            assert [m["role"] for m in told] == ["user", "assistant", "tool", "tool"]
            assert "another one was refused" in told[2]["content"] and "scope money" in told[3]["content"]
            (call,) = await gateway.frames("call")
            assert call["checks"] == [{"kind": "tool", "name": "refund", "said": "out_of_scope"}]
        stubborn = in_turn(text_answer("", tool_calls=[REFUND]))
        async with running(tmp_path / "2", {"a": stubborn}, checks={**rule, "max_revisions": 1}) as gateway:
            assert await refused(gateway) == "not_revised" and len(stubborn.bodies) == 2
        granted = in_turn(text_answer("", tool_calls=[REFUND]))
        async with running(tmp_path / "3", {"a": granted}, checks=rule, scopes=["money"]) as gateway:
            assert (await gateway.chat("hi")).json()["choices"][0]["message"]["tool_calls"] == [REFUND]

    go(test)


def test_policy_checks_revise_block_and_fail_closed(tmp_path: Path) -> None:
    (tmp_path / "policy.py").write_text(POLICY)
    checks = {"policy": str(tmp_path / "policy.py")}

    async def test() -> None:
        mock = in_turn(text_answer("I guarantee it."), text_answer("Perhaps."))
        async with running(tmp_path / "1", {"a": mock}, checks=checks) as gateway:
            assert (await gateway.chat("hi")).json()["choices"][0]["message"]["content"] == "Perhaps."
            assert mock.bodies[1]["messages"][-1] == {"role": "user", "content": "Promise nothing."}
        for text, code in (("a secret", "blocked"), ("crash", "check_failed")):
            async with running(tmp_path / code, {"a": in_turn(text_answer(text))}, checks=checks) as gateway:
                assert await refused(gateway) == code
                (call,) = await gateway.frames("call")
                assert call["problem"] == code and call["exactness"] == "cut"
        cut = Mock(lambda asked: stream_answer(sse({"choices": [{"index": 0, "delta": {"content": "half"}}]})))
        async with running(tmp_path / "cut", {"a": cut}, checks=checks) as gateway:
            assert await refused(gateway, stream=True) == "not_checked"

    go(test)


def test_a_checked_response_is_asked_again_in_its_own_form(tmp_path: Path) -> None:
    (tmp_path / "policy.py").write_text(POLICY)

    def response(text: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": text}
        return {"id": "r", "status": "completed", "output": [{"type": "message", "content": [part]}]}

    async def test() -> None:
        mock = in_turn(response("I guarantee it."), response("Perhaps."))
        async with running(tmp_path, {"a": mock}, checks={"policy": str(tmp_path / "policy.py")}) as gateway:
            answer = await gateway.http.post("/v1/responses", json={"input": "hi"})
            assert answer.json()["output"][0]["content"][0]["text"] == "Perhaps."
            assert [(item["role"], item["content"]) for item in mock.bodies[1]["input"]] == [
                ("user", "hi"),
                ("assistant", "I guarantee it."),
                ("user", "Promise nothing."),
            ]

    go(test)


def test_a_person_approves_or_nobody_does(tmp_path: Path) -> None:
    checks = {"tools": {"refund": {"approval": "human"}}, "approval_seconds": 20.0}
    mock = Mock(
        lambda asked: json_answer(
            text_answer("No then.")
            if asked["messages"][-1]["role"] == "tool"
            else text_answer("", tool_calls=[tool_call("refund", "{}", asked["messages"][0]["content"])])
        )
    )

    async def answer_inbox(decision: str) -> None:
        with Store(tmp_path / "store") as store:
            while not (waiting := store.approvals("pending")):
                await asyncio.sleep(0.02)
            store.answer_approval(waiting[0].approval_id, decision, "ada")

    async def test() -> None:
        async with running(tmp_path, {"a": mock}, checks=checks) as gateway:
            at = {"path": "/s/s1/v1/chat/completions"}
            yes, _ = await asyncio.gather(gateway.chat("c1", **at), answer_inbox("approve"))
            assert yes.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "refund"
            no, _ = await asyncio.gather(gateway.chat("c2", **at), answer_inbox("deny"))
            assert no.json()["choices"][0]["message"]["content"] == "No then."
            calls = await gateway.frames("call", 2)
            assert [call["checks"][0]["said"] for call in calls] == ["approve", "deny"]

    go(test)


def test_a_session_past_its_budget_is_over(tmp_path: Path) -> None:
    async def test() -> None:
        mock = in_turn(text_answer("ok"))
        async with running(tmp_path / "1", {"a": mock}, budget={"calls": 2}) as gateway:
            at = {"path": "/s/s1/v1/chat/completions"}
            assert [(await gateway.chat("hi", **at)).status_code for _ in range(3)] == [200, 200, 400]
            assert (await gateway.chat("hi", path="/s/s2/v1/chat/completions")).status_code == 200
            assert len(mock.bodies) == 3
        async with running(tmp_path / "2", {"a": mock}, budget={"tokens": 15}) as gateway:
            at = {"path": "/s/s1/v1/chat/completions"}
            for count in (1, 2):
                assert (await gateway.chat("hi", **at)).status_code == 200
                await gateway.frames("call", count)
            assert await refused(gateway, **at) == "budget_spent"

    go(test)
