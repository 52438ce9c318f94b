"""What a running gateway served under a release becomes the sessions that a look judges, without a file in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flyball.cli.main import invoke
from flyball.gateway.release_sessions import release_sessions
from flyball.release.canary.units import Label
from flyball.release.controller import Controller
from flyball.store.store import Store
from tests.gateway.servers import Mock, go, ingested, json_answer, running, text_answer
from tests.gateway.test_router import TABLE
from tests.release.canary.conftest import traffic
from tests.release.conftest import begun, owners, plan, release, store
from tests.store.served import call, names, report, session, spooled

__all__ = ["owners", "plan", "release", "store"]


def request(call_id: str, name: str, **given: Any) -> dict[str, Any]:
    drawn = {"reason": "split", "in_experiment": True, "unit": {"level": "session", "key": None}}
    return {**names(call_id, name), **drawn, **given}


def of(frames: list[Any], folder: Path, **state: Any) -> list[Any]:
    """The sessions of release r1 after these frames."""
    spooled(folder / "store" / "spool" / "a", *frames)
    with Store(folder / "store") as opened:
        opened.ingest(folder / "store" / "spool" / "a")
        return release_sessions(opened, replace(TABLE, candidate="v2", **state))


def test_a_session_is_what_its_calls_and_reports_say(tmp_path: Path) -> None:
    frames = [
        ("request", request("c1", "s1", at=100.0)),
        ("call", call("c1", "s1", at=100.0, seconds=2.0, cost_usd=0.01)),
        ("request", request("c2", "s1", at=110.0)),
        ("call", call("c2", "s1", at=110.0, seconds=3.0, cost_usd=0.02, checks=[{"kind": "tool"}])),
        ("session", session("c1", "s1", at=100.0, duration_ms=13_000.0)),
        ("feedback", report("r1", "s1", at=120.0, outcome=False)),
        ("feedback", report("r2", "s1", at=130.0, outcome=True)),
        ("feedback", report("r3", "s1", at=90.0, override={"kind": "approve"})),
    ]
    (found,) = of(frames, tmp_path)
    assert (found.session_id, found.key, found.arm) == ("shop~s1", "shop~s1", "canary")
    assert (found.assigned_at, found.ended_at, found.seconds) == (100.0, 113.0, 5.0)
    assert found.cost_usd == pytest.approx(0.03) and found.tool_error and not found.override
    assert found.labels == (Label(False, 120.0), Label(True, 130.0)) and not found.unsafe


def test_a_session_that_nobody_saw_end_is_there_and_waits(tmp_path: Path) -> None:
    """Its gateway died while the upstream was asked; another went on after it had been silent."""
    frames = [
        ("request", request("c1", "died", at=100.0)),
        ("request", request("c2", "again", at=100.0)),
        ("call", call("c2", "again", at=100.0, seconds=1.0)),
        ("session", session("c2", "again", at=100.0, duration_ms=1000.0)),
        ("request", request("c3", "again", at=500.0)),
        ("call", call("c3", "again", at=500.0, seconds=1.0)),
    ]
    died, again = of(frames, tmp_path)
    assert (died.ended_at, died.seconds, died.labels) == (None, 0.0, ())
    assert (again.ended_at, again.seconds) == (None, 2.0)


def test_what_was_not_drawn_is_no_evidence(tmp_path: Path) -> None:
    frames = [
        ("request", request("c1", "pinned", in_experiment=False, reason="pin")),
        ("request", request("c2", "stable", arm="stable", in_experiment=False)),
        ("request", request("c3", "shadow", arm="shadow")),
        ("request", request("c4", "older", release_id="r0")),
        ("request", request("c5", "drawn", arm="holdback")),
    ]
    (found,) = of(frames, tmp_path)
    assert (found.session_id, found.arm) == ("shop~drawn", "holdback")


def test_after_the_promotion_those_who_began_on_it_count(tmp_path: Path) -> None:
    """Whoever began before and goes on was judged in the canary, or began on the version before; a worker that was
    late with the table served by the one before."""
    later = {"arm": "stable", "in_experiment": False, "table": 4}
    frames = [
        ("request", request("c1", "canary", at=10.0)),
        ("request", request("c2", "canary", at=30.0)),
        ("request", request("c3", "before", at=30.0, reason="session", **later)),
        ("request", request("c4", "before", at=10.0, **{**later, "table": 2})),
        ("request", request("c5", "since", at=30.0, **later)),
        ("request", request("c6", "since", at=40.0, **{**later, "reason": "session", "version": "fallback"})),
        ("call", call("c6", "since", at=40.0, arm="stable", cost_usd=0.5)),
        ("request", request("c7", "holdback", at=30.0, arm="holdback", version="v1")),
        ("request", request("c8", "pinned", at=30.0, **{**later, "reason": "pin"})),
        ("request", request("c9", "late", at=30.0, **{**later, "table": 3, "version": "v1"})),
    ]
    (found,) = of(frames, tmp_path, stage="general", share=0.0, since=20.0, version=4)
    assert (found.session_id, found.arm, found.assigned_at, found.cost_usd) == ("shop~since", "canary", 30.0, 0.5)


def test_calls_are_put_in_the_order_of_time(tmp_path: Path) -> None:
    """A session began at one worker and went on at another, whose spool was read first."""
    frames = [
        ("request", request("c2", "s1", at=200.0, unit={"level": "user", "key": "ben"})),
        ("session", session("c2", "s1", at=200.0, duration_ms=1000.0)),
        ("request", request("c1", "s1", at=100.0, unit={"level": "user", "key": "ann"})),
        ("session", session("c1", "s1", at=100.0, duration_ms=1000.0)),
        ("feedback", report("r1", "s1", at=150.0, outcome=False)),
    ]
    (found,) = of(frames, tmp_path)
    assert (found.assigned_at, found.key, found.labels) == (100.0, "ann", (Label(False, 150.0),))
    assert found.ended_at == 200.0


def test_what_was_told_under_an_earlier_release_is_not_told_of_this_one(tmp_path: Path) -> None:
    """A session that goes on for long: its old outcome would be the first one in time, its old harm end the canary."""
    frames = [
        ("request", request("c0", "s1", at=10.0, release_id="r0")),
        ("feedback", report("r0", "s1", at=20.0, call_id="c0", outcome=True, harm="critical")),
        ("feedback", report("r1", "s1", at=21.0, call_id="c0", override={"kind": "takeover"})),
        ("request", request("c1", "s1", at=100.0)),
        ("feedback", report("r2", "s1", at=120.0, call_id="c1", outcome=False)),
    ]
    (found,) = of(frames, tmp_path)
    assert found.labels == (Label(False, 120.0),)
    assert not (found.critical or found.unsafe or found.override)


def test_a_user_is_one_unit_under_a_pseudonym(tmp_path: Path) -> None:
    drawn = {"unit": {"level": "user", "key": "u~17"}}
    frames = [("request", request(f"c{i}", f"s{i}", **drawn)) for i in range(2)]
    frames += [("request", request("c2", "s2", project="other", **drawn))]
    assert [one.key for one in of(frames, tmp_path)] == ["u~17"] * 3, "drawn by the user alone, whatever the project"


def test_harm_is_reported_and_no_outcome_precedes_its_session(tmp_path: Path) -> None:
    frames = [
        ("request", request("c1", "s1", at=100.0)),
        ("feedback", report("r1", "s1", at=99.9, outcome=True)),
        ("request", request("c2", "s2", at=100.0)),
        ("feedback", report("r2", "s2", harm="unsafe")),
        ("request", request("c3", "s3", at=100.0)),
        ("feedback", report("r3", "s3", harm="critical")),
    ]
    first, unsafe, critical = of(frames, tmp_path)
    assert first.labels == (Label(True, 100.0),)
    assert (unsafe.unsafe, unsafe.critical, critical.unsafe, critical.critical) == (True, False, True, True)


def test_a_real_gateway_writes_what_is_read(tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(20)]

    async def drive() -> None:
        mocks = {version: Mock(lambda asked, v=version: json_answer(text_answer(v))) for version in ("old", "new")}
        async with running(tmp_path, mocks, table=lambda: TABLE) as gateway:
            for name in names:
                found = await gateway.chat("hi", path=f"/s/{name}/v1/chat/completions")
                is_new = found.json()["choices"][0]["message"]["content"] == "new"
                told = {"receipt": found.headers["x-flyball-receipt"], "report_id": name, "outcome": not is_new}
                told |= {"harm": "critical"} if is_new else {}
                assert (await gateway.http.post("/v1/flyball/report", json=told)).status_code == 202

    go(drive)
    with ingested(tmp_path) as opened:
        found = release_sessions(opened, TABLE)
    assert {one.session_id: one.arm for one in found} == {f"shop~{name}": TABLE.arm(f"shop~{name}") for name in names}
    assert all(one.critical == (one.arm == "canary") and one.ended_at is not None for one in found)
    assert {(one.arm, one.labels[0].success) for one in found} == {("canary", False), ("holdback", True)}


def test_a_look_without_a_file_judges_what_was_served(store, release, plan, owners, capsys) -> None:
    """400 sessions that the store has, and the same in a file, end in the same verdict."""
    begun(store, release, plan, owners)
    frames: list[Any] = []
    for one in traffic(400):
        about = {"arm": one.arm, "release_id": release.release_id, "at": one.assigned_at}
        frames += [
            ("request", request(f"c-{one.session_id}", one.session_id, **about)),
            ("call", call(f"c-{one.session_id}", one.session_id, cost_usd=one.cost_usd, seconds=one.seconds, **about)),
            ("session", session(f"c-{one.session_id}", one.session_id, duration_ms=1e3 * one.seconds, **about)),
            *(
                ("feedback", report(f"r-{one.session_id}", one.session_id, outcome=each.success, at=each.received_at))
                for each in one.labels[:1]
            ),
        ]
    spooled(store.root / "spool" / "a", *frames)
    assert invoke(["release", "tick", "--now", "50000", "--home", str(store.root)]) == 0
    found = capsys.readouterr().out
    assert "move:    advance" in found
    assert Controller(store).table().share == 0.25
