"""Every call as it ends, sent to an OpenTelemetry collector by the official SDK over OTLP/HTTP. Extra `otel`.

A span for each call with the names of `store/telemetry.py`, below the agent's own span where the agent sent a
`traceparent`, else in a trace of its session; metrics of the same calls, and what the spool accepted and lost. Content
stays out unless the file says so, and is what capture keeps: personal data is replaced.

The store is the record, this is a copy of it for dashboards: the SDK's queue is in memory, so a crash loses what waits
there and a collector that is away long enough loses the rest. `counts` tells how much: made - sent - failed is waiting,
or was dropped because the queue was full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flyball.errors import StoreError
from flyball.gateway.settings import OtelSettings
from flyball.store.served import Said, ServedCall
from flyball.store.spool import Spool
from flyball.store.telemetry import SERVICE, SessionIds, Telemetry

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    raise StoreError(f"{error.name} is not installed; `otel` needs the extra: pip install 'flyball[otel]'") from error

SECONDS = 5.0
"""For one request to the collector, repetitions included."""


class Export:
    """Sends to the collector of the file until `close`."""

    def __init__(self, settings: OtelSettings, spool: Spool) -> None:
        self.counts: Counter[str] = Counter()
        """spans made, sent and failed"""
        about = Resource.create({"service.name": SERVICE})
        base = settings.endpoint.rstrip("/")
        ids = SessionIds()
        self._tracing = TracerProvider(id_generator=ids, resource=about)
        sending = _Counting(OTLPSpanExporter(f"{base}/v1/traces", timeout=SECONDS), self.counts)
        self._tracing.add_span_processor(BatchSpanProcessor(sending))
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(f"{base}/v1/metrics", timeout=SECONDS), export_interval_millis=1e3 * settings.seconds
        )
        self._metering = MeterProvider([reader], resource=about)
        meter = self._metering.get_meter(SERVICE)
        self._telemetry = Telemetry(
            self._tracing.get_tracer(SERVICE), meter, ids, names=settings.names, content=settings.content
        )
        _count_spool(meter, spool)

    def call(self, frame: Mapping[str, Any]) -> None:
        """Send one call by its frame, as it goes to the spool."""
        self.counts["made"] += 1
        call = _served_call(frame)
        said = Said(tuple(frame.get("messages") or ()), frame.get("message"), tuple(frame.get("tools") or ()), None)
        self._telemetry.call(call, said, _parent(frame.get("traceparent")))

    def close(self) -> None:
        """Send what is waiting, for SECONDS at most each, and end."""
        self._tracing.shutdown()
        self._metering.shutdown()


class _Counting(SpanExporter):
    """Counts what became of spans."""

    def __init__(self, exporter: SpanExporter, counts: Counter[str]) -> None:
        self._exporter = exporter
        self._counts = counts

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        done = self._exporter.export(spans)
        self._counts["sent" if done is SpanExportResult.SUCCESS else "failed"] += len(spans)
        return done

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _count_spool(meter: Meter, spool: Spool) -> None:
    """Counters of what the spool accepted and lost; a rate of losses above zero is what an alarm is made of."""

    def accepted(_: CallbackOptions) -> Iterable[Observation]:
        for (kind, arm), count in spool.snapshot().accepted.items():
            yield Observation(count, {"flyball.frame.kind": kind, "flyball.arm": arm})

    def lost(_: CallbackOptions) -> Iterable[Observation]:
        for (kind, arm, reason), count in spool.snapshot().lost.items():
            yield Observation(count, {"flyball.frame.kind": kind, "flyball.arm": arm, "error.type": reason})

    meter.create_observable_counter("flyball.spool.accepted", [accepted], "{frame}")
    meter.create_observable_counter("flyball.spool.lost", [lost], "{frame}")


def _parent(traceparent: str | None) -> Context:
    """The agent's own span; without one (or with garbage) the call begins at the root of its session's trace."""
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent or ""}, Context())


def _served_call(frame: Mapping[str, Any]) -> ServedCall:
    names = {
        name: frame.get(name)
        for name in ServedCall.__dataclass_fields__
        if name not in ("seq", "body", "tools", "facts", "version_id", "release_id")
    }
    about = {"version_id": frame["version"], "release_id": frame["release_id"] or ""}
    return ServedCall(**names, **about, seq=0, body=None, tools=None, facts=frame)  # type: ignore[arg-type]
