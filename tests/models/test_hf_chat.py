"""A tokenizer and its chat template as the one renderer: what is trained on is what was sampled, token for token."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flyball.errors import ModelError
from flyball.models.hf_chat import HfChat, signature
from flyball.models.tiny import END, train_tokenizer
from flyball.types import Message

LOOK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look up an order.",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string"}, "deep": {"type": "boolean"}},
            "required": ["order_id"],
        },
    },
}
TOOLS = [LOOK]


def asks(name: str, **arguments: Any) -> Message:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
    }


TALK: list[Message] = [
    {"role": "system", "content": "You are the desk."},
    {"role": "user", "content": "Where is order A4821, née Müller?"},
    asks("look", order_id="A4821"),
    {"role": "tool", "tool_call_id": "call_0", "name": "look", "content": '{"status": "shipped"}'},
    {"role": "assistant", "content": "It is on its way."},
    {"role": "user", "content": "Thanks 12"},
    {"role": "assistant", "content": "Gladly."},
]

# Templates of the two other kinds: one that knows no tools, and one that rewrites what was said before.
PLAIN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}" + (
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
UNSTABLE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role != 'assistant' or loop.last %}{{ m.content }}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [json.dumps(TALK), "You are the desk. It is on its way. Look up an order: shipped."] * 3


@pytest.fixture
def tokenizer(texts: list[str]) -> Any:
    return train_tokenizer(texts, 400)


@pytest.fixture
def chat(tokenizer: Any) -> HfChat:
    return HfChat(tokenizer)


def with_template(tokenizer: Any, template: str | None) -> Any:
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [None, PLAIN], ids=["knows tools", "knows no tools"])
def test_turns_put_together_are_the_whole_conversation(tokenizer: Any, template: str | None) -> None:
    chat = HfChat(with_template(tokenizer, template) if template else tokenizer)
    whole, mask = chat.conversation(TALK, TOOLS)
    assert chat.tokenizer.decode(whole) == chat._text(TALK, TOOLS, speak=False)

    ids = chat.render(TALK[:2], TOOLS)
    spoken = [i for i, m in enumerate(TALK) if m["role"] == "assistant"]
    for turn, following in zip(spoken, [*spoken[1:], None], strict=True):
        start = len(ids)
        assert ids == whole[:start]
        while mask[len(ids) : len(ids) + 1] == [True]:
            ids.append(whole[len(ids)])
        assert ids[-1] == chat.stop_ids[0] and mask[start : len(ids)] == [True] * (len(ids) - start)
        if following is not None:
            more = chat.render_more(TALK[:following], TOOLS, turn + 1, True)
            assert more is not None
            assert not any(mask[len(ids) : len(ids) + len(more)])
            ids += more
    assert ids == whole
    assert sum(mask) < len(mask)


def test_a_turn_that_ran_out_of_tokens_is_closed_before_the_next(chat: HfChat) -> None:
    ended = chat.render_more(TALK[:4], TOOLS, 3, True)
    cut = chat.render_more(TALK[:4], TOOLS, 3, False)
    assert ended is not None and cut == [*chat.stop_ids, *ended]


def test_what_the_mask_calls_sampled_reads_back(chat: HfChat) -> None:
    whole, mask = chat.conversation(TALK[:3], TOOLS)
    parsed = chat.parse([t for t, m in zip(whole, mask, strict=True) if m])
    assert parsed.malformed is None and parsed.content == ""
    assert [(c.name, json.loads(c.arguments)) for c in parsed.tool_calls] == [("look", {"order_id": "A4821"})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<tool_call>{broken</tool_call>", "not JSON"),
        ('<tool_call>{"name": "look", "arguments": {"order_id": ', "not JSON"),  # cut off by the token limit
        ('<tool_call>{"arguments": {}}</tool_call>', 'needs a "name"'),
        ('<tool_call>["look"]</tool_call>', 'needs a "name"'),
        ("<tool_call></tool_call>", "not JSON"),
        ('<tool_call>{"name": "look"}</tool_call><tool_call>oh</tool_call>', "not JSON"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "not JSON"),
        ('<tool_call>{"name": "look", "arguments": {"order_id": "\\ud800"}}</tool_call>', "surrogates"),
    ],
)
def test_a_malformed_call_is_said_and_never_raised(chat: HfChat, text: str, said: str) -> None:
    parsed = chat.parse([*chat.tokenizer(text, add_special_tokens=False)["input_ids"], *chat.stop_ids])
    assert parsed.tool_calls == () and parsed.malformed is not None
    assert said in parsed.malformed


def test_text_around_several_calls_is_kept(chat: HfChat) -> None:
    text = 'Let me see.<tool_call>{"name": "a"}</tool_call><tool_call>{"name": "b", "arguments": {"x": 1}}</tool_call>'
    parsed = chat.parse(chat.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert parsed.content == "Let me see."
    assert [(c.call_id, c.name, c.arguments) for c in parsed.tool_calls] == [
        ("call_0", "a", "{}"),
        ("call_1", "b", '{"x": 1}'),
    ]


def test_no_token_at_all_is_an_empty_answer(chat: HfChat) -> None:
    assert chat.parse([]).content == "" and chat.parse(chat.stop_ids).malformed is None


def test_a_template_without_tools_gets_them_in_plain_text(tokenizer: Any) -> None:
    chat = HfChat(with_template(tokenizer, PLAIN))
    text = chat.tokenizer.decode(chat.render(TALK[:4], TOOLS))
    assert "You are the desk.\nTools:\nlook(order_id: string, deep?: boolean) - Look up an order." in text
    assert '<tool_call>{"name": "look", "arguments": {"order_id": "A4821"}}</tool_call>' in text
    assert '<|user|><tool_response>{"status": "shipped"}</tool_response><|end|>' in text
    without_system = chat.tokenizer.decode(chat.render(TALK[1:2], TOOLS))
    assert without_system.startswith("<|system|>Tools:\n")


def test_a_tool_on_one_line() -> None:
    assert signature(LOOK) == "look(order_id: string, deep?: boolean) - Look up an order."


def test_a_template_that_rewrites_the_past_forks_and_trains_nothing(tokenizer: Any) -> None:
    chat = HfChat(with_template(tokenizer, UNSTABLE))
    talk = [TALK[1], TALK[4], TALK[5], TALK[6]]
    assert chat.render_more(talk[:3], [], 2, True) is None
    with pytest.raises(ModelError, match="not prefix-stable"):
        chat.conversation(talk, [])


def test_a_tokenizer_without_chat_template_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="some/folder has no chat template; take the instruct version"):
        HfChat(with_template(tokenizer, None), origin="some/folder")


def test_a_tokenizer_without_an_end_of_turn_is_refused(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end-of-turn"):
        HfChat(tokenizer)


def test_numbers_are_cut_short(chat: HfChat) -> None:
    """No token holds more than three digits, so a long number that was never seen is as easy to copy as any."""
    assert all(len(chat.tokenizer.decode([t])) <= 3 for t in chat.tokenizer("A4821")["input_ids"])
    assert len(chat.tokenizer(END)["input_ids"]) == 1
