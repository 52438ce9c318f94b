"""`flyball doctor tools`: what it calls, what it leaves alone, and what a tool is worth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from flyball.config import ContextSettings
from flyball.errors import ConfigError
from flyball.evals.ablate import AblationPlan, ablate, used_tools
from flyball.evals.readiness import Finding
from flyball.evals.scripted import say, scripted_arm, use
from flyball.evals.suite import Suite
from flyball.evals.tool_checks import check_tools, made_up_arguments
from flyball.graders.grade import GraderSet
from flyball.graders.make import as_grader
from flyball.tasks.world import WorldSpec
from flyball.tools.servers import ToolServers
from flyball.types import Message, Task
from tests.tools.servers import FIND, REFUND, Desk, Recorder, http_server, output

TASK = Task("t1", {"ticket": "Where is A1?"}, {"answer": 7})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyball.tools.call.SERVER_PAUSE_SECONDS", 0.0)


def check(recorder: Recorder, num_calls: int = 3, **settings: Any) -> dict[str, Finding]:
    spec = WorldSpec(Desk, servers=ToolServers([http_server(recorder, **settings)]))
    return {finding.name: finding for finding in asyncio.run(check_tools(spec, TASK, num_calls))}


def test_what_answers_is_ok_with_its_latency_and_writes_are_left_alone() -> None:
    recorder = Recorder()
    found = check(recorder)
    assert found["shop.find"].level == "ok" and found["shop.find"].text.startswith("answered 3 of 3, 3 tries, mean ")
    assert "], n=3" in found["shop.find"].text
    assert found["shop.refund"].level == "warn" and "not called: it writes" in found["shop.refund"].text
    assert [body["arguments"] for body in recorder.bodies] == ['{"order_id": "x"}'] * 3


def test_a_write_is_called_with_its_example_or_in_a_context_of_its_own() -> None:
    recorder = Recorder()
    check(recorder, 1, functions=(REFUND.model_copy(update={"example": {"order_id": "TEST"}}),))
    assert [body["arguments"] for body in recorder.bodies] == ['{"order_id": "TEST"}']

    def answer(body: dict[str, Any]) -> httpx.Response:
        return output(body) if body["type"] == "function_call" else httpx.Response(200, json={})

    isolated = Recorder(answer)
    check(isolated, 1, functions=(REFUND,), context=ContextSettings(open="http://shop/o", close="http://shop/c"))
    assert [body["type"] for body in isolated.bodies] == ["context.open", "function_call", "context.close"]


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        (lambda body: httpx.Response(404, json={"output": "no order x"}), "warn", 'it refuses {"order_id": "x"}: 404'),
        (lambda body: httpx.Response(503, text="down"), "fail", "answered 0 of 3, 12 tries: tool server 'shop'"),
        (lambda body: httpx.Response(302, headers={"location": "http://b"}), "fail", "redirects (302) to http://b"),
        (lambda body: httpx.Response(200, text="hello"), "fail", "content type 'text/plain"),
    ],
)
def test_what_does_not_answer_as_it_should_is_named(answer: Any, level: str, text: str) -> None:
    found = check(Recorder(answer), functions=(FIND,))["shop.find"]
    assert found.level == level and text in found.text


def test_tries_that_were_needed_are_a_warning() -> None:
    answers = iter([httpx.Response(503)])
    found = check(Recorder(lambda body: next(answers, None) or output(body)), functions=(FIND,))["shop.find"]
    assert found.level == "warn" and found.text.startswith("answered 3 of 3, 4 tries")


def test_scopes_that_are_lacking_and_hidden_fields_that_leave_are_told() -> None:
    found = check(Recorder(), send_hidden=True, functions=(FIND.model_copy(update={"scopes": ("orders.read",)}),))
    assert "needs orders.read, which tools.scopes does not grant" in found["find"].text
    assert "sends the task's hidden fields" in found["shop"].text or found["shop"].level == "ok"


def test_arguments_are_made_up_from_a_schema() -> None:
    schema = {
        "properties": {
            "a": {"type": "string", "minLength": 3},
            "b": {"enum": ["red", "blue"]},
            "c": {"anyOf": [{"type": "integer", "minimum": 4}, {"type": "null"}]},
            "d": {"type": "array"},
            "e": {"type": "boolean", "default": True},
            "optional": {"type": "string"},
        },
        "required": ["a", "b", "c", "d", "e"],
    }
    assert made_up_arguments(schema) == {"a": "xxx", "b": "red", "c": 4, "d": [], "e": True}


# --- what a tool is worth --------------------------------------------------------------------------------------------


class Adder:
    """You add."""

    def reset(self, n: int) -> str:
        self.total = n
        return f"add to {n}"

    def add(self, by: int) -> int:
        """Add."""
        self.total += by
        return self.total

    def look(self) -> int:
        """Look."""
        return self.total

    def export_state(self) -> int:
        return self.total


def add_twice(task: Task) -> Iterator[Message]:
    yield use("look")
    yield use("add", by=1)
    yield use("add", by=2 if task.public["n"] % 2 else 0)
    yield say("done")


def worth(max_calls: int) -> dict[str, tuple[float, int]]:
    tasks = [Task(f"t{i}", {"n": i}, {"total": i + (3 if i % 2 else 1)}) for i in range(10)]
    right = as_grader(lambda attempt, hidden: attempt.state == hidden["total"], "success", decides=True)
    arm = scripted_arm(add_twice, WorldSpec(Adder), GraderSet(right))
    suite = Suite.of("test", tasks, world_version=arm.world.version)
    plan = AblationPlan(tuple(used_tools(suite, arm)), max_calls)
    found = asyncio.run(ablate(suite, arm, plan))
    assert all(one.comparison.baseline_estimate.value == 1.0 for one in found)
    assert all(one.comparison.difference.low <= one.comparison.difference.value for one in found)
    return {one.tool: (one.comparison.difference.value, one.comparison.difference.n) for one in found}


def test_a_tool_taken_away_costs_what_it_was_worth() -> None:
    assert worth(0) == {"add": (-1.0, 10), "look": (0.0, 10)}


def test_a_tool_limited_costs_what_its_further_calls_were_worth() -> None:
    assert worth(1) == {"add": (-0.5, 10), "look": (0.0, 10)}


def test_a_tool_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="Adder has no tool 'ad'; did you mean 'add'"):
        WorldSpec(Adder).limited("ad", 0)


def test_a_limited_world_is_another_version_and_shows_less() -> None:
    spec = WorldSpec(Adder)
    without = spec.limited("add", 0)
    task = Task("t", {"n": 1}, tools=("add", "look"))
    without.check(task)
    assert without.version != spec.version != spec.limited("add", 1).version
    assert [schema["function"]["name"] for schema in without.schemas(task)] == ["look"]
    assert json.dumps(spec.schemas(task)) != json.dumps(without.schemas(task))
