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
    assert refund.endswith("n=20") and "25.0 %" in refund and "0.0 %" in status


def test_a_week_without_sessions_pauses_nothing(flyball: Callable[..., Any], home: Path) -> None:
    done = flyball("reviews", "weekly", "--weeks", "3", "--now", str(NOW), "--home", str(home))
    assert done.code == 0 and "no trend" in done.out
