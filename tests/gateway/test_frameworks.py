"""Agents of other frameworks, attached by an address and a key: each run is one exact, linked trajectory."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import httpx
import orjson
import pytest

from examples.agents import pantry
from examples.agents.serve import Attempt
from flyball.engine.fake import FakeEngine
from flyball.gateway.captured import attempt_of, captured_sessions
from flyball.models.fake import tool_call_text
from flyball.store.records import from_json
from flyball.tasks.world import WorldSpec
from tests.gateway.servers import go, ingested, with_engine

FRAMEWORKS = {"openai_sdk": "openai", "langgraph": "langgraph", "openai_agents": "agents", "pydantic_ai": "pydantic_ai"}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_framework_is_attached_by_address_and_key(name: str, tmp_path: Path) -> None:
    pytest.importorskip(FRAMEWORKS[name])
    answer = importlib.import_module(f"examples.agents.{name}.agent").answer
    task = pantry.tasks(1)[0]
    item, count = task.public["item"], str(task.hidden["count"])
    engine = FakeEngine([tool_call_text("count", item=item), count])

    async def test() -> None:
        async with (
            with_engine(tmp_path, engine) as gateway,
            httpx.AsyncClient(
                transport=httpx.MockTransport(lambda request: httpx.Response(200, json={"content": count}))
            ) as tools,
        ):
            world = WorldSpec(pantry.Pantry)
            said = await answer(
                Attempt(
                    system=world.system,
                    observation=f"How many {item}?",
                    base_url=f"{gateway.url}/v1",
                    api_key="shop-key/run-1",
                    tools=world.schemas(task),
                    tools_url="http://tools",
                    http=tools,
                )
            )
            assert said.strip() == count
            await gateway.frames("call", 2)

    go(test)
    with ingested(tmp_path) as store:
        ((key, calls),) = captured_sessions(store).items()
    assert key == ("shop", "run-1") and [each.call.exactness for each in calls] == ["exact", "exact"]
    for each, completion in zip(calls, engine.completions, strict=True):
        assert from_json(orjson.dumps(each.said.tokens)).completion_ids == completion.token_ids
    attempt = attempt_of(calls)
    assert attempt.answer == count and [json.loads(c.arguments) for c in attempt.tool_calls] == [{"item": item}]
    assert [len(branch.calls) for branch in attempt.trajectory.branches()] == [2]
    assert pantry.success(attempt, task.hidden)
