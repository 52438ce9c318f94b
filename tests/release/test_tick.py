"""`flyball release tick` with what the store knows: lost records, distance, graded quality; and after the promotion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from flyball.cli.main import invoke
from flyball.errors import StoreError
from flyball.gateway.release_facts import release_facts, telemetry_since
from flyball.release.controller import Controller
from flyball.release.incidents import incidents
from flyball.release.live import Counted
from flyball.store.ingest import Reconciliation
from flyball.store.spool import Spool
from tests.release.canary.conftest import traffic
from tests.release.conftest import begun
from tests.store.served import names, report, session, spooled

N = 40


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters are read at 10,000 s, on the clock of the release."""
    monkeypatch.setattr("flyball.store.ingest.now", lambda: "1970-01-01T02:46:40.000+00:00")


@pytest.fixture
def said(store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def tick(sessions: list[Any], now: float, *more: str, code: int = 0) -> str:
        file = tmp_path / "sessions.jsonl"
        file.write_bytes(b"\n".join(orjson.dumps(asdict(one)) for one in sessions))
        arguments = ["release", "tick", str(file), "--now", str(now), "--home", str(store.root), *more]
        assert invoke(arguments) == code
        found = capsys.readouterr()
        return found.out + found.err

    return tick


def served(store, release, *, k3: float = 1.0, drop: float = 0.0, n: int = N, lost: int = 0) -> None:
    """n sessions of each arm in spools of their own, graded and (the canary's) scored again over 100 tokens each."""
    for arm, score in (("canary", 0.9 - drop), ("holdback", 0.9)):
        frames: list[Any] = []
        for i in range(n):
            name, wobble = f"{arm}{i}", i % 5 / 50
            about = {"arm": arm, "release_id": release.release_id, "at": 1000.0 + i}
            call_id = f"c{arm}{i}-{release.release_id[:4]}"
            frames.append(("session", session(call_id, name, **about)))
            frames.append(("request", names(call_id, name, **about, reason="split", in_experiment=True)))
            graded = {"by": "grader", "grader": "g1", "score": score - wobble}
            frames.append(("feedback", report(f"g-{name}", name, **graded)))
            far = {"by": "rescoring", "reference": "ref", "k3": k3 * (1 + wobble), "tokens": 100}
            frames.append(("feedback", report(f"k-{name}", name, **far)))
        spooled(store.root / "spool" / arm, *frames, arm=arm)  # type: ignore[arg-type]
        if lost:
            full_spool(store.root / "spool" / f"{arm}-full", frames[0][1], lost)


def full_spool(folder: Path, frame: dict[str, Any], lost: int) -> None:
    """A spool that waits for its disk: it accepts one frame and loses the next ones."""
    data = orjson.dumps(frame)
    with Spool(folder, group_seconds=0.5, max_pending_bytes=2 * len(data)) as spool:
        spool.append("session", data, arm=frame["arm"])
        for _ in range(lost):
            with pytest.raises(StoreError, match="is lost"):
                spool.append("session", data, arm=frame["arm"])


def test_good_facts_are_read_from_the_store_and_hold_nothing(store, release, plan, owners, said) -> None:
    begun(store, release, plan, owners)
    served(store, release)
    found = said(traffic(12_000), 5e4)
    assert "pass           policy_kl_drift (ML): 0.0104 nats/token, at most 0.01" in found
    assert "pass           task_completion_quality (Product): +0.0 points" in found
    assert "telemetry_loss (Platform): canary: 0 %" in found
    assert "40 of 40 canary sessions scored again; graded: 40 of 40 canary, 40 of 40 holdback" in found
    assert "move:    advance" in found


@pytest.mark.parametrize(
    ("harm", "gate"),
    [({"k3": 9.0}, "policy_kl_drift"), ({"drop": 0.2}, "task_completion_quality"), ({"lost": 60}, "telemetry_loss")],
)
def test_a_fact_of_the_store_that_fails_its_gate_holds(store, release, plan, owners, said, harm, gate) -> None:
    begun(store, release, plan, owners)
    served(store, release, **harm)
    found = said(traffic(12_000), 5e4)
    assert f"fail           {gate}" in found and f"move:    hold: held by {gate}" in found
    assert Controller(store).table().share == plan.stages[0]


def test_a_fact_that_fails_holds_the_owners_promotion_too(store, release, plan, owners, said, tmp_path, capsys) -> None:
    controller = begun(store, release, replace(plan, promote_by_plan=False), owners)
    for now in (5e4, 1e5):
        controller.tick(replace(plan, promote_by_plan=False), traffic(12_000), now)
    served(store, release, drop=0.2)
    said(traffic(12_000), 2e5)  # writes the file, and is held itself
    home = ["--now", "200000", "--home", str(store.root)]
    assert invoke(["release", "promote", str(tmp_path / "sessions.jsonl"), "--by", "ada", *home]) == 4
    assert "promotion is held: task_completion_quality" in capsys.readouterr().err
    assert controller.table().stage == "canary" and controller.table().share == plan.stages[-1]


def test_few_sessions_and_those_of_another_release_say_nothing(store, release, plan, owners, said) -> None:
    begun(store, release, plan, owners)
    served(store, release, n=29)
    served(store, replace(release, release_id="another"), n=1)
    found = said(traffic(12_000), 5e4)
    assert "not_evaluable  policy_kl_drift (ML): fewer than 30" in found
    assert "not_evaluable  task_completion_quality (Product): fewer than 30" in found
    assert "29 of 29 canary" in found
    assert "no version 'nothing'" in said(traffic(100), 5e4, "--reference", "nothing", code=4)


def test_a_spool_that_cannot_be_read_stops_no_rollback(store, release, plan, owners, said) -> None:
    begun(store, release, plan, owners)
    served(store, release)
    (store.root / "spool" / "broken").mkdir()
    found = said(traffic(4_000, drop=0.4), 5e4, code=1)
    assert "not everything that was spooled could be read" in found and "move:    go_back" in found


def test_grades_of_different_graders_are_not_compared(store, release, plan, owners) -> None:
    """The holdback was graded by older graders: nothing is said, instead of a difference that is the graders'."""
    controller = begun(store, release, plan, owners)
    served(store, release)
    for arm in ("canary", "holdback"):
        store.ingest(store.root / "spool" / arm)
    table = controller.table()
    known = release_facts(store, table, since=0.0, now=5e4)
    assert known.quality.value == pytest.approx(0.0) and known.quality.n == 2 * N
    more = [("feedback", report(f"n{i}", f"canary{i}", score=1.0, by="grader", grader="g2")) for i in range(N)]
    store.ingest(spooled(store.root / "spool" / "more", *more))
    newest = release_facts(store, table, since=0.0, now=5e4)
    assert newest.quality is None and newest.graded == {"canary": Counted(N, N), "holdback": Counted(0, N)}
    assert release_facts(store, table, since=0.0, now=5e4, reference="other").kl is None
    assert release_facts(store, table, since=0.0, now=1.0).telemetry == {}


def test_a_session_counts_once_and_a_pinned_one_never(store, release, plan, owners) -> None:
    """One of two workers fell back, so two versions served parts of one session; an operator tried the candidate."""
    controller = begun(store, release, plan, owners)
    served(store, release)
    about = {"arm": "canary", "release_id": release.release_id, "at": 1500.0}
    parts = [
        ("session", session("part", "canary0", version="v1", **about)),
        ("request", names("part", "canary0", version="v1", **about, reason="split", in_experiment=True)),
        ("session", session("pinned", "pinned", **about)),
        ("request", names("pinned", "pinned", **about, reason="pin", in_experiment=False)),
        ("feedback", report("g-pinned", "pinned", score=0.0, by="grader", grader="g1")),
    ]
    spooled(store.root / "spool" / "parts", *parts)  # type: ignore[arg-type]
    for folder in ("canary", "holdback", "parts"):
        store.ingest(store.root / "spool" / folder)
    known = release_facts(store, controller.table(), since=0.0, now=5e4)
    assert known.scored == Counted(N, N) and known.graded == {"canary": Counted(N, N), "holdback": Counted(N, N)}
    assert known.quality.value == pytest.approx(0.0) and known.quality.n == 2 * N


def test_counters_from_before_the_canary_are_taken_off() -> None:
    """100 of 100 before; of the 50 after it 45 arrived, 3 are declared lost and 2 are gone."""

    def told(at: int, accepted: int, declared: int, found: int, **given: Any) -> Reconciliation:
        row = {"spool": "s", "life": 1, "kind": "call", "arm": "canary", **given}
        return Reconciliation(**row, accepted=accepted, declared=declared, found=found, at=f"1970-01-01T00:00:{at}Z")

    rows = [told(10, 100, 0, 100), told(20, 130, 0, 129), told(30, 150, 3, 145)]
    rows += [told(30, 7, 0, 7, arm="stable"), told(40, 900, 0, 900), told(30, 10, 0, 10, life=4)]
    assert telemetry_since(rows, since=15.0, now=35.0) == {"canary": Counted(55, 60)}
    assert telemetry_since(rows, since=41.0, now=50.0) == {}


# --- after the promotion ----------------------------------------------------------------------------------------------


@pytest.fixture
def promoted(store, release, plan, owners) -> Iterator[Controller]:
    controller = begun(store, release, plan, owners)
    for now in (5e4, 1e5, 1.5e5):
        controller.tick(plan, traffic(12_000), now)
    assert controller.table().stage == "general"
    return controller


def later(n: int, **given: Any) -> list[Any]:
    """Sessions of everybody, from 2e5 s on."""
    moved = 2e5
    return [
        replace(
            one,
            session_id=f"later-{one.session_id}",
            key=f"later-{one.key}",
            arm="canary",
            assigned_at=one.assigned_at + moved,
            ended_at=one.ended_at + moved,
            labels=tuple(replace(label, received_at=label.received_at + moved) for label in one.labels),
        )
        for one in traffic(n, **given)
    ]


def test_after_the_promotion_a_tick_looks_for_change(store, plan, promoted, said) -> None:
    quiet = said([*traffic(2000), *later(1000, seed=5)], 3e5)
    assert "watch:   1000 sessions since the promotion, 0 alarms of success, human_override" in quiet
    assert "general" in quiet and incidents(store) == []
    found = said(later(3000, seed=5, base=0.5), 3e5, code=3)
    assert "alarm:   success: " in found and "when promoted" in found and "is open" in found
    (opened,) = incidents(store)
    assert opened.source == "alarm" and opened.name in found
    assert promoted.table().stage == "general", "an alarm moves nothing"
    said(later(3000, seed=5, base=0.5), 3e5, code=3)
    assert len(incidents(store)) == 1


def test_sessions_from_before_the_promotion_raise_no_alarm(store, plan, promoted) -> None:
    assert promoted.watch(plan, traffic(3000, base=0.2), 1e12) == ()


def test_a_tick_needs_a_canary_or_everybody(store, release, plan, owners, said) -> None:
    assert "no release was launched yet" in said(traffic(10), 5e4, code=4)
    controller = begun(store, release, plan, owners)
    controller.roll_back(by="ada", reason="a complaint", now=10.0)
    assert "it is at stage rolled_back" in said(traffic(10), 5e4, code=4)
