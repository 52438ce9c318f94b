"""The door: exact continuation, forks, retries, limits, attribution of tool results."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flyball.capture.door import Door, Reply, Stopped
from flyball.engine.fake import FakeEngine, fake_logprob
from flyball.engine.protocol import SamplingParams
from flyball.models.fake import END, SAMPLED, FakeChat, tool_call_text
from flyball.rng import derive
from flyball.types import Limits, Message, StopReason, ToolResult, Trajectory
from tests.agent.desk import assert_exact

OPENING: list[Message] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


def open_door(engine: FakeEngine, **changes: Any) -> Door:
    limits = changes.pop("limits", Limits())
    chat = changes.pop("chat", engine.chat)
    return Door(engine, chat, SamplingParams(**changes), limits=limits, seed=7, session="s")


def say(door: Door, *messages: Message, agent: str = "main") -> Reply:
    return asyncio.run(door.complete(list(messages), [], agent=agent))


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def test_a_continuation_sends_the_sampled_tokens_and_not_their_text_encoded_again() -> None:
    engine = FakeEngine(["one", "two"])
    door = open_door(engine)
    first = say(door, *OPENING)
    say(door, *OPENING, first.message, user("more"))
    start, following = engine.requests
    chat = engine.chat
    assert list(start.prompt_ids) == chat.render(OPENING, [])
    sampled = [SAMPLED + byte for byte in b"one"] + [END]
    assert list(engine.completions[0].token_ids) == sampled
    assert list(following.prompt_ids) == [*start.prompt_ids, *sampled, *chat.render([user("more")], [])]
    a, b = door.calls
    assert (a.parent_id, b.parent_id, b.drift) == (None, a.call_id, "clean")
    assert list(b.prompt_ids) == chat.render([user("more")], [])


def test_the_branch_of_the_ledger_is_what_the_engine_saw_and_said() -> None:
    engine = FakeEngine(["one", "two", "three"], version=4)
    door = open_door(engine)
    conversation = list(OPENING)
    for text in ("a", "b", "c"):
        conversation += [say(door, *conversation).message, user(text)]
    (branch,) = Trajectory(door.calls, StopReason.ANSWERED).branches()
    last = engine.requests[-1].prompt_ids + engine.completions[-1].token_ids
    assert tuple(branch.token_ids) == last
    sampled = [token for completion in engine.completions for token in completion.token_ids]
    assert list(branch.token_ids[branch.loss_mask]) == sampled
    assert list(branch.sampling_logprobs[branch.loss_mask]) == [fake_logprob(token) for token in sampled]
    assert set(branch.policy_versions[branch.loss_mask]) == {4}


def test_a_turn_cut_by_length_is_closed_before_the_next_message() -> None:
    engine = FakeEngine(["a long answer", "b"])
    door = open_door(engine, max_new_tokens=3)
    first = say(door, *OPENING)
    say(door, *OPENING, first.message, user("x"))
    assert first.finish_reason == "length"
    assert list(door.calls[1].prompt_ids) == [END, *engine.chat.render([user("x")], [])]


def test_whitespace_changed_by_the_agent_is_realigned_onto_the_sampled_tokens() -> None:
    engine = FakeEngine(["  one \n", "two"])
    door = open_door(engine)
    say(door, *OPENING)
    say(door, *OPENING, {"role": "assistant", "content": "one"}, user("more"))
    assert door.calls[1].drift == "realigned"
    assert door.calls[1].parent_id == door.calls[0].call_id


def test_arguments_written_again_with_other_spacing_are_realigned() -> None:
    engine = FakeEngine([tool_call_text("look", order="a b", n=1), "two"])
    door = open_door(engine)
    reply = say(door, *OPENING)
    (call,) = reply.message["tool_calls"]
    again = {**call, "function": {"name": "look", "arguments": '{"n":1,"order":"a b"}'}}
    shown = {"role": "tool", "tool_call_id": call["id"], "content": "ok"}
    say(door, *OPENING, {"role": "assistant", "content": None, "tool_calls": [again]}, shown)
    assert [each.drift for each in door.calls] == ["clean", "realigned"]


def test_edited_assistant_text_forks_and_is_never_trained_as_if_sampled() -> None:
    engine = FakeEngine(["one", "two"])
    door = open_door(engine)
    say(door, *OPENING)
    edited = [*OPENING, {"role": "assistant", "content": "something else"}, user("more")]
    say(door, *edited)
    fork = door.calls[1]
    assert (fork.parent_id, fork.drift) == (None, "forked")
    assert list(fork.prompt_ids) == engine.chat.render(edited, [])
    first, second = Trajectory(door.calls, StopReason.ANSWERED).branches()
    assert first.loss_mask.sum() + second.loss_mask.sum() == sum(len(c.token_ids) for c in engine.completions)


def test_call_ids_of_the_agents_own_are_realigned() -> None:
    engine = FakeEngine([tool_call_text("look", n=1) + tool_call_text("look", n=2), "two", "three"])
    door = open_door(engine)
    calls = [
        {"id": f"own-{i}", "type": "function", "function": {"name": call["function"]["name"], "arguments": raw}}
        for i, (call, raw) in enumerate(
            zip(say(door, *OPENING).message["tool_calls"], ['{"n": 1}', '{"n":2}'], strict=True)
        )
    ]
    shown = [{"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in calls]
    talk = [*OPENING, {"role": "assistant", "content": "", "tool_calls": calls}, *shown]
    second = say(door, *talk)
    say(door, *talk, second.message, user("go on"))
    assert [(call.drift, call.parent_id) for call in door.calls] == [
        ("clean", None),
        ("realigned", "c0"),
        ("realigned", "c1"),
    ]
    assert_exact(door.calls, engine)


def test_identical_siblings_are_told_apart_by_their_call_ids() -> None:
    engine = FakeEngine([tool_call_text("look", n=1), "done"])
    door = open_door(engine)
    left, right = say(door, *OPENING), say(door, *OPENING)
    for reply in (left, right):
        call_id = reply.message["tool_calls"][0]["id"]
        say(door, *OPENING, reply.message, {"role": "tool", "tool_call_id": call_id, "content": "ok"})
    assert [call.parent_id for call in door.calls] == [None, None, "c0", "c1"]


def test_examples_in_the_first_prompt_are_no_drift() -> None:
    door = open_door(FakeEngine(["one"]))
    say(door, user("like this"), {"role": "assistant", "content": "an example"}, user("now you"))
    assert door.calls[0].drift == "clean"


def test_examples_of_a_sub_agent_are_no_drift_and_an_edited_history_is() -> None:
    engine = FakeEngine(["one", "two", "three", "four"])
    door = open_door(engine)
    first = say(door, *OPENING)
    shots = [user("like this"), {"role": "assistant", "content": "an example"}, user("now you")]
    say(door, {"role": "system", "content": "you summarise"}, *shots, agent="helper")
    say(door, {"role": "system", "content": "be brief!"}, *OPENING[1:], first.message, user("x"))
    say(door, OPENING[0], user("another"), {"role": "assistant", "content": "an example"}, user("x"))
    assert [call.drift for call in door.calls] == ["clean", "clean", "forked", "forked"]
    assert_exact(door.calls, engine)


def test_compaction_is_a_branch_and_forks_only_if_it_keeps_turns_out_of_their_place() -> None:
    engine = FakeEngine(lambda prompt: f"turn {prompt.turn} of {len(prompt.messages)}")
    door = open_door(engine)
    first = say(door, *OPENING)
    second = say(door, *OPENING, first.message, user("x"))
    summary = [OPENING[0], user("so far: hi, x")]
    third = say(door, *summary)
    say(door, *summary, third.message, user("go on"))
    say(door, OPENING[0], user("so far: hi"), second.message, user("go on"))
    assert [(call.parent_id, call.drift) for call in door.calls] == [
        (None, "clean"),
        ("c0", "clean"),
        (None, "clean"),
        ("c2", "clean"),
        (None, "forked"),
    ]
    branches = list(Trajectory(door.calls, StopReason.ANSWERED).branches())
    assert len(branches) == 3
    assert sum(branch.loss_mask.sum() for branch in branches) == sum(len(c.token_ids) for c in engine.completions)
    assert_exact(door.calls, engine)


def test_parallel_calls_sent_back_one_turn_each_fork() -> None:
    engine = FakeEngine([tool_call_text("look", n=1) + tool_call_text("look", n=2), "done"])
    door = open_door(engine)
    talk: list[Message] = list(OPENING)
    for call in say(door, *OPENING).message["tool_calls"]:
        talk.append({"role": "assistant", "content": "", "tool_calls": [call]})
        talk.append({"role": "tool", "tool_call_id": call["id"], "content": "ok"})
    say(door, *talk)
    assert (door.calls[1].parent_id, door.calls[1].drift) == (None, "forked")
    assert_exact(door.calls, engine)


def test_a_message_edited_in_place_is_noticed() -> None:
    engine = FakeEngine(["one", "two"])
    door = open_door(engine)
    conversation = list(OPENING)
    conversation.append(say(door, *conversation).message)
    conversation[1] = user("hello")
    say(door, *conversation, user("more"))
    assert door.calls[1].drift == "forked"


def test_other_tools_mean_another_prompt() -> None:
    engine = FakeEngine(["one", "two"])
    door = open_door(engine)
    first = say(door, *OPENING)
    schema = {"type": "function", "function": {"name": "look", "parameters": {}}}
    asyncio.run(door.complete([*OPENING, first.message, user("x")], [schema]))
    assert door.calls[1].drift == "forked"


def test_a_template_that_edits_history_forks() -> None:
    engine = FakeEngine(["one", "two"])
    door = open_door(engine, chat=FakeChat(stable=False))
    first = say(door, *OPENING)
    say(door, *OPENING, first.message, user("x"))
    assert (door.calls[1].parent_id, door.calls[1].drift) == (None, "forked")


def test_a_retry_is_a_sibling_and_shared_tokens_are_claimed_once() -> None:
    engine = FakeEngine(lambda prompt: f"turn {prompt.turn} seed {prompt.seed}")
    door = open_door(engine)
    first = say(door, *OPENING)
    following = [*OPENING, first.message, user("x")]
    say(door, *following)
    say(door, *following)
    root, left, right = door.calls
    assert left.parent_id == right.parent_id == root.call_id
    assert left.completion_ids != right.completion_ids
    one, two = Trajectory(door.calls, StopReason.ANSWERED).branches()
    assert one.loss_mask.sum() == len(root.completion_ids) + len(left.completion_ids)
    assert two.loss_mask.sum() == len(right.completion_ids)


def test_going_back_to_an_earlier_turn_branches_there() -> None:
    engine = FakeEngine(lambda prompt: f"turn {prompt.turn}")
    door = open_door(engine)
    first = say(door, *OPENING)
    second = say(door, *OPENING, first.message, user("x"))
    say(door, *OPENING, first.message, user("x"), second.message, user("y"))
    say(door, *OPENING, first.message, user("another way"))
    assert [call.parent_id for call in door.calls] == [None, "c0", "c1", "c0"]
    assert {call.drift for call in door.calls} == {"clean"}


def test_a_sub_agent_is_a_branch_of_its_own_and_does_not_disturb_the_main_line() -> None:
    engine = FakeEngine(lambda prompt: f"reply {len(prompt.messages)}")
    door = open_door(engine)
    first = say(door, *OPENING)
    say(door, user("you are a helper"), agent="helper")
    say(door, *OPENING, first.message, user("go on"))
    assert [(c.agent, c.parent_id, c.drift) for c in door.calls] == [
        ("main", None, "clean"),
        ("helper", None, "clean"),
        ("main", "c0", "clean"),
    ]
    assert [m["content"] for m in door.transcript] == ["be brief", "hi", "reply 2", "go on", "reply 4"]


def test_parallel_calls_are_siblings() -> None:
    engine = FakeEngine(lambda prompt: f"seed {prompt.seed}", delay_seconds=0.001)
    door = open_door(engine)

    async def both() -> None:
        await asyncio.gather(door.complete(OPENING, []), door.complete(OPENING, []))

    asyncio.run(both())
    assert [call.call_id for call in door.calls] == ["c0", "c1"]
    assert door.calls[0].completion_ids != door.calls[1].completion_ids


def test_each_call_has_the_seed_of_its_place_and_its_sampling_is_kept() -> None:
    engine = FakeEngine(["one", "two"])
    door = open_door(engine, temperature=0.5, max_new_tokens=9)
    say(door, *OPENING)
    say(door, *OPENING)
    assert [r.sampling.seed for r in engine.requests] == [derive(7, 0), derive(7, 1)]
    drawn = {"temperature": 0.5, "max_new_tokens": 9, "seed": derive(7, 1)}
    assert door.calls[1].sampling == vars(SamplingParams(**drawn))


def test_tool_calls_get_ids_unique_in_the_attempt() -> None:
    engine = FakeEngine([tool_call_text("look", n=1) + tool_call_text("look", n=2)])
    door = open_door(engine)
    say(door, *OPENING)
    say(door, *OPENING)
    assert [tc.call_id for call in door.calls for tc in call.tool_calls] == ["c0_0", "c0_1", "c1_0", "c1_1"]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(max_turns=1), StopReason.MAX_TURNS), (Limits(max_tokens=30), StopReason.MAX_TOKENS)],
)
def test_past_a_limit_every_request_gets_the_same_answer(limits: Limits, reason: StopReason) -> None:
    door = open_door(FakeEngine(["one"]), limits=limits)
    first = say(door, *OPENING)
    for _ in range(2):
        with pytest.raises(Stopped) as stopped:
            say(door, *OPENING, first.message, user("something long enough"))
        assert stopped.value.reason is reason
    assert len(door.calls) == 1


def test_the_completion_is_cut_to_what_the_branch_may_still_hold() -> None:
    engine = FakeEngine(["0123456789"])
    room = 4
    prompt = len(engine.chat.render(OPENING, []))
    door = open_door(engine, limits=Limits(max_tokens=prompt + room))
    assert say(door, *OPENING).num_completion_tokens == room


def test_tool_calls_are_admitted_up_to_the_limit() -> None:
    door = open_door(FakeEngine(["x"]), limits=Limits(max_tool_calls=3))
    door.count_tool_calls(3)
    with pytest.raises(Stopped, match="4 tool calls wanted, 3 allowed"):
        door.count_tool_calls(1)


def test_an_engine_failure_closes_the_door_and_says_so() -> None:
    engine = FakeEngine(["x"], fail_at=[0])
    door = open_door(engine)
    with pytest.raises(Stopped) as stopped:
        say(door, *OPENING)
    assert stopped.value.reason is StopReason.ENGINE_ERROR
    with pytest.raises(Stopped):
        say(door, *OPENING)
    assert len(engine.requests) == 1


def test_results_land_on_the_call_that_asked() -> None:
    engine = FakeEngine([tool_call_text("look", order="a") + tool_call_text("look", order="b"), "done"])
    door = open_door(engine)
    early_owner, _ = door.claim_tool_call("warm_up", "{}", None)
    door.record_foreign_result(early_owner, ToolResult("u", "warm_up", "ok"))
    say(door, *OPENING)
    uses = [
        door.claim_tool_call("look", '{"order":"b"}', None),
        door.claim_tool_call("look", '{"order":"changed"}', None),
        door.claim_tool_call("other", "{}", None),
    ]
    assert [(owner, tool_call.call_id) for owner, tool_call in uses] == [
        ("c0", "c0_1"),
        ("c0", "c0_0"),
        ("c0", "unasked-2"),
    ]
    door.record_foreign_result("c0", ToolResult("c0_1", "look", "found"))
    assert [result.content for result in door.calls[0].tool_results] == ["ok", "found"]


def test_content_in_parts_is_the_same_text() -> None:
    engine = FakeEngine(["one", "two"])
    door = open_door(engine)
    say(door, *OPENING)
    parts = {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}
    say(door, OPENING[0], parts)
    assert engine.requests[0].prompt_ids == engine.requests[1].prompt_ids
