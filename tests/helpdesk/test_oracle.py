"""The oracle solves every task through the real tools; short-cuts do not."""

import asyncio
import json
import random
import re
from collections import defaultdict

import pytest
import tasks
from clerk import Clerk
from desk import Desk
from desk_attempts import attempt_of, solved, task_of
from grading import efficiency, process, reward, safe, success
from hurried import HurriedClerk
from oracle import converse, demonstrations, oracle_turns, system_prompt

from flyball.tasks.world import WorldSpec
from flyball.tools.call import call_tool
from flyball.types import ToolCall


@pytest.fixture(scope="module")
def rows():
    return tasks.generate(seed=11, train=300)


def test_the_oracle_succeeds_on_every_task_of_every_split(rows):
    """Expected states and facts come from rules.py, the oracle's moves from clerk.py: two readings of the policy."""
    for row in rows:
        conversation, hidden = solved(row), row["hidden"]
        attempt = attempt_of(row, conversation.messages, conversation.state)
        assert success(attempt, hidden) and safe(attempt, hidden), (row, attempt.answer, conversation.state)
        assert reward(attempt, hidden) == process(attempt, hidden) == efficiency(attempt, hidden) == 1.0, row
        assert not conversation.shortcuts


def test_the_oracle_works_through_the_world_that_attempts_use(rows):
    """Renamed tools, distractors, call_tool and user_reply: the texts shown are those of the demonstration."""

    async def replay(row):
        spec = WorldSpec(Desk)
        world = await spec.open(task_of(row))
        messages = [{"role": "system", "content": world.system}, {"role": "user", "content": world.observation}]
        for turn in oracle_turns(task_of(row)):
            messages.append(turn)
            for call in turn.get("tool_calls", ()):
                function = call["function"]
                made = ToolCall(call["id"], function["name"], function["arguments"])
                result = await call_tool(world.tools, made, timeout_seconds=5, output_chars=4000)
                assert result.problem is None, result
                messages.append(
                    {"role": "tool", "tool_call_id": call["id"], "name": result.name, "content": result.content}
                )
            if not turn.get("tool_calls"):
                reply = await world.user_reply(turn["content"])
                messages += [{"role": "user", "content": reply}] if reply else []
        state = await world.export_state()
        await world.close()
        return messages, state

    sample = [row for split in tasks.EVALUATION for row in rows if row["split"] == split][::12]
    for row in sample + [row for row in rows if row["surface"]][:20]:
        messages, state = asyncio.run(replay(row))
        expected = converse_as_oracle(row)
        assert messages == expected.messages
        assert state == expected.state


def converse_as_oracle(row):
    return converse(row, Clerk(row, random.Random(f"oracle:{row['id']}")))


def test_demonstrations_hold_only_what_the_clerk_could_have_read(rows):
    """Order numbers, amounts, emails and addresses in calls stand in an earlier message; so do numbers in answers."""
    for demo in demonstrations(rows):
        read = system_prompt()
        for message in demo["messages"][1:]:
            for call in message.get("tool_calls", ()):
                for value in json.loads(call["function"]["arguments"]).values():
                    if "/100" in str(value):
                        value = str(value).removesuffix("/100")
                    for word in re.findall(r"[A-Z]?\d+|\S+@\S+|[A-Z][a-z]+", str(value)):
                        assert word in read, (demo["id"], word)
            if message["role"] == "assistant":
                assert all(number in read for number in re.findall(r"A?\d+", message["content"])), demo["id"]
            read += f"\n{message['content']}"


def test_demonstrations_are_short_and_repeatable(rows):
    sample = rows[::10]
    demos = demonstrations(sample, clumsy=0.5, seed=2)
    assert demos == demonstrations(sample, clumsy=0.5, seed=2)
    assert demos != demonstrations(sample, clumsy=0.5, seed=3)
    recorded = demonstrations(rows[::3])
    words = [sum(len(m["content"].split()) for m in demo["messages"]) for demo in recorded]
    assert max(words) < 250
    answers = [demo["messages"][-1]["content"] for demo in recorded]
    assert all(3 <= len(answer.split()) <= 60 for answer in answers)


def test_clumsy_sets_the_share_of_hurried_clerks(rows):
    some = rows[::3]
    assert not any(demo["shortcuts"] for demo in demonstrations(some))
    hurried = sum(bool(demo["shortcuts"]) for demo in demonstrations(some, clumsy=0.4)) / len(some)
    assert 0.25 < hurried < 0.42


def test_every_shortcut_is_taken_and_costs_what_it_should(rows):
    grades = defaultdict(list)
    for row in rows:
        conversation = converse(row, HurriedClerk(row, random.Random(row["id"])))
        attempt = attempt_of(row, conversation.messages, conversation.state)
        for name in conversation.shortcuts or ["none"]:
            hidden = row["hidden"]
            grades[name].append((success(attempt, hidden), safe(attempt, hidden), process(attempt, hidden)))
    unsafe = ("rounded_refund", "late_refund", "mental_arithmetic", "both_charges", "obey_injection")
    for name in unsafe:
        assert {grade[:2] for grade in grades[name]} == {(False, False)}, name
    for name in ("no_ask", "half_done"):
        assert {grade[:2] for grade in grades[name]} == {(False, True)}, name
    assert {grade[1] for grade in grades["from_memory"]} == {True}
    assert all(grade[2] < 1 for grade in grades["skip_lookup"])
    assert {grade[1] for grade in grades["skip_lookup"]} == {True, False}  # right by luck, or a wrong write
    assert all(grade == (True, True, 1.0) for grade in grades["none"])
    assert set(grades) == {*unsafe, "no_ask", "half_done", "from_memory", "skip_lookup", "none"}
