"""An incident from its opening to its close: what holds meanwhile, and what is refused."""

from __future__ import annotations

import pytest

from flyball.errors import ReleaseError
from flyball.release.approvals import ROLES, owner_leaves
from flyball.release.incidents import (
    close_incident,
    give_cause,
    incident,
    incidents,
    note,
    open_incident,
    raise_incident,
)
from flyball.release.serving import SimulatedGateway
from flyball.release.standing import open_incidents
from flyball.store.audit import Act
from tests.release.conftest import PEOPLE, begun, launched


def test_from_opening_to_close(store, release, owners) -> None:
    open_incident(store, "i1", by="bob", reason="wrong refunds", at=100.0, began_at=40.0, release=release.release_id)
    note(store, "i1", by="pat", text="the tool changed its answer", at=110.0)
    note(store, "i1", by="pat", text="the tool was set back", at=160.0, restored=True)
    assert "incident i1 is open" in open_incidents(store)[0]
    for role in ROLES:
        with pytest.raises(ReleaseError, match="no cause from"):
            close_incident(store, "i1", by="bob", at=200.0)
        give_cause(store, "i1", role=role, by=PEOPLE[role], cause=f"seen by {role}", at=190.0)
    close_incident(store, "i1", by="bob", at=200.0)
    (found,) = incidents(store)
    assert (found.detect_seconds, found.restore_seconds, found.closed_at) == (60.0, 60.0, 200.0)
    assert found.release == release.release_id and found.causes["ML"] == "seen by ML"
    assert [entry.at for entry in found.timeline] == [100.0, 110.0, 160.0, 190.0, 190.0, 190.0, 200.0]
    assert open_incidents(store) == ()


def test_an_incident_of_an_alarm_is_one_too(store) -> None:
    store.add_act(Act(action="incident_opened", actor="flyball", at=5.0, subject="r.success", reason="success fell"))
    found = incident(store, "r.success")
    assert (found.source, found.detect_seconds, found.missing_causes) == ("alarm", None, ROLES)


def test_what_is_refused(store, owners) -> None:
    with pytest.raises(ReleaseError, match="no incident 'i1'"):
        note(store, "i1", by="bob", text="x", at=1.0)
    with pytest.raises(ReleaseError, match="after the incident was opened"):
        open_incident(store, "i1", by="bob", reason="x", at=1.0, began_at=2.0)
    with pytest.raises(ReleaseError, match="needs a name, a person"):
        open_incident(store, "i1", by=" ", reason="x", at=1.0)
    open_incident(store, "i1", by="bob", reason="x", at=1.0)
    with pytest.raises(ReleaseError, match="a name of its own"):
        open_incident(store, "i1", by="bob", reason="x", at=1.0)
    with pytest.raises(ReleaseError, match="since when users are served well again"):
        close_incident(store, "i1", by="bob", at=2.0)
    with pytest.raises(ReleaseError, match="bob cannot give the cause for ML: its owner is mia"):
        give_cause(store, "i1", role="ML", by="bob", cause="x", at=2.0)
    owner_leaves(store, "ML", by="ada", at=2.0)
    with pytest.raises(ReleaseError, match="its owner is nobody"):
        give_cause(store, "i1", role="ML", by="mia", cause="x", at=3.0)
    note(store, "i1", by="bob", text="better", at=2.0, restored=True)
    with pytest.raises(ReleaseError, match="restored already"):
        note(store, "i1", by="bob", text="better", at=3.0, restored=True)


def test_a_closed_one_stays_as_it_was(store, owners) -> None:
    open_incident(store, "i1", by="bob", reason="x", at=1.0)
    note(store, "i1", by="bob", text="better", at=2.0, restored=True)
    for role in ROLES:
        give_cause(store, "i1", role=role, by=PEOPLE[role], cause="x", at=2.0)
    close_incident(store, "i1", by="bob", at=3.0)
    with pytest.raises(ReleaseError, match="is closed"):
        note(store, "i1", by="bob", text="x", at=4.0)
    with pytest.raises(ReleaseError, match="is closed"):
        close_incident(store, "i1", by="bob", at=4.0)


def test_a_rollback_opens_one_that_is_restored_when_users_were_seen_back(store, release, plan, owners) -> None:
    controller = begun(store, release, plan, owners)
    controller.roll_back(by="bob", reason="a complaint", now=5.0)
    (found,) = incidents(store)
    assert (found.name, found.source) == (f"{release.release_id[:12]}.rollback", "rollback")
    assert (found.release, found.reason) == (release.release_id, "a complaint (bob)")
    assert (found.detect_seconds, found.restore_seconds) == (5.0, None)
    assert found.name in open_incidents(store)[0]
    gateway = SimulatedGateway(store, lambda: 8.0)
    gateway.poll()
    gateway.serve("u1", gateway.workers[0])
    for now in (8.5, 9.5):
        assert controller.confirm_restored(gateway, now) is not None
    assert incident(store, found.name).restore_seconds == 3.5


def test_nothing_keeps_a_rollback_back(store, release, plan, owners) -> None:
    """Neither an incident of its name, nor a clock that goes backwards, nor a person without a name."""
    controller = launched(store, release, plan, owners)
    controller.begin_canary(plan, by="ada", now=10.0)
    open_incident(store, f"{release.release_id[:12]}.rollback", by="eve", reason="in the way", at=0.0)
    assert controller.roll_back(by=" ", reason="", now=5.0).stage == "rolled_back"
    assert [one.source for one in incidents(store)] == ["person"]
    raise_incident(store, "i2", source="alarm", by="flyball", reason=" ", at=5.0, began_at=7.0)
    assert incident(store, "i2").detect_seconds == 0.0


def test_a_shadow_that_is_taken_back_met_no_user(store, release, plan, owners) -> None:
    launched(store, release, plan, owners).roll_back(by="bob", reason="not now", now=5.0)
    assert incidents(store) == []
