"""A person approves: asked once, waited for over restarts, answered once, expired by the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flyball.cli.main import invoke
from flyball.errors import ConfigError, RefusedError, StoreError
from flyball.store.approvals import Approval
from flyball.store.store import Store
from flyball.tasks.world import WorldSpec
from flyball.tools.call import call_tool
from flyball.tools.inbox import Inbox
from flyball.types import Task, ToolCall, ToolResult
from flyball.workflow.workflow import Workflow
from tests.tools.test_permissions import Till

PAY = ToolCall("c0_0", "pay", '{"cents": 5}')


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as opened:
        yield opened


async def pay(store: Store, act: Callable[[Approval], Any] = lambda asked: None, **inbox: Any) -> ToolResult:
    """Ask to pay in session s1; once the request is there, `act` on it."""

    spec = WorldSpec(Till, Inbox(store, poll_seconds=0.01, **inbox))
    world = await spec.open(Task("t", {"ticket": "pay"}), "s1")
    calling = asyncio.ensure_future(call_tool(world.tools, PAY, approver=world.approver))
    while not store.approvals():
        await asyncio.sleep(0.005)
    act(store.approvals()[0])
    try:
        return await asyncio.wait_for(calling, 5)
    finally:
        await world.close()


def test_a_call_waits_until_it_is_approved(store: Store) -> None:
    def approve(asked: Approval) -> None:
        assert (asked.state, asked.tool, asked.arguments, asked.session_id) == ("pending", "pay", PAY.arguments, "s1")
        store.answer_approval(asked.approval_id, "approve", "ann", "small")

    result = asyncio.run(pay(store, approve))
    assert (result.content, result.approval) == ("paid", "approve")
    (done,) = store.approvals("approved")
    assert (done.actor, done.reason) == ("ann", "small") and done.answered_at


def test_one_that_is_denied_is_not_carried_out(store: Store) -> None:
    result = asyncio.run(pay(store, lambda asked: store.answer_approval(asked.approval_id, "deny", "ann")))
    assert (result.problem, result.approval) == ("denied", "deny")


def test_one_that_nobody_answers_expires_and_stays_so(store: Store) -> None:
    result = asyncio.run(pay(store, expires_seconds=0.05))
    assert (result.problem, result.approval) == ("expired", "expire")
    (asked,) = store.approvals("expired")
    with pytest.raises(RefusedError, match=r"is expired at .*; only a pending one is answered"):
        store.answer_approval(asked.approval_id, "approve", "ann")


def test_a_session_that_comes_back_finds_its_request_and_its_answer(store: Store, tmp_path: Path) -> None:
    async def killed() -> None:
        world = await WorldSpec(Till, Inbox(store, poll_seconds=0.01)).open(Task("t", {"ticket": "pay"}), "s1")
        waiting = asyncio.ensure_future(call_tool(world.tools, PAY, approver=world.approver))
        while not store.approvals("pending"):
            await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.wait({waiting})

    asyncio.run(killed())
    with Store(tmp_path) as other:  # the person's own process
        other.answer_approval(other.approvals("pending")[0].approval_id[:6], "approve", "ann")
    assert asyncio.run(pay(store)).content == "paid"
    assert len(store.approvals()) == 1


def test_an_answer_is_given_once_and_a_request_never_changes(store: Store) -> None:
    asked = store.request_approval("s1", "c1", "pay", "{}", "2999-01-01T00:00:00+00:00")
    store.answer_approval(asked.approval_id, "deny", "ann")
    with pytest.raises(StoreError, match="is denied by ann"):
        store.answer_approval(asked.approval_id, "approve", "bob")
    with pytest.raises(StoreError, match=r"asked about pay \{\} as call c1"):
        store.request_approval("s1", "c1", "pay", '{"cents": 9}', asked.expires_at)
    with pytest.raises(StoreError, match="did you mean"):
        store.answer_approval(asked.approval_id, "aprove", "bob")


def test_the_inbox_never_answers_in_training_or_evaluation(store: Store) -> None:
    with pytest.raises(ConfigError, match="it is one of approve, deny, expire, or a function"):
        Workflow(world=Till, tasks=[], success=lambda a, h: True, approver=Inbox(store))
    with pytest.raises(ConfigError, match="needs the session's id"):
        Inbox(store).for_attempt("")


def test_the_command_line_lists_and_answers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLYBALL_HOME", str(tmp_path))
    first = store.request_approval("s1", "c1", "pay", '{"cents": 5}', "2999-01-01T00:00:00+00:00")
    second = store.request_approval("s1", "c2", "pay", '{"cents": 7}', "2999-01-01T00:00:00+00:00")
    assert invoke(["approvals", "list"]) == 0
    assert capsys.readouterr().out.count("pending") == 2
    assert invoke(["approvals", "approve", first.approval_id, "--by", "ann"]) == 0
    assert f"{first.approval_id} approved by ann: pay" in capsys.readouterr().out
    assert invoke(["approvals", "deny", second.approval_id, "--by", "ann", "--reason", "too much"]) == 0
    assert invoke(["approvals", "deny", second.approval_id]) == 4
    assert "is denied by ann" in capsys.readouterr().err
    assert invoke(["approvals", "list", "--state", "denied"]) == 0
    assert '{"cents": 7}' in capsys.readouterr().out
    assert [one.state for one in store.approvals()] == ["approved", "denied"]
