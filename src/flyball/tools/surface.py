"""How a task may change the look of tools without changing what they do: the `tools` split and other robustness tests.

    {"rename": {"get_order": {"name": "lookup_order", "description": "...", "parameters": {"order_id": "ref"},
                              "optional": {"verbose": {"type": "boolean"}}}},
     "distractors": [{"name": "...", "description": "...", "parameters": {JSON schema object}, "answer": "..."}],
     "inject": {"observation": "...", "tool_results": "..."}}

`parameters` renames parameters, `optional` adds ones that are accepted and ignored, a distractor answers a fixed text.
`inject` adds text to the first message, and to what every tool that only reads returns: attacks by what an agent is
shown.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flyball.errors import ConfigError, DatasetError, nearest
from flyball.tools.arguments import Arguments, arguments_of_schema
from flyball.tools.tool import Tool


class _Rename(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str | None = None
    description: str | None = None
    parameters: dict[str, str] = {}
    optional: dict[str, dict[str, Any]] = {}


class _Distractor(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    description: str
    parameters: Annotated[dict[str, Any], Field(default_factory=dict)]
    answer: str


class _Inject(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    observation: str = ""
    tool_results: str = ""


class _Surface(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    rename: dict[str, _Rename] = {}
    distractors: list[_Distractor] = []
    inject: _Inject = _Inject()


def apply_surface(tools: Mapping[str, Tool], surface: Mapping[str, Any]) -> dict[str, Tool]:
    """Return the tools by the names this task shows, in the same order, distractors last.

    Raises DatasetError for a key, tool or parameter that does not exist and for two tools of one name.
    """
    if not surface:
        return dict(tools)
    look = _read(json.dumps(surface, sort_keys=True))
    if strangers := sorted(set(look.rename) - set(tools)):
        raise DatasetError(f"surface renames tool {strangers[0]!r}, which is not there{nearest(strangers[0], tools)}")
    shown = [_renamed(tool, look.rename[name]) if name in look.rename else tool for name, tool in tools.items()]
    shown += [_distractor(d) for d in look.distractors]
    if look.inject.tool_results:
        shown = [tool if tool.writes else _injected(tool, look.inject.tool_results) for tool in shown]
    result: dict[str, Tool] = {}
    for tool in shown:
        if tool.name in result:
            raise DatasetError(f"surface shows two tools named {tool.name!r}; choose another name for one of them")
        result[tool.name] = tool
    return result


def injected_observation(surface: Mapping[str, Any]) -> str:
    """Return what a surface adds to the first message, '' when nothing. Raises DatasetError."""
    return _read(json.dumps(surface, sort_keys=True)).inject.observation if surface else ""


@lru_cache(maxsize=256)  # a split usually shares a few surfaces among hundreds of tasks
def _read(text: str) -> _Surface:
    try:
        return _Surface.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DatasetError(f"surface: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _renamed(tool: Tool, look: _Rename) -> Tool:
    known = tool.arguments.parameters
    if strangers := sorted(set(look.parameters) - set(known)):
        raise DatasetError(
            f"surface renames parameter {strangers[0]!r} of {tool.origin!r}, which has none of that name"
            f"{nearest(strangers[0], known) if known else ''}"
        )
    parameters = {look.parameters.get(name, name): parameter for name, parameter in known.items()}
    extra = _arguments({"properties": look.optional}, passed=False).parameters
    if len(parameters) != len(known) or set(parameters) & set(extra):
        raise DatasetError(f"surface gives two parameters of {tool.origin!r} one name; choose another")
    arguments = Arguments({**parameters, **extra}, tool.arguments.open)
    return replace(
        tool,
        name=look.name or tool.name,
        description=tool.description if look.description is None else look.description,
        parameters={**tool.parameters, **arguments.schema()},
        arguments=arguments,
    )


def _injected(tool: Tool, text: str) -> Tool:
    """The tool with a text added to what it returns, where a text has room: after a text, or as a field or entry."""

    def added(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {**value, "note": text}
        return [*value, text] if isinstance(value, (list, tuple)) else f"{value}\n{text}"

    fn = tool.fn
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def later(*args: Any, **kwargs: Any) -> Any:
            return added(await fn(*args, **kwargs))

        return replace(tool, fn=later)

    @functools.wraps(fn)
    def now(*args: Any, **kwargs: Any) -> Any:
        return added(fn(*args, **kwargs))

    return replace(tool, fn=now)


def _distractor(look: _Distractor) -> Tool:
    def answer(**_: Any) -> str:
        return look.answer

    arguments = _arguments(look.parameters)
    return Tool(look.name, look.description, arguments.schema(), answer, origin="", arguments=arguments)


def _arguments(schema: Mapping[str, Any], passed: bool = True) -> Arguments:
    try:
        return arguments_of_schema(schema, passed)
    except ConfigError as error:
        raise DatasetError(f"surface: {error.args[0]}") from error
