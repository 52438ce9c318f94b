"""What a chat template does to a conversation that grows: the audit behind `flyball doctor template`.

Rollouts only ever append: the tokens of a turn stay as they were sampled, and what follows it is what the template adds
to the conversation so far. That needs a template that writes the past the same way whatever is said next. Where it does
not, an attempt goes on as a new branch, in which earlier turns are given text and train nothing; and a demonstration is
refused. The audit renders short conversations turn by turn, as text, and says at which turn the past changes and why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flyball.errors import ModelError
from flyball.models.hf_chat import PROBE_TOOL, HfChat, num_shared
from flyball.types import Message

Where = Literal["next prompt", "own turn"]


@dataclass(frozen=True)
class Break:
    """The turn `messages[message]` and why the template does not keep it. `before` became `after`.

    `where`: "next prompt" = the following prompt does not begin with it, so attempts fork there; "own turn" = the
    finished turn does not begin with the prompt it answered, so demonstrations are refused.
    """

    message: int
    where: Where
    why: str
    before: str
    after: str


@dataclass(frozen=True)
class Finding:
    """One kind of conversation: the breaks in it, or why the template cannot render it at all."""

    name: str
    breaks: tuple[Break, ...] = ()
    refused: str = ""

    @property
    def is_stable(self) -> bool:
        return not self.breaks and not self.refused


@dataclass(frozen=True)
class Audit:
    """`tool_format` is None when calls are written in a form that nobody here reads. `habits`: what breaks nothing."""

    tool_format: str | None
    renders_tools: bool
    findings: tuple[Finding, ...]
    habits: tuple[str, ...]

    @property
    def is_stable(self) -> bool:
        """Whether every conversation that the template can render keeps its past."""
        return not any(finding.breaks for finding in self.findings)


def audit(chat: HfChat) -> Audit:
    """Render every kind of conversation turn by turn. Takes no model; well under a second."""
    findings = [_examine(chat, name, messages, tools) for name, (messages, tools) in CONVERSATIONS.items()]
    return Audit(chat.tool_format, chat.renders_tools, tuple(findings), tuple(_habits(chat)))


# --- conversations ---------------------------------------------------------------------------------------------------


def _user(n: int) -> Message:
    return {"role": "user", "content": f"Question {n}?"}


def _said(n: int, thought: str = "") -> Message:
    return {"role": "assistant", "content": f"{thought}Answer {n}."}


def _called(n: int, thought: str = "", num_calls: int = 1) -> Message:
    calls = [
        {
            "id": f"call{n:04d}{i}",
            "type": "function",
            "function": {"name": "look_up", "arguments": f'{{"order": "order {n}{i}"}}'},
        }
        for i in range(num_calls)
    ]
    return {"role": "assistant", "content": thought, "tool_calls": calls}


def _result(n: int, i: int = 0) -> Message:
    content = f'{{"found": "result {n}{i}"}}'
    return {"role": "tool", "tool_call_id": f"call{n:04d}{i}", "name": "look_up", "content": content}


def _thought(n: int) -> str:
    return f"<think>\nThought {n}.\n</think>\n\n"


SYSTEM: Message = {"role": "system", "content": "You are the desk."}
TOOLS = (PROBE_TOOL,)
CONVERSATIONS: Mapping[str, tuple[Sequence[Message], Sequence[dict[str, Any]]]] = {
    "turns": ([SYSTEM, _user(1), _said(2), _user(3), _said(4), _user(5), _said(6)], ()),
    "turns without a system message": ([_user(1), _said(2), _user(3), _said(4)], ()),
    "reasoning": (
        [SYSTEM, _user(1), _said(2, _thought(2)), _user(3), _said(4, _thought(4)), _user(5), _said(6, _thought(6))],
        (),
    ),
    "tools": ([SYSTEM, _user(1), _called(2), _result(2), _called(4), _result(4), _said(6)], TOOLS),
    "tools, several calls in a turn": (
        [SYSTEM, _user(1), _called(2, num_calls=2), _result(2), _result(2, 1), _said(5)],
        TOOLS,
    ),
    "tools and user turns": (
        [SYSTEM, _user(1), _called(2), _result(2), _said(4), _user(5), _called(6), _result(6), _said(8)],
        TOOLS,
    ),
    "tools and reasoning": (
        [
            SYSTEM,
            _user(1),
            _called(2, _thought(2)),
            _result(2),
            _called(4, _thought(4)),
            _result(4),
            _said(6, _thought(6)),
            _user(7),
            _said(8, _thought(8)),
        ],
        TOOLS,
    ),
}
"""Every text in them is said once, so that what is missing can be named."""


# --- one conversation ------------------------------------------------------------------------------------------------


def _examine(chat: HfChat, name: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Finding:
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    breaks: list[Break] = []
    try:
        for turn, following in zip(turns, [*turns[1:], None], strict=True):
            prompt = chat.text(messages[:turn], tools, speak=True)
            if left_out := _left_out(messages[:turn], prompt):
                return Finding(name, tuple(breaks), left_out)
            finished = chat.text(messages[: turn + 1], tools, speak=False)
            if not finished.startswith(prompt):
                breaks.append(_own_turn(chat, messages, turn, prompt, finished))
            if following is None:
                continue
            after = chat.text(messages[:following], tools, speak=True)
            if chat.after_turn(after, finished) is None:
                breaks.append(_next_prompt(chat, messages, turn, finished, after))
    except ModelError as error:
        return Finding(name, refused=str(error))
    return Finding(name, tuple(breaks))


def _left_out(messages: Sequence[Message], prompt: str) -> str:
    for i, message in enumerate(messages):
        for kind, text in _parts(message) if message["role"] != "assistant" else ():
            if text not in prompt:
                return f"the template leaves out the {kind} of message {i}: the policy would never see it"
    return ""


def _own_turn(chat: HfChat, messages: Sequence[Message], turn: int, prompt: str, finished: str) -> Break:
    before, became = _apart(prompt, finished)
    rest = prompt[num_shared(prompt, finished) :]
    if any(text in rest for message in messages[:turn] for _, text in _parts(message)):
        why = _why(chat, messages[:turn], prompt, finished)
    elif prompt.rstrip().endswith("<think>"):
        why = "the prompt opens a thought that the finished turn does not begin with"
    elif not rest.strip():
        why = "white space that ends the prompt is left out of the finished turn"
    else:
        why = "the finished turn does not begin with the prompt that it answers"
    return Break(turn, "own turn", why, before, became)


def _next_prompt(chat: HfChat, messages: Sequence[Message], turn: int, finished: str, after: str) -> Break:
    before, became = _apart(finished, after)
    return Break(turn, "next prompt", _why(chat, messages[: turn + 1], finished, after), before, became)


def _why(chat: HfChat, messages: Sequence[Message], finished: str, after: str) -> str:
    """The first thing said that is gone or has moved, else the first text that differs."""
    if not any(stop in finished for stop in chat.stop_texts):
        return f"no turn ends with a stop token ({', '.join(chat.stop_texts)}), so where it ended cannot be seen"
    for i, message in enumerate(messages):
        for kind, text in _parts(message):
            if text in finished and text not in after:
                return f"the {kind} of message {i} is left out once more is said"
    at = num_shared(finished, after)
    if not finished[at:].strip() or any(finished[at:].strip() == stop for stop in chat.stop_texts):
        return "the end of the conversation is marked by what is not there once more is said"
    spoken = [(finished.find(text), text, i, kind) for i, m in enumerate(messages) for kind, text in _parts(m)]
    apart = [(max(start - at, at - start - len(text)), i, kind) for start, text, i, kind in spoken if start >= 0]
    _, i, kind = min(apart, default=(0, 0, "text"))
    return f"the {kind} of message {i}, or what stands around it, is written otherwise once more is said"


def _parts(message: Message) -> list[tuple[str, str]]:
    """(what it is, a text that is said nowhere else) for everything in a message."""
    if message["role"] == "tool":
        return [("tool result", re.findall(r"result \d+", message["content"])[0])]
    parts = [("reasoning", found) for found in re.findall(r"Thought \d+\.", message["content"])]
    parts += [
        ("tool call", re.findall(r"order \d+", c["function"]["arguments"])[0]) for c in message.get("tool_calls", ())
    ]
    said = message["content"].rsplit("</think>", 1)[-1].strip()
    return [*parts, *([("text", said)] if said else [])]


def _apart(one: str, other: str, width: int = 40) -> tuple[str, str]:
    """The places where two texts part."""
    at = num_shared(one, other)
    return one[at : at + width], other[at : at + width]


# --- habits ----------------------------------------------------------------------------------------------------------


def _habits(chat: HfChat) -> list[str]:
    """What a template does beyond writing what was said, where that breaks no prefix."""
    probes = (_default_system, _no_system, _trims, _clock, _decodes_otherwise)
    return [said for probe in probes if (said := probe(chat))]


def _default_system(chat: HfChat) -> str:
    """Words that stand before the first message, and are gone when a system message is given."""
    try:
        alone, told = (chat.text([*first, _user(1)], (), speak=False) for first in ([], [SYSTEM]))
    except ModelError:
        return ""
    before, _, _ = alone.partition(_user(1)["content"])
    around, _, _ = told.replace(SYSTEM["content"], "").partition(_user(1)["content"])
    at = num_shared(before, around)
    end = num_shared(before[at:][::-1], around[at:][::-1])
    said = before[at : len(before) - end].strip()
    return f"adds a system message of its own when none is given: {said[:80]!r}" if said else ""


def _no_system(chat: HfChat) -> str:
    return "" if chat.takes_system else "has no system message: what it says is put before the first user's text"


def _trims(chat: HfChat) -> str:
    padded = " \n padded text \n "
    trimmed = []
    for role in ("user", "assistant"):
        messages: list[Message] = [_user(1), {"role": "assistant", "content": padded}]
        messages = messages if role == "assistant" else [{"role": "user", "content": padded}]
        try:
            text = chat.text(messages, (), speak=False)
        except ModelError:
            continue
        if padded not in text:
            trimmed.append(role)
    return f"trims white space around what the {' and the '.join(trimmed)} said" if trimmed else ""


def _clock(chat: HfChat) -> str:
    if "strftime_now" not in chat.template:
        return ""
    return "writes the current date: the same conversation is another prompt tomorrow"


def _decodes_otherwise(chat: HfChat) -> str:
    """A prompt whose tokens do not read as its text: the tokenizer adds or changes something."""
    try:
        text = chat.text([_user(1), _said(2), _user(3)], (), speak=True)
    except ModelError:
        return ""
    ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    read = chat.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return "" if read == text else "is not read back from its tokens as it was written: the tokenizer changes the text"
