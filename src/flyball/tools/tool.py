"""Python functions and methods as tools: the name, schema and digest a policy and a registry see.

A public method of a world is a tool: its signature gives the schema, its docstring the description (first paragraph;
a Google-style `Args:` section describes parameters). `fb.tool` marks what the signature cannot say.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, overload

from flyball.errors import ConfigError
from flyball.tools.arguments import Arguments, arguments_of_function, arguments_of_schema
from flyball.tools.source import source_digest

Approval = Literal["none", "human"]
RESERVED = frozenset({"reset", "export_state", "user_reply", "close"})
"""Names of a world that are never tools."""

_MARK = "__flyball_tool__"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Tool:
    """Something a policy may call. `arguments` reads the model's JSON into keyword arguments of `fn` (sync or async).

    `origin` is the name its author gave it, kept when a task shows the tool under another; "" = a distractor.
    `turn` is shared by tools of which one (a lock) or so many (a semaphore) may run at a time: calls wait for it in the
    order they were made.
    `retries`, `cost_usd` and `scopes` are explained at `tool` below. `server` names the tool server that carries the
    tool out, '' = nobody else does: its `fn` gets the ToolCall first, and `timeout_seconds` may bound one try of it.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    fn: Callable[..., Any]
    writes: bool = False
    approval: Approval = "none"
    retries: int = 0
    cost_usd: float = 0.0
    version: str = ""
    origin: str | None = None
    arguments: Arguments = field(default=None, repr=False, compare=False)  # type: ignore[assignment]  # set below
    turn: asyncio.Lock | asyncio.Semaphore | None = field(default=None, repr=False, compare=False)
    scopes: tuple[str, ...] = ()
    server: str = ""
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"tool name {self.name!r}: use 1 to 64 letters, digits, _ or -, not starting with a digit"
            )
        if self.retries < 0:
            raise ConfigError(f"tool {self.name}: retries is {self.retries}; it is a number of repetitions, 0 or more")
        if not (math.isfinite(self.cost_usd) and self.cost_usd >= 0):
            raise ConfigError(f"tool {self.name}: cost_usd is {self.cost_usd}; a cost is a finite number, 0 or more")
        if isinstance(self.scopes, str):
            raise ConfigError(f"tool {self.name}: scopes is {self.scopes!r}; it is a list of names: [{self.scopes!r}]")
        object.__setattr__(self, "scopes", tuple(self.scopes))
        if self.arguments is None:
            object.__setattr__(self, "arguments", arguments_of_schema(self.parameters))
        if self.origin is None:
            object.__setattr__(self, "origin", self.name)

    def schema(self) -> dict[str, Any]:
        """Return the tool in OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class _Mark:
    writes: bool
    approval: Approval
    name: str | None
    description: str | None
    retries: int
    cost_usd: float
    scopes: Sequence[str]


@overload
def tool(fn: F, /) -> F: ...
@overload
def tool(
    *,
    writes: bool = False,
    approval: Approval | None = None,
    name: str | None = None,
    description: str | None = None,
    retries: int = 0,
    cost_usd: float = 0.0,
    scopes: Sequence[str] = (),
) -> Callable[[F], F]: ...
def tool(
    fn: F | None = None,
    /,
    *,
    writes: bool = False,
    approval: Approval | None = None,
    name: str | None = None,
    description: str | None = None,
    retries: int = 0,
    cost_usd: float = 0.0,
    scopes: Sequence[str] = (),
) -> F | Callable[[F], F]:
    """Mark a function or method as a tool and say what its signature cannot.

    `writes`: it changes the world. `approval="human"`: a person is asked before each call. `name` and `description`
    replace those read from the function. `retries` declares it idempotent: a call that raised is tried again up to so
    many times, one that ran out of time too if the tool is async (a thread cannot be stopped, and two would run at
    once). `cost_usd` is what one try is billed. `scopes` are the permissions it needs: a workflow that does not grant
    them has its calls refused. Raises ConfigError for an unknown approval.
    """
    if approval not in (None, "none", "human"):
        raise ConfigError(f"approval {approval!r}: valid are 'none' and 'human'")

    def mark(target: F) -> F:
        setattr(target, _MARK, _Mark(writes, approval or "none", name, description, retries, cost_usd, scopes))
        return target

    return mark if fn is None else mark(fn)


def tool_from_function(fn: Callable[..., Any]) -> Tool:
    """Return the tool of a typed function or bound method, sync or async. Raises ConfigError when types are missing."""
    return replace(_template(getattr(fn, "__func__", fn), inspect.ismethod(fn)), fn=fn)


@functools.lru_cache(maxsize=1024)  # a world is opened once per attempt; its schemas are the same every time
def _template(function: Callable[..., Any], bound: bool) -> Tool:
    mark: _Mark = getattr(function, _MARK, _Mark(False, "none", None, None, 0, 0.0, ()))
    written = inspect.unwrap(function)
    summary, described = _read_docstring(inspect.getdoc(written) or "")
    arguments = arguments_of_function(written, bound, described)
    return Tool(
        name=mark.name or written.__name__,
        description=mark.description or summary,
        parameters=arguments.schema(),
        fn=function,
        writes=mark.writes,
        approval=mark.approval,
        retries=mark.retries,
        cost_usd=mark.cost_usd,
        scopes=mark.scopes,  # type: ignore[arg-type]  # made a tuple there
        version=source_digest(written),
        arguments=arguments,
    )


def find_tools(obj: object) -> dict[str, Tool]:
    """Return the tools of a world: its public methods, base classes first, in the order they were written.

    Reserved names (`reset`, `export_state`, `user_reply`, `close`), names with a leading underscore, properties and
    nested classes are not tools. Raises ConfigError for a public method whose parameters have no types.
    """
    cls: Any = type(obj)  # mypy takes `type[object]` for something without a hash
    return {found.name: replace(found, fn=getattr(obj, name)) for name, found in _methods(cls)}


def tools_of_class(cls: type) -> dict[str, Tool]:
    """Return the tools that instances of a class will have, not yet bound to one. Raises as `find_tools` does."""
    return {found.name: found for _, found in _methods(cls)}


@functools.lru_cache(maxsize=1024)  # as for `_template`: looking through a class costs more than opening a world
def _methods(cls: type) -> tuple[tuple[str, Tool], ...]:
    return tuple(_read_methods(cls))


def _read_methods(cls: type) -> Iterator[tuple[str, Tool]]:
    names = dict.fromkeys(name for base in reversed(cls.__mro__[:-1]) for name in vars(base))
    seen: set[str] = set()
    for name in names:
        method = inspect.getattr_static(cls, name)  # the most derived one decides; a property is not run
        if name.startswith("_") or name in RESERVED or not inspect.isroutine(method):
            continue
        found = _template(getattr(method, "__func__", method), not isinstance(method, staticmethod))
        if found.name in seen:
            raise ConfigError(f"{cls.__qualname__} has two tools named {found.name!r}; rename one")
        seen.add(found.name)
        yield name, found


def _read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its first paragraph and the descriptions of a Google-style `Args:` section."""
    summary = " ".join(doc.split("\n\n", 1)[0].split())
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", doc, re.MULTILINE)
    described: dict[str, str] = {}
    name = ""
    for line in (section.group(1) if section else "").splitlines():
        if entry := re.match(r"\s{1,4}(\w+)(?: \([^)]*\))?:\s*(.*)", line):
            name, text = entry.groups()
            described[name] = text.strip()
        elif name and line.strip():
            described[name] += " " + line.strip()
    return summary, described
