"""What goes wrong around a release: it is held or refused, the state is recovered, nothing is promoted by accident."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from flyball.errors import ReleaseError, StoreError
from flyball.release.canary.plan import Margin
from flyball.release.canary.read import sessions_from_lines
from flyball.release.canary.units import Label
from flyball.release.canary.verdict import judge_canary
from flyball.release.controller import Controller
from flyball.release.proposals import accept, propose, unreviewed
from flyball.release.registry import PRODUCTION, new_version
from flyball.release.standing import holds
from flyball.store.store import Store
from flyball.types import Comparison, Estimate
from tests.release.canary.conftest import traffic
from tests.release.conftest import begun

FOREVER = 1e12


class Killed(BaseException):
    """kill -9 as seen from inside: nothing catches it."""


@pytest.mark.parametrize("field", ["cost_usd", "seconds", "assigned_at"])
def test_a_number_that_is_none_is_refused(store, release, plan, owners, field) -> None:
    controller = begun(store, release, plan, owners)
    served = traffic(500)
    served[7] = replace(served[7], **{field: math.nan})
    with pytest.raises(ReleaseError, match="finite number"):
        controller.tick(plan, served if field != "assigned_at" else [replace(served[7], assigned_at=-math.inf)], 5e4)
    assert controller.table().share == plan.stages[0]


def test_a_missing_field_is_named_with_its_line() -> None:
    with pytest.raises(ReleaseError, match="file:2: arm"):
        good = '{"session_id": "a", "key": "a", "arm": "canary", "assigned_at": 0}'
        sessions_from_lines(f'{good}\n{{"session_id": "b", "key": "b", "assigned_at": 0}}', "file")


def test_a_label_source_that_dies_holds_the_ramp(store, release, plan, owners) -> None:
    controller = begun(store, release, plan, owners)
    dead = [replace(s, labels=()) if s.assigned_at > 2e4 else s for s in traffic(6000)]
    decision = controller.tick(plan, dead, 6e4).decision
    assert decision.move == "hold" and "label source" in decision.reason


def test_a_second_label_and_a_late_one_change_nothing(plan) -> None:
    served = traffic(2000)
    doubled = [replace(s, labels=(*s.labels, Label(not s.labels[0].success, 3000.0 + s.assigned_at))) for s in served]
    late = [replace(s, labels=(*s.labels, Label(not s.labels[0].success, 1e6 + s.assigned_at))) for s in served]
    wanted = judge_canary(served, plan, FOREVER)
    assert judge_canary(doubled, plan, FOREVER).readings == wanted.readings
    assert judge_canary(late, plan, FOREVER).readings == wanted.readings


def test_a_label_dated_before_its_session_is_refused(plan) -> None:
    served = traffic(200)
    served[3] = replace(served[3], labels=(Label(True, served[3].assigned_at - 5.0),))
    with pytest.raises(ReleaseError, match="before the session"):
        judge_canary(served, plan, FOREVER)


def test_an_edited_suite_or_grader_needs_a_reviewed_proposal(store) -> None:
    text, changed = b"be kind\n", b"be kind\nand brief\n"
    found = propose(store, "grader", "tone", text, changed, by="mia", at=0.0)
    old = new_version(name="old", weights="w", base="b", graders={"tone": found.before}, suites={"s": "1" * 64})
    new = replace(old, graders={"tone": found.after}, suites={"s": "2" * 64})
    assert len(unreviewed(store, old, new)) == 2
    assert store.artifacts.get_bytes(found.diff).decode().splitlines()[-1] == "+and brief"
    plain = Estimate(0.0, -0.01, 0.01, 400)
    same = Comparison("test", "d", "v", "v", "tone", plain, plain, plain, "accept", 0.03)
    for by, regression, says in (
        ("mia", same, "ask somebody else"),
        ("pat", replace(same, verdict="reject"), "not within its margin"),
        ("pat", replace(same, difference=Estimate(0.1, 0.05, 0.15, 400)), r"\+10.0 points \[\+5.0, \+15.0\], n=400"),
        ("pat", None, "only on a regression result"),
        (" ", same, "named reviewer"),
    ):
        with pytest.raises(ReleaseError, match=says):
            accept(store, found.proposal_id, regression, by=by, at=1.0)
    assert accept(store, found.proposal_id, same, by="pat", at=1.0).reviewer == "pat"
    assert unreviewed(store, old, new) == ("suite 's' changed to 222222222222 without an accepted proposal",)
    with pytest.raises(ReleaseError, match="was accepted by pat"):
        accept(store, found.proposal_id, same, by="noa", at=2.0)
    with pytest.raises(ReleaseError, match="a difference"):
        propose(store, "suite", "s", text, text, by="mia", at=0.0)
    with pytest.raises(ReleaseError, match="no proposal"):
        accept(store, "nothing", same, by="pat", at=1.0)


def test_two_controllers_at_once_make_one_history(store, release, plan, owners) -> None:
    begun(store, release, plan, owners)
    served = traffic(12_000)
    with Store(store.root) as other:
        second = Controller(other, "second")
        seen = second.table()
        Controller(store, "first").tick(plan, served, 5e4)
        with pytest.raises(StoreError, match="somebody changed the routing first"):
            second._change(seen, "canary", 0.25, 5e4, "as the second saw it")
        assert second.tick(plan, served, 5e4 + 1).decision.move == "stay"
    assert [t.version for t in Controller(store)._tables(release.release_id)] == [1, 2, 3]


@pytest.mark.parametrize("victim", ["add_route", "put_release", "set_alias", "add_act"])
@pytest.mark.parametrize("after", [False, True])
def test_a_controller_killed_at_any_write_promotes_nobody_by_accident(
    store, release, plan, owners, monkeypatch, victim, after
) -> None:
    """Each write of a promotion is the last one: then all of it is there or none, and the next tick goes on."""
    wide = {name: Margin(0.1, 0.9) for name in ("success", "human_override", "latency", "cost_per_success")}
    plan, served = replace(plan, harm=0.3, **wide), traffic(600)
    controller = begun(store, release, plan, owners)
    for now in (1e4, 1.1e4):
        controller.tick(plan, served, now)
    assert controller.table().share == 0.5
    write = getattr(Store, victim)

    def killed(self, *arguments, **named):
        if after:
            write(self, *arguments, **named)
        raise Killed

    monkeypatch.setattr(Store, victim, killed)
    with pytest.raises(Killed):
        controller.tick(plan, served, 1.2e4)
    monkeypatch.undo()
    with Store(store.root) as fresh:
        found = Controller(fresh)
        assert (found.table().stage, fresh.release(release.release_id).stage) == ("canary", "canary")
        assert fresh.alias(PRODUCTION) == release.baseline
        assert found.tick(plan, served, 1.2e4).table.stage == "general"
        assert fresh.alias(PRODUCTION) == release.candidate


def test_a_release_nobody_registered_is_refused(store, release, plan) -> None:
    with pytest.raises(StoreError, match="no version"):
        holds(store, replace(release, candidate="unknown"), plan, 0.0)
