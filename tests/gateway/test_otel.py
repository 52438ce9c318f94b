"""The gateway's copy for OpenTelemetry, read by a collector that knows OTLP's own protocol buffers."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from flyball.gateway import otel
from flyball.gateway.serve import serving
from tests.gateway.servers import Mock, go, json_answer, running, text_answer
from tests.gateway.test_failures import nobody

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes what is sent as OTLP/HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if (b"content-encoding", b"gzip") in scope["headers"]:
            body = gzip.decompress(body)
        if scope["path"] == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += [span for one in resource.scope_spans for span in one.spans]
        else:
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.metrics |= {metric.name: metric for one in resource.scope_metrics for metric in one.metrics}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def said(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def sent(tmp_path: Path, **settings: Any) -> Collector:
    """What the collector got of two calls, one with a `traceparent`, once the gateway has ended."""
    collector = Collector()

    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("the answer")))
        async with serving(collector) as url:
            more = {"otel": {"endpoint": url, **settings}}
            async with running(tmp_path, {"a": mock}, upstream={"version": "v1"}, **more) as gateway:
                at = {"path": "/s/s1/v1/chat/completions"}
                await gateway.chat("write to ana@example.com", **at, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
                await gateway.chat("hi", **at)
                await gateway.frames("call", 2)

    go(test)
    return collector


def test_calls_are_spans_below_the_agents_own_and_losses_are_counted(tmp_path: Path) -> None:
    collector = sent(tmp_path)
    first, second = collector.spans
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert second.trace_id.hex() != TRACE and second.parent_span_id == b""
    about = said(first)
    assert about["gen_ai.operation.name"] == "chat" and about["gen_ai.provider.name"] == "a"
    assert about["gen_ai.usage.input_tokens"] == 7 and about["gen_ai.conversation.id"] == "s1"
    assert (about["flyball.policy.version"], about["flyball.arm"]) == ("v1", "stable")
    assert "gen_ai.input.messages" not in about
    assert {"gen_ai.client.inference.duration", "flyball.spool.accepted"} <= collector.metrics.keys()
    accepted = collector.metrics["flyball.spool.accepted"].sum.data_points
    assert {said(point)["flyball.frame.kind"]: point.as_int for point in accepted}["call"] == 2


def test_older_names_and_content_are_settings(tmp_path: Path) -> None:
    collector = sent(tmp_path, names="1.36", content=True)
    about = said(collector.spans[0])
    assert about["gen_ai.system"] == "a" and "gen_ai.provider.name" not in about
    assert "[email]" in about["gen_ai.prompt"] and "ana@example.com" not in about["gen_ai.prompt"]
    assert "the answer" in about["gen_ai.completion"]
    assert "gen_ai.client.operation.duration" in collector.metrics


def test_a_collector_that_is_away_costs_nobody_anything_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel, "SECONDS", 0.1)

    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok")))
        more: dict[str, Any] = {"otel": {"endpoint": nobody()}, "metrics": True}
        async with running(tmp_path, {"a": mock}, **more) as gateway:
            assert (await gateway.chat("hi")).status_code == 200
            await gateway.frames("call")
            async with httpx.AsyncClient(trust_env=False) as http:
                for _ in range(200):
                    text = (await http.get(f"{gateway.url}/metrics")).text
                    if 'flyball_gateway_spans{state="made"} 1.0' in text:
                        break
                    await asyncio.sleep(0.01)
            assert 'flyball_gateway_spans{state="made"} 1.0' in text

    go(test)
