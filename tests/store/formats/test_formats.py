"""Traces go out and come in again as they were, and those of other systems are read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import StoreError
from flyball.store.formats import atif, jsonl, langfuse, otel
from flyball.store.formats.trace import Trace, add_traces, leaves, traces_of
from flyball.store.store import Store
from tests.store.served import call, report, spooled

ASK = {"role": "user", "content": "Where is o1?"}
LOOK = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "find", "arguments": '{"id": "o1"}'}}],
}
FOUND = {"role": "tool", "tool_call_id": "t1", "content": "sent"}
SAY = {"role": "assistant", "content": "It was sent."}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}

text = st.text(st.characters(codec="utf-8"), max_size=8)
calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": text,
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": text, "arguments": st.sampled_from(['{"a": 1}', '{"a":1}', "x", "[]"])}
            ),
        }
    ),
    min_size=1,
    max_size=2,
)
messages = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user"]), "content": text}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": text | st.none()},
        optional={"tool_calls": calls, "reasoning_content": text, "refusal": text},
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "content": text}, optional={"tool_call_id": text, "name": text}),
    st.fixed_dictionaries(
        {"role": st.just("user"), "content": st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": text}))}
    ),
)
traces = st.builds(
    Trace,
    session=text,
    messages=st.lists(messages, max_size=6).map(tuple),
    agent=text,
    model=text,
    tools=st.lists(st.just(TOOL), max_size=1).map(tuple),
    tokens_in=st.none() | st.integers(0, 99),
    tokens_out=st.none() | st.integers(0, 99),
    cost_usd=st.none() | st.floats(0, 9),
    seconds=st.none() | st.floats(0, 9),
    at=st.none() | st.floats(0, 2e9),
    outcome=st.none() | st.booleans(),
    meta=st.dictionaries(text, text | st.integers(0, 9), max_size=2),
)


@pytest.mark.parametrize("form", [jsonl, atif])
@given(written=st.lists(traces, max_size=3))
def test_what_is_written_is_read_as_it_was(form: Any, written: list[Trace]) -> None:
    assert form.read(b"".join(form.write(written))) == written


def test_atif_is_said_in_its_own_words() -> None:
    trace = Trace("s1", ({"role": "system", "content": "Be kind."}, ASK, LOOK, FOUND, SAY), "desk", "m-1", tokens_in=9)
    (line,) = atif.write([trace])
    document = orjson.loads(line)
    assert (document["schema_version"], document["session_id"]) == ("ATIF-v1.4", "s1")
    assert document["agent"] == {"name": "desk", "version": "unknown", "model_name": "m-1"}
    assert [step["step_id"] for step in document["steps"]] == [1, 2, 3, 4]
    assert [step["source"] for step in document["steps"]] == ["system", "user", "agent", "agent"]
    assert document["steps"][2] == {
        "step_id": 3,
        "source": "agent",
        "message": "",
        "tool_calls": [{"tool_call_id": "t1", "function_name": "find", "arguments": {"id": "o1"}}],
        "observation": {"results": [{"source_call_id": "t1", "content": "sent"}]},
    }
    assert document["final_metrics"] == {"total_prompt_tokens": 9}


def test_atif_of_others_is_read() -> None:
    steps = [
        {"step_id": 1, "source": "user", "message": "Where is o1?"},
        {
            "step_id": 2,
            "source": "agent",
            "message": "",
            "tool_calls": [{"tool_call_id": "t1", "function_name": "find", "arguments": {"id": "o1"}}],
            "observation": {"results": [{"source_call_id": "t1", "content": "sent"}]},
        },
    ]
    theirs = {"schema_version": "ATIF-v1.7", "session_id": "s", "agent": {"name": "a", "version": "2"}, "steps": steps}
    (trace,) = atif.read(json.dumps(theirs, indent=1).encode())
    assert trace.messages == (ASK, LOOK, FOUND)
    assert trace.meta == {"source": "atif", "version": "2"}


def span(*said: dict[str, Any], events: Any = (), **given: Any) -> dict[str, Any]:
    def value(item: Any) -> dict[str, Any]:
        return {"intValue": str(item)} if isinstance(item, int) else {"stringValue": item}

    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m-1", **given}
    if said:
        attributes["gen_ai.input.messages"] = json.dumps(said[:-1])
        attributes["gen_ai.output.messages"] = json.dumps(said[-1:])
    pairs = [{"key": key, "value": value(item)} for key, item in attributes.items()]
    times = {"startTimeUnixNano": "1000000000", "endTimeUnixNano": "1500000000"}
    return {"traceId": "ab", "spanId": "cd", "attributes": pairs, "events": list(events), **times}


def otlp(*spans: dict[str, Any]) -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}).encode()


U = {"role": "user", "parts": [{"type": "text", "content": "Where is o1?"}]}
A1 = {"role": "assistant", "parts": [{"type": "tool_call", "id": "t1", "name": "find", "arguments": {"id": "o1"}}]}
T = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "t1", "response": "sent"}]}
A2 = {"role": "assistant", "parts": [{"type": "text", "content": "It was sent."}], "finish_reason": "stop"}


def test_spans_of_one_conversation_are_one_trace() -> None:
    usage = {"gen_ai.usage.input_tokens": 20, "gen_ai.usage.output_tokens": 4, "gen_ai.conversation.id": "s9"}
    tool = span(**{"gen_ai.operation.name": "execute_tool"})
    (trace,) = otel.read(otlp(span(U, A1, **usage), tool, span(U, A1, T, A2, **usage)))
    assert trace.messages == (ASK, LOOK, FOUND, SAY)
    assert (trace.session, trace.model, trace.tokens_in, trace.tokens_out, trace.seconds) == ("s9", "m-1", 20, 4, 0.5)


def test_content_in_events_of_older_conventions_is_read() -> None:
    def event(name: str, **given: str) -> dict[str, Any]:
        return {"name": name, "attributes": [{"key": k, "value": {"stringValue": v}} for k, v in given.items()]}

    choice = event("gen_ai.choice", message=json.dumps({"content": "It was sent."}))
    (trace,) = otel.read(otlp(span(events=[event("gen_ai.user.message", content="Where is o1?"), choice])))
    assert (trace.session, trace.messages) == ("ab", (ASK, SAY))


def test_spans_without_content_are_told() -> None:
    with pytest.raises(StoreError, match="of 2 spans 1 are of inference and none holds messages; switch the recording"):
        otel.read(otlp(span(), span(**{"gen_ai.operation.name": "execute_tool"})))


def generation(asked: Any, said: Any, **given: Any) -> dict[str, Any]:
    times = {"startTime": "2026-01-01T00:00:00.000Z", "endTime": "2026-01-01T00:00:02.000Z"}
    usage = {"usageDetails": {"input": 5, "output": 3}, "costDetails": {"total": 0.25}}
    return {
        "id": "g",
        "type": "GENERATION",
        "traceId": "t",
        "model": "m",
        "input": asked,
        "output": said,
        **times,
        **usage,
        **given,
    }


@pytest.mark.parametrize(
    "exported",
    [
        {"data": [generation([ASK], LOOK), generation([ASK, LOOK, FOUND], SAY)]},
        [{"id": "t", "observations": [{"type": "SPAN", "id": "x"}, generation([ASK, LOOK, FOUND], SAY)]}],
        generation({"messages": [ASK, LOOK, FOUND]}, {"choices": [{"message": SAY}]}),
    ],
)
def test_generations_of_langfuse_are_read(exported: Any) -> None:
    (trace,) = langfuse.read(json.dumps(exported).encode())
    assert trace.messages == (ASK, LOOK, FOUND, SAY)
    assert (trace.session, trace.tokens_in, trace.cost_usd, trace.seconds) == ("t", 5, 0.25, 2.0)


def test_texts_of_langfuse_are_turns() -> None:
    (trace,) = langfuse.read(json.dumps(generation("Where is o1?", "It was sent.", sessionId="s")).encode())
    assert (trace.session, trace.messages) == ("s", (ASK, SAY))


@pytest.mark.parametrize("read", [jsonl.read, atif.read, otel.read, langfuse.read])
@pytest.mark.parametrize("data", [b"{", b"[1]", b'"x"', b"{}", b'{"resourceSpans": [1]}', b'{"messages": 1}', b"\xff"])
def test_what_is_something_else_is_refused(read: Any, data: bytes) -> None:
    with pytest.raises(StoreError):
        read(data)


def test_a_trace_is_each_way_to_a_last_call(store: Store, tmp_path: Path) -> None:
    first = call("c1", messages=[ASK], message=LOOK, ends="e1", tools=[TOOL])
    second = call("c2", messages=[FOUND], message=SAY, parent="c1", continues="e1", tools=None)
    again = call("c3", messages=[FOUND], message={**SAY, "content": "Sent."}, parent="c1", continues="e1", tools=None)
    elsewhere = call("c4", messages=[ASK, LOOK, FOUND], message=SAY, continues="e1", ends="e4")  # another worker
    failed = call("c5", status=502, problem="status 502", message=None)
    told = ("feedback", report("r1", outcome=True))
    frames = [("call", one) for one in (first, second, again, elsewhere, failed)]
    store.ingest(spooled(tmp_path / "0", *frames, told))  # type: ignore[arg-type]
    found = list(traces_of(store))
    assert [trace.messages[-1]["content"] for trace in found] == ["It was sent.", "Sent.", "It was sent."]
    assert all(trace.messages[:3] == (ASK, LOOK, FOUND) for trace in found)
    assert (found[0].tools, found[0].tokens_in, found[0].outcome, found[0].meta["arm"]) == ((TOOL,), 24, True, "canary")
    store.erase_bodies([store._db.rows("SELECT body FROM served_calls WHERE call_id = 'c1'")[0][0]], "ana", "asked")
    assert len(list(traces_of(store))) == 1


def test_traces_of_others_are_stored_once(store: Store) -> None:
    trace = Trace("s1", (ASK, LOOK, FOUND, SAY), "desk", "m", (TOOL,), 9, 3, 0.5, 2.0, 100.0, None, {"source": "otel"})
    assert (add_traces(store, "old", [trace]), add_traces(store, "old", [trace])) == (1, 0)
    (back,) = traces_of(store, project="old")
    assert dataclasses.replace(back, meta={"source": "otel"}) == trace
    assert next(iter(store.calls())).facts == {"imported": {"source": "otel"}}
    with pytest.raises(StoreError, match="does not end with an assistant's turn"):
        add_traces(store, "old", [Trace("s2", (ASK,))])


def test_only_what_nothing_goes_on_from_is_kept() -> None:
    short, long, other = Trace("s", (ASK,)), Trace("s", (ASK, SAY)), Trace("s2", (ASK,))
    assert leaves([short, long, other, long]) == [long, other]
