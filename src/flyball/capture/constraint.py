"""What a request demands of the form of an answer: `tool_choice`, strict tools, `parallel_tool_calls`, a JSON schema.

Both of OpenAI's forms say it, each in its own words; here it is one `Constraint`, which becomes the grammar that the
engine samples under. So an answer has the form by construction, and constrained tokens train exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flyball.engine.grammar import json_schema_grammar, no_tool_call_grammar, tool_call_grammar
from flyball.errors import ConfigError, GrammarError
from flyball.models.chat import CallForm

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class Constraint:
    """The form of an answer. `field` is the one of the request that asks for it, for error messages.

    `schema`: text is a JSON value of it. `tools`: those that may be called. `calls`: "required" = nothing but calls,
    "forbidden" = none. `strict_only`: nothing but the tools' own `strict` asks for it.
    """

    field: str
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Mapping[str, Any] | None = None
    calls: Literal["allowed", "required", "forbidden"] = "allowed"
    one_call: bool = False
    strict_only: bool = False

    def grammar(self, form: CallForm | None) -> str:
        """As a grammar for a model that calls tools in `form`. Raises GrammarError where that form cannot be held."""
        if self.schema is not None and (not self.tools or self.calls == "forbidden"):
            return json_schema_grammar(self.schema)
        if form is None:
            raise GrammarError(
                f"{self.field} needs a grammar, and the tool calls of this model cannot be held by one; leave it out"
            )
        try:
            if self.calls == "forbidden":
                return no_tool_call_grammar(form)
            return tool_call_grammar(
                self.tools,
                form,
                required=self.calls == "required",
                at_most_one=self.one_call,
                or_json=self.schema,
            )
        except ConfigError as error:
            raise GrammarError(f"{self.field} cannot be honoured: {error.args[0]}; leave it out") from error


class Unsupported(ValueError):
    """A demand that is malformed or not served. `field` of the request, and why."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


def read_constraint(
    tools: Sequence[Mapping[str, Any]],
    choice: Any,
    parallel: Any,
    answer: Any,
    *,
    answer_field: str,
) -> Constraint | None:
    """The constraint of a request, None without one. Raises Unsupported.

    `tools` in the nested form of Chat Completions. `choice`: `tool_choice`, a named function as {"function": NAME}.
    `answer`: {"type": "text" | "json_object" | "json_schema", "schema": ...} or None, from the field `answer_field`.
    """
    schema = _schema(answer, answer_field)
    if parallel not in (None, True, False):
        raise Unsupported("parallel_tool_calls", f"parallel_tool_calls is {parallel!r}; it is true or false")
    one = parallel is False
    if choice in (None, "auto") or (choice == "none" and not tools):
        return _optional(tools, schema, one, answer_field)
    if choice == "none":
        return Constraint("tool_choice", tools, schema, "forbidden")
    if not tools:
        raise Unsupported("tool_choice", f"tool_choice is {choice!r}, and the request offers no tools")
    if choice == "required":
        return Constraint("tool_choice", tools, None, "required", one)
    if isinstance(choice, Mapping) and isinstance(choice.get("function"), str):
        named = [tool for tool in tools if tool["function"]["name"] == choice["function"]]
        if not named:
            offered = ", ".join(str(tool["function"]["name"]) for tool in tools)
            raise Unsupported("tool_choice", f"tool_choice names {choice['function']!r}; the request offers {offered}")
        return Constraint("tool_choice", named, None, "required", one_call=True)
    raise Unsupported(
        "tool_choice", f"tool_choice is {choice!r}; served are 'auto', 'none', 'required' and a named function"
    )


def _optional(
    tools: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None, one: bool, answer_field: str
) -> Constraint | None:
    """Calls are the model's own choice: constrained if a tool is strict, if one at most is allowed, or beside JSON."""
    if schema is not None:
        return Constraint(answer_field, tools, schema, one_call=one)
    if tools and one:
        return Constraint("parallel_tool_calls", tools, one_call=True)
    if any(tool["function"].get("strict") for tool in tools):
        return Constraint("tools", [_as_declared(tool) for tool in tools], strict_only=True)
    return None


def _as_declared(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool that is not strict may be called with any object."""
    function = tool["function"]
    return tool if function.get("strict") else {**tool, "function": {**function, "parameters": ANY_OBJECT}}


def _schema(answer: Any, field: str) -> Mapping[str, Any] | None:
    kind = answer.get("type") if isinstance(answer, Mapping) else None
    if answer is None or kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    if kind == "json_schema" and isinstance(answer.get("schema"), Mapping):
        schema: Mapping[str, Any] = answer["schema"]
        return schema
    raise Unsupported(
        field, f"{field} is {str(answer)[:120]}; served are text, json_object, and json_schema with its schema"
    )
