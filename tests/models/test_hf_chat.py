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
    assert chat.tokenizer.decode(whole) == chat.text(TALK, TOOLS, speak=False)

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


NATIVE = "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}<|{{ m.role }}|>" + (
    "{% if m.tool_calls %}CALLS{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
EACH = "{% for c in m.tool_calls %}CALL{% if not loop.last %}JOINT{% endif %}{% endfor %}"
NAME, ARGUMENTS = "{{ c.function.name }}", "{{ c.function.arguments | tojson }}"
STRICT_ID = "{% if c.id | length != 9 %}{{ raise_exception('ids have 9 letters') }}{% endif %}"
FAMILIES = {
    "hermes": (f'<tool_call>\n{{"name": "{NAME}", "arguments": {ARGUMENTS}}}\n</tool_call>', "\n"),
    "llama_json": (f'{{"name": "{NAME}", "parameters": {ARGUMENTS}}}', "; "),
    "mistral": (
        f'[TOOL_CALLS] [{STRICT_ID}{{"name": "{NAME}", "arguments": {ARGUMENTS}, "id": "{{{{ c.id }}}}"}}]',
        "",
    ),
    "mistral_args": (f"[TOOL_CALLS]{NAME}{STRICT_ID}[ARGS]{ARGUMENTS}", ""),
    "harmony": (f" to=functions.{NAME}<|channel|>commentary json<|message|>{ARGUMENTS}<|call|>", ""),
    "llama_pythonic": (
        f"[{NAME}({{% for k, v in c.function.arguments.items() %}}{{{{ k }}}}="
        "{{ ('True' if v else 'False') if v is boolean else v | tojson }}{% if not loop.last %}, {% endif %}"
        "{% endfor %})]",
        "",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_says_by_itself_how_the_model_calls_tools(tokenizer: Any, family: str) -> None:
    call, joint = FAMILIES[family]
    written = NATIVE.replace("CALLS", EACH.replace("CALL", call).replace("JOINT", joint))
    chat = HfChat(with_template(tokenizer, written))
    assert (chat.tool_format, chat.renders_tools) == (family, True)
    ids, mask = chat.conversation(TALK[:3], TOOLS)
    parsed = chat.parse([t for t, m in zip(ids, mask, strict=True) if m])
    assert [(c.name, json.loads(c.arguments)) for c in parsed.tool_calls] == [("look", {"order_id": "A4821"})]
    more = chat.render_more(TALK[:4], TOOLS, 3, True)
    assert more is not None and chat.tokenizer.decode(more) == '<|tool|>{"status": "shipped"}<|end|><|assistant|>'


def test_a_named_format_that_the_template_does_not_write_goes_through_plain_text(tokenizer: Any) -> None:
    chat = HfChat(tokenizer, tool_format="llama_json")
    assert (chat.tool_format, chat.renders_tools) == ("llama_json", False)
    text = chat.text(TALK[:4], TOOLS, speak=False)
    assert 'To use a tool answer only {"name": NAME, "parameters": {...}} and nothing else.' in text
    assert '<|assistant|>{"name": "look", "parameters": {"order_id": "A4821"}}<|end|>' in text
    with pytest.raises(ModelError, match="did you mean 'hermes'"):
        HfChat(tokenizer, tool_format="hermess")


def test_calls_in_a_form_that_nobody_reads_are_refused_only_where_tools_are_given(tokenizer: Any) -> None:
    chat = HfChat(with_template(tokenizer, NATIVE.replace("CALLS", "<invoke>{{ m.tool_calls[0].function.name }}")))
    assert chat.tool_format is None and chat.call_form is None
    assert chat.parse(chat.tokenizer("hello")["input_ids"]).content == "hello"
    assert chat.render(TALK[:2], [])
    with pytest.raises(ModelError, match=r"form that is not known here.*hermes"):
        chat.render(TALK[:2], TOOLS)


def test_what_a_template_refuses_is_a_model_error(tokenizer: Any) -> None:
    chat = HfChat(with_template(tokenizer, PLAIN + "{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(ModelError, match="some/folder cannot render the conversation: roles must alternate"):
        HfChat(chat.tokenizer, "some/folder").render(TALK[:2], [])


def test_a_template_without_a_system_role_gets_it_in_the_first_question(tokenizer: Any) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
    chat = HfChat(with_template(tokenizer, refusing))
    assert chat.text(TALK[:2], [], speak=True).startswith("<|user|>You are the desk.\n\nWhere is order")
    assert "Tools:\nlook(" in chat.text(TALK[:2], TOOLS, speak=True)


def test_results_of_one_turn_are_shown_in_one_turn(tokenizer: Any) -> None:
    chat = HfChat(with_template(tokenizer, PLAIN))
    text = chat.text([*TALK[:4], {**TALK[3], "content": "2nd"}], TOOLS, speak=True)
    assert '{"status": "shipped"}</tool_response>\n<tool_response>2nd</tool_response><|end|><|assistant|>' in text


def test_every_stop_token_ends_a_turn_and_the_templates_own_closes_one(tokenizer: Any) -> None:
    tokenizer.eos_token = "<|pad|>"
    end = tokenizer.convert_tokens_to_ids(END)
    chat = HfChat(tokenizer, stop_ids=[end])
    assert set(chat.stop_ids) == {tokenizer.eos_token_id, end}
    ended, cut = chat.render_more(TALK[:4], TOOLS, 3, True), chat.render_more(TALK[:4], TOOLS, 3, False)
    assert ended is not None and cut == [end, *ended]
    _, mask = chat.conversation(TALK, TOOLS)
    assert any(mask)


def test_a_thought_that_the_prompt_opens_holds_no_calls(tokenizer: Any) -> None:
    chat = HfChat(with_template(tokenizer, PLAIN.replace("<|assistant|>", "<|assistant|><think>\n")))
    said = 'perhaps <tool_call>{"name": </think>It is on its way.'
    parsed = chat.parse(chat.tokenizer(said, add_special_tokens=False)["input_ids"])
    assert parsed.malformed is None and parsed.content == said and parsed.tool_calls == ()


@pytest.mark.parametrize("arguments", ["[1]", '"x"', "null", "3", "true"])
def test_arguments_that_are_no_object_are_malformed(chat: HfChat, arguments: str) -> None:
    said = f'<tool_call>{{"name": "look", "arguments": {arguments}}}</tool_call>'
    parsed = chat.parse(chat.tokenizer(said, add_special_tokens=False)["input_ids"])
    assert parsed.tool_calls == () and parsed.malformed is not None
    assert "the arguments of look are" in parsed.malformed and "not an object" in parsed.malformed


def test_garbled_arguments_that_an_agent_shows_back_can_be_rendered(chat: HfChat) -> None:
    for garbled in ("{oops", "[1]"):
        function = {"name": "look", "arguments": garbled}
        turn: Message = {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "function": function}]}
        assert "malformed" in chat.text([*TALK[:2], turn, TALK[3]], TOOLS, speak=True)


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
