"""The audit of chat templates: every habit that changes the past is found, with its turn and the reason."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from flyball.evals.policy_checks import check_template
from flyball.models.hf_chat import HfChat, load_chat
from flyball.models.template_habits import CONVERSATIONS, Audit, audit
from flyball.models.tiny import train_tokenizer

BASE = Path(__file__).parents[2] / "examples" / "helpdesk" / "base"
CALLS = (
    '{% for c in m.tool_calls or [] %}<tool_call>{"name": {{ c.function.name | tojson }}, "arguments": '
    "{{ c.function.arguments | tojson }}}</tool_call>{% endfor %}"
)
HEAD = "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
SPEAK = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def template(said: str = "{{ m.content }}", *, head: str = HEAD, close: str = "<|end|>", speak: str = SPEAK) -> str:
    return f"{head}{{% for m in messages %}}<|{{{{ m.role }}}}|>{said}{CALLS}{close}{{% endfor %}}{speak}"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["Question 1? Answer 2. order 17"] * 3, 320)


def audited(tokenizer: Any, written: str) -> Audit:
    tokenizer.chat_template = written
    return audit(HfChat(tokenizer))


def broken(found: Audit) -> dict[str, list[tuple[int, str, str]]]:
    return {f.name: [(b.message, b.where, b.why) for b in f.breaks] for f in found.findings if f.breaks}


def test_a_template_that_only_appends_is_stable(tokenizer: Any) -> None:
    found = audited(tokenizer, template())
    assert found.is_stable and found.habits == () and [f.name for f in found.findings] == list(CONVERSATIONS)
    assert (found.tool_format, found.renders_tools) == ("hermes", True)
    assert all(finding.is_stable for finding in found.findings)


LAST = "{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% else %}%s{% endif %}"
HABITS = {
    "strips earlier reasoning": (
        template(LAST.replace("%s", "{{ m.content.split('</think>')[-1].lstrip('\\n') }}")),
        "reasoning",
        (2, "next prompt", "the reasoning of message 2 is left out once more is said"),
    ),
    "forgets what was said": (
        template(LAST.replace("%s", "")),
        "turns",
        (2, "next prompt", "the text of message 2 is left out once more is said"),
    ),
    "cuts tool results that are not new": (
        template("{{ '[cut]' if m.role == 'tool' and messages[loop.index:] | length > 1 else m.content }}"),
        "tools",
        (4, "next prompt", "the tool result of message 3 is left out once more is said"),
    ),
    "renders tool results again in another way": (
        template("{{ m.content | tojson if m.role == 'tool' and messages[loop.index:] | length > 1 else m.content }}"),
        "tools",
        (4, "next prompt", "the tool result of message 3, or what stands around it, is written otherwise"),
    ),
    "closes no turn": (
        template(close="\n"),
        "turns",
        (2, "next prompt", "no turn ends with a stop token (<|end|>), so where it ended cannot be seen"),
    ),
    "marks the end of the conversation": (
        template(speak="{% if add_generation_prompt %}<|assistant|>{% else %} over<|end|>{% endif %}"),
        "turns",
        (2, "next prompt", "the text of message 2, or what stands around it, is written otherwise"),
    ),
    "opens a thought that history does not have": (
        template(speak="{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"),
        "turns",
        (2, "own turn", "the prompt opens a thought that the finished turn does not begin with"),
    ),
    "ends the prompt with white space of its own": (
        template(speak="{% if add_generation_prompt %}<|assistant|> \n{% endif %}"),
        "turns",
        (2, "own turn", "white space that ends the prompt is left out of the finished turn"),
    ),
    "counts the messages": (
        template(head="{{ messages | length }}" + HEAD),
        "turns",
        (2, "next prompt", "written otherwise once more is said"),
    ),
}


@pytest.mark.parametrize("habit", HABITS)
def test_what_changes_the_past_is_found_with_turn_and_reason(tokenizer: Any, habit: str) -> None:
    written, conversation, (message, where, why) = HABITS[habit]
    found = audited(tokenizer, written)
    assert not found.is_stable
    assert any(b[:2] == (message, where) and why in b[2] for b in broken(found)[conversation]), broken(found)


def test_reasoning_that_is_stripped_breaks_no_conversation_without_it(tokenizer: Any) -> None:
    found = audited(tokenizer, HABITS["strips earlier reasoning"][0])
    assert set(broken(found)) == {"reasoning", "tools and reasoning"}


def test_an_empty_thought_before_the_last_turn_is_no_break(tokenizer: Any) -> None:
    """Qwen 3 writes one; it says nothing, so the past is what it was when it is gone."""
    empty = (
        "{% if loop.last and m.role == 'assistant' and '<think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
    )
    found = audited(tokenizer, template(empty + "{{ m.content }}"))
    assert found.is_stable


def test_an_end_of_text_after_the_end_of_a_finished_conversation_is_no_break(tokenizer: Any) -> None:
    tokenizer.chat_template = template(speak="{% if add_generation_prompt %}<|assistant|>{% else %}<|pad|>{% endif %}")
    stop = tokenizer.convert_tokens_to_ids("<|pad|>")
    assert audit(HfChat(tokenizer, stop_ids=[stop])).is_stable


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            template(head="{% if messages[0].role != 'system' %}<|system|>You are Tiny.<|end|>{% endif %}" + HEAD),
            "adds a system message of its own when none is given: 'You are Tiny.'",
        ),
        (
            template(
                head="{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + HEAD
            ),
            "has no system message: what it says is put before the first user's text",
        ),
        (template("{{ m.content | trim }}"), "trims white space around what the user and the assistant said"),
        (template(head="{{ strftime_now('%d %b %Y') }}" + HEAD), "writes the current date"),
    ],
)
def test_habits_that_break_nothing_are_named(tokenizer: Any, written: str, said: str) -> None:
    found = audited(tokenizer, written)
    assert found.is_stable and [habit for habit in found.habits if habit.startswith(said)]


def test_what_a_template_cannot_render_or_leaves_out_is_said(tokenizer: Any) -> None:
    strict = "{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}{{ m.content }}"
    refused = {f.name: f.refused for f in audited(tokenizer, template(strict)).findings if f.refused}
    assert "no tools here" in refused["tools"] and "turns" not in refused
    parts = {f.name: f.refused for f in audited(tokenizer, template("{{ m.content.parts }}")).findings}
    assert "leaves out the text of message 0" in parts["turns without a system message"]


def test_calls_in_a_form_that_nobody_reads_are_said(tokenizer: Any) -> None:
    odd = template().replace("<tool_call>", "<invoke>").replace("</tool_call>", "</invoke>")
    found = audited(tokenizer, odd)
    assert found.tool_format is None
    assert {f.name for f in found.findings if "form that is not known here" in f.refused} == {
        name for name, (_, tools) in CONVERSATIONS.items() if tools
    }


def test_the_tiny_policys_template_is_stable() -> None:
    found = audit(load_chat(BASE))
    assert found.is_stable and (found.tool_format, found.renders_tools) == ("hermes", True)


def test_doctor_of_a_workflow_warns_of_a_template_that_changes_the_past(tokenizer: Any) -> None:
    assert check_template(load_chat(BASE)).level == "ok"
    tokenizer.chat_template = HABITS["strips earlier reasoning"][0]
    finding = check_template(HfChat(tokenizer))
    assert finding.level == "warn"
    assert "2 of 7 kinds of conversation, first: reasoning, turn 2: the reasoning of message 2 is left" in finding.text


SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template of SmolLM2-135M-Instruct, as published (Apache-2.0)."""


def test_a_published_template_is_stable_and_adds_its_own_system_message(tokenizer: Any) -> None:
    ending = copy.deepcopy(tokenizer)
    ending.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    found = audited(ending, SMOLLM2)
    assert found.is_stable and not found.renders_tools
    assert any("You are a helpful AI assistant named SmolLM" in habit for habit in found.habits)
