"""Grammars for constrained decoding, as text: what `SamplingParams.grammar` takes.

The language is llguidance's variant of Lark (https://github.com/guidance-ai/llguidance, docs/syntax.md); engines read
it, nothing here does. JSON is written as `json.dumps` writes it, which is how chat templates write calls too: free
spacing would let a model pad for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flyball.errors import ConfigError
from flyball.models.chat import CallForm
from flyball.models.tool_formats import HERMES

AS_DUMPED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
TEXT = "/(.|\\n)*/"


def json_schema_grammar(schema: Mapping[str, Any]) -> str:
    """A whole turn that is one JSON value of `schema`."""
    return f"start: {_json(schema)}\n"


def tool_call_grammar(
    tools: Sequence[Mapping[str, Any]],
    form: CallForm = HERMES,
    *,
    required: bool = False,
    at_most_one: bool = False,
    or_json: Mapping[str, Any] | None = None,
) -> str:
    """A turn in which every call is of one of `tools` (OpenAI function schemas) with valid arguments.

    `form` says how the model writes calls; its special tokens stand in a grammar by their ids, for they have no text.
    Without `required` the turn may be, or begin with, free text; with `or_json` it is a JSON value of that schema or
    calls. Raises ConfigError without tools, and for free text where no mark tells it from a call.
    """
    if not tools:
        raise ConfigError("a tool-call grammar needs at least one tool; leave the grammar out when none is offered")
    one = at_most_one or form.ends_turn
    if required or or_json is not None:
        calls = [*_marks(form.opening, form), "call", *([] if one else [_more(form)]), *_marks(form.closing, form)]
        other = "" if required or or_json is None else f" | {_json(or_json)}"
        return f"start: {' '.join(calls)}{other}\ncall: {_call(tools, form)}\n"
    return _among_text(tools, form, one)


def no_tool_call_grammar(form: CallForm) -> str:
    """A turn of text without the mark that begins a call. Raises ConfigError where there is no such mark."""
    mark, is_token = _first_mark(form)
    if is_token:
        return f"start: TEXT\nTEXT: {TEXT}\n"
    return f"start: TEXT\nTEXT: {TEXT} & ~/(.|\\n)*{_regex(mark)}(.|\\n)*/\n"


def _among_text(tools: Sequence[Mapping[str, Any]], form: CallForm, one: bool) -> str:
    """Text, then calls; where nothing joins calls and nothing encloses them, text may stand between them too."""
    mark, is_token = _first_mark(form)
    said = "said" if is_token else "said[lazy]"  # text ends at the first mark that is text itself
    if form.opening:
        rest = _marks(form.opening.removeprefix(mark), form)
        enclosed = ["said", *rest, "call", *([] if one else [_more(form)]), *_marks(form.closing, form)]
        start, call = f"last | {' '.join(enclosed)}", _call(tools, form)
    else:
        start, call = "last | said call" if one else "(said call)* last", _call(tools, form, begun=mark)
    (begin,) = _marks(mark, form)
    return f"start: {start}\n{said}: TEXT {begin}\nlast: TEXT\nTEXT: {TEXT}\ncall: {call}\n"


def _more(form: CallForm) -> str:
    return f"({' '.join([*_marks(form.joint, form), 'call'])})*"


def _call(tools: Sequence[Mapping[str, Any]], form: CallForm, *, begun: str = "") -> str:
    """One call of which `begun` was read already."""
    after = [] if form.ends_turn else _marks(form.after, form)
    functions = [tool["function"] for tool in tools]
    if form.keys is not None:
        before = _marks(form.before.removeprefix(begun), form)
        return " ".join([*before, _json({"anyOf": [_call_schema(each, form.keys) for each in functions]}), *after])
    ways = []
    for each in functions:
        before = _marks(form.before.replace("NAME", each["name"]).removeprefix(begun), form)
        ways.append(" ".join([*before, _json(_parameters(each)), *after]))
    return " | ".join(ways)


def _first_mark(form: CallForm) -> tuple[str, bool]:
    """(text of the mark at which free text ends, whether it is a special token)."""
    begin = form.opening or form.before.partition("NAME")[0]
    if not begin or form.ends_turn:
        raise ConfigError("this model's calls begin with nothing that free text could not hold as well")
    mark = _pieces(begin, form)[0]
    return mark, mark in form.tokens


def _pieces(text: str, form: CallForm) -> list[str]:
    """A text cut at its special tokens."""
    if not form.tokens:
        return [text] if text else []
    cut = re.split(f"({'|'.join(map(re.escape, form.tokens))})", text)
    return [piece for piece in cut if piece]


def _marks(text: str, form: CallForm) -> list[str]:
    return [f"<[{form.tokens[p]}]>" if p in form.tokens else json.dumps(p) for p in _pieces(text, form)]


def _regex(text: str) -> str:
    return re.escape(text).replace("/", "\\/")


def _parameters(function: Mapping[str, Any]) -> Mapping[str, Any]:
    return function.get("parameters") or {"type": "object"}


def _call_schema(function: Mapping[str, Any], keys: tuple[str, str]) -> dict[str, Any]:
    name, arguments = keys
    return {
        "type": "object",
        "properties": {name: {"const": function["name"]}, arguments: _parameters(function)},
        "required": [name, arguments],
        "additionalProperties": False,
    }


def _json(schema: Mapping[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': AS_DUMPED})}"
