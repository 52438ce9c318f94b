"""The decision page: rules end a phase, a stop rule of any phase so far speaks, and what is unknown is not met."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flyball.release.incidents import open_incident
from flyball.reports.decision import Decision, Phase, Rule, decide_on, decision_html
from flyball.store.audit import Act
from flyball.store.store import Store

NOW = 1_772_900_000.0
DAY = 24 * 3600.0


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
    found = decide_on(store, weeks=4, now=NOW)
    assert found.here.name == "validation" and len(found.open) == 2 and not found.stopped
    answers = {answer.question: answer.found for _, answers in found.frame for answer in answers}
    assert answers["days from shadow to everybody"] == "none yet"
    assert answers["cost per success, newest week"] == "no session was served"
    assert "not known" in decision_html(found)


def test_an_open_incident_and_two_failed_gates_stop_what_comes_after_validation(store: Store) -> None:
    open_incident(store, "wrong-refunds", by="bob", reason="refunds to the wrong card", at=NOW - DAY)
    for days in (3, 2):
        store.add_act(Act(action="gate_failed", actor="flyball", at=NOW - days * DAY, subject="r", reason="success"))
    reliability = decide_on(store, weeks=2, now=NOW).phases[1]
    assert [one.text for one in reliability.stopped] == [
        "stop while an incident is open",
        "stop after two failed gates within a week",
    ]
    assert "refunds to the wrong card" in reliability.stopped[0].found
    assert reliability.ends[2].state == "fail" and reliability.ends[2].found == "3 in the last week"
    later = decide_on(store, weeks=2, now=NOW + 21 * DAY).phases[1]
    assert later.ends[2].state == "pass" and [one.text for one in later.stopped] == ["stop while an incident is open"]


def test_words_of_others_are_escaped(store: Store) -> None:
    found = decide_on(store, weeks=1, now=NOW)
    phase = replace(found.phases[0], stops=(Rule("stop", "fail", "<script>alert(1)</script>"),))
    page = decision_html(replace(found, phases=(phase, *found.phases[1:])))
    assert "<script" not in page and "&lt;script&gt;" in page
