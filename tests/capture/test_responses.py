"""The Responses form of the door: items, stored answers, the order of events, what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flyball.capture.door import Door
from flyball.capture.http import OpenAttempt
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import SamplingParams
from flyball.models.fake import tool_call_text
from flyball.types import Limits
from tests.capture.test_door_http import ask, refused

LOOK = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
PATH = "/a/v1/responses"


def opened(*script: str, limits: Limits | None = None) -> tuple[OpenAttempt, FakeEngine]:
    engine = FakeEngine(script)
    sampling = SamplingParams(temperature=0.7)
    return OpenAttempt(Door(engine, engine.chat, sampling, limits=limits or Limits(), seed=0, session="a")), engine


def test_an_answer_has_openais_form() -> None:
    attempt, _ = opened("let me see " + tool_call_text("look", x=1))
    body = ask("POST", PATH, attempt, json={"model": "m", "input": "hi", "instructions": "be brief"}).json()
    assert (body["object"], body["id"], body["status"], body["model"]) == ("response", "resp_c0", "completed", "m")
    message, call = body["output"]
    part = {"type": "output_text", "text": "let me see ", "annotations": [], "logprobs": []}
    assert message == {
        "id": "msg_c0",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    assert call == {
        "id": "fc_c0_0",
        "type": "function_call",
        "status": "completed",
        "call_id": "c0_0",
        "name": "look",
        "arguments": '{"x": 1}',
    }
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


def test_a_turn_cut_by_length_is_incomplete() -> None:
    attempt, _ = opened("a long answer", limits=Limits(max_new_tokens=3))
    body = ask("POST", PATH, attempt, json={"input": "hi"}).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    streamed = ask("POST", PATH, attempt, json={"input": "hi", "stream": True}).text
    assert "event: response.incomplete\n" in streamed


def test_a_stream_has_the_official_order() -> None:
    attempt, _ = opened("look " + tool_call_text("look", x=1))
    response = ask("POST", PATH, attempt, json={"input": "hi", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in response.text.strip().split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name.removeprefix("event: ") for name, _ in blocks] == [event["type"] for event in events]
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(13))
    assert events[0]["response"]["output"] == [] and events[0]["response"]["status"] == "in_progress"
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call"]


@pytest.mark.parametrize("stored", [True, False], ids=["previous_response_id", "items sent back"])
def test_a_conversation_in_items_continues_the_sampled_tokens(stored: bool) -> None:
    attempt, engine = opened("hm " + tool_call_text("look", x=1) + tool_call_text("look", x=2), "done")
    opening = [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    asked = {"instructions": "be brief", "tools": [LOOK]}
    first = ask("POST", PATH, attempt, json={**asked, "input": opening}).json()
    shown = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "ok"}
        for item in first["output"]
        if item["type"] == "function_call"
    ]
    more = (
        {"previous_response_id": first["id"], "input": shown}
        if stored
        else {"input": [*opening, *first["output"], *shown]}
    )
    second = ask("POST", PATH, attempt, json={**asked, **more}).json()
    assert second["output"][0]["content"][0]["text"] == "done"
    root, following = attempt.door.calls
    assert (following.parent_id, following.drift) == (root.call_id, "clean")
    assert engine.requests[1].prompt_ids == root.prompt_ids + root.completion_ids + following.prompt_ids
    assert [m["role"] for m in attempt.door.transcript] == ["system", "user", "assistant", "tool", "tool", "assistant"]


def test_both_forms_continue_each_other() -> None:
    attempt, _ = opened("one", "two")
    ask("POST", PATH, attempt, json={"input": "hi"})
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "x"},
    ]
    ask("POST", "/a/v1/chat/completions", attempt, json={"messages": talk})
    assert [(call.parent_id, call.drift) for call in attempt.door.calls] == [(None, "clean"), ("c0", "clean")]


def test_instructions_are_those_of_the_request_and_not_of_the_one_before() -> None:
    attempt, engine = opened("one", "two")
    first = ask("POST", PATH, attempt, json={"input": "hi", "instructions": "be brief"}).json()
    ask("POST", PATH, attempt, json={"input": "more", "previous_response_id": first["id"]})
    read = engine.chat.messages(engine.requests[1].prompt_ids)
    assert [m["role"] for m in read] == ["user", "assistant", "user"]
    assert attempt.door.calls[1].drift == "forked"


def test_what_was_not_stored_cannot_be_continued() -> None:
    attempt, _ = opened("one")
    first = ask("POST", PATH, attempt, json={"input": "hi", "store": False}).json()
    for name in (first["id"], "resp_other"):
        error = refused(ask("POST", PATH, attempt, json={"input": "x", "previous_response_id": name}))
        assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": 0.7, "max_output_tokens": 256, "top_p": 1},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "truncation": "disabled", "background": False},
        {"tool_choice": "auto", "parallel_tool_calls": True, "text": {"format": {"type": "text"}}},
        {"include": ["reasoning.encrypted_content"], "reasoning": {}},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
    ],
)
def test_what_changes_nothing_is_accepted(field: dict[str, Any]) -> None:
    attempt, _ = opened("x")
    assert ask("POST", PATH, attempt, json={"input": "hi", **field}).status_code == 200


@pytest.mark.parametrize(
    ("field", "param", "said"),
    [
        ({"temperature": 0.2}, "temperature", "0.2 in the request and 0.7 in the declared"),
        ({"max_output_tokens": 9}, "max_output_tokens", "9 in the request and 256"),
        ({"max_tokens": 9}, "max_tokens", "did you mean 'max_output_tokens'"),
        ({"tool_choice": "required"}, "tool_choice", "offers no tools"),
        ({"tool_choice": {"type": "web_search"}, "tools": [LOOK]}, "tool_choice", "served are"),
        ({"parallel_tool_calls": 1.5}, "parallel_tool_calls", "it is true or false"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format", "served are text, json_object"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "would be ignored"),
        ({"text": "json"}, "text", "text takes a format"),
        ({"reasoning": {"effort": "high"}}, "reasoning", "serves {} only"),
        ({"truncation": "auto"}, "truncation", "serves 'disabled' only"),
        ({"background": True}, "background", "serves False only"),
        ({"conversation": "conv_1"}, "conversation", "would be ignored"),
        ({"max_tool_calls": 3}, "max_tool_calls", "would be ignored"),
        ({"include": ["message.output_text.logprobs"]}, "include", "not served"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            "ignored",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools", "only functions"),
        ({"instructions": [{"role": "user", "content": "x"}]}, "instructions", "must be text"),
        ({"input": []}, "input", "at least one"),
        ({"input": {"a": 1}}, "input", "text or a list"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "message, function_call"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input[0]", "message, function_call"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0]", "needs a role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content", "text parts"),
        ({"input": [{"role": "user", "content": "x", "agent": "y"}]}, "input[0].agent", "would be ignored"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments", "a string"),
        ({"input": [{"type": "function_call_output", "output": "f"}]}, "input[0].call_id", "a string"),
    ],
)
def test_what_would_be_ignored_or_differ_is_refused(field: dict[str, Any], param: str, said: str) -> None:
    attempt, engine = opened("x")
    error = refused(ask("POST", PATH, attempt, json={"input": "hi", **field}))
    assert error["param"] == param
    assert said in error["message"]
    assert engine.requests == []
