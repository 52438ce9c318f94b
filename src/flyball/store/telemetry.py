"""What was served as OpenTelemetry GenAI spans, events and metrics, through the official SDK. Extra `otel`.

One session is one trace: a span `invoke_agent` and below it a span for each call. Late facts are events
`gen_ai.evaluation.result` on the span of the session, the release is an event `feature_flag.evaluation`. Names follow
the conventions in force when this was written (`names="latest"`) or those up to 1.36 (`names="1.36"`); ours are under
`flyball.*`. Durations are seconds. Content is left out unless asked for; people are never named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from flyball.errors import StoreError, nearest
from flyball.store.served import Fact, Said, ServedCall
from flyball.store.store import Store
from flyball.types import SessionRecord

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
except ModuleNotFoundError as error:
    raise StoreError(
        f"{error.name} is not installed; telemetry needs the extra: pip install 'flyball[otel]'"
    ) from error

Names = Literal["latest", "1.36"]
SERVICE = "flyball"
_OLD = {
    "gen_ai.provider.name": "gen_ai.system",
    "gen_ai.input.messages": "gen_ai.prompt",
    "gen_ai.output.messages": "gen_ai.completion",
    "gen_ai.client.inference.duration": "gen_ai.client.operation.duration",
}
"""New name -> the one before."""


class SessionIds(IdGenerator):
    """Ids that follow from what a span is about: sending a session again gives the same spans, not others.

    Give it to the TracerProvider (`id_generator=`); `about` is set by `Telemetry` before each span.
    """

    def __init__(self) -> None:
        self.about = ("", "")

    def generate_trace_id(self) -> int:
        """128 bits of the session's name."""
        return int.from_bytes(hashlib.sha256(self.about[0].encode()).digest()[:16], "big") or 1

    def generate_span_id(self) -> int:
        """64 bits of the names of session and call."""
        return int.from_bytes(hashlib.sha256("/".join(self.about).encode()).digest()[:8], "big") or 1


class Telemetry:
    """Turns sessions into spans and metrics. Exporters and processors are those of the provider that made `tracer`.

    Raises StoreError for `names` that are not known.
    """

    def __init__(
        self, tracer: Tracer, meter: Meter, ids: SessionIds, *, names: Names = "latest", content: bool = False
    ) -> None:
        if names not in get_args(Names):
            raise StoreError(f"names {names!r} of conventions are not known{nearest(names, get_args(Names))}")
        self._tracer, self._ids, self._content = tracer, ids, content
        self._old = names == "1.36"
        self._duration = meter.create_histogram(self._name("gen_ai.client.inference.duration"), "s")
        if self._old:
            usage = meter.create_histogram("gen_ai.client.token.usage", "{token}")
            self._tokens = {kind: (usage.record, {"gen_ai.token.type": kind}) for kind in ("input", "output")}
        else:
            self._tokens = {
                kind: (meter.create_counter(f"gen_ai.client.inference.usage.{kind}_tokens", "{token}").add, {})
                for kind in ("input", "output")
            }

    def session(self, store: Store, session: SessionRecord) -> None:
        """Send one session with its calls and what became known of it. Raises StoreError."""
        project, name = session.session_id.split("~", 1)
        calls = [
            call
            for call in store.calls(project=project, session=name, version_id=session.policy_version)
            if call.arm == session.arm
        ]
        facts = [] if session.arm == "shadow" else store.feedback(project, name)
        start = min([call.at for call in calls], default=session.context["at"])
        end = max([call.at + call.seconds for call in calls], default=start)
        self._ids.about = (f"{session.session_id}/{session.policy_version}", "")
        span = self._tracer.start_span("invoke_agent", context=Context(), start_time=_nanoseconds(start))
        span.set_attributes(self._about_session(session))
        span.add_event("feature_flag.evaluation", _flag(session), _nanoseconds(start))
        for fact in facts:
            self._add_fact(span, fact, end)
        for call in calls:
            self.call(call, self._said(store, call), trace.set_span_in_context(span))
        span.end(_nanoseconds(end))

    def call(self, call: ServedCall, said: Said | None, parent: Context) -> None:
        """Send one call below `parent`; an empty context begins at the root of the trace of its session."""
        self._ids.about = (f"{call.project}~{call.session}/{call.version_id}", call.call_id)
        attributes = self._about_call(call)
        if self._content and said is not None:
            attributes |= self._texts(said)
        span = self._tracer.start_span(
            f"chat {call.model}".strip(),
            parent,
            SpanKind.CLIENT,
            start_time=_nanoseconds(call.at),
            attributes=attributes,
        )
        if not call.ok:
            span.set_status(Status(StatusCode.ERROR, call.problem or str(call.status)))
        span.end(_nanoseconds(call.at + call.seconds))
        labels = {name: attributes[name] for name in self._labels() if name in attributes}
        self._duration.record(call.seconds, labels)
        for kind, number in (("input", call.tokens_in), ("output", call.tokens_out)):
            if number is not None:
                record, more = self._tokens[kind]
                record(number, {**labels, **more})

    def _labels(self) -> tuple[str, ...]:
        """What may tell series apart: never a user, a session or a digest."""
        provider = self._name("gen_ai.provider.name")
        return (
            "gen_ai.operation.name",
            provider,
            "gen_ai.request.model",
            "error.type",
            "flyball.arm",
            "flyball.release.id",
        )

    def _about_call(self, call: ServedCall) -> dict[str, Any]:
        facts = call.facts
        found = {
            "gen_ai.operation.name": "chat",
            self._name("gen_ai.provider.name"): facts.get("upstream") or "flyball",
            "gen_ai.request.model": call.model,
            "gen_ai.response.model": call.model,
            "gen_ai.response.id": facts.get("response_id"),
            "gen_ai.response.finish_reasons": [facts["finish_reason"]] if facts.get("finish_reason") else None,
            "gen_ai.request.stream": facts.get("stream"),
            "gen_ai.response.time_to_first_chunk": facts.get("first_byte_seconds"),
            "gen_ai.usage.input_tokens": call.tokens_in,
            "gen_ai.usage.output_tokens": call.tokens_out,
            "gen_ai.usage.cache_read.input_tokens": facts.get("tokens_cached"),
            "gen_ai.conversation.id": call.session,
            "gen_ai.agent.name": call.agent,
            "error.type": None if call.ok else str(call.status),
            "flyball.call.id": call.call_id,
            "flyball.policy.version": call.version_id,
            "flyball.arm": call.arm,
            "flyball.release.id": call.release_id,
            "flyball.exactness": call.exactness,
            "flyball.cost.amount": call.cost_usd,
            "flyball.cost.currency": "USD",
        }
        return {name: value for name, value in found.items() if value not in (None, "")}

    def _about_session(self, session: SessionRecord) -> dict[str, Any]:
        found = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.conversation.id": session.session_id.split("~", 1)[1],
            "gen_ai.agent.version": session.policy_version,
            "gen_ai.usage.input_tokens": session.tokens_in,
            "gen_ai.usage.output_tokens": session.tokens_out,
            "flyball.unit.id": session.session_id,
            "flyball.model.version": session.model_version,
            "flyball.policy.version": session.policy_version,
            "flyball.release.channel": session.release_channel,
            "flyball.arm": session.arm,
            "flyball.tool.calls": session.tool_calls_count,
            "flyball.tool.errors": session.tool_error_count,
            "flyball.human_override": session.human_override,
            "flyball.retries": session.context["retries"],
            "flyball.cost.amount": session.cost_usd,
            "flyball.cost.currency": "USD",
        }
        return {name: value for name, value in found.items() if value not in (None, "")}

    def _add_fact(self, span: Span, fact: Fact, ended: float) -> None:
        """One evaluation event for each thing that a report says."""
        results: list[dict[str, Any]] = []
        if fact.outcome is not None:
            results.append(_result("task_success", float(fact.outcome), "pass" if fact.outcome else "fail"))
        if fact.score is not None:
            results.append(_result("score", fact.score, ""))
        if fact.override is not None:
            kind = fact.override["kind"]
            told = _result("human_override", float(kind != "approve"), "pass" if kind == "approve" else "fail")
            results.append({**told, "flyball.override.kind": kind})
        if fact.kpi is not None:
            results.append({**_result(fact.kpi["name"], fact.kpi["value"], ""), "flyball.kpi.unit": fact.kpi["unit"]})
        for result in results:
            delay = max(0.0, fact.at - ended)
            attributes = {**result, "flyball.label.delay": delay, "flyball.decision.id": fact.report_id}
            span.add_event("gen_ai.evaluation.result", attributes, _nanoseconds(fact.at))

    def _said(self, store: Store, call: ServedCall) -> Said | None:
        try:
            return store.said(call) if self._content else None
        except StoreError:  # erased, or never kept
            return None

    def _texts(self, said: Said) -> dict[str, Any]:
        texts = {
            "gen_ai.input.messages": _messages(said.messages),
            "gen_ai.output.messages": _messages([dict(said.message)] if said.message else []),
            **({"gen_ai.tool.definitions": json.dumps(said.tools)} if said.tools else {}),
        }
        return {self._name(name): text for name, text in texts.items()}

    def _name(self, name: str) -> str:
        return _OLD.get(name, name) if self._old else name


def _flag(session: SessionRecord) -> dict[str, Any]:
    return {
        "feature_flag.key": session.context["release_id"] or "release",
        "feature_flag.result.variant": session.arm,
        "feature_flag.result.reason": "split" if session.context["release_id"] else "static",
        "feature_flag.provider.name": SERVICE,
    }


def _result(name: str, value: float, label: str) -> dict[str, Any]:
    found: dict[str, Any] = {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": value}
    return {**found, "gen_ai.evaluation.score.label": label} if label else found


def _messages(messages: Iterable[Mapping[str, Any]]) -> str:
    """Messages in parts, as the conventions have them."""
    return json.dumps([{"role": message.get("role"), "parts": _parts(message)} for message in messages])


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        return [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}]
    texts: Sequence[Any] = (
        content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    )
    parts: list[dict[str, Any]] = [{"type": "text", "content": part.get("text", "")} for part in texts]
    for call in message.get("tool_calls") or ():
        function = call["function"]
        named = {"id": call.get("id"), "name": function["name"], "arguments": function["arguments"]}
        parts.append({"type": "tool_call", **named})
    return parts


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
