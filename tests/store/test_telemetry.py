"""What was served becomes spans, events and metrics of the GenAI conventions, and text for Prometheus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flyball.errors import StoreError
from flyball.store.formats import otel
from flyball.store.prometheus import Metrics, spool_metrics, store_metrics
from flyball.store.spool import Spool
from flyball.store.store import Store
from flyball.store.telemetry import SessionIds, Telemetry
from tests.store.served import call, report, session, spooled


@pytest.fixture
def filled(sqlite: Store, tmp_path: Path) -> Store:
    override = {"kind": "edit", "reason": "wrong"}
    frames = (
        ("call", call("c1", upstream="openai", finish_reason="stop", tokens_cached=4)),
        ("call", call("c2", at=1002.0, status=502, problem="status 502", message=None, tokens_in=None)),
        ("session", session("c1")),
        ("feedback", report("f1", outcome=False, override=override, at=1010.0)),
    )
    sqlite.ingest(spooled(tmp_path / "0", *frames))  # type: ignore[arg-type]
    return sqlite


def sent(store: Store, times: int = 1, **settings: Any) -> tuple[list[Any], dict[str, Any]]:
    """Spans and metrics (name -> data points) of the first session."""
    exporter, reader, ids = InMemorySpanExporter(), InMemoryMetricReader(), SessionIds()
    tracing = TracerProvider(id_generator=ids)
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(tracing.get_tracer("t"), MeterProvider([reader]).get_meter("t"), ids, **settings)
    for _ in range(times):
        telemetry.session(store, store.served_sessions()[0])
    (resource,) = reader.get_metrics_data().resource_metrics  # type: ignore[union-attr]
    metrics = {one.name: one.data.data_points for scope in resource.scope_metrics for one in scope.metrics}
    return list(exporter.get_finished_spans()), metrics


def test_a_session_is_a_span_over_its_calls(filled: Store) -> None:
    (first, second, whole), _ = sent(filled)
    assert (whole.name, first.name) == ("invoke_agent", "chat m-1")
    assert first.parent.span_id == second.parent.span_id == whole.context.span_id
    assert (whole.start_time, whole.end_time) == (1000 * 10**9, int(1002.5 * 10**9))
    assert first.attributes["gen_ai.provider.name"] == "openai"
    assert first.attributes["gen_ai.usage.input_tokens"] == 12
    assert first.attributes["gen_ai.usage.cache_read.input_tokens"] == 4
    assert first.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert "gen_ai.input.messages" not in first.attributes
    assert (second.attributes["error.type"], second.status.is_ok) == ("502", False)
    assert whole.attributes["gen_ai.agent.version"] == whole.attributes["flyball.policy.version"] == "v2"
    assert (whole.attributes["flyball.release.channel"], whole.attributes["flyball.arm"]) == ("canary", "canary")


def test_release_and_late_facts_are_events(filled: Store) -> None:
    *_, whole = sent(filled)[0]
    flag, outcome, override = whole.events
    assert (flag.name, flag.attributes["feature_flag.key"]) == ("feature_flag.evaluation", "r1")
    assert flag.attributes["feature_flag.result.variant"] == "canary"
    assert {outcome.name, override.name} == {"gen_ai.evaluation.result"}
    assert outcome.attributes["gen_ai.evaluation.name"] == "task_success"
    assert outcome.attributes["gen_ai.evaluation.score.label"] == "fail"
    assert outcome.attributes["flyball.label.delay"] == 7.5
    assert override.attributes["flyball.override.kind"] == "edit"
    assert override.attributes["gen_ai.evaluation.score.value"] == 1.0


def test_a_session_sent_again_is_the_same_spans(filled: Store) -> None:
    spans, _ = sent(filled, times=2)
    ids = [(span.context.trace_id, span.context.span_id) for span in spans]
    assert ids[:3] == ids[3:] and len(set(ids)) == 3


def test_metrics_have_few_labels(filled: Store) -> None:
    _, metrics = sent(filled)
    durations = metrics["gen_ai.client.inference.duration"]
    assert sum(point.count for point in durations) == 2
    (tokens,) = metrics["gen_ai.client.inference.usage.input_tokens"]
    assert tokens.value == 12
    assert set(tokens.attributes) == {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "flyball.arm",
        "flyball.release.id",
    }


def test_older_names_are_a_setting(filled: Store) -> None:
    spans, metrics = sent(filled, names="1.36", content=True)
    assert spans[0].attributes["gen_ai.system"] == "openai"
    assert "gen_ai.prompt" in spans[0].attributes and "gen_ai.provider.name" not in spans[0].attributes
    assert {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"} == set(metrics)
    with pytest.raises(StoreError, match=r"names '1\.35' of conventions are not known; did you mean '1\.36'"):
        sent(filled, names="1.35")


def test_content_that_goes_out_comes_in_again(filled: Store) -> None:
    (first, *_), _ = sent(filled, content=True)
    pairs = [{"key": k, "value": {"stringValue": v}} for k, v in first.attributes.items() if isinstance(v, str)]
    spans = [{"traceId": "ab", "attributes": pairs}]
    (trace,) = otel.read(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode())
    said = filled.said(next(iter(filled.calls())))
    assert trace.messages == (*said.messages, said.message)
    assert (trace.session, trace.tools) == ("s1", said.tools)


def test_losses_and_what_is_missing_are_told_to_prometheus(filled: Store, tmp_path: Path) -> None:
    with Spool(tmp_path / "own", max_pending_bytes=100, group_seconds=0.3) as spool:
        spool.append("call", b"x" * 50, arm="canary")
        with pytest.raises(StoreError):
            spool.append("call", b"x" * 50, arm="canary")
        text = Metrics(spool_metrics(spool), store_metrics(filled)).text().decode()
    assert 'flyball_spool_accepted_total{arm="canary",kind="call"} 2.0' in text
    assert 'flyball_spool_lost_total{arm="canary",kind="call",reason="backlog"} 1.0' in text
    assert "flyball_spool_pending_bytes 68.0" in text
    assert 'flyball_ingest_stored_total{arm="canary",kind="call"} 2.0' in text
    assert 'flyball_ingest_missing{arm="canary"} 0.0' in text
