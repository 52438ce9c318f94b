"""After promotion: a change opens an incident, once; no change opens none. Shadows are compared in pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyball.errors import ReleaseError
from flyball.release.change import ALPHA, change_alarms, reference_of
from flyball.release.shadow import ShadowAnswer, ShadowPair, compare_shadow
from tests.release.canary.conftest import traffic
from tests.release.conftest import begun

FOREVER = 1e12


def test_the_reference_is_how_the_canary_did(plan) -> None:
    served = [s for s in traffic(4000, override=0.1) if s.arm == "canary"]
    reference = reference_of(traffic(4000, override=0.1), plan, FOREVER)
    assert reference["human_override"] == pytest.approx(sum(s.override for s in served) / len(served))
    with pytest.raises(ReleaseError, match="no mature unit"):
        reference_of([], plan, FOREVER)


def test_a_change_is_found_and_none_is_not(plan) -> None:
    reference = reference_of(traffic(4000), plan, FOREVER)
    assert change_alarms(traffic(6000, seed=1), reference, plan, FOREVER) == ()
    before, after = traffic(2000, seed=2), traffic(4000, seed=3, drop=0.3)
    changed = [
        *before,
        *(
            replace(
                s,
                session_id=f"t{s.session_id}",
                key=f"t{s.key}",
                assigned_at=s.assigned_at + 2e4,
                labels=tuple(replace(label, received_at=label.received_at + 2e4) for label in s.labels),
                ended_at=s.ended_at + 2e4,
            )
            for s in after
            if s.arm == "canary"
        ),
    ]
    (alarm,) = change_alarms(changed, reference, plan, FOREVER)
    assert alarm.metric == "success" and 2000 < alarm.at < 2400 and "when promoted" in str(alarm)


def test_false_alarms_are_rare(plan) -> None:
    """At an average run length of 1 / alpha, 10,000 units have at most 4 x 10,000 x alpha = 0.4 alarms on average."""
    reference = {"success": 0.2, "human_override": 0.05, "tool_error": 0.05, "missing_label": 0.0}
    alarms = sum(bool(change_alarms(traffic(500, seed=seed), reference, plan, FOREVER)) for seed in range(20))
    assert ALPHA == 1e-5 and alarms <= 1


def test_an_alarm_opens_one_incident_and_moves_nothing(store, release, plan, owners) -> None:
    controller = begun(store, release, plan, owners)
    for now in (5e4, 1e5, 1.5e5):
        controller.tick(plan, traffic(12_000), now)
    version = controller.table().version
    moved = 2e5
    later = [
        replace(
            s,
            arm="canary",
            assigned_at=s.assigned_at + moved,
            labels=tuple(replace(label, received_at=label.received_at + moved) for label in s.labels),
        )
        for s in traffic(3000, seed=5, base=0.5)
    ]
    for _ in range(2):
        (alarm,) = controller.watch(plan, later, FOREVER)
    (entry,) = store.acts("incident_opened")
    assert entry.reason == str(alarm) and entry.detail["release"] == release.release_id
    assert controller.table().version == version


def test_shadowed_sessions_are_compared_in_pairs() -> None:
    def answer(*tools: str, seconds: float = 2.0, ended: bool = True) -> ShadowAnswer:
        return ShadowAnswer(tools, seconds, ended)

    same = [ShadowPair(f"u{i}", answer("find", "refund"), answer("find", seconds=3.0)) for i in range(8)]
    other = [ShadowPair("v", answer("find"), answer("refund")), ShadowPair("w", answer(), answer(ended=False))]
    found = compare_shadow([*same, *other])
    assert found.agreement.value == 0.8 and found.agreement.n == 10
    assert found.tool_calls.value == pytest.approx(-8 / 9), "a session that did not end says nothing of speed and tools"
    assert found.latency.value == pytest.approx(8.0 / 18.0)
    failed = compare_shadow([other[1], other[1]])
    assert failed.agreement.value == 0.0 and failed.tool_calls is failed.latency is None
    one_user = compare_shadow([replace(pair, key="u") for pair in same])
    assert one_user.agreement.low < found.agreement.low and one_user.agreement.clusters == 1
    with pytest.raises(ReleaseError, match="at least 2"):
        compare_shadow(same[:1])
    with pytest.raises(ReleaseError, match="duration is not above 0"):
        compare_shadow([*same, ShadowPair("x", answer(), answer(seconds=0.0))])
