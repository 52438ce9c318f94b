"""The public fakes keep the promises that tests build on."""

from __future__ import annotations

import asyncio

import pytest

from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import Request, SamplingParams
from flyball.errors import EngineError
from flyball.models.fake import FakeChat, tool_call_text
from flyball.rng import derive
from flyball.types import Message, WeightsRef

TALK: list[Message] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "grüß dich"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c0_0", "type": "function", "function": {"name": "look", "arguments": '{"n": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "c0_0", "content": "found"},
]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


def request(chat: FakeChat, *messages: Message, max_new_tokens: int = 50) -> Request:
    ids = tuple(chat.render(messages, []))
    return Request(ids, SamplingParams(max_new_tokens=max_new_tokens, seed=3), chat.stop_ids)


def test_every_conversation_is_a_prefix_of_its_continuation() -> None:
    chat = FakeChat()
    seen = chat.render(TALK[:2], TOOLS)
    turn = [*tool_call_text("look", n=1).encode(), *chat.stop_ids]
    more = chat.render_more(TALK, TOOLS, 3, True)
    assert more is not None
    assert seen + turn + more == chat.render(TALK, TOOLS)


def test_a_sampled_turn_reads_as_its_text_and_encodes_differently() -> None:
    chat = FakeChat()
    ids = chat.encode_sampled("grüße")
    assert chat.parse(ids).content == "grüße"
    assert list("grüße".encode()) != ids[:-1]


def test_a_conversation_reads_back() -> None:
    chat = FakeChat()
    read = chat.messages(chat.render(TALK, TOOLS))
    assert [m["role"] for m in read] == ["system", "user", "assistant", "tool"]
    assert read[1]["content"] == "grüß dich"
    assert read[2]["content"] == tool_call_text("look", n=1)


@pytest.mark.parametrize(
    ("text", "explains"),
    [
        ("<tool_call>{not json</tool_call>", "is not JSON"),
        ('<tool_call>{"arguments": {}}</tool_call>', 'needs a "name"'),
        ("<tool_call>[1]</tool_call>", 'needs a "name"'),
        ('<tool_call>{"name": "look"', "is not JSON"),
    ],
)
def test_a_malformed_call_is_explained_and_never_raised(text: str, explains: str) -> None:
    chat = FakeChat()
    parsed = chat.parse(chat.encode_sampled(text))
    assert parsed.malformed is not None and explains in parsed.malformed
    assert parsed.tool_calls == ()


def test_calls_are_read_with_the_text_around_them() -> None:
    chat = FakeChat()
    parsed = chat.parse(chat.encode_sampled("first " + tool_call_text("a", x=1) + tool_call_text("b")))
    assert parsed.content == "first "
    assert [(call.name, call.arguments) for call in parsed.tool_calls] == [("a", '{"x": 1}'), ("b", "{}")]


def test_replies_come_in_turn_and_the_last_repeats() -> None:
    engine = FakeEngine(["one", "two"])

    async def reply(*messages: Message) -> str:
        return engine.chat.decode((await engine.generate(request(engine.chat, *messages))).token_ids)

    spoken: list[Message] = [{"role": "assistant", "content": "x"}]
    assert [asyncio.run(reply(*(spoken * n))) for n in range(3)] == ["one", "two", "two"]


def test_failure_limits_and_weights() -> None:
    engine = FakeEngine(["long"], fail_at=[1], max_context=20)

    async def go() -> None:
        cut = await engine.generate(request(engine.chat, max_new_tokens=2))
        assert (len(cut.token_ids), cut.finish_reason, cut.policy_versions) == (2, "length", (0, 0))
        with pytest.raises(EngineError, match="call 1"):
            await engine.generate(request(engine.chat))
        await engine.load_weights(WeightsRef(5, "", ""))
        assert (await engine.generate(request(engine.chat))).policy_versions == (5,) * 5
        with pytest.raises(EngineError, match="leaves no room"):
            await engine.generate(request(engine.chat, {"role": "user", "content": "x" * 30}))

    asyncio.run(go())


def test_derived_seeds_are_fixed_and_keep_parts_apart() -> None:
    assert derive(1, "task", 2) == derive(1, "task", 2)
    seeds = {derive(1), derive(2), derive(1, "a", "bc"), derive(1, "ab", "c"), derive(1, "1"), derive(1, 1)}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    # printf "(7, 'task', 0)" | sha256sum: the first 8 bytes, shifted right by one
    assert derive(7, "task", 0) == 4000389465035108078
