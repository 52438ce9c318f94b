"""One attempt: what it holds, what is re-run, what it costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flyball.agent.loop import ToolLoop
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.errors import ConfigError, DatasetError, EngineLostError
from flyball.models.fake import tool_call_text
from flyball.rng import derive
from flyball.rollout.attempt import MAX_RERUNS, run_attempt
from flyball.rollout.prices import Prices
from flyball.tasks.world import WorldSpec
from flyball.tools.tool import tool
from flyball.types import Attempt, Limits, StopReason, Task, Usage


class Counter:
    """You count."""

    opened = 0
    closed = 0

    def reset(self, start: int) -> str:
        type(self).opened += 1
        self.total = start
        return f"start at {start}"

    def add(self, n: int) -> int:
        """Add."""
        self.total += n
        return self.total

    def export_state(self) -> dict[str, int]:
        return {"total": self.total}

    def close(self) -> None:
        type(self).closed += 1


def fresh(base: type[Counter] = Counter, **members: Any) -> type[Counter]:
    return type("Fresh", (base,), {"__doc__": "You count.", "opened": 0, "closed": 0, **members})


def attempt(engine: FakeEngine, world: type = Counter, *, limits: Limits | None = None, **changes: Any) -> Attempt:
    task = Task("t", {"start": 1}, hidden={"answer": 3}, limits=limits or Limits())
    return asyncio.run(
        run_attempt(
            task,
            world=WorldSpec(world),
            runner=ToolLoop(),
            engine=engine,
            chat=engine.chat,
            sampling=SamplingParams(),
            seed=11,
            **changes,
        )
    )


ADD = tool_call_text("add", n=2)


def test_an_attempt_holds_what_grading_and_learning_need() -> None:
    world = fresh()
    engine = FakeEngine([ADD, "3"], delay_seconds=0.01)
    got = attempt(engine, world, group_index=2, versions={"policy": "p1"})
    assert (got.stop, got.answer, got.state) == (StopReason.ANSWERED, "3", {"total": 3})
    assert (got.seed, got.group_index) == (11, 2)
    assert got.versions["policy"] == "p1"
    assert got.versions["agent"].startswith("tool_loop(")
    assert got.versions["world"] == WorldSpec(world).version
    assert got.usage.tokens_in == len(engine.requests[-1].prompt_ids) - len(engine.completions[0].token_ids)
    assert got.usage.tokens_out == sum(len(c.token_ids) for c in engine.completions)
    assert got.usage.model_seconds == pytest.approx(0.02)
    assert got.usage.wall_seconds >= got.usage.tool_seconds > 0
    assert (world.opened, world.closed) == (1, 1)
    assert engine.ended_sessions == [got.session_id]
    assert {request.session for request in engine.requests} == {got.session_id}


def test_a_failed_engine_means_the_same_attempt_again_with_the_same_seed() -> None:
    world = fresh()
    engine = FakeEngine([ADD, "3"], fail_at=[1])
    got = attempt(engine, world)
    assert (got.stop, got.state) == (StopReason.ANSWERED, {"total": 3})
    assert (world.opened, world.closed) == (2, 2)
    seeds = [request.sampling.seed for request in engine.requests]
    assert seeds == [derive(11, 0), derive(11, 1)] * 2
    assert len(got.trajectory.calls) == 2
    assert len(set(engine.ended_sessions)) == 2


def test_an_engine_that_keeps_failing_is_missing_and_not_zero() -> None:
    engine = FakeEngine(["x"], fail_at=range(100))
    got = attempt(engine)
    assert got.stop is StopReason.ENGINE_ERROR
    assert "call 2 fails" in got.trajectory.detail
    assert len(engine.requests) == 1 + MAX_RERUNS


@pytest.mark.parametrize(
    ("script", "limits", "reason"),
    [
        (["<tool_call>x"], Limits(), StopReason.MALFORMED),
        ([ADD], Limits(), StopReason.LOOP),
        ([ADD, "3"], Limits(max_turns=1), StopReason.MAX_TURNS),
        (["late"], Limits(max_seconds=0.02), StopReason.MAX_SECONDS),
    ],
)
def test_what_the_policy_did_is_never_run_again(script: list[str], limits: Limits, reason: StopReason) -> None:
    world = fresh()
    got = attempt(FakeEngine(script, delay_seconds=1.0 if reason == "max_seconds" else 0.0), world, limits=limits)
    assert got.stop is reason
    assert (world.opened, world.closed) == (1, 1)
    assert got.state is not None


@pytest.mark.parametrize("method", ["reset", "export_state", "close"])
def test_a_world_that_fails_is_the_worlds_fault(method: str) -> None:
    def fail(self: Any, start: int = 0) -> str:
        raise OSError("disk gone")

    got = attempt(FakeEngine(["3"]), fresh(**{method: fail}))
    assert got.stop is StopReason.WORLD_ERROR
    assert "disk gone" in got.trajectory.detail
    assert method in got.trajectory.detail


def test_a_task_that_does_not_fit_its_world_stops_the_run() -> None:
    class Other:
        def reset(self, finish: int) -> str:
            return "x"

    with pytest.raises(DatasetError, match="finish"):
        attempt(FakeEngine(["3"]), Other)


def test_cancellation_closes_the_world_and_the_session() -> None:
    world = fresh()
    engine = FakeEngine(["x"], delay_seconds=60)

    async def go() -> None:
        task = Task("t", {"start": 1})
        running = asyncio.create_task(
            run_attempt(
                task,
                world=WorldSpec(world),
                runner=ToolLoop(),
                engine=engine,
                chat=engine.chat,
                sampling=SamplingParams(),
                seed=0,
            )
        )
        while not engine.requests:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(go())
    assert (world.opened, world.closed, len(engine.ended_sessions)) == (1, 1, 1)


def test_money_ends_an_attempt() -> None:
    class Billed(Counter):
        @tool(cost_usd=0.4)
        def pay(self, n: int) -> str:
            """Cost money."""
            return "paid"

    free = Prices(0.0, 0.0, 0.0, 0.0)
    script = [tool_call_text("pay", n=i) for i in range(9)]
    got = attempt(FakeEngine(script), Billed, limits=Limits(max_cost_usd=1.0), prices=free)
    assert got.stop is StopReason.MAX_COST
    assert got.trajectory.detail == "1.2 USD were spent, 1 are allowed"
    assert (len(got.tool_results), round(got.cost_usd, 6)) == (3, 1.2)
    tokens = attempt(FakeEngine(script), Billed, limits=Limits(max_cost_usd=1e-9), prices=Prices(1.0, 1.0, 0.0, 0.0))
    assert (tokens.stop, len(tokens.trajectory.calls), tokens.tool_results) == (StopReason.MAX_COST, 1, ())


def test_no_tokens_to_draw_is_refused_before_any_work() -> None:
    world = fresh()
    with pytest.raises(ConfigError, match="max_new_tokens 0: at least one token must be allowed"):
        attempt(FakeEngine(["3"]), world, limits=Limits(max_new_tokens=0))
    assert world.opened == 0


def test_a_tool_that_needs_approval_needs_somebody_declared_to_give_it() -> None:
    class Guarded(fresh()):  # type: ignore[misc]
        @tool(approval="human")
        def spend(self) -> str:
            """Ask first."""
            return "spent"

    with pytest.raises(ConfigError, match=r"tool 'spend' has approval=.*no approver is declared"):
        attempt(FakeEngine(["3"]), Guarded)
    assert Guarded.opened == 0
    engine = FakeEngine([tool_call_text("spend"), "done"])
    world = WorldSpec(Guarded, "deny")
    got = asyncio.run(
        run_attempt(
            Task("t", {"start": 1}),
            world=world,
            runner=ToolLoop(),
            engine=engine,
            chat=engine.chat,
            sampling=SamplingParams(),
            seed=0,
        )
    )
    assert (got.tool_results[0].approval, got.versions["approver"]) == ("deny", "deny")


def test_prices_by_hand() -> None:
    prices = Prices(
        usd_per_million_tokens_in=2.0, usd_per_million_tokens_out=10.0, usd_per_cpu_second=0.5, usd_per_tool_call=0.25
    )
    usage = Usage(tokens_in=1_000, tokens_out=100, model_seconds=9.0, tool_seconds=4.0, wall_seconds=20.0)
    # 1000 x 2e-6 + 100 x 1e-5 + 4 x 0.5 + 3 x 0.25
    assert prices.cost(usage, 3) == pytest.approx(0.002 + 0.001 + 2.0 + 0.75)
    got = attempt(FakeEngine([ADD, "3"]), prices=Prices(0.0, 0.0, 0.0, 0.25))
    assert got.cost_usd == 0.25
    with pytest.raises(ConfigError, match="usd_per_cpu_second is -1"):
        Prices(usd_per_cpu_second=-1)


def test_an_engine_that_is_gone_ends_the_run_and_not_the_attempt() -> None:
    """No re-run could cure it, so no attempt is recorded as Missing for it."""

    class Gone(FakeEngine):
        async def generate(self, request: Request) -> Completion:
            raise EngineLostError("the engine process 7 was killed by signal 9")

    world = fresh()
    with pytest.raises(EngineLostError, match="killed by signal 9"):
        attempt(Gone(["3"]), world)
    assert world.opened == world.closed == 1
