"""Tools behind HTTP: the contract, and every way in which a server may break it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from flyball.config import ContextSettings, HttpToolsSettings
from flyball.errors import ConfigError, Fault
from flyball.graders.grade import GraderSet
from flyball.graders.make import as_grader
from flyball.rollout.attempt import MAX_RERUNS
from flyball.tools.signing import signature_headers, signing_key
from flyball.types import Attempt, Limits, Missing, StopReason
from tests.tools.servers import CALL, FIND, Desk, Recorder, attempt_with, http_server, output

CONTEXT = ContextSettings(open="http://shop/open", close="http://shop/close")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyball.tools.call.SERVER_PAUSE_SECONDS", 0.0)


def attempt(recorder: Recorder, script: Any = (CALL, "done"), limits: Limits | None = None, **settings: Any) -> Attempt:
    return asyncio.run(attempt_with([http_server(recorder, **settings)], script, limits=limits))


def test_a_call_is_what_the_contract_says() -> None:
    recorder = Recorder()
    done = attempt(recorder)
    (body,) = recorder.bodies
    assert done.stop is StopReason.ANSWERED
    assert body == {
        "type": "function_call",
        "id": body["id"],
        "call_id": body["call_id"],
        "name": "find",
        "arguments": '{"order_id": "A1"}',
        "trace_id": done.trace_id,
        "item": {"id": "t1", "ticket": "Where is A1?"},
    }
    assert body["id"].startswith("fc_") and body["call_id"].startswith("call_") and done.trace_id.startswith("trace_")
    assert [(r.content, r.problem, r.tries) for r in done.tool_results] == [("shipped", None, 1)]


def test_hidden_fields_are_sent_where_that_is_declared() -> None:
    recorder = Recorder()
    attempt(recorder, send_hidden=True)
    assert recorder.bodies[0]["item"] == {"id": "t1", "ticket": "Where is A1?", "answer": 7}


def test_what_the_model_wrote_wrong_never_leaves() -> None:
    recorder = Recorder()
    done = attempt(recorder, ('<tool_call>{"name": "find", "arguments": {"order": "A1"}}</tool_call>', "done"))
    assert done.tool_results[0].problem == "bad_arguments" and not recorder.requests


@pytest.mark.parametrize(
    ("status", "given", "shown"),
    [
        (404, {"error": "no order A1"}, 'error: 404: {"error":"no order A1"}'),
        (409, {"output": "already refunded"}, "error: 409: already refunded"),
        (422, "bad id", 'error: 422: "bad id"'),
    ],
)
def test_a_4xx_is_shown_to_the_model(status: int, given: Any, shown: str) -> None:
    recorder = Recorder(lambda body: httpx.Response(status, json=given))
    done = attempt(recorder)
    assert (done.stop, done.tool_results[0].problem, done.tool_results[0].content) == (
        StopReason.ANSWERED,
        "raised",
        shown,
    )
    assert len(recorder.requests) == 1


def test_a_5xx_is_tried_again_with_the_same_call_id() -> None:
    answers = iter([httpx.Response(503), httpx.Response(429, headers={"retry-after": "0"})])
    recorder = Recorder(lambda body: next(answers, None) or output(body))
    done = attempt(recorder)
    assert (done.tool_results[0].content, done.tool_results[0].tries) == ("shipped", 3)
    assert len({body["call_id"] for body in recorder.bodies}) == 1


def test_a_server_that_stays_down_marks_the_attempt_and_is_never_a_zero() -> None:
    recorder = Recorder(lambda body: httpx.Response(503, text="down"))
    done = attempt(recorder)
    assert (done.stop, done.stop.fault) == (StopReason.TOOL_ERROR, Fault.INFRASTRUCTURE)
    assert "tool server 'shop' at http://shop/call: find answered 503: 'down' (4 tries)" in done.trajectory.detail
    assert len(recorder.requests) == 4 * (1 + MAX_RERUNS)
    assert [r.problem for r in done.tool_results] == ["unavailable"]
    graded = asyncio.run(GraderSet(as_grader(lambda attempt, hidden: True, "success", decides=True)).grade(done))
    assert isinstance(graded.outcome.success, Missing) and graded.outcome.success.fault is Fault.INFRASTRUCTURE
    traces = {body["trace_id"] for body in recorder.bodies}
    assert len(traces) == 1 + MAX_RERUNS and done.trace_id in traces


def test_a_server_that_hangs_is_cut_off_and_tried_again() -> None:
    async def slow(body: dict[str, Any]) -> httpx.Response:
        if len(recorder.requests) == 1:
            await asyncio.sleep(3600)
        return output(body)

    recorder = Recorder(slow)
    done = attempt(recorder, timeout_seconds=0.5)
    assert (done.tool_results[0].content, done.tool_results[0].tries) == ("shipped", 2)


def test_one_that_always_hangs_is_the_servers_fault() -> None:
    async def hang(body: dict[str, Any]) -> httpx.Response:
        await asyncio.sleep(3600)
        return output(body)

    done = attempt(Recorder(hang), limits=Limits(tool_timeout_seconds=0.02), max_retries=1)
    assert done.stop is StopReason.TOOL_ERROR
    assert "find did not answer within 0.02 s (2 tries)" in done.trajectory.detail


def test_time_that_runs_out_on_a_server_that_fails_is_not_the_policys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyball.tools.call.SERVER_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr("flyball.rollout.attempt.MAX_RERUNS", 0)
    done = attempt(Recorder(lambda body: httpx.Response(503, text="down")), limits=Limits(max_seconds=1.0))
    assert (done.stop, [r.problem for r in done.tool_results]) == (StopReason.TOOL_ERROR, ["cancelled"])
    assert "1 s are allowed and ran out on a call that was tried again: tool server 'shop'" in done.trajectory.detail


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda body: httpx.Response(302, headers={"location": "http://elsewhere/"}), "redirects .302. to http://else"),
        (lambda body: httpx.Response(200, text="<html>"), "answered with content type 'text/plain; charset=utf-8'"),
        (
            lambda body: httpx.Response(200, content=b"<html>", headers={"content-type": "application/json"}),
            "answered what is not JSON",
        ),
        (lambda body: httpx.Response(200, json={"result": 3}), 'it answers {"output": "text"}'),
        (lambda body: httpx.Response(200, json={"output": "x", "call_id": "call_other"}), "answered call 'call_other'"),
        (lambda body: httpx.Response(200, json={"output": "x", "type": "message"}), "an object of type 'message'"),
        (lambda body: httpx.Response(204), "answered 204; an answer has status 200"),
    ],
)
def test_a_broken_contract_is_typed_and_not_asked_again(answer: Any, text: str) -> None:
    recorder = Recorder(answer)
    done = attempt(recorder)
    assert (done.stop, done.tool_results[0].problem) == (StopReason.TOOL_ERROR, "unavailable")
    assert text.replace(".302.", "(302)") in done.trajectory.detail
    assert len(recorder.requests) == 1 + MAX_RERUNS  # one for each run of the attempt


def test_two_megabytes_are_not_read_and_the_model_is_told() -> None:
    recorder = Recorder(lambda body: output(body, "x" * 2_000_000))
    done = attempt(recorder)
    assert (done.stop, done.tool_results[0].problem) == (StopReason.ANSWERED, "too_large")
    assert done.tool_results[0].content == "error: 413: the answer of find has more than 1000000 bytes; ask for less"


def test_a_long_answer_is_cut_and_says_so() -> None:
    done = attempt(Recorder(lambda body: output(body, "x" * 9000)), limits=Limits(tool_output_chars=100))
    assert done.tool_results[0].truncated and done.tool_results[0].content.endswith("[cut: 9000 characters in all]")


def test_no_connection_is_typed() -> None:
    def refuse(body: dict[str, Any]) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    done = attempt(Recorder(refuse), max_retries=0)
    assert done.stop is StopReason.TOOL_ERROR and "ConnectError: connection refused (1 try)" in done.trajectory.detail


# --- secrets and signatures ------------------------------------------------------------------------------------------


def test_secrets_come_from_the_environment_and_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "tk-0123456789")
    recorder = Recorder(lambda body: output(body, "you are tk-0123456789"))
    settings = {"headers": {"authorization": "Bearer ${SHOP_TOKEN}"}}
    done = attempt(recorder, **settings)
    assert recorder.requests[0].headers["authorization"] == "Bearer tk-0123456789"
    assert done.tool_results[0].content == "you are ${SHOP_TOKEN}"
    recorder.answer = lambda body: httpx.Response(500, text="tk-0123456789 may not")
    failed = attempt(recorder, max_retries=0, **settings)
    assert "tk-0123456789" not in failed.trajectory.detail and "${SHOP_TOKEN} may not" in failed.trajectory.detail


def test_a_secret_that_is_missing_short_or_in_the_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="needs the environment variable SHOP_TOKEN, which is not set"):
        http_server(Recorder(), headers={"authorization": "${SHOP_TOKEN}"}).check()
    monkeypatch.setenv("SHOP_TOKEN", "short")
    with pytest.raises(ConfigError, match="SHOP_TOKEN has 5 characters"):
        http_server(Recorder(), signing_secret="${SHOP_TOKEN}").check()
    for written in ({"headers": {"X-Api-Key": "abc"}}, {"signing_secret": "abc"}):
        with pytest.raises(ValueError, match="a secret stands in the file"):
            HttpToolsSettings(url="http://shop", functions=(FIND,), **written)


def test_a_signed_request_verifies_with_the_librarys_own_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    from openai import InvalidWebhookSignatureError, OpenAI

    secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="
    monkeypatch.setenv("SHOP_SECRET", secret)
    recorder = Recorder()
    attempt(recorder, signing_secret="${SHOP_SECRET}")
    (request,) = recorder.requests
    assert request.headers["webhook-id"] == recorder.bodies[0]["call_id"]
    webhooks = OpenAI(api_key="none").webhooks
    webhooks.verify_signature(request.content, dict(request.headers), secret=secret)
    with pytest.raises(InvalidWebhookSignatureError):
        webhooks.verify_signature(request.content + b" ", dict(request.headers), secret=secret)


def test_a_signature_by_hand() -> None:
    # echo -n 'id.1700000000.{}' | openssl dgst -sha256 -hmac plain-secret -binary | base64
    headers = signature_headers(signing_key("plain-secret"), "id", 1_700_000_000, b"{}")
    assert headers["webhook-signature"] == "v1,99nMbSsmBi8NAOGqfyawIFOmBb09e8FS3deQ322BRDE="
    with pytest.raises(ConfigError, match="not base64"):
        signing_key("whsec_***")


# --- contexts --------------------------------------------------------------------------------------------------------


def in_context(body: dict[str, Any]) -> httpx.Response:
    if body["type"] == "context.close":
        return httpx.Response(200, json={"state": {"refunds": 1}})
    return httpx.Response(200, json={}) if body["type"] == "context.open" else output(body)


def test_a_context_is_opened_and_closed_and_its_state_is_kept() -> None:
    recorder = Recorder(in_context)
    done = attempt(recorder, context=CONTEXT)
    assert [str(request.url) for request in recorder.requests] == [
        "http://shop/open",
        "http://shop/call",
        "http://shop/close",
    ]
    assert {body["trace_id"] for body in recorder.bodies} == {done.trace_id}
    assert done.tool_state == {"shop": {"refunds": 1}}


@pytest.mark.parametrize(
    ("hangs", "seen"),
    [
        ("function_call", ["context.open", "function_call", "context.close"]),
        ("context.open", ["context.open", "context.close"]),
    ],
)
def test_a_context_is_closed_when_the_attempt_is_cancelled(hangs: str, seen: list[str]) -> None:
    async def hang(body: dict[str, Any]) -> httpx.Response:
        if body["type"] == hangs:
            reached.set()
            await asyncio.sleep(3600)
        return httpx.Response(200, json={})

    async def go() -> None:
        running = asyncio.ensure_future(attempt_with([http_server(recorder, context=CONTEXT)]))
        await reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    reached, recorder = asyncio.Event(), Recorder(hang)
    asyncio.run(go())
    assert [body["type"] for body in recorder.bodies] == seen


def test_a_context_that_cannot_be_opened_closes_the_others_and_marks_the_attempt() -> None:
    good = Recorder(in_context)
    bad = Recorder(lambda body: httpx.Response(400, text="full"))
    servers = [
        http_server(good, context=CONTEXT),
        http_server(bad, "warehouse", context=CONTEXT, functions=(FIND.model_copy(update={"name": "count"}),)),
    ]
    done = asyncio.run(attempt_with(servers))
    assert done.stop is StopReason.TOOL_ERROR
    assert "tool server 'warehouse' at http://shop/call: context.open answered 400: 'full'" in done.trajectory.detail
    kinds = [body["type"] for body in good.bodies]
    assert kinds.count("context.close") == kinds.count("context.open") == 1 + MAX_RERUNS


def test_a_context_that_hangs_is_cut_off_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyball.rollout.attempt.MAX_RERUNS", 0)

    async def hang(body: dict[str, Any]) -> httpx.Response:
        if body["type"] == "context.close":
            await asyncio.sleep(3600)
        return in_context(body)

    done = attempt(Recorder(hang), context=CONTEXT, timeout_seconds=0.5, max_retries=0)
    assert (done.stop, done.answer) == (StopReason.TOOL_ERROR, "done")
    assert "context.close did not answer within 0.5 s" in done.trajectory.detail


def test_a_world_that_does_not_start_closes_its_contexts() -> None:
    class Broken(Desk):
        """You are broken."""

        def reset(self, ticket: str) -> str:
            raise OSError("disk gone")

    recorder = Recorder(in_context)
    done = asyncio.run(attempt_with([http_server(recorder, context=CONTEXT)], world=Broken))
    assert done.stop is StopReason.WORLD_ERROR
    assert [body["type"] for body in recorder.bodies] == ["context.open", "context.close"] * (1 + MAX_RERUNS)


def test_two_servers_may_not_share_a_name_for_a_tool() -> None:
    with pytest.raises(ConfigError, match="tool 'find' is one of 'shop' and of 'other'"):
        asyncio.run(attempt_with([http_server(Recorder()), http_server(Recorder(), "other")]))
