"""A vLLM server behind the gateway: its tokens are captured as it told them, and the agent sees none of it.

The stand-in answers as vLLM 0.32 does (`entrypoints/openai/chat_completion`): `prompt_token_ids` beside `choices` or in
the first chunk, `token_ids` and `logprobs` in each choice or chunk, and only where the request asks for them. Every
chunk holds the tokens that are new, which may be none or several.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from flyball.gateway.captured import attempt_of, captured_sessions
from flyball.store.records import from_json
from tests.gateway.servers import (
    Answered,
    Mock,
    chunk,
    go,
    ingested,
    json_answer,
    running,
    sse,
    stream_answer,
    text_answer,
    tool_call,
)

LOGPROB = -0.25


def ids_of(text: str) -> list[int]:
    return list(text.encode())


def template(messages: list[dict[str, Any]]) -> list[int]:
    """Tokens of a prompt: what an assistant said comes back as it was sampled, so a turn extends the one before."""
    return ids_of("".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>")


def told(ids: list[int]) -> dict[str, Any]:
    return {"content": [{"token": chr(i), "logprob": LOGPROB, "bytes": [i], "top_logprobs": []} for i in ids]}


def vllm(say: str = "ok!", **message: Any) -> Mock:
    def answer(asked: dict[str, Any]) -> Answered:
        ids, prompt = ids_of(say), template(asked["messages"])
        exact, scored = asked.get("return_token_ids"), asked.get("logprobs")
        if not asked.get("stream"):
            body = text_answer(say, **message)
            body["choices"][0] |= {"logprobs": told(ids) if scored else None, "stop_reason": None}
            body["choices"][0]["token_ids"] = ids if exact else None
            return json_answer({**body, "prompt_token_ids": prompt if exact else None})
        first = chunk({"role": "assistant", "content": ""}, **({"prompt_token_ids": prompt} if exact else {}))
        parts = [first]
        for at, text in ((0, say[:2]), (2, ""), (2, say[2:])):
            part = chunk({"content": text})
            new = ids[at : at + len(text)]
            part["choices"][0] |= {"logprobs": told(new) if scored else None, **({"token_ids": new} if exact else {})}
            parts.append(part)
        parts.append(chunk({"content": ""}, "stop"))
        return stream_answer(*(sse(part) for part in parts), sse(b"[DONE]"))

    return Mock(answer)


VLLM = {"tokens": "vllm"}
HI = {"role": "user", "content": "hi"}


def without_ids(body: bytes) -> bool:
    return not any(name in body for name in (b"token_ids", b'"logprob"'))


def test_tokens_are_captured_and_the_agent_gets_what_it_would_have_got(tmp_path: Path) -> None:
    async def test() -> None:
        mock = vllm()
        async with running(tmp_path, {"a": mock}, upstream=VLLM) as gateway:
            at: dict[str, Any] = {"path": "/s/s1/v1/chat/completions", "temperature": 0.5}
            whole = await gateway.chat(HI, **at)
            said = whole.json()["choices"][0]["message"]
            streamed = await gateway.chat(HI, said, {"role": "user", "content": "more"}, stream=True, **at)
            assert without_ids(whole.content) and without_ids(streamed.content)
            assert streamed.text.endswith("data: [DONE]\n\n") and "prompt_tokens" not in streamed.text
            assert whole.json() == {**text_answer("ok!"), "choices": whole.json()["choices"]}
            calls = await gateway.frames("call", 2)
            assert [call["exactness"] for call in calls] == ["exact", "exact"]
            for call, asked in zip(calls, mock.bodies, strict=True):
                kept = from_json(orjson.dumps(call["tokens"]))
                assert list(kept.prompt_ids) == template(asked["messages"])
                assert list(kept.completion_ids) == ids_of("ok!") and kept.sampling_logprobs == (LOGPROB,) * 3
                assert kept.sampling == {"temperature": 0.5}

    go(test)
    with ingested(tmp_path) as store:
        (calls,) = captured_sessions(store).values()
        first, second = attempt_of(calls).trajectory.calls
    # The second call adds to the first what came after its answer, and no token twice.
    assert second.parent_id == first.call_id and second.drift == "clean"
    tokens = [*first.prompt_ids, *first.completion_ids, *second.prompt_ids]
    assert bytes(tokens) == b"<user>hi<assistant>ok!<user>more<assistant>"


def test_a_history_that_the_template_writes_anew_is_a_branch_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        call = tool_call("look")
        async with running(tmp_path, {"a": vllm("<look>", tool_calls=[call])}, upstream=VLLM) as gateway:
            shown = {"role": "tool", "tool_call_id": "c1", "content": "seen"}
            at: dict[str, Any] = {"path": "/s/s1/v1/chat/completions"}
            said = (await gateway.chat(HI, **at)).json()["choices"][0]["message"]
            await gateway.chat(HI, {**said, "content": " " + said["content"]}, shown, **at)
            await gateway.frames("call", 2)

    go(test)
    with ingested(tmp_path) as store:
        (calls,) = captured_sessions(store).values()
        first, second = attempt_of(calls).trajectory.calls
    assert calls[1].parent == first.call_id  # it is the same conversation
    assert (second.parent_id, second.drift) == (None, "forked")  # and not the same tokens
    assert bytes(second.prompt_ids) == b"<user>hi<assistant> <look><tool>seen<assistant>"


def test_an_agent_that_asks_for_logprobs_or_ids_gets_them(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, {"a": vllm()}, upstream=VLLM) as gateway:
            for stream in (False, True):
                scored = await gateway.chat(HI, logprobs=True, stream=stream)
                assert b'"logprob"' in scored.content and b"token_ids" not in scored.content
                ids = await gateway.chat(HI, return_token_ids=True, stream=stream)
                assert b'"logprob"' not in ids.content and ids.content.count(b"prompt_token_ids") == 1

    go(test)


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_tells_no_tokens_is_captured_as_text_and_counted(tmp_path: Path, stream: bool) -> None:
    async def test() -> None:
        deaf = Mock(lambda asked: vllm().answer({**asked, "return_token_ids": False}))
        async with running(tmp_path, {"a": deaf}, upstream=VLLM) as gateway:
            assert (await gateway.chat(HI, stream=stream)).status_code == 200
            (call,) = await gateway.frames("call")
            assert (call["exactness"], call["tokens"]) == ("text", None)
            assert gateway.app.capture.dropped == {"no_tokens": 1}

    go(test)


def test_tokens_that_spell_personal_data_are_not_kept(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, {"a": vllm()}, upstream=VLLM) as gateway:
            await gateway.chat("write to ana@example.com")
            (call,) = await gateway.frames("call")
            assert (call["exactness"], call["tokens"]) == ("text", None)

    go(test)


def test_a_checked_answer_has_its_tokens_too(tmp_path: Path) -> None:
    async def test() -> None:
        checks = {"tools": {"refund": {"scopes": ["orders.write"]}}}
        async with running(tmp_path, {"a": vllm()}, upstream=VLLM, checks=checks) as gateway:
            for stream in (False, True):
                assert without_ids((await gateway.chat(HI, stream=stream)).content)
            assert [call["exactness"] for call in await gateway.frames("call", 2)] == ["exact", "exact"]

    go(test)
