"""Judges and endpoints: what is sent, what an answer counts for, and every way a server can answer badly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from flyball.errors import ConfigError, Fault
from flyball.graders.endpoint import EndpointGrader
from flyball.graders.flags import error_flags
from flyball.graders.judge import Judge
from flyball.graders.make import grader_from
from flyball.graders.row import attempt_of_text
from flyball.graders.spec import Endpoint
from flyball.tools.post import Poster, PostFailed
from flyball.tools.source import UNREAD
from flyball.types import Missing, Score
from tests.graders.rows import attempt, graded, judge, score, score_of, tool_call

SCORE_MODEL = {
    "type": "score_model",
    "model": "judge-1",
    "input": [
        {"role": "developer", "content": "Rate 1 to 5."},
        {"role": "user", "content": "Answer: {{ sample.output_text }} Wanted: {{ item.answer }}"},
    ],
    "range": [1, 5],
}
LABEL_MODEL = {
    "type": "label_model",
    "model": "judge-1",
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
    "labels": ["polite", "rude", "unclear"],
    "passing_labels": ["polite"],
}


def missing(found: Score, flag: str, fault: Fault) -> str:
    assert isinstance(found.value, Missing) and found.value.fault is fault
    assert [name for name, up in error_flags(found).items() if up] == [flag]
    return found.value.cause


# --- what is sent and what comes back --------------------------------------------------------------------------------


def test_a_score_model_asks_with_the_filled_in_messages_and_a_schema() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return graded(4, steps=[{"description": "read", "conclusion": "Mostly right."}])

    spec = {**SCORE_MODEL, "sampling_params": {"seed": 1, "max_completions_tokens": 50, "reasoning_effort": "low"}}
    found = score(spec, "blue", {"answer": "sky blue"}, judge=judge(answer, api_key="secret"))
    assert (found.value, found.raw, found.raw_range, found.explanation) == (0.75, 4.0, (1.0, 5.0), "Mostly right.")
    body = json.loads(seen[0].content)
    assert seen[0].url == "http://judge/v1/chat/completions" and seen[0].headers["authorization"] == "Bearer secret"
    assert body["messages"] == [
        {"role": "developer", "content": "Rate 1 to 5."},
        {"role": "user", "content": "Answer: blue Wanted: sky blue"},
    ]
    assert (body["model"], body["seed"], body["max_completion_tokens"]) == ("judge-1", 1, 50)
    assert "temperature" not in body and "max_completions_tokens" not in body
    schema = body["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["steps", "result"] and schema["properties"]["result"] == {"type": "number"}


def test_parts_become_those_of_chat_completions() -> None:
    bodies: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return graded(1)

    parts = [
        {"type": "input_text", "text": "See {{item.answer}}"},
        {"type": "input_image", "image_url": "{{item.picture}}", "detail": "low"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    spec = {**SCORE_MODEL, "input": [{"role": "user", "content": parts, "type": "message"}]}
    score(spec, "", {"answer": "it", "picture": "data:x"}, judge=judge(answer))
    assert bodies[0]["messages"][0]["content"] == [
        {"type": "text", "text": "See it"},
        {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    one = {**SCORE_MODEL, "input": [{"role": "user", "content": {"type": "output_text", "text": "plain"}}]}
    score(one, judge=judge(answer))
    assert bodies[1]["messages"] == [{"role": "user", "content": "plain"}]


@pytest.mark.parametrize(("said", "raw"), [(9, 5.0), (-2.5, 1.0), (2.5, 2.5)])
def test_a_score_is_clipped_to_its_range_and_says_so(said: float, raw: float) -> None:
    found = score(SCORE_MODEL, "x", {"answer": "y"}, judge=judge(lambda request: graded(said)))
    assert found.raw == raw and ("was clipped" in found.explanation) is (said != raw)


@pytest.mark.parametrize(("label", "value"), [("polite", 1.0), ("rude", 0.0)])
def test_a_label_model_passes_or_does_not(label: str, value: float) -> None:
    steps = [{"description": "d", "conclusion": "Because."}]
    found = score(LABEL_MODEL, "x", judge=judge(lambda request: graded(label, steps=steps)))
    assert (found.value, found.explanation) == (value, f"{label}: Because.")


def fenced(request: httpx.Request) -> httpx.Response:
    body = graded(3).json()
    body["choices"][0]["message"]["content"] = '```json\n{"steps": [], "result": 3}\n```'
    return httpx.Response(200, json=body)


def test_a_server_without_schemas_may_fence_its_json() -> None:
    assert score(SCORE_MODEL, "x", {"answer": "y"}, judge=judge(fenced)).raw == 3.0


@pytest.mark.parametrize("result", ["four", True, None, [4], "NaN"])
def test_a_result_that_is_no_number_is_no_grade(result: Any) -> None:
    found = score(SCORE_MODEL, "x", {"answer": "y"}, judge=judge(lambda request: graded(result)))
    assert "not a number" in missing(found, "model_grader_parse_error", Fault.GRADER)


def test_other_answers_that_are_no_grade() -> None:
    other = score(LABEL_MODEL, "x", judge=judge(lambda request: graded("kind")))
    assert "none of the labels" in missing(other, "model_grader_parse_error", Fault.GRADER)
    refused = score(LABEL_MODEL, "x", judge=judge(lambda request: graded("polite", refusal="I cannot judge that")))
    assert "I cannot judge that" in missing(refused, "model_grader_refusal_error", Fault.GRADER)

    def cut(request: httpx.Request) -> httpx.Response:
        choice = {"message": {"content": '{"steps": ['}, "finish_reason": "length"}
        return httpx.Response(200, json={"choices": [choice]})

    assert "length limit" in missing(score(LABEL_MODEL, judge=judge(cut)), "model_grader_parse_error", Fault.GRADER)
    strange = score(LABEL_MODEL, judge=judge(lambda request: httpx.Response(200, json=["no", "choices"])))
    assert "no chat completion" in missing(strange, "model_grader_server_error", Fault.INFRASTRUCTURE)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"input": "Rate it."}, "input is 'Rate it.'"),
        ({"input": []}, "a judge needs at least one message"),
        ({"input": [{"role": "judge", "content": "x"}]}, "input.0.role is 'judge'"),
        (
            {"input": [{"role": "user", "contents": "x"}]},
            "unknown key 'contents' in 'input.0'; did you mean 'content'?",
        ),
        ({"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "is no part; its type is one of"),
        ({"input": [{"role": "user", "content": {"type": "input_text"}}]}, "needs text"),
        ({"input": [{"role": "user", "content": {"type": "input_text", "text": "x", "to": 1}}]}, "has no field 'to'"),
        ({"input": [{"role": "user", "content": "{{item}} {{sampel.x}}"}]}, "input[0]: template {{sampel.x}}"),
        ({"range": [5, 1]}, "the first below the second"),
        ({"sampling_params": {"max_completion_tokens": 5}}, "did you mean 'max_completions_tokens'?"),
        (
            {"type": "label_model", "range": None, "labels": ["a"], "passing_labels": ["b"]},
            "'b' is not among the labels",
        ),
    ],
)
def test_judges_are_read_strictly(changed: dict[str, Any], said: str) -> None:
    spec = {key: value for key, value in {**SCORE_MODEL, "name": "g", **changed}.items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        grader_from(spec, judge=judge(lambda request: graded(1)))
    assert said in str(caught.value)


def test_the_server_comes_from_the_environment_or_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="grader 'g' asks a model and no server is known; set OPENAI_BASE_URL"):
        grader_from({"name": "g", **SCORE_MODEL})
    monkeypatch.setenv("OPENAI_BASE_URL", "http://one/v1")
    one = grader_from({"name": "g", **SCORE_MODEL}).version
    assert one == grader_from({"name": "g", **SCORE_MODEL}, judge=Judge("http://one/v1/")).version
    assert one != grader_from({"name": "g", **SCORE_MODEL}, judge=Judge("http://two/v1")).version


# --- asked once, counted, budgeted -----------------------------------------------------------------------------------


def test_the_same_question_is_asked_once_and_answers_outlive_the_process_in_a_folder(tmp_path: Path) -> None:
    asked: list[str] = []

    async def slow(request: httpx.Request) -> httpx.Response:
        asked.append("!")
        await asyncio.sleep(0.01)
        return graded(4)

    server = judge(slow, cache=tmp_path)
    grader = grader_from({"name": "g", **SCORE_MODEL}, judge=server)
    same = [grader.grade(attempt_of_text("blue", {}), {"answer": "x"}) for _ in range(8)]

    async def together() -> list[Score]:
        return await asyncio.gather(*same)

    assert {found.value for found in asyncio.run(together())} == {0.75} and len(asked) == 1
    assert (server.usage["judge-1"].calls, server.usage["judge-1"].cached) == (1, 7)
    later = judge(slow, cache=tmp_path)
    assert score(SCORE_MODEL, "blue", {"answer": "x"}, judge=later).value == 0.75 and len(asked) == 1
    score(SCORE_MODEL, "red", {"answer": "x"}, judge=later)
    assert len(asked) == 2


def test_what_is_no_grade_is_not_kept() -> None:
    answers = iter([graded("?"), graded(5)])
    server = judge(lambda request: next(answers))
    assert score(SCORE_MODEL, "x", {"answer": "y"}, judge=server).missing
    assert score(SCORE_MODEL, "x", {"answer": "y"}, judge=server).value == 1.0


def test_tokens_and_money_are_counted_and_the_budget_ends_the_asking() -> None:
    server = judge(lambda request: graded(5), prices={"judge-1": (10.0, 100.0)}, budget_usd=0.005)
    values = [score(SCORE_MODEL, str(i), {"answer": "y"}, judge=server) for i in range(4)]
    # 100 tokens in at 10 and 10 out at 100 dollars a million: 0.002 a call, so the third reaches 0.005
    assert [found.missing for found in values] == [False, False, False, True]
    assert "budget of 0.005 US dollars is spent" in missing(values[3], "other_error", Fault.INFRASTRUCTURE)
    usage = server.usage["judge-1"]
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (3, 300, 30)
    assert server.cost_usd == usage.cost_usd == pytest.approx(0.006)


def test_asked_all_at_once_a_budget_is_exceeded_by_one_question_at_most() -> None:
    flying = most = 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0.001)
        flying -= 1
        return graded(5)

    server = judge(answer, prices={"judge-1": (10.0, 100.0)}, budget_usd=0.025)
    grader = grader_from({"name": "g", **SCORE_MODEL}, judge=server)

    async def ask_all() -> list[Score]:
        return await asyncio.gather(*(grader.grade(attempt_of_text(f"{i}", {}), {"answer": "y"}) for i in range(64)))

    scores = asyncio.run(ask_all())
    asked = server.usage["judge-1"].calls
    price = server.cost_usd / asked
    assert sum(not score.missing for score in scores) == asked and most > 1
    assert 0.025 <= server.cost_usd < 0.025 + price


def test_a_budget_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no price and the judge has a budget"):
        grader_from({"name": "g", **SCORE_MODEL}, judge=judge(lambda request: graded(1), budget_usd=1.0))

    def uncounted(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"choices": graded(1).json()["choices"]})

    server = judge(uncounted, budget_usd=1.0, prices={"judge-1": (1.0, 1.0)})
    assert "no token usage" in missing(
        score(SCORE_MODEL, "x", {"answer": ""}, judge=server), "other_error", Fault.GRADER
    )


def test_at_most_so_many_questions_are_in_flight() -> None:
    now = most = 0

    async def count(request: httpx.Request) -> httpx.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1
        return graded(1)

    grader = grader_from({"name": "g", **SCORE_MODEL}, judge=judge(count, concurrency=4))

    async def ask() -> None:
        await asyncio.gather(*(grader.grade(attempt_of_text(str(i), {}), {"answer": ""}) for i in range(20)))

    asyncio.run(ask())
    assert most == 4


def test_one_judge_serves_one_event_loop_after_another() -> None:
    server = judge(lambda request: graded(5))
    assert [score(SCORE_MODEL, str(i), {"answer": ""}, judge=server).value for i in range(3)] == [1.0, 1.0, 1.0]


# --- bad servers -----------------------------------------------------------------------------------------------------


def test_what_may_pass_is_tried_again_and_what_may_not_is_not() -> None:
    for status, calls in ((429, 3), (503, 3), (408, 3), (401, 1), (404, 1)):
        seen: list[int] = []

        def answer(request: httpx.Request, status: int = status, seen: list[int] = seen) -> httpx.Response:
            seen.append(status)
            return httpx.Response(status, text="not now")

        found = score(SCORE_MODEL, "x", {"answer": ""}, judge=judge(answer, max_retries=2))
        cause = missing(found, "model_grader_server_error", Fault.INFRASTRUCTURE)
        assert len(seen) == calls and f"answered {status}: 'not now'" in cause
    answers = iter([httpx.Response(500), httpx.Response(429, headers={"retry-after": "0"}), graded(5)])
    server = judge(lambda request: next(answers))
    assert score(SCORE_MODEL, "x", {"answer": ""}, judge=server).value == 1.0 and server.retries == 2


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


async def hang(request: httpx.Request) -> httpx.Response:
    await asyncio.sleep(60)
    raise AssertionError("nobody waits that long")


class Drip(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("answer", "cause", "calls"),
    [
        (refuse, "ConnectError: connection refused", 2),
        (hang, "did not answer within 0.05 s", 2),
        (lambda request: httpx.Response(200, stream=Drip()), "did not answer within 0.05 s", 2),
        (lambda request: httpx.Response(302, headers={"location": "http://elsewhere"}), "to http://elsewhere", 1),
        (lambda request: httpx.Response(200, content=b"x" * 2_000_000), "more than 1000000 bytes", 1),
        (
            lambda request: httpx.Response(200, headers={"content-type": "application/json"}, text="<html>"),
            "not JSON",
            1,
        ),
        (lambda request: httpx.Response(204), "an answer has status 200", 1),
        (lambda request: httpx.Response(503, headers={"retry-after": "900"}), "answered 503", 1),
    ],
)
def test_every_bad_server_has_a_name(answer: Callable[..., Any], cause: str, calls: int) -> None:
    seen: list[str] = []

    async def count(request: httpx.Request) -> httpx.Response:
        seen.append("!")
        found = answer(request)
        return found if isinstance(found, httpx.Response) else await found

    poster = Poster(timeout_seconds=0.05, max_retries=1, backoff_seconds=0, transport=httpx.MockTransport(count))
    with pytest.raises(PostFailed) as caught:
        asyncio.run(poster.post("http://server", {}, {}))
    assert cause in str(caught.value) and len(seen) == calls


def test_json_under_another_content_type_is_read() -> None:
    page = httpx.Response(200, headers={"content-type": "text/html"}, text='{"score": 1}')
    poster = Poster(transport=httpx.MockTransport(lambda request: page))
    assert asyncio.run(poster.post("http://server", {}, {})) == {"score": 1}


# --- endpoint --------------------------------------------------------------------------------------------------------

ENDPOINT = {"type": "endpoint", "url": "http://grader/score", "headers": {"x-key": "secret"}}


def endpoint(answer: Callable[..., Any], **more: Any) -> EndpointGrader:
    spec = Endpoint.model_validate({**ENDPOINT, **more})
    return EndpointGrader(spec, transport=httpx.MockTransport(answer), backoff_seconds=0)


def test_an_endpoint_gets_sample_item_and_trace_id() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"score": 0.5})

    call = tool_call("c1", "find", order="A1")
    found = score_of(endpoint(answer), attempt(('{"a": 1}', [(call, "found")]), public={"ticket": "t"}), {"answer": 7})
    assert (found.value, found.raw) == (0.5, 0.5) and seen[0].headers["x-key"] == "secret"
    body = json.loads(seen[0].content)
    assert body["item"] == {"ticket": "t", "answer": 7} and body["trace_id"] == "trace_1"
    assert body["sample"]["output_text"] == '{"a": 1}' and body["sample"]["output_json"] == {"a": 1}
    assert body["sample"]["output_tools"][0]["function"]["name"] == "find"
    assert body["sample"]["choices"][0]["message"]["content"] == '{"a": 1}'
    score(endpoint(answer), "plain")
    assert set(json.loads(seen[1].content)["sample"]) == {"output_text", "choices"}


def test_a_score_beyond_the_unit_is_rewarded_whole() -> None:
    found = score(endpoint(lambda request: httpx.Response(200, json={"score": -2})))
    assert (found.value, found.raw) == (0.0, -2.0)


@pytest.mark.parametrize("body", [{"score": "1"}, {"score": None}, {"score": True}, {"reward": 1}, [1], 1])
def test_an_answer_without_a_score_is_the_graders_fault(body: Any) -> None:
    found = score(endpoint(lambda request: httpx.Response(200, json=body)))
    assert '{"score": number}' in missing(found, "unresponsive_reward_error", Fault.GRADER)


def test_a_dead_endpoint_is_missing_after_three_retries_and_never_a_zero() -> None:
    seen: list[str] = []

    def dead(request: httpx.Request) -> httpx.Response:
        seen.append("!")
        return httpx.Response(502, text="bad gateway")

    cause = missing(score(endpoint(dead)), "unresponsive_reward_error", Fault.INFRASTRUCTURE)
    assert len(seen) == 4 and "502" in cause and "secret" not in cause


def test_an_endpoints_version_knows_the_address_only_and_no_secret() -> None:
    one = grader_from(ENDPOINT)
    assert one.version.startswith(UNREAD) and one.name == "endpoint"
    assert one.version == grader_from({**ENDPOINT, "headers": {"x-key": "another"}}).version
    assert one.version != grader_from({**ENDPOINT, "url": "http://grader/two"}).version
    assert "secret" not in repr(one.spec)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"url": "grader.example"}, "url is 'grader.example'"),
        ({"rate_limit": 0}, "rate_limit is 0"),
        ({"headers": {"x-key": "****"}}, "made of asterisks"),
    ],
)
def test_an_endpoint_is_read_strictly(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grader_from({**ENDPOINT, **changed})
    assert said in str(caught.value)


def test_requests_are_spaced_out_by_the_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    poster = Poster(per_second=10, transport=httpx.MockTransport(lambda request: httpx.Response(200, json={})))

    async def three() -> None:
        for _ in range(3):
            await poster.post("http://grader", {}, {})

    monkeypatch.setattr("flyball.tools.post.asyncio.sleep", sleep)
    monkeypatch.setattr("flyball.tools.post.time.monotonic", lambda: 100.0)
    asyncio.run(three())
    assert waits == pytest.approx([0.0, 0.1, 0.2])
