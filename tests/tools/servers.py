"""Tool servers that the tests share: an HTTP one that answers as told, and settings for it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from flyball.agent.loop import ToolLoop
from flyball.config import FunctionSettings, HttpToolsSettings
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import SamplingParams
from flyball.models.fake import tool_call_text
from flyball.rollout.attempt import run_attempt
from flyball.tasks.world import WorldSpec
from flyball.tools.http import HttpToolServer
from flyball.tools.permissions import Permissions
from flyball.tools.server import ToolServer
from flyball.tools.servers import ToolServers
from flyball.types import Attempt, Limits, Task

FIND = FunctionSettings(
    name="find",
    description="Look up an order.",
    parameters={"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
)
REFUND = FIND.model_copy(update={"name": "refund", "description": "Pay back.", "writes": True})
CALL = tool_call_text("find", order_id="A1")
Answer = Callable[[dict[str, Any]], httpx.Response | Awaitable[httpx.Response]]


class Desk:
    """You are the desk."""

    def reset(self, ticket: str) -> str:
        return ticket


def output(body: dict[str, Any], text: str = "shipped") -> httpx.Response:
    answer = {"type": "function_call_output", "call_id": body["call_id"], "id": body["id"], "output": text}
    return httpx.Response(200, json=answer)


class Recorder:
    """A transport that notes each request and lets `answer` answer it."""

    def __init__(self, answer: Answer = output) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests]

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answered = self.answer(json.loads(request.content))
        return answered if isinstance(answered, httpx.Response) else await answered


def http_server(recorder: Recorder, name: str = "shop", **settings: Any) -> HttpToolServer:
    settings = {"url": "http://shop/call", "functions": (FIND, REFUND), **settings}
    return HttpToolServer(name, HttpToolsSettings(**settings), transport=httpx.MockTransport(recorder))


async def attempt_with(
    servers: Sequence[ToolServer],
    script: Sequence[str] = (CALL, "done"),
    *,
    limits: Limits | None = None,
    world: type = Desk,
    approver: Any = None,
    permissions: Permissions | None = None,
    **task: Any,
) -> Attempt:
    engine = FakeEngine(list(script))
    spec = WorldSpec(world, approver, ToolServers(servers), permissions or Permissions())
    return await run_attempt(
        Task("t1", {"ticket": "Where is A1?"}, {"answer": 7}, limits=limits or Limits(), **task),
        world=spec,
        runner=ToolLoop(),
        engine=engine,
        chat=engine.chat,
        sampling=SamplingParams(),
        seed=0,
    )
