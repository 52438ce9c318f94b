"""What a release asks of whatever serves: one answer of each worker to a probe, and who answered users lately.

The gateway implements it; `SimulatedGateway` is the fake for tests and examples. Workers follow the routing table of
the store, each in its own time, so a table that was written is not yet a table that is served by: rollback is verified
by what was observed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flyball.errors import ReleaseError
from flyball.release.rollback import Drill, DrillStep
from flyball.release.routing import RoutingTable
from flyball.store.store import Store


@dataclass(frozen=True)
class Answer:
    """A worker's answer to a probe: the number of the table it served by, and the version id that answered."""

    worker: str
    table: int
    version: str


@dataclass(frozen=True)
class Observed:
    """Answers to users since some time, and how many of them the candidate gave."""

    answers: int
    by_candidate: int


class Gateway(Protocol):
    """Whatever serves users by the routing tables of the store."""

    def probe(self, key: str) -> list[Answer]:
        """One answer of every worker to a request with this key."""

    def observed(self, candidate: str, since: float) -> Observed:
        """Who answered users from `since` (seconds since 1970) until now."""


class SimulatedGateway:
    """Workers that read the store's table when `poll` is called on them, and count the requests given to them.

    `clock` is the time of the simulation. A worker that was not polled serves by the table it knows, as a real one does
    between two polls.
    """

    def __init__(self, store: Store, clock: Callable[[], float], workers: int = 4) -> None:
        self._store, self._clock = store, clock
        self._tables: dict[str, RoutingTable | None] = {f"worker-{i}": None for i in range(workers)}
        self._answered: list[tuple[float, str]] = []

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self._tables)

    def poll(self, *workers: str) -> None:
        """These workers (default: all) read the table in force."""
        stored = self._store.route()
        for worker in workers or self.workers:
            self._tables[worker] = None if stored is None else RoutingTable.from_json(stored.body)

    def serve(self, key: str, worker: str) -> str:
        """One request of a user; returns the version id that answered."""
        version = self._version(key, worker)
        self._answered.append((self._clock(), version))
        return version

    def arm(self, key: str, worker: str) -> str:
        """The arm that a worker puts this key in, by the table it knows."""
        table = self._tables[worker]
        return "stable" if table is None else table.arm(key)

    def probe(self, key: str) -> list[Answer]:
        return [
            Answer(worker, table.version if table else 0, self._version(key, worker))
            for worker, table in self._tables.items()
        ]

    def observed(self, candidate: str, since: float) -> Observed:
        lately = [version for at, version in self._answered if at >= since]
        return Observed(len(lately), lately.count(candidate))

    def _version(self, key: str, worker: str) -> str:
        table = self._tables[worker]
        return "" if table is None else table.serves(key)


def drill_routing(
    change: Callable[[str], RoutingTable],
    gateway: Gateway,
    *,
    clock: Callable[[], float],
    wait: Callable[[float], None],
    limit: float = 300.0,
    every: float = 0.2,
) -> Drill:
    """Rehearse the way back on the whole path that users take, with one secret key and no user.

    `change(probe)` writes the next routing table, in which the key `probe` is served by the candidate ("" for nobody).
    The clock runs from the table that takes the key back until every worker answers it by the version in force. `wait`
    sleeps; `limit` is in seconds for each way. A drill that does not end in time is not verified.
    """
    key = secrets.token_hex(16)
    steps: list[DrillStep] = []
    table = change(key)
    try:
        for probe, version, name in ((key, table.candidate, "there"), ("", table.stable, "back")):
            started = clock()
            if not probe:
                table = change("")
            _until(gateway, key, table.version, version, started + limit, clock, wait, every)
            steps.append(DrillStep(f"every worker answers by the {name} version", clock() - started, not probe))
    except ReleaseError as error:
        if table.probe:
            table = change("")
        return Drill(table.stable, table.candidate, tuple(steps), False, error.args[0])
    return Drill(table.stable, table.candidate, tuple(steps), True)


def _until(
    gateway: Gateway,
    key: str,
    number: int,
    version: str,
    deadline: float,
    clock: Callable[[], float],
    wait: Callable[[float], None],
    every: float,
) -> None:
    while True:
        answers = gateway.probe(key)
        late = [answer for answer in answers if answer.table < number or answer.version != version]
        if answers and not late:
            return
        if clock() >= deadline:
            who = ", ".join(answer.worker for answer in late) or "no worker"
            raise ReleaseError(f"{who} did not answer by table {number} in time")
        wait(every)
