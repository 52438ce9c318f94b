"""`flyball reviews weekly` reads what gateways spooled and says whether training goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flyball.store.audit import Act
from flyball.store.store import Store
from tests.store.served import report, session, spooled

DAY = 24 * 3600.0
NOW = 1000 * DAY


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two weeks of 40 sessions: three in four succeed in both, the second costs four times as much."""
    frames: list[tuple[str, dict[str, Any]]] = []
    for i in range(80):
        at, cost = (NOW - 10 * DAY, 0.001) if i < 40 else (NOW - DAY, 0.004)
        name = f"s{i}"
        frames.append(("session", session(f"c{i}", name, at=at + i, cost_usd=cost * (1 + i % 3))))
        override = {"override": {"kind": "edit", "reason": "wrong order"}} if i % 8 == 0 else {}
        intent = {"context": {"intent": "refund" if i % 2 == 0 else "status"}}
        frames.append(("feedback", report(f"r{i}", name, call_id=f"c{i}", outcome=i % 4 != 0, **override, **intent)))
    folder = tmp_path / "home"
    spooled(folder / "spool" / "0", *frames)
    with Store(folder) as store:
        assert store.ingest(folder / "spool" / "0").quarantined == 0
        detail = {"stage": "rolled_back"}
        store.add_act(Act(action="route", actor="f", at=NOW - DAY, subject="r1", reason="harm", detail=detail))
    return folder


def test_a_flat_score_with_rising_cost_exits_3(flyball: Callable[..., Any], home: Path) -> None:
    done = flyball("reviews", "weekly", "--weeks", "2", "--now", str(NOW), "--home", str(home))
    assert done.code == 3, done.err
    assert "training: pause: flat" in done.out and "not confirmed" in done.out
    own = next(line for line in done.out.splitlines() if line.startswith("the agent's own"))
    assert "+$0.00603" in own  # 0.004 x 80/40 - 0.001 x 79/40, and as many refunds as before
    refund, status = (line for line in done.out.splitlines() if line.startswith(("refund", "status")))
    assert "optimistic by default: nothing is budgeted for labelling and relabelling, evaluation" in done.out
    assert refund.endswith("n=20") and "25.0 %" in refund and "0.0 %" in status


def test_a_week_without_sessions_pauses_nothing(flyball: Callable[..., Any], home: Path) -> None:
    done = flyball("reviews", "weekly", "--weeks", "3", "--now", str(NOW), "--home", str(home))
    assert done.code == 0 and "no trend" in done.out


BUDGET = """\
economics: {value_of_success_usd: 1.0, least_margin_usd: 0.1, labelling: 8, evaluation_upkeep: 0, incidents: 0,
  rollout_infrastructure: 0, retries: 0}
"""


def test_the_week_with_its_budget_is_a_page(flyball: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(BUDGET)
    page = tmp_path / "week.html"
    given = ("--weeks", "2", "--now", str(NOW), "--home", str(home), "--workflow", str(tmp_path / "w.yaml"))
    done = flyball("reviews", "weekly", *given, "--html", str(page))
    assert done.code == 3 and "optimistic" not in done.out
    margin = next(line for line in done.out.splitlines() if line.startswith("margin"))
    assert "n=80" in margin and "$0.93" in margin  # 1 - (0.399 + 8 x 14 days of a month) / 60 successes
    text = page.read_text()
    assert "planner steps" in text and "Rollbacks" in text and text.count("<details") == 5
    assert "failure; corrected (edit: wrong order)" in text and "<script" not in text


def test_a_day_is_drawn_by_itself_and_has_one_assumption(
    flyball: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    page, at = tmp_path / "day.html", ("--now", str(NOW - DAY + 3600), "--home", str(home))
    first, second = (flyball("reviews", "daily", *at, "--sample", "3") for _ in range(2))
    assert first.code == 0 and first.out == second.out and "40 sessions in 24 hours, 3 drawn" in first.out
    assert "none yet" in first.out
    say = ("reviews", "assumption", "refunds name their order", "--shown-by", "shop~s42", "--by", "ada")
    assert flyball(*say, *at).code == 0
    again = flyball(*say, *at)
    assert again.code == 4 and "one a day" in again.err and "what was given" in again.err
    done = flyball("reviews", "daily", *at, "--html", str(page))
    assert "refunds name their order (1972-09-26" in done.out and "shown by shop~s42, ada" in page.read_text()
    tomorrow = flyball("reviews", "daily", "--now", str(NOW + 3600), "--home", str(home))
    assert "none yet" in tomorrow.out
    week = flyball("reviews", "weekly", "--now", str(NOW), "--home", str(home))
    assert "1 in 7 days; refunds name their order" in week.out


def test_the_worst_of_the_week_come_first(flyball: Callable[..., Any], home: Path) -> None:
    done = flyball("reviews", "failures", "--now", str(NOW), "--home", str(home))
    told = [line for line in done.out.splitlines() if ", session " in line]
    assert done.code == 0 and len(told) == 5
    assert all(int(line.rsplit("~s", 1)[1]) % 8 == 0 for line in told), "failed and corrected"
    assert "what was said is not kept" in done.out
    empty = flyball("reviews", "failures", "--now", str(NOW + 30 * DAY), "--home", str(home))
    assert empty.code == 0 and "nothing went wrong" in empty.out
