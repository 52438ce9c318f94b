"""`flyball workflow clone`: an adjacent workflow starts from one that pays and stands still, and from no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flyball.config import read_settings
from flyball.release.incidents import open_incident
from flyball.reports.decision import decide_on
from flyball.store.audit import Act
from flyball.store.store import Store
from flyball.workflow.clone import may_expand
from tests.store.served import report, session, spooled

DAY = 24 * 3600.0
NOW = 1000 * DAY
FILE = """\
# what pays for it
name: refunds
monitoring: [tool_error_rate]
economics:
  value_of_success_usd: 2.0
  least_margin_usd: 1.0
  labelling: 30
  evaluation_upkeep: 10
  incidents: 0
  rollout_infrastructure: 20
  retries: 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four weeks of 100 sessions at about 0.002 dollars, four in five succeed; their budget is 55 dollars."""
    frames: list[tuple[str, dict[str, Any]]] = []
    for i in range(400):
        at = NOW - (27.9 - 7 * (i // 100)) * DAY
        frames.append(("session", session(f"c{i}", f"s{i}", at=at + i, cost_usd=0.001 * (1 + i % 3))))
        frames.append(("feedback", report(f"r{i}", f"s{i}", call_id=f"c{i}", outcome=i % 5 != 0)))
    spool = spooled(tmp_path / "home" / "spool" / "0", *frames)
    with Store(tmp_path / "home") as store:
        assert store.ingest(spool).quarantined == 0
    (tmp_path / "refunds.yaml").write_text(FILE)
    return tmp_path


def clone(flyball: Callable[..., Any], folder: Path, *more: str, source: str = "refunds.yaml") -> Any:
    target, home = str(folder / "returns.yaml"), str(folder / "home")
    return flyball(
        "workflow", "clone", str(folder / source), target, "--name", "returns", "--now", str(NOW), "--home", home, *more
    )


def test_one_that_pays_is_copied(flyball: Callable[..., Any], folder: Path) -> None:
    done = clone(flyball, folder)
    assert done.code == 0, done.err
    assert "margin" in done.out and "n=400" in done.out
    text = (folder / "returns.yaml").read_text()
    assert text == FILE.replace("name: refunds", 'name: "returns"')
    assert read_settings(folder / "returns.yaml")[0].name == "returns"
    again = clone(flyball, folder)
    assert again.code == 4 and "name a new file" in again.err and (folder / "returns.yaml").read_text() == text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("value_of_success_usd: 2.0", "value_of_success_usd: 1.1"),
            "the margin per success is above $1: $",
        ),
        (("  retries: 0\n", ""), "optimistic by default: nothing is budgeted for retries"),
        (("  least_margin_usd: 1.0\n", ""), "economics.least_margin_usd are needed"),
        (("retries: 0", "retries: -1"), "economics.retries"),
    ],
)
def test_a_file_that_does_not_pay_is_refused(
    flyball: Callable[..., Any], folder: Path, change: tuple[str, str], says: str
) -> None:
    assert change[0] in FILE
    (folder / "refunds.yaml").write_text(FILE.replace(*change))
    done = clone(flyball, folder)
    assert done.code == 4 and says in done.err and "what was given" in done.err
    assert not (folder / "returns.yaml").exists()


def test_a_standing_that_is_not_stable_is_refused(flyball: Callable[..., Any], folder: Path) -> None:
    with Store(folder / "home") as store:
        open_incident(store, "i1", by="bob", reason="wrong refunds", at=NOW - DAY)
        detail = {"stage": "rolled_back"}
        store.add_act(Act(action="route", actor="f", at=NOW - DAY, subject="r1", reason="harm", detail=detail))
    done = clone(flyball, folder)
    assert done.code == 4 and "incident i1 is open" in done.err and "r1 was rolled back: harm" in done.err


def acted(store: Store, action: str, days: float, **detail: Any) -> None:
    store.add_act(Act(action=action, actor="f", at=NOW - days * DAY, subject="r1", reason="harm", detail=detail))


def two_gates_fail(store: Store) -> None:
    acted(store, "gate_failed", 3)
    acted(store, "gate_failed", 2)


STANDINGS: dict[str, Callable[[Store], None]] = {
    "stop while an incident is open": lambda store: open_incident(store, "i", by="b", reason="harm", at=NOW - 60 * DAY),
    "stop after two failed gates within a week": two_gates_fail,
    "stop when a release was taken back in these weeks": lambda store: acted(store, "route", 28, stage="rolled_back"),
}
MARGIN = "stop unless the whole interval of the margin per success is above $1"
FILES = {
    MARGIN: FILE.replace("usd: 2.0", "usd: 1.1"),
    "stop while a line of the budget is empty": FILE.replace("  retries: 0\n", ""),
}


@pytest.mark.parametrize("rule", ["", *STANDINGS, *FILES])
def test_what_the_decision_page_stops_is_not_cloned_and_for_the_same_reason(folder: Path, rule: str) -> None:
    source = folder / "refunds.yaml"
    source.write_text(FILES.get(rule, FILE))
    with Store(folder / "home") as store:
        STANDINGS.get(rule, lambda store: None)(store)
        against = may_expand(store, source, weeks=4, now=NOW).against
        page = decide_on(store, weeks=4, now=NOW, budget=read_settings(source)[0].economics).phases[2]
    assert [one.text for one in page.stopped] == ([rule] if rule else [])
    assert against == tuple(f"{one.text}: {one.found}" for one in page.stopped)
    assert all(one.state == "pass" for one in page.stops if one not in page.stopped)


def test_names_and_folders(flyball: Callable[..., Any], folder: Path) -> None:
    (folder / "returns").mkdir()
    home = ("--now", str(NOW), "--home", str(folder / "home"))
    source = str(folder / "refunds.yaml")
    elsewhere = flyball("workflow", "clone", source, str(folder / "returns" / "w.yaml"), "--name", "returns", *home)
    assert elsewhere.code == 4 and "another folder" in elsewhere.err
    same = flyball("workflow", "clone", source, str(folder / "w.yaml"), "--name", "refunds", *home)
    assert same.code == 4 and "a name of its own" in same.err
    assert clone(flyball, folder, "--project", "nobody").code == 4
