"""Grammars for constrained decoding, as text: what `SamplingParams.grammar` takes.

The language is llguidance's variant of Lark (https://github.com/guidance-ai/llguidance, docs/syntax.md); engines read
it, nothing here does. JSON is written as `json.dumps` writes it, which is how chat templates write calls too: free
spacing would let a model pad for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flyball.errors import ConfigError

AS_DUMPED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def json_schema_grammar(schema: Mapping[str, Any]) -> str:
    """A whole turn that is one JSON value of `schema`."""
    return f"start: {_json(schema)}\n"


def tool_call_grammar(
    tools: Sequence[Mapping[str, Any]],
    *,
    begin: str | int = "<tool_call>",
    end: str | int = "</tool_call>",
    required: bool = False,
) -> str:
    """A turn of free text in which every call is of one of `tools` (OpenAI function schemas) with valid arguments.

    Calls are `begin {"name": ..., "arguments": {...}} end` (Hermes). Where the tokenizer has a special token for a
    mark, give its id instead of its text: special tokens have no text in a grammar. `required`: nothing but one call or
    more. Raises ConfigError without tools.
    """
    if not tools:
        raise ConfigError("a tool-call grammar needs at least one tool; leave the grammar out when none is offered")
    call = _json({"anyOf": [_call_schema(tool["function"]) for tool in tools]})
    body = f"call: {call} {_mark(end)}\n"
    if required:
        return f"start: ({_mark(begin)} call)+\n{body}"
    said = "said" if isinstance(begin, int) else "said[lazy]"  # text ends at the first mark that is text itself
    return f"start: (said call)* last\n{said}: TEXT {_mark(begin)}\nlast: TEXT\nTEXT: /(.|\\n)*/\n{body}"


def _mark(mark: str | int) -> str:
    return f"<[{mark}]>" if isinstance(mark, int) else json.dumps(mark)


def _call_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters") or {"type": "object"}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _json(schema: Mapping[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': AS_DUMPED})}"
