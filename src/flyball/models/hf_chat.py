"""A Hugging Face tokenizer with its chat template as the one renderer.

How the model writes tool calls is a row of `tool_formats.py`: the one that reads back what the template itself writes,
or the one that is named. A template that knows no `tools`, or writes calls otherwise than the named row, gets tools in
the system text, calls in the assistant's text and results as `<tool_response>` in a user turn. Needs `transformers`,
not torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from flyball.errors import ModelError, nearest
from flyball.models.chat import CallForm, Parsed
from flyball.models.names import check_tokenizer
from flyball.models.tool_formats import TOOL_FORMATS, ToolFormat, arguments_of, format_of, known_formats
from flyball.types import Message, ToolCall

PROBE = ToolCall("call00000", "look_up", '{"order": "A 17", "deep": true}')
PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": PROBE.name,
        "description": "Look up an order.",
        "parameters": {
            "type": "object",
            "properties": {"order": {"type": "string"}, "deep": {"type": "boolean"}},
            "required": ["order"],
        },
    },
}


EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*")
"""Some templates put one before the last turn only. It says nothing, so leaving it out later changes no past."""


class HfChat:
    """`ChatFormat` over a `transformers` tokenizer. Raises ModelError when the tokenizer cannot hold a conversation.

    `tool_format` names a row of TOOL_FORMATS; None = what the template writes. `stop_ids`: tokens that end a turn
    beside the tokenizer's end token, such as those of the model's generation settings.
    """

    def __init__(
        self, tokenizer: Any, origin: str = "tokenizer", tool_format: str | None = None, stop_ids: Sequence[int] = ()
    ) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                f"{origin} has no chat template; take the instruct version of the model or set `chat_template` in its "
                "tokenizer_config.json"
            )
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{origin} names no end-of-turn token; set `eos_token` in its tokenizer_config.json")
        if tool_format is not None and tool_format not in TOOL_FORMATS:
            raise ModelError(f"tool_format {tool_format!r} is not known{nearest(tool_format, TOOL_FORMATS)}")
        self.tokenizer = tokenizer
        self._origin = origin
        self._row, self._knows_tools = self._choose(tool_format)
        self._stops = {int(tokenizer.eos_token_id): str(tokenizer.eos_token)}
        self._stops |= {i: str(tokenizer.convert_ids_to_tokens(i)) for i in stop_ids}
        if self._row is not None:
            self._stops |= {i: text for text in self._row.stops if (i := self._id_of(text)) is not None}

    def _choose(self, name: str | None) -> tuple[ToolFormat | None, bool]:
        """The row, and whether the template writes it itself. No row: it writes calls in a form nobody here reads."""
        knows_tools = "tools" in self.template
        own = self._own_format() if knows_tools else TOOL_FORMATS["hermes"]
        row = own if name is None else TOOL_FORMATS[name]
        return row, knows_tools and row is own

    def _own_format(self) -> ToolFormat | None:
        """The row that reads the call which the template wrote into the history."""
        function = {"name": PROBE.name, "arguments": arguments_of(PROBE.arguments)}
        asked: Message = {"role": "user", "content": "Where is it?"}
        called: Message = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": PROBE.call_id, "type": "function", "function": function}],
        }
        try:
            (before,) = self._apply([[asked]], [PROBE_TOOL], speak=True)
            (through,) = self._apply([[asked, called]], [PROBE_TOOL], speak=False)
        except ModelError:
            return None
        turn = through[num_shared(before, through) :]
        return format_of(turn.rsplit(self.tokenizer.eos_token, 1)[0], PROBE)

    def _id_of(self, token: str) -> int | None:
        found = self.tokenizer.convert_tokens_to_ids(token)
        return None if found is None or found == self.tokenizer.unk_token_id else int(found)

    @property
    def tool_format(self) -> str | None:
        """Name of the row in force; None when the template writes calls in a form that is not in the table."""
        return self._row.name if self._row else None

    @property
    def renders_tools(self) -> bool:
        """Whether the template writes tools and calls itself; else they are put into plain text turns."""
        return self._knows_tools

    @property
    def template(self) -> str:
        """The source of the chat template."""
        return str(self.tokenizer.chat_template)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return tuple(self._stops)

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The stop tokens as they are written."""
        return tuple(self._stops.values())

    @property
    def keeps_strict(self) -> bool:
        return False

    @cached_property
    def call_form(self) -> CallForm | None:
        if self._row is None or self._row.form is None or self._opens_thought:
            return None
        form = self._row.form
        texts = "".join((form.opening, form.before, form.after, form.joint, form.closing))
        special = {
            str(token): int(id_)
            for id_, token in self.tokenizer.added_tokens_decoder.items()
            if token.special and str(token) in texts
        }
        return replace(form, tokens=special)

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[int]:
        return self._encode(self.text(messages, tools, speak=True))

    def render_more(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], num_seen: int, ended: bool
    ) -> list[int] | None:
        whole = self.text(messages, tools, speak=True)
        given = self.after_turn(whole, self.text(messages[:num_seen], tools, speak=False))
        if given is None:
            return None
        more = self._encode(given)
        return more if ended else [self._turn_end, *more]

    def parse(self, token_ids: Sequence[int]) -> Parsed:
        """The turn that `token_ids` are. One unreadable tool call makes all of it malformed: none is carried out."""
        ids = [t for t in token_ids if t not in self._stops]
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        parsed = self._row.parse(text, in_thought=self._opens_thought) if self._row else Parsed(text)
        return replace(parsed, content=parsed.content.strip())

    @cached_property
    def _turn_end(self) -> int:
        """The stop token with which the template itself ends a turn."""
        talk: list[Message] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        said = self.text(talk, [], speak=False).rpartition("!")[2]
        found = [(said.find(stop), i) for i, stop in self._stops.items() if stop in said]
        return min(found)[1] if found else self.stop_ids[0]

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template shows a system message, and neither refuses it nor leaves it out."""
        talk: list[Message] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "?"}]
        try:
            return "be brief" in self._apply([talk], [], speak=True)[0]
        except ModelError:
            return False

    @cached_property
    def _opens_thought(self) -> bool:
        """Whether the prompt itself opens the block in which the model thinks."""
        return self.text([{"role": "user", "content": "?"}], [], speak=True).rstrip().endswith("<think>")

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> tuple[list[int], list[bool]]:
        """Token ids of a finished conversation and a mask, True on what the assistant would have sampled.

        The assistant's turns are encoded apart from what surrounds them, exactly as sampling and `render_more` put them
        together, so that supervised tokens are the ones the policy will meet. Raises ModelError for an unstable
        template.
        """
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        before = self._texts([messages[:i] for i in turns], tools, speak=True)
        through = self._texts([messages[: i + 1] for i in turns], tools, speak=False)
        pieces: list[str] = []  # what is given and what is sampled, in turn
        stops: list[int] = []
        for k, i in enumerate(turns):
            if not through[k].startswith(before[k]):
                raise ModelError(
                    f"the chat template is not prefix-stable at message {i} ({messages[i]['role']}): the conversation "
                    "so far is written differently once more is said; training on it would not be what is sampled "
                    "(`flyball doctor template` says why)"
                )
            given = self.after_turn(before[k], through[k - 1]) if k else before[k]
            if given is None:
                raise ModelError(f"the chat template is not prefix-stable between messages {turns[k - 1]} and {i}")
            turn = through[k][len(before[k]) :]
            stop_at, stop_id = self._first_stop(turn) or (len(turn), self._turn_end)
            pieces += [given, turn[:stop_at]]
            stops.append(stop_id)
        ids: list[int] = []
        mask: list[bool] = []
        for n, piece in enumerate(self.tokenizer(pieces, add_special_tokens=False)["input_ids"] if pieces else ()):
            sampled = n % 2 == 1
            tokens = [*piece, stops[n // 2]] if sampled else piece
            ids += tokens
            mask += [sampled] * len(tokens)
        return ids, mask

    def _first_stop(self, text: str) -> tuple[int, int] | None:
        """(where the first stop token stands, its id)."""
        return min(((text.find(stop), i) for i, stop in self._stops.items() if stop in text), default=None)

    def _last_stop(self, text: str) -> tuple[int, int] | None:
        """(where the last stop token stands, its id)."""
        at, id_ = max((text.rfind(stop), id_) for id_, stop in self._stops.items())
        return (at, id_) if at >= 0 else None

    def after_turn(self, whole: str, seen: str) -> str | None:
        """What `whole` adds after the last turn of `seen`; None when it does not begin with it.

        The sampled stop token stands for whatever closes that turn, which a template may write otherwise in history.
        """
        stop = self._last_stop(seen)
        if stop is None:
            return None
        body = seen[: stop[0]]
        said = (body, _without_last(EMPTY_THOUGHT, body))
        closings = (*self._stops.values(), *(self._row.closed_by if self._row else ()))
        for begin in said:
            for end in closings:
                if whole.startswith(begin + end):
                    return whole[len(begin) + len(end) :]
        ended_before = self._last_stop(body)
        if ended_before and body.rstrip().endswith(self._stops[ended_before[1]]):
            return self.after_turn(whole, body)  # an end of text after the end of the turn
        return None

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]

    def text(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], speak: bool) -> str:
        """A conversation as the template writes it; `speak`: up to where the assistant speaks. Raises ModelError."""
        return self._texts([messages], tools, speak)[0]

    def _texts(
        self, conversations: Sequence[Sequence[Message]], tools: Sequence[dict[str, Any]], speak: bool
    ) -> list[str]:
        """Each conversation as text. Raises ModelError for tools in a form nobody reads, and for what it refuses."""
        if self._row is None:
            if tools:
                raise ModelError(
                    f"the chat template of {self._origin} writes tool calls in a form that is not known here, so they "
                    f"could not be read; set `engine.tool_format` to what the model was trained on: {known_formats()}"
                )
            given: Sequence[dict[str, Any]] = ()
        elif self._knows_tools:
            length, given = self._row.id_length, tools
            conversations = [[_for_template(message, length) for message in each] for each in conversations]
        else:
            given, row = (), self._row
            conversations = [_lower(messages, tools, row) for messages in conversations]
        if any(each and each[0]["role"] == "system" for each in conversations) and not self.takes_system:
            conversations = [_fold_system(each) for each in conversations]
        return self._apply(conversations, given, speak)

    def _apply(
        self, conversations: Sequence[Sequence[Message]], tools: Sequence[dict[str, Any]], speak: bool
    ) -> list[str]:
        if not conversations:
            return []
        try:
            return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
                [list(each) for each in conversations],
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=speak,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"the chat template of {self._origin} cannot render the conversation: {error}") from error


def _without_last(pattern: re.Pattern[str], text: str) -> str:
    found = list(pattern.finditer(text))
    return text[: found[-1].start()] + text[found[-1].end() :] if found else text


def _fold_system(messages: Sequence[Message]) -> Sequence[Message]:
    """The system message at the beginning of the first user turn, for templates without one."""
    if not messages or messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [{**system, "role": "user"}, *rest]
    return [{**rest[0], "content": f"{system['content']}\n\n{rest[0].get('content') or ''}"}, *rest[1:]]


def load_chat(path: Path, tool_format: str | None = None) -> HfChat:
    """The chat format of a model folder. Raises ModelError when the tokenizer is missing or has no chat template."""
    from transformers import AutoTokenizer, GenerationConfig

    check_tokenizer(path)
    stop_ids: Any = ()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        if (path / "generation_config.json").is_file():
            stop_ids = GenerationConfig.from_pretrained(path).eos_token_id or ()
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines()[0].rstrip(" :;.") if str(error).strip() else type(error).__name__
        raise ModelError(
            f"the tokenizer in {path} cannot be read ({said}); copy tokenizer.json and tokenizer_config.json again"
        ) from error
    return HfChat(tokenizer, str(path), tool_format, [stop_ids] if isinstance(stop_ids, int) else stop_ids)


def num_shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)


def _for_template(message: Message, id_length: int | None) -> Message:
    """Templates print `arguments` with `tojson`; OpenAI's form carries JSON text. Ids of the length they demand."""
    if id_length is not None and message.get("tool_call_id"):
        message = {**message, "tool_call_id": _short_id(message["tool_call_id"], id_length)}
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        written = {**call, "function": {**function, "arguments": arguments_of(function["arguments"])}}
        if id_length is not None:
            written["id"] = _short_id(call["id"], id_length)
        calls.append(written)
    return {**message, "content": message.get("content") or "", "tool_calls": calls}


def _short_id(call_id: str, length: int) -> str:
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:length]


def signature(schema: dict[str, Any]) -> str:
    """One line for a tool: `name(param: type, optional?: type) - description`."""
    function = schema["function"]
    parameters = function.get("parameters", {})
    required = set(parameters.get("required", ()))
    parts = [
        f"{name}{'' if name in required else '?'}: {spec.get('type', 'any')}"
        for name, spec in parameters.get("properties", {}).items()
    ]
    return f"{function['name']}({', '.join(parts)}) - {function.get('description', '')}"


def _lower(messages: Sequence[Message], tools: Sequence[dict[str, Any]], row: ToolFormat) -> list[Message]:
    """The same conversation in plain text turns, for templates without tools."""
    lowered: list[Message] = []
    for i, message in enumerate(messages):
        role, content = message["role"], message.get("content") or ""
        if role == "tool":
            shown = f"<tool_response>{content}</tool_response>"
            if lowered and i and messages[i - 1]["role"] == "tool":
                lowered[-1]["content"] += f"\n{shown}"
            else:
                lowered.append({"role": "user", "content": shown})
        elif message.get("tool_calls"):
            asked = [call["function"] for call in message["tool_calls"]]
            calls = [ToolCall("", function["name"], function["arguments"]) for function in asked]
            lowered.append({"role": "assistant", "content": row.render(content, calls)})
        else:
            lowered.append({"role": role, "content": content})
    if tools:
        calling = f"To use a tool answer only {row.example}."
        described = "\n".join(["Tools:", *map(signature, tools), calling])
        if lowered and lowered[0]["role"] == "system":
            lowered[0] = {"role": "system", "content": f"{lowered[0]['content']}\n{described}"}
        else:
            lowered.insert(0, {"role": "system", "content": described})
    return lowered
