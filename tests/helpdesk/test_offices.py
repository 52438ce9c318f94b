"""What the base policy was pretrained on: offices that are not the desk, in conversations that hold together."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from desk import Desk
from offices import Office, conversation

from flyball.models.hf_chat import load_chat
from flyball.models.load import load_model
from flyball.tasks.world import WorldSpec
from flyball.types import Task

BASE = Path(__file__).parents[2] / "examples" / "helpdesk" / "base"
SHARED = {"calculator", "search_kb", "set_address"}


def told() -> Iterator[dict[str, Any]]:
    for seed in range(100):
        office = Office(random.Random(seed))
        yield from (conversation(office) for _ in range(4))


def calls(conversation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for message in conversation["messages"]:
        for call in message.get("tool_calls", ()):
            yield call["function"]["name"], json.loads(call["function"]["arguments"])


def test_no_office_has_a_tool_of_the_desk_but_those_that_are_named() -> None:
    task = Task("t", {"ticket": "A ticket.", "snapshot": "s"}, {})
    desk = {schema["function"]["name"] for schema in WorldSpec(Desk).schemas(task)}
    offices = {tool["function"]["name"] for each in told() for tool in each["tools"]}
    assert desk >= SHARED
    assert desk & offices == SHARED


def test_every_call_is_of_a_tool_that_is_shown_with_its_parameters() -> None:
    for each in told():
        shown = {t["function"]["name"]: set(t["function"]["parameters"]["properties"]) for t in each["tools"]}
        assert all(shown[name] == set(arguments) for name, arguments in calls(each))


def test_what_the_calculator_is_asked_is_what_it_answers() -> None:
    checked = 0
    for each in told():
        for call, result in zip(each["messages"], each["messages"][1:], strict=False):
            for used in call.get("tool_calls", ()):
                arguments = json.loads(used["function"]["arguments"])
                if set(arguments) == {"expression"}:
                    value = eval(arguments["expression"], {"__builtins__": {}})  # of our own making
                    assert json.loads(result["content"])["value"] == int(value)
                    checked += 1
    assert checked > 20


def test_a_number_that_a_customer_leaves_out_is_asked_for_or_looked_up_by_email() -> None:
    for each in told():
        before: list[str] = []
        for message in each["messages"]:
            for used in message.get("tool_calls", ()):
                arguments = json.loads(used["function"]["arguments"])
                number = next(iter(arguments.values()))
                if len(arguments) == 1 and set(arguments) - {"expression", "query", "email"}:
                    assert any(str(number) in text for text in before)
            before.append(message["content"])


def test_the_shipped_base_is_the_size_it_says_and_reads_a_conversation() -> None:
    said = json.loads((BASE / "pretraining.json").read_text())
    assert sum(p.numel() for p in load_model(BASE).parameters()) == said["parameters"] < 4_000_000
    one = next(told())
    ids, mask = load_chat(BASE).conversation(one["messages"], one["tools"])
    assert len(ids) == len(mask) and 0 < sum(mask) < len(mask)
