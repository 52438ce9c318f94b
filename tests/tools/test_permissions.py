"""Scopes, budgets and dry runs: what is refused is refused before it happens, recorded, and priced."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flyball.config import BudgetSettings
from flyball.errors import ConfigError
from flyball.graders.grade import GraderSet
from flyball.graders.make import as_grader
from flyball.models.fake import tool_call_text
from flyball.tasks.world import WorldSpec
from flyball.tools.permissions import Permissions
from flyball.tools.tool import tool
from flyball.types import Attempt
from tests.tools.servers import FIND, Recorder, attempt_with, http_server


class Till:
    """You are the till."""

    def reset(self, ticket: str) -> str:
        self.paid: list[int] = []
        return ticket

    def look(self, n: int) -> int:
        """Look."""
        return n

    @tool(writes=True, scopes=["money.write"], approval="human")
    def pay(self, cents: int) -> str:
        """Pay."""
        self.paid.append(cents)
        return "paid"

    def export_state(self) -> list[int]:
        return self.paid


PAY = tool_call_text("pay", cents=5)
LOOKS = tuple(tool_call_text("look", n=i) for i in range(4))


def attempt(script: tuple[str, ...], approver: Any = "approve", **permissions: Any) -> Attempt:
    given = Permissions(**permissions)
    return asyncio.run(attempt_with([], [*script, "done"], world=Till, approver=approver, permissions=given))


def problems(done: Attempt) -> list[str | None]:
    return [result.problem for result in done.tool_results]


def test_a_tool_whose_scope_was_not_granted_is_shown_and_refused() -> None:
    done = attempt((PAY,))
    assert (problems(done), done.state) == (["out_of_scope"], [])
    assert done.tool_results[0].content == "error: pay needs the permission money.write, which was not granted"
    assert done.tool_results[0].approval is None  # nobody is asked for what may not be done
    assert attempt((PAY,), scopes=frozenset({"money.write"})).state == [5]


def test_a_server_declares_scopes_too() -> None:
    recorder = Recorder()
    guarded = FIND.model_copy(update={"scopes": ("orders.read",)})
    server = http_server(recorder, functions=(guarded,))
    done = asyncio.run(attempt_with([server], [tool_call_text("find", order_id="A1"), "done"]))
    assert (problems(done), recorder.requests) == (["out_of_scope"], [])


def test_a_dry_run_records_what_would_have_been_done() -> None:
    done = attempt((LOOKS[0], PAY), scopes=frozenset({"money.write"}), dry_run=True)
    assert [(r.content, r.problem, r.dry_run) for r in done.tool_results] == [
        ("0", None, False),
        ("dry run: pay was let pass and not carried out", None, True),
    ]
    assert (done.tool_results[1].approval, done.state) == ("approve", [])
    assert attempt((PAY,), "deny", scopes=frozenset({"money.write"}), dry_run=True).tool_results[0].problem == "denied"


def test_a_call_past_its_budget_is_refused_and_costs() -> None:
    budgets = {"look": BudgetSettings(max_calls=2, penalty=0.1), "all": BudgetSettings(max_calls=3)}
    done = attempt(LOOKS, budgets=budgets)
    assert problems(done) == [None, None, "over_budget", "over_budget"]
    assert [r.penalty for r in done.tool_results] == [0, 0, 0.1, 0.1]
    graders = GraderSet(as_grader(lambda attempt, hidden: True, "success", decides=True))
    graded = asyncio.run(graders.grade(done))
    assert graded.outcome.success is True and graded.reward == pytest.approx(0.8)
    assert sum(event.value for event in graded.events) == pytest.approx(graded.reward)
    assert [(e.component, e.turn, e.call_id) for e in graded.events[1:]] == [
        ("tool_budget", 2, "c2"),
        ("tool_budget", 3, "c3"),
    ]


def test_the_budget_of_all_tools_counts_those_that_were_let_pass() -> None:
    budgets = {"look": BudgetSettings(max_calls=1), "all": BudgetSettings(max_calls=2, penalty=0.5)}
    script = (LOOKS[0], LOOKS[1], PAY, tool_call_text("pay", cents=6))
    done = attempt(script, scopes=frozenset({"money.write"}), budgets=budgets)
    assert problems(done) == [None, "over_budget", None, "over_budget"]
    assert (done.state, done.tool_results[3].penalty) == ([5], 0.5)


@pytest.mark.parametrize(
    ("permissions", "text"),
    [
        ({"scopes": frozenset({"money.wriet"})}, "tools.scopes grants 'money.wriet'.*did you mean 'money.write'"),
        ({"budgets": {"lok": BudgetSettings(max_calls=1)}}, "tools.budgets names 'lok'.*did you mean 'look'"),
    ],
)
def test_what_no_tool_would_meet_is_refused(permissions: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        WorldSpec(Till, "approve", permissions=Permissions(**permissions))


def test_a_dry_run_of_a_world_that_never_writes_is_refused() -> None:
    class Reader:
        """You read."""

        def reset(self) -> str:
            return ""

    with pytest.raises(ConfigError, match="dry_run would be ignored"):
        WorldSpec(Reader, permissions=Permissions(dry_run=True))


def test_permissions_are_part_of_the_version() -> None:
    plain = WorldSpec(Till, "approve").version
    granted = WorldSpec(Till, "approve", permissions=Permissions(frozenset({"money.write"}))).version
    assert granted.startswith(plain) and granted != plain
