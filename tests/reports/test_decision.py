"""The decision page: rules end a phase, a stop rule of any phase so far speaks, and what is unknown is not met."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flyball.config import EconomicsSettings
from flyball.release.incidents import open_incident
from flyball.reports.decision import Decision, Phase, decide_on, decision_html
from flyball.reports.expansion import Rule
from flyball.store.audit import Act
from flyball.store.store import Store
from tests.store.served import report, session, spooled

NOW = 1_772_900_000.0
DAY = 24 * 3600.0
NOTHING_SAID = EconomicsSettings()


def rule(text: str, state: str) -> Rule:
    return Rule(text, state, "seen")


def decision(*phases: tuple[str, str]) -> Decision:
    """Phases by the state of what ends them and of their stop rule."""
    names = ("validation", "reliability", "expansion")
    made = [
        Phase(name, "?", (rule(f"{name} ends", ends),) if name != "expansion" else (), (rule(f"{name} stops", stops),))
        for name, (ends, stops) in zip(names, phases, strict=True)
    ]
    return Decision("2026-03-07", 4, (), tuple(made))


@pytest.mark.parametrize(
    ("phases", "here", "stopped"),
    [
        ((("fail", "pass"), ("pass", "fail"), ("", "fail")), "validation", []),
        ((("not_evaluable", "fail"), ("pass", "pass"), ("", "pass")), "validation", ["validation stops"]),
        ((("pass", "fail"), ("fail", "pass"), ("", "fail")), "reliability", ["validation stops"]),
        ((("pass", "pass"), ("pass", "fail"), ("", "fail")), "expansion", ["reliability stops", "expansion stops"]),
        ((("pass", "not_evaluable"), ("pass", "pass"), ("", "pass")), "expansion", []),
    ],
)
def test_where_we_are_and_what_stops_us(phases, here: str, stopped: list[str]) -> None:
    found = decision(*phases)
    assert found.here.name == here and [one.text for one in found.stopped] == stopped
    page = decision_html(found)
    assert f"Phase: {here}" in page and ("Stopped" in page) == bool(stopped) and page.count("we are here") == 1


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path) as found:
        yield found


def test_an_empty_store_is_at_the_beginning_and_knows_nothing(store: Store) -> None:
    found = decide_on(store, weeks=4, now=NOW, budget=NOTHING_SAID)
    assert found.here.name == "validation" and len(found.open) == 2 and not found.stopped
    answers = {answer.question: answer.found for _, answers in found.frame for answer in answers}
    assert answers["days from shadow to everybody"] == "none yet"
    assert answers["cost per success, newest week"] == "no session was served"
    assert "not known" in decision_html(found)


def test_an_open_incident_and_two_failed_gates_stop_what_comes_after_validation(store: Store) -> None:
    open_incident(store, "wrong-refunds", by="bob", reason="refunds to the wrong card", at=NOW - DAY)
    for days in (3, 2):
        store.add_act(Act(action="gate_failed", actor="flyball", at=NOW - days * DAY, subject="r", reason="success"))
    reliability = decide_on(store, weeks=2, now=NOW, budget=NOTHING_SAID).phases[1]
    assert [one.text for one in reliability.stopped] == [
        "stop while an incident is open",
        "stop after two failed gates within a week",
    ]
    assert "refunds to the wrong card" in reliability.stopped[0].found
    assert reliability.ends[2].state == "fail" and reliability.ends[2].found == "3 in that week"
    later = decide_on(store, weeks=2, now=NOW + 21 * DAY, budget=NOTHING_SAID).phases[1]
    assert later.ends[2].state == "pass" and [one.text for one in later.stopped] == ["stop while an incident is open"]


FULL = {"labelling": 0, "evaluation_upkeep": 0, "incidents": 0, "rollout_infrastructure": 0, "retries": 0}


def served(store: Store, folder: Path) -> Store:
    """60 sessions of last week at $0.5, two in three a success, so $0.75 each."""
    frames = []
    for i in range(60):
        frames.append(("session", session(f"c{i}", f"s{i}", at=NOW - DAY, cost_usd=0.5)))
        frames.append(("feedback", report(f"r{i}", f"s{i}", call_id=f"c{i}", outcome=i % 3 != 0)))
    assert store.ingest(spooled(folder, *frames)).quarantined == 0
    return store


@pytest.mark.parametrize(
    ("given", "margin", "budget", "shown"),
    [
        ({}, "not_evaluable", "not_evaluable", "not said"),
        ({"value_of_success_usd": 2.0, "least_margin_usd": 0.5, **FULL}, "pass", "pass", "$2"),
        ({"value_of_success_usd": 2.0, "least_margin_usd": 1.2, **FULL}, "fail", "pass", "$2"),
        ({"value_of_success_usd": 2.0, **FULL}, "not_evaluable", "pass", "$2"),
        ({"value_of_success_usd": 2.0, "least_margin_usd": 0.5}, "pass", "fail", "$2"),
    ],
)
def test_the_margin_rule_and_an_empty_budget_stop_expansion(
    store: Store, tmp_path: Path, given: dict[str, float], margin: str, budget: str, shown: str
) -> None:
    """The margin is 2 - 0.75 = 1.25 with an interval that reaches below 1.2."""
    found = decide_on(served(store, tmp_path / "spool"), weeks=1, now=NOW, budget=EconomicsSettings(**given))
    assert len(found.phases[2].stops) == 6
    about_margin, about_budget, *_ = found.phases[2].stops
    assert (about_margin.state, about_budget.state) == (margin, budget)
    answers = {answer.question: answer.found for answer in found.frame[0][1]}
    assert shown in answers["value of a success"]
    assert "$0.750" in answers["cost per success with its budget"]
    if "value_of_success_usd" in given:
        assert "$1.25" in answers["margin per success"] and "n=60" in answers["margin per success"]
    assert answers["lines of the budget that are empty"] == ("0 of 5" if budget == "pass" else "5 of 5")


def test_what_stops_reliability_stops_expansion_and_is_said_once(store: Store) -> None:
    open_incident(store, "wrong-refunds", by="bob", reason="refunds to the wrong card", at=NOW - DAY)
    found = decide_on(store, weeks=1, now=NOW, budget=NOTHING_SAID)
    assert found.phases[1].stopped == found.phases[2].stopped == (found.phases[1].stops[0],)
    done = tuple(replace(phase, ends=tuple(replace(one, state="pass") for one in phase.ends)) for phase in found.phases)
    assert replace(found, phases=done).here.name == "expansion" and len(replace(found, phases=done).stopped) == 1


def test_words_of_others_are_escaped(store: Store) -> None:
    found = decide_on(store, weeks=1, now=NOW, budget=NOTHING_SAID)
    phase = replace(found.phases[0], stops=(Rule("stop", "fail", "<script>alert(1)</script>"),))
    page = decision_html(replace(found, phases=(phase, *found.phases[1:])))
    assert "<script" not in page and "&lt;script&gt;" in page
