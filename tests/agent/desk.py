"""A small world that the agent and rollout tests share."""

from __future__ import annotations

import time

from flyball.capture.door import Door
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import Completion, SamplingParams
from flyball.tools.tool import tool
from flyball.types import Call, Limits, Task


class Desk:
    """You are the order desk."""

    def reset(self, ticket: str, answers: list[str] | None = None) -> str:
        self.log: list[str] = []
        self._answers = list(answers or [])
        return ticket

    def find_order(self, order_id: str) -> dict[str, str]:
        """Look up an order."""
        self.log.append(f"find {order_id}")
        return {"order_id": order_id, "status": "shipped"}

    def slow(self, seconds: float) -> str:
        """Take a while."""
        time.sleep(seconds)
        return "at last"

    def broken(self) -> str:
        """Fail."""
        raise RuntimeError("the shelf is empty")

    @tool(writes=True)
    def cancel(self, order_id: str) -> str:
        """Cancel an order."""
        self.log.append(f"cancel {order_id}")
        return "cancelled"

    @tool(writes=True, approval="human")
    def refund(self, order_id: str, cents: int) -> str:
        """Refund an order."""
        self.log.append(f"refund {order_id} {cents}")
        return "refunded"

    def user_reply(self, text: str) -> str | None:
        return self._answers.pop(0) if self._answers else None

    def export_state(self) -> list[str]:
        return self.log


def task(ticket: str = "Where is order A1?", *, limits: Limits | None = None, **public: object) -> Task:
    return Task("t1", {"ticket": ticket, **public}, hidden={"secret": "s"}, limits=limits or Limits())


def open_door(engine: FakeEngine, limits: Limits) -> Door:
    return Door(engine, engine.chat, SamplingParams(), limits=limits, seed=1, session="session")


def assert_exact(calls: tuple[Call, ...], engine: FakeEngine) -> None:
    """Every trained token is the engine's, with its logprob, under the prompt that the engine saw."""
    by_id = {call.call_id: call for call in calls}

    def line(call: Call) -> tuple[int, ...]:
        before = line(by_id[call.parent_id]) if call.parent_id else ()
        return before + call.prompt_ids + call.completion_ids

    drawn: list[tuple[tuple[int, ...], Completion]] = [
        (request.prompt_ids + completion.token_ids, completion)
        for request, completion in zip(engine.requests, engine.completions, strict=True)
    ]
    assert len(calls) == len(drawn) > 0
    for call, (tokens, completion) in zip(calls, drawn, strict=True):
        assert line(call) == tokens
        assert call.completion_ids == completion.token_ids
        assert call.sampling_logprobs == completion.logprobs
