"""Several workers of one machine: one arm for a session, one budget, one report; and what holds without the file."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.gateway.memory import Memory
from flyball.gateway.router import Router, SessionCut
from flyball.gateway.settings import RoutingSettings
from tests.gateway.servers import Mock, go, json_answer, running, text_answer
from tests.gateway.test_router import AGENT, TABLE, Tables, canary_key

OK = Mock(lambda asked: json_answer(text_answer("ok")))
NARROW, WIDE = replace(TABLE, share=0.05), replace(TABLE, version=2, share=0.5)


def worker(folder: Path, tables: Tables) -> Router:
    made = Router(RoutingSettings(kill_file=str(folder / "KILL")), tables, memory=Memory(folder / "gateway.db"))
    asyncio.run(made.look())
    return made


def moved_by_the_ramp() -> str:
    """A session that the wider table would draw as a canary and the narrower one does not."""
    return next(f"s{i}" for i in range(1000) if NARROW.arm(f"s{i}") != WIDE.arm(f"s{i}") == "canary")


def test_a_session_keeps_its_arm_at_another_worker_and_after_a_restart(tmp_path: Path) -> None:
    session = moved_by_the_ramp()
    assert worker(tmp_path, Tables(NARROW)).assign(AGENT, session, "", "").arm == "stable"
    other = worker(tmp_path, Tables(WIDE)).assign(AGENT, session, "", "")
    assert (other.arm, other.version, other.reason) == ("stable", "old", "session")
    assert worker(tmp_path / "elsewhere", Tables(WIDE)).assign(AGENT, session, "", "").arm == "canary"


@pytest.mark.parametrize("policy", ["finish", "switch", "cut"])
def test_a_release_taken_back_ends_a_session_by_its_policy_whichever_worker_it_meets(
    tmp_path: Path, policy: str
) -> None:
    began = worker(tmp_path, Tables()).assign(AGENT, canary_key(), "", "")
    back = replace(TABLE, version=2, stage="rolled_back", share=0.0, sessions=policy)
    other = worker(tmp_path, Tables(back))
    if policy == "cut":
        with pytest.raises(SessionCut):
            other.assign(AGENT, canary_key(), "", "")
        return
    assert other.assign(AGENT, canary_key(), "", "").version == {"finish": "new", "switch": "old"}[policy]
    assert began.version == "new"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), min_size=1, max_size=20))
def test_what_workers_spend_adds_up(tmp_path_factory: pytest.TempPathFactory, spent: list[tuple[int, int]]) -> None:
    folder = tmp_path_factory.mktemp("spent")
    workers = [Memory(folder / "gateway.db") for _ in range(3)]
    for which, tokens in spent:
        told = workers[which].spend("s", calls=1, tokens=tokens)
    assert told == [len(spent), sum(tokens for _, tokens in spent), 0.0]
    for each in workers:
        each.close()


def test_two_workers_count_one_budget_and_take_one_report(tmp_path: Path) -> None:
    async def test() -> None:
        more = {"budget": {"calls": 2}}
        async with running(tmp_path, {"a": OK}, **more) as one, running(tmp_path, {"a": OK}, **more) as two:
            at = {"path": "/s/s1/v1/chat/completions"}
            first = await one.chat("hi", **at)
            answers = [first, await two.chat("hi", **at), await one.chat("hi", **at), await two.chat("hi", **at)]
            assert [each.status_code for each in answers] == [200, 200, 400, 400]
            assert "has used 2 calls" in answers[3].text
            report = {"receipt": first.headers["x-flyball-receipt"], "report_id": "r1", "outcome": True}
            told = [await each.http.post("/v1/flyball/report", json=report) for each in (one, two)]
            assert [each.status_code for each in told] == [202, 200]
            other = await two.http.post("/v1/flyball/report", json={**report, "outcome": False})
            assert (other.status_code, other.json()["error"]["code"]) == (409, "report_differs")
            assert len(await one.frames("feedback")) == 1

    go(test)


def test_without_the_file_each_worker_goes_by_what_it_saw_and_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        (tmp_path / "store" / "gateway.db").mkdir(parents=True)  # no file can be opened there
        async with running(tmp_path, {"a": OK}, budget={"calls": 1}) as gateway:
            at = {"path": "/s/s1/v1/chat/completions"}
            assert [(await gateway.chat("hi", **at)).status_code for _ in range(2)] == [200, 400]
            assert "gateway.db" in (await gateway.http.get("/healthz")).json()["memory"]
            (tmp_path / "store" / "gateway.db").rmdir()
            await gateway.chat("hi", path="/s/s2/v1/chat/completions")
            assert (await gateway.http.get("/healthz")).json()["memory"] == "ok"

    go(test)
