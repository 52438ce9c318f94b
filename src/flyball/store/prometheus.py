"""The state of spools and store for Prometheus: an object whose `text()` a server mounts at `/metrics`.

Labels are few on purpose: kind, arm and reason of a frame, never a version, a user or a session. A rate of losses above
zero, or anything missing, is what an alarm is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flyball.store.spool import Spool
from flyball.store.store import Store

CONTENT_TYPE = CONTENT_TYPE_LATEST

Source = Callable[[], Iterable[Metric]]


class Metrics(Collector):
    """What `sources` tell each time somebody asks. Each process answers for itself: Prometheus adds up."""

    def __init__(self, *sources: Source) -> None:
        self._sources = sources
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of every source."""
        for source in self._sources:
            yield from source()

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text form, to be served as CONTENT_TYPE."""
        return generate_latest(self._registry)


def spool_metrics(spool: Spool) -> Source:
    """What one gateway appended, what is on disk, and what was lost, by kind and arm."""

    def tell() -> Iterator[Metric]:
        counts = spool.snapshot()
        labels = ("kind", "arm")
        yield _counter("flyball_spool_accepted", "Frames appended to the spool.", labels, counts.accepted.items())
        yield _counter("flyball_spool_durable", "Frames that are on disk.", labels, counts.durable.items())
        lost = _counter("flyball_spool_lost", "Frames declared lost.", (*labels, "reason"), counts.lost.items())
        yield lost
        pending = GaugeMetricFamily("flyball_spool_pending_bytes", "Bytes that wait for the disk.")
        pending.add_metric((), spool.pending_bytes)
        yield pending

    return tell


def store_metrics(store: Store) -> Source:
    """What the reader of spools stored, kept apart and found missing."""

    def tell() -> Iterator[Metric]:
        columns = ("stored", "repeated", "quarantined")
        rows = store.ingested_counts()
        for column in columns:
            values = [((kind, arm), counts[column]) for (kind, arm), counts in rows.items()]
            yield _counter(f"flyball_ingest_{column}", f"Frames of spools that were {column}.", ("kind", "arm"), values)
        missing = GaugeMetricFamily(
            "flyball_ingest_missing", "Frames accepted, not declared lost, not found.", labels=("arm",)
        )
        for arm, number in store.missing_by_arm().items():
            missing.add_metric((arm,), number)
        yield missing

    return tell


def _counter(name: str, says: str, labels: Sequence[str], values: object) -> CounterMetricFamily:
    family = CounterMetricFamily(name, says, labels=labels)
    for key, number in values:  # type: ignore[attr-defined]
        family.add_metric(key, number)
    return family
