"""How model families write tool calls: one table that renders them, reads them, and tells a model how to write them.

A model's own chat template says which row is its own (`format_of`). Reading never raises on what a model wrote: a call
that cannot be read comes back as `Parsed.malformed`, which says what is wrong and how to call, and none of that turn's
calls is carried out. Text in front of a call is content; a leading `<think>` block never holds calls.

    hermes         <tool_call>{"name": NAME, "arguments": {...}}</tool_call>          Qwen 2.5 and 3, SmolLM, Hermes
    llama_json     {"name": NAME, "parameters": {...}}                                Llama 3.1, 3.2, 3.3
    llama_pythonic [NAME(key=value), ...]                                             Llama 3.2, 4
    mistral        [TOOL_CALLS][{"name": NAME, "arguments": {...}}]                   Mistral 7B v0.3, Nemo, Small 3
    mistral_args   [TOOL_CALLS]NAME[ARGS]{...}                                        Mistral Small 3.2, Devstral
    harmony        <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>      gpt-oss
"""

from __future__ import annotations

import ast
import json
import keyword
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from flyball.errors import ModelError
from flyball.models.chat import CallForm, Parsed
from flyball.types import ToolCall

Found = tuple[str, list[tuple[str, Any]]]
"""Content, and (name, arguments as JSON values) of each call."""


class Unreadable(Exception):
    """What is wrong with a tool call, in words for the model."""


@dataclass(frozen=True)
class ToolFormat:
    """One row. `example` is shown to the model, `stops` are tokens besides the end of text that end its turn.

    `write(content, calls)` is the text of a turn; `find` reads one back and raises Unreadable. `form` is the part of a
    turn that a grammar can hold, None where it is no JSON. `closed_by`: what history has where a turn was stopped.
    `id_length`: call ids are so many letters and digits.
    """

    name: str
    families: str
    example: str
    write: Callable[[str, Sequence[tuple[str, Any]]], str]
    find: Callable[[str], Found]
    form: CallForm | None = None
    stops: tuple[str, ...] = ()
    closed_by: tuple[str, ...] = ()
    id_length: int | None = None

    def render(self, content: str, calls: Sequence[ToolCall]) -> str:
        """The text of an assistant's turn. Raises ModelError for a name that this form cannot hold."""
        return self.write(content, [(call.name, arguments_of(call.arguments)) for call in calls])

    def parse(self, text: str, *, in_thought: bool = False) -> Parsed:
        """Read a turn: its calls are `call_0`, `call_1`, ... Never raises. `in_thought`: the prompt opened one."""
        thought, said = _split_thought(text, in_thought)
        try:
            content, calls = self.find(said)
            for name, arguments in calls:
                if not isinstance(arguments, dict):
                    raise Unreadable(f"the arguments of {name} are {_KIND[type(arguments)]}, not an object")
        except Unreadable as wrong:
            return Parsed(text, malformed=f"{wrong}; to call a tool write {self.example}")
        named = [ToolCall(f"call_{i}", name, _dumps(arguments)) for i, (name, arguments) in enumerate(calls)]
        return Parsed(thought + content, tuple(named))


def arguments_of(written: Any) -> dict[str, Any]:
    """Arguments as the object they mean: OpenAI's form carries JSON text, templates want a mapping.

    What is none, because a model garbled it and an agent shows it back, stands under the key `malformed`.
    """
    try:
        value = json.loads(written) if isinstance(written, str) else written
    except (ValueError, RecursionError):
        value = written
    return value if isinstance(value, dict) else {"malformed": value}


_KIND = {list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}


def _split_thought(text: str, in_thought: bool) -> tuple[str, str]:
    if not in_thought and not text.lstrip().startswith("<think>"):
        return "", text
    thought, end, said = text.partition("</think>")
    return thought + end, said


# --- JSON in the middle of text --------------------------------------------------------------------------------------


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_JSON = json.JSONDecoder(parse_constant=_no_number)
_WRITTEN = json.JSONEncoder(ensure_ascii=False)
_FINITE = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_BLANK = re.compile(r"\s*")


def _dumps(value: Any) -> str:
    return _WRITTEN.encode(value)


def _skip_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _read_json(text: str, at: int) -> tuple[Any, int]:
    """(value, where it ends); blanks before and after it are skipped."""
    try:
        value, end = _JSON.raw_decode(text, _skip_blank(text, at))
        _FINITE.encode(value).encode()  # half a surrogate pair, 1e999: no JSON to show
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the tool call is not JSON: {error}") from error
    return value, _skip_blank(text, end)


def _named(call: Any, key: str) -> tuple[str, Any]:
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        raise Unreadable('a tool call needs a "name"')
    return call["name"], call.get(key, {})


def _write_calls(form: CallForm, calls: Sequence[tuple[str, Any]]) -> str:
    written = []
    for name, arguments in calls:
        value = {form.keys[0]: name, form.keys[1]: arguments} if form.keys else arguments
        written.append(f"{form.before.replace('NAME', name)}{_dumps(value)}{form.after}")
    return f"{form.opening}{form.joint.join(written)}{form.closing}"


# --- Hermes ----------------------------------------------------------------------------------------------------------

HERMES = CallForm("<tool_call>", "</tool_call>")


def _write_hermes(content: str, calls: Sequence[tuple[str, Any]]) -> str:
    return content + _write_calls(HERMES, calls)


def _find_hermes(text: str) -> Found:
    content, at = "", 0
    calls: list[tuple[str, Any]] = []
    while (start := text.find(HERMES.before, at)) >= 0:
        content += text[at:start]
        call, at = _read_json(text, start + len(HERMES.before))
        calls.append(_named(call, "arguments"))
        if text.startswith(HERMES.after, at):
            at += len(HERMES.after)
        elif at < len(text):
            raise Unreadable(f"the tool call is not JSON: {text[at : at + 20]!r} follows it where {HERMES.after} must")
    return content + text[at:], calls


# --- Llama -----------------------------------------------------------------------------------------------------------

LLAMA_JSON = CallForm("", "", ("name", "parameters"), "; ")
_PYTHON_TAG = "<|python_tag|>"


def _write_llama_json(content: str, calls: Sequence[tuple[str, Any]]) -> str:
    written = _write_calls(LLAMA_JSON, calls)
    return f"{content}{_PYTHON_TAG}{written}" if content and calls else content + written


def _find_llama_json(text: str) -> Found:
    # The tag may also stand in a string of a call that begins the turn.
    content, tag, body = (text, "", "") if _opens_with_llama_call(text) else text.partition(_PYTHON_TAG)
    if not tag:
        body = text.strip()
        if not body.startswith("{") or '"name"' not in body:
            return text, []
        content = ""
    calls: list[tuple[str, Any]] = []
    at = 0
    while True:
        call, at = _read_json(body, at)
        if not tag and not calls and not _is_llama_call(call):
            return text, []  # an answer that happens to be JSON
        name, arguments = _named(call, "parameters")
        calls.append((name, call.get("arguments", {}) if "parameters" not in call else arguments))
        if at == len(body):
            return content, calls
        if body[at] != ";":
            raise Unreadable(f"the tool call is not JSON: {body[at : at + 20]!r} follows it")
        at += 1


def _opens_with_llama_call(text: str) -> bool:
    try:
        return _is_llama_call(_read_json(text.strip(), 0)[0])
    except Unreadable:
        return False


def _is_llama_call(value: Any) -> bool:
    return isinstance(value, dict) and "name" in value and bool({"parameters", "arguments"} & value.keys())


_PYTHON_START, _PYTHON_END = "<|python_start|>", "<|python_end|>"
_PYTHONIC = re.compile(r"\s*\[\s*[A-Za-z_][\w.]*\s*\(")


def _write_pythonic(content: str, calls: Sequence[tuple[str, Any]]) -> str:
    if not calls:
        return content
    written = f"[{', '.join(_python_call(name, arguments) for name, arguments in calls)}]"
    return f"{content}{_PYTHON_START}{written}{_PYTHON_END}" if content else written


def _python_call(name: str, arguments: Mapping[str, Any]) -> str:
    if not all(map(_is_plain_name, name.split("."))):
        raise ModelError(
            f"the tool {name!r} cannot be called in Python's form, which llama_pythonic models write; rename it so "
            "that it is an identifier"
        )
    plain = [f"{key}={value!r}" for key, value in arguments.items() if _is_plain_name(key)]
    others = {key: value for key, value in arguments.items() if not _is_plain_name(key)}
    return f"{name}({', '.join([*plain, *([f'**{others!r}'] if others else [])])})"


def _is_plain_name(name: str) -> bool:
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _find_pythonic(text: str) -> Found:
    # The mark may also stand in a string of a call that begins the turn.
    opens = _PYTHONIC.match(text)
    content, tag, body = (text, "", "") if opens else text.partition(_PYTHON_START)
    if not tag:
        if not opens:
            return text, []
        content, body = "", text
    body = body.strip().removesuffix(_PYTHON_END).strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's about the model's spelling, such as "\d"
            tree = ast.parse(body, mode="eval").body
            if not isinstance(tree, ast.List) or not all(isinstance(each, ast.Call) for each in tree.elts):
                raise Unreadable("tool calls are a list of calls in Python's form")
            calls = [_from_python(each) for each in tree.elts if isinstance(each, ast.Call)]
        for _, arguments in calls:
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise Unreadable(f"the tool call is not a list of Python calls with plain values: {error}") from error
    return content, calls


def _from_python(call: ast.Call) -> tuple[str, Any]:
    if call.args:
        raise Unreadable("a tool call names its arguments: key=value")
    arguments: dict[str, Any] = {}
    for word in call.keywords:
        value = ast.literal_eval(word.value)
        arguments |= {word.arg: value} if word.arg else value
    return ast.unparse(call.func), arguments


# --- Mistral ---------------------------------------------------------------------------------------------------------

_TOOL_CALLS, _ARGS = "[TOOL_CALLS]", "[ARGS]"
MISTRAL = CallForm("", "", joint=", ", opening=f"{_TOOL_CALLS}[", closing="]")
MISTRAL_ARGS = CallForm(f"{_TOOL_CALLS}NAME{_ARGS}", "", keys=None)
_ARGS_HEAD = re.compile(r"\s*([^\s\[\]{}]+)\s*(?:\[CALL_ID\][^\[\]{}]*)?\[ARGS\]")


def _write_mistral(content: str, calls: Sequence[tuple[str, Any]]) -> str:
    return content + (_write_calls(MISTRAL, calls) if calls else "")


def _find_mistral(text: str) -> Found:
    content, tag, body = text.partition(_TOOL_CALLS)
    if not tag:
        return text, []
    calls, end = _read_json(body, 0)
    if not isinstance(calls, list) or end < len(body):
        raise Unreadable(f"after {_TOOL_CALLS} comes one JSON list of calls and nothing else")
    return content, [_named(call, "arguments") for call in calls]


def _write_mistral_args(content: str, calls: Sequence[tuple[str, Any]]) -> str:
    return content + _write_calls(MISTRAL_ARGS, calls)


def _find_mistral_args(text: str) -> Found:
    at = text.find(_TOOL_CALLS)
    if at < 0:
        return text, []
    content, calls = text[:at], []
    while at < len(text):
        head = _ARGS_HEAD.match(text, at + len(_TOOL_CALLS)) if text.startswith(_TOOL_CALLS, at) else None
        if head is None:
            raise Unreadable(f"a tool call is {_TOOL_CALLS}, a name, {_ARGS} and JSON, not {text[at : at + 40]!r}")
        arguments, at = _read_json(text, head.end())
        calls.append((head[1], arguments))
    return content, calls


# --- harmony ---------------------------------------------------------------------------------------------------------

_MESSAGE = "<|message|>"
HARMONY = CallForm(
    f"<|channel|>commentary to=functions.NAME <|constrain|>json{_MESSAGE}",
    "<|call|>",
    keys=None,
    joint="<|start|>assistant",
    ends_turn=True,
)
_ENDS = re.compile(r"<\|(?:end|call|return)\|>")
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


def _write_harmony(content: str, calls: Sequence[tuple[str, Any]]) -> str:
    if not calls:
        return f"<|channel|>final{_MESSAGE}{content}"
    said = f"<|channel|>commentary{_MESSAGE}{content}<|end|>{HARMONY.joint}" if content else ""
    return said + _write_calls(HARMONY, calls)


def _find_harmony(text: str) -> Found:
    """Messages in turn: analysis is the model's own, final and commentary are said, one with a recipient is a call."""
    if _MESSAGE not in text:
        if _CHANNEL.search(text):
            raise Unreadable(f"a message is cut off before {_MESSAGE}")
        return text, []
    content, calls, at = "", [], 0
    while (start := text.find(_MESSAGE, at)) >= 0:
        header, body = text[at:start], start + len(_MESSAGE)
        if recipient := _RECIPIENT.search(header):
            arguments, at = _read_json(text, body)
            calls.append((recipient[1].removeprefix("functions."), arguments))
            end = _ENDS.match(text, at)
            if end is None and at < len(text):
                raise Unreadable(f"the tool call is not JSON: {text[at : at + 20]!r} follows it where <|call|> must")
        else:
            end = _ENDS.search(text, body)
            channel = _CHANNEL.search(header)
            if channel is None or channel[1] != "analysis":
                content += text[body : end.start() if end else len(text)]
        at = end.end() if end else len(text)
    return content, calls


# --- the table -------------------------------------------------------------------------------------------------------

TOOL_FORMATS: Mapping[str, ToolFormat] = {
    row.name: row
    for row in (
        ToolFormat(
            "hermes",
            "Qwen 2.5 and 3, SmolLM, Hermes, tiny policies",
            '<tool_call>{"name": NAME, "arguments": {...}}</tool_call>',
            _write_hermes,
            _find_hermes,
            HERMES,
        ),
        ToolFormat(
            "llama_json",
            "Llama 3.1, 3.2, 3.3",
            '{"name": NAME, "parameters": {...}} and nothing else',
            _write_llama_json,
            _find_llama_json,
            LLAMA_JSON,
            stops=("<|eom_id|>",),
        ),
        ToolFormat(
            "llama_pythonic",
            "Llama 3.2 and 4 with pythonic templates",
            "[NAME(key=value)] and nothing else",
            _write_pythonic,
            _find_pythonic,
            stops=("<|eom_id|>", "<|eom|>"),
        ),
        ToolFormat(
            "mistral",
            "Mistral 7B v0.3, Nemo, Small 3",
            '[TOOL_CALLS][{"name": NAME, "arguments": {...}}]',
            _write_mistral,
            _find_mistral,
            MISTRAL,
            id_length=9,
        ),
        ToolFormat(
            "mistral_args",
            "Mistral Small 3.2, Magistral, Devstral",
            "[TOOL_CALLS]NAME[ARGS]{...}",
            _write_mistral_args,
            _find_mistral_args,
            MISTRAL_ARGS,
            id_length=9,
        ),
        ToolFormat(
            "harmony",
            "gpt-oss",
            "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>",
            _write_harmony,
            _find_harmony,
            HARMONY,
            stops=("<|call|>",),
            closed_by=("<|end|>",),
        ),
    )
}
"""Every known form by name."""


def format_of(turn: str, call: ToolCall) -> ToolFormat | None:
    """The row that reads `call` and nothing else out of a turn in which a chat template wrote it; None without one."""
    wanted = [(call.name, json.loads(call.arguments))]
    for row in TOOL_FORMATS.values():
        parsed = row.parse(turn)
        if [(found.name, json.loads(found.arguments)) for found in parsed.tool_calls] == wanted:
            return row
    return None


def known_formats() -> str:
    """The list of forms for an error message."""
    return "; ".join(f"{row.name} ({row.families})" for row in TOOL_FORMATS.values())
