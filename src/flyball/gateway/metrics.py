"""What one worker tells Prometheus: answers by arm and status, refusals by code, seconds, what was not captured.

Labels are few on purpose: never a version, a user, a session or a model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from flyball.gateway.capture import Capture
from flyball.gateway.served import Served
from flyball.store.prometheus import Metrics, spool_metrics
from flyball.store.spool import Spool

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histogram: a short tool call to a long answer."""


class GatewayMetrics:
    """Counts what is served; `text()` is the body of `/metrics`, what the spool tells and `spans` by state included."""

    def __init__(self, spool: Spool, capture: Capture, spans: Mapping[str, int]) -> None:
        labels = ("arm", "status")
        self._answers = Counter("flyball_gateway_answers", "Calls that are over.", labels, registry=None)
        self._refused = Counter("flyball_gateway_refused", "Requests refused.", ("code",), registry=None)
        self._seconds = Histogram(
            "flyball_gateway_seconds", "From a call's arrival to its end.", ("arm",), registry=None, buckets=SECONDS
        )
        self._first = Histogram(
            "flyball_gateway_first_byte_seconds",
            "From a call's arrival to the head of its answer.",
            ("arm",),
            registry=None,
            buckets=SECONDS,
        )
        self._dropped = Gauge(
            "flyball_gateway_not_captured", "Calls written without their content.", ("reason",), registry=None
        )
        self._spans = Gauge("flyball_gateway_spans", "Spans for OpenTelemetry.", ("state",), registry=None)
        self._capture, self._span_counts = capture, spans
        own = (self._answers, self._refused, self._seconds, self._first, self._dropped, self._spans)
        self._metrics = Metrics(spool_metrics(spool), *(each.collect for each in own))

    def note(self, served: Served) -> None:
        """Count a call that is over."""
        self._answers.labels(served.arm, str(served.status)).inc()
        self._seconds.labels(served.arm).observe(time.monotonic() - served.started)
        if served.first_byte:
            self._first.labels(served.arm).observe(served.first_byte - served.started)

    def refuse(self, code: str | None) -> None:
        """Count a request that was refused."""
        self._refused.labels(code or "bad_request").inc()

    def text(self) -> bytes:
        """The metrics in Prometheus' text form."""
        for reason, number in self._capture.dropped.items():
            self._dropped.labels(reason).set(number)
        for state, number in self._span_counts.items():
            self._spans.labels(state).set(number)
        return self._metrics.text()
