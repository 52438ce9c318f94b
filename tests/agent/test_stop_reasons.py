"""Every way an attempt ends has one reason, and a grader counts it as what it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

import flyball as fb
from flyball.agent.hooks import Hooks
from flyball.agent.loop import ToolLoop
from flyball.config import FunctionSettings, HttpToolsSettings
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import SamplingParams
from flyball.models.fake import tool_call_text
from flyball.rollout.attempt import run_attempt
from flyball.tasks.world import WorldSpec
from flyball.tools.http import HttpToolServer
from flyball.tools.servers import ToolServers
from flyball.types import Attempt, Limits, StopReason
from tests.agent.desk import Desk, task

REFUND = tool_call_text("refund", order_id="A1", cents=5)
DISTINCT = tuple(tool_call_text("find_order", order_id=f"A{i}") for i in range(9))


class Lost(Desk):
    def export_state(self) -> list[str]:
        raise OSError("disk gone")


def block(view: fb.View) -> fb.Block:
    return fb.Block("no")


def raises(view: fb.View) -> float:
    raise ValueError("no opinion")


def broken_server() -> HttpToolServer:
    parameters = {"type": "object", "properties": {"item": {"type": "string"}}}
    stock = FunctionSettings(name="stock", description="Look at the shelf.", parameters=parameters)
    settings = HttpToolsSettings(url="http://shelf", functions=(stock,), max_retries=0)
    return HttpToolServer("shelf", settings, transport=httpx.MockTransport(lambda request: httpx.Response(503)))


@dataclass
class Case:
    """What to do so that an attempt ends in one way."""

    script: tuple[str, ...] = ("fine",)
    limits: Limits = field(default_factory=Limits)
    world: type = Desk
    approver: str | Callable[..., Any] = "approve"
    hooks: Hooks = field(default_factory=Hooks)
    engine: Any = None
    servers: ToolServers | None = None


CASES = {
    StopReason.ANSWERED: Case(),
    StopReason.MAX_TURNS: Case(DISTINCT, Limits(max_turns=2)),
    StopReason.MAX_TOOL_CALLS: Case(DISTINCT, Limits(max_tool_calls=2)),
    StopReason.MAX_TOKENS: Case(DISTINCT, Limits(max_new_tokens=5)),
    StopReason.MAX_SECONDS: Case((tool_call_text("slow", seconds=0.3),), Limits(max_seconds=0.05)),
    StopReason.MAX_COST: Case(DISTINCT, Limits(max_cost_usd=1e-6)),
    StopReason.MALFORMED: Case(("<tool_call>x", "<tool_call>y", "<tool_call>z")),
    StopReason.LOOP: Case((DISTINCT[0],)),
    StopReason.APPROVAL_DENIED: Case((REFUND, REFUND), approver="deny"),
    StopReason.BLOCKED: Case(hooks=Hooks(policy_checks=(block,))),
    StopReason.WORLD_ERROR: Case(world=Lost),
    StopReason.TOOL_ERROR: Case((tool_call_text("stock", item="kettle"),), servers=ToolServers([broken_server()])),
    StopReason.AGENT_ERROR: Case(hooks=Hooks(critic=raises)),
    StopReason.ENGINE_ERROR: Case(engine=FakeEngine(["x"], fail_at=range(99))),
}


def attempt(case: Case) -> Attempt:
    engine = case.engine or FakeEngine(case.script)
    return asyncio.run(
        run_attempt(
            task(limits=case.limits),
            world=WorldSpec(case.world, case.approver, case.servers),
            runner=ToolLoop(case.hooks),
            engine=engine,
            chat=engine.chat,
            sampling=SamplingParams(),
            seed=0,
        )
    )


@pytest.mark.parametrize("reason", CASES, ids=str)
def test_an_end_has_its_reason(reason: StopReason) -> None:
    done = attempt(CASES[reason])
    assert done.stop is reason
    assert (done.trajectory.detail == "") is (reason is StopReason.ANSWERED)


def test_no_reason_is_left_out() -> None:
    """CANCELLED is what an attempt is that nobody let end: it belongs to who cancels, not to the agent."""
    assert set(CASES) == set(StopReason) - {StopReason.CANCELLED}
