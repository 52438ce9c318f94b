"""The verdict says what the results say, and never more than `ready for shadow`."""

from __future__ import annotations

import itertools

import pytest

from flyball.release.evidence import Evidence
from flyball.release.gates import DEFAULT_GATES, gates
from flyball.release.verdict import READY, is_ready, judge_release, verdict
from flyball.types import GateResult

STATES = ("pass", "fail", "inconclusive", "not_evaluable")


def results(**states: str) -> list[GateResult]:
    """Results of the default gates, all passing but for `states`; the online gates as they are offline."""
    return [
        GateResult(one.name, states.get(one.name, "pass" if one.phase == "offline" else "not_evaluable"), "ML", "", "")
        for one in gates()
    ]


def test_ready_when_every_offline_gate_passes_though_online_gates_are_unknown():
    assert verdict(results()) == READY == "ready for shadow"


@pytest.mark.parametrize(("name", "state"), list(itertools.product(DEFAULT_GATES, STATES[1:])))
def test_any_offline_gate_can_block(name, state):
    words = verdict(results(**{name: state}))
    assert words.startswith(f"not ready: {name} ") and not is_ready(words)


def test_all_that_blocks_is_named():
    words = verdict(results(missing_rate="fail", success_improves="inconclusive"))
    assert words == "not ready: success_improves is inconclusive, missing_rate fails"


def test_results_without_the_safety_gate_are_not_ready():
    left = [result for result in results() if result.name != "no_safety_regression"]
    assert verdict(left) == "not ready: no_safety_regression was not asked"
    assert verdict([]) == "not ready: no_safety_regression was not asked"


def test_no_evidence_is_a_release_that_is_not_ready_and_the_same_each_time():
    release = judge_release(Evidence())
    assert release.stage == "offline" and not is_ready(release.verdict)
    assert len(release.gates) == len(gates())
    assert release == judge_release(Evidence())
    assert release.release_id != judge_release(Evidence(), ["no_safety_regression"]).release_id
