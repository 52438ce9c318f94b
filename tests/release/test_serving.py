"""Drill and restore through a gateway of four workers, on a fake clock: events and observed shares, no real seconds."""

from __future__ import annotations

import pytest

from flyball.errors import ReleaseError
from flyball.release.controller import Controller, Restored
from flyball.release.serving import SimulatedGateway
from tests.release.canary.conftest import traffic
from tests.release.conftest import TRAFFIC, begun


class Clock:
    """Time that passes only when somebody waits; after each wait the workers that are due read the table."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.gateway: SimulatedGateway | None = None
        self.stuck: set[str] = set()

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.gateway is not None:
            self.gateway.poll(*(worker for worker in self.gateway.workers if worker not in self.stuck))


@pytest.fixture
def clock(store) -> Clock:
    made = Clock()
    made.gateway = SimulatedGateway(store, made)
    return made


def test_a_drill_walks_the_way_users_take(store, release, plan, clock) -> None:
    controller = Controller(store)
    controller.launch(release, plan, now=0.0, **TRAFFIC)
    clock.gateway.poll()
    drill = controller.drill(clock.gateway, clock=clock, wait=clock.wait)
    assert drill.verified and drill.seconds == pytest.approx(0.2)
    assert [step.counts for step in drill.steps] == [False, True]
    assert [table.probe != "" for table in controller._tables(release.release_id)] == [False, True, False]
    assert {answer.version for answer in clock.gateway.probe("somebody")} == {release.baseline}
    (entry,) = store.acts("drill", release.release_id)
    assert entry.detail["verified"] and not entry.detail["by_hand"]


def test_a_worker_that_does_not_follow_fails_the_drill_and_nobody_stays_on_probe(store, release, plan, clock) -> None:
    controller = Controller(store)
    controller.launch(release, plan, now=0.0, **TRAFFIC)
    clock.gateway.poll()
    clock.stuck = {"worker-2"}
    drill = controller.drill(clock.gateway, clock=clock, wait=clock.wait)
    assert not drill.verified and "worker-2 did not answer by table 2 in time" in drill.problem
    assert controller.table().probe == ""
    assert store.acts("drill")[0].detail["problem"] == drill.problem


def test_a_rollback_is_confirmed_by_what_users_get(store, release, plan, owners, clock) -> None:
    controller, gateway = begun(store, release, plan, owners), clock.gateway
    gateway.poll()
    key = next(f"u{i}" for i in range(999) if controller.table().arm(f"u{i}") == "canary")
    clock.now = 1e5
    assert gateway.serve(key, "worker-0") == release.candidate
    assert controller.tick(plan, traffic(3000, drop=0.3), 1e5).table.stage == "rolled_back"
    gateway.poll("worker-0", "worker-1", "worker-2")
    gateway.serve(key, "worker-3")
    clock.now = 1e5 + 1.5
    assert controller.confirm_restored(gateway, clock.now) is None, "worker-3 still serves by the old table"
    gateway.poll()
    assert controller.confirm_restored(gateway, clock.now) is None, "nobody was answered since"
    clock.now = 1e5 + 3.0
    assert [gateway.serve(key, worker) for worker in gateway.workers] == [release.baseline] * 4
    assert controller.confirm_restored(gateway, clock.now) == Restored(1e5, 3.0)
    clock.now = 1e5 + 60.0
    assert controller.confirm_restored(gateway, clock.now) == Restored(1e5, 3.0), "recorded once"
    assert len(store.acts("restored")) == 1


def test_nothing_to_confirm(store, release, plan, owners, clock) -> None:
    with pytest.raises(ReleaseError, match="nothing was rolled back"):
        begun(store, release, plan, owners).confirm_restored(clock.gateway, 1.0)
