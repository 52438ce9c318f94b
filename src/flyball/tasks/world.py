"""The user's class as worlds: one instance is one attempt's isolated world.

A world answers `reset` (required), and may have tools (public methods), `export_state`, `user_reply` and `close`,
each sync or async. What its code raises, or fails to return in time, becomes a WorldError that names class, method,
task and line: infrastructure's fault, never the policy's.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flyball.config import BudgetSettings
from flyball.errors import ConfigError, DatasetError, ToolServerError, WorldError, nearest
from flyball.tools.approval import ApproverFunction, Asked, approver_of
from flyball.tools.arguments import Arguments, BadArguments, arguments_of_function
from flyball.tools.call import needed
from flyball.tools.inbox import Inbox
from flyball.tools.jsonable import as_json
from flyball.tools.permissions import Permissions
from flyball.tools.server import Trace
from flyball.tools.servers import Connections, ToolServers
from flyball.tools.source import source_digest
from flyball.tools.surface import apply_surface, injected_observation
from flyball.tools.tool import Tool, find_tools, tools_of_class
from flyball.tools.user_code import explain, run_user_code
from flyball.types import Task

NO_PERMISSIONS = Permissions()


class WorldSpec:
    """How to open worlds. `system` is the class's docstring, `version` a digest of its source and its bases'.

    `make` is the user's class, or a factory without arguments; a factory is called once here to learn its class.
    `approver` declares who answers for tools with `approval="human"` (see `tools/approval.py`; a person in
    `tools/inbox.py`, never in training or evaluation), `servers` are the tool
    servers beside the world's own tools, `permissions` what the policy may do with both. Raises ConfigError for what is
    not a world.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        approver: str | ApproverFunction | Inbox | None = None,
        servers: ToolServers | None = None,
        permissions: Permissions = NO_PERMISSIONS,
    ) -> None:
        self._make = make
        self.approver: Asked | None = approver if isinstance(approver, Inbox) else approver_of(approver)
        self.servers = servers or ToolServers()
        self.permissions = permissions
        self.removed: frozenset[str] = frozenset()
        cls = make if inspect.isclass(make) else type(_example(make))
        if not callable(getattr(cls, "reset", None)):
            raise ConfigError(f"world {cls.__qualname__} has no reset(self, ...) -> str, which starts an attempt")
        if inspect.isclass(make):
            _refuse_arguments(cls)
        self.name: str = cls.__qualname__
        self.system: str = inspect.getdoc(cls) or ""
        self._reset: Arguments = arguments_of_function(inspect.unwrap(getattr(cls, "reset")), bound=True)  # noqa: B009
        self._tools: Mapping[str, Tool] = _together(cls.__qualname__, tools_of_class(cls), self.servers.tools)
        permissions.check(self._tools)
        self.tool_versions: Mapping[str, str] = {name: tool.version for name, tool in self._tools.items()}
        self.asks_for_approval = any(tool.approval == "human" for tool in self._tools.values())
        sources = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in sys.stdlib_module_names]
        self.version: str = source_digest(*sources) if make is cls else source_digest(make, *sources)
        # Whoever approves, tools elsewhere and permissions are part of the world that attempts meet.
        parts = (getattr(self.approver, "version", ""), self.servers.version, permissions.version)
        self.version += "".join(f"+{part}" for part in parts if part)

    def check(self, task: Task) -> None:
        """Raise DatasetError when this world cannot be opened for the task: fields, allowed tools, surface.

        Raises ConfigError when a tool of the task needs approval and nobody is declared to answer.
        """
        self._fields(task)
        for tool in _shown_tools(self._tools, task, self.removed).values():
            if tool.approval == "human":
                needed(self.approver, tool)

    def schemas(self, task: Task) -> list[dict[str, Any]]:
        """The tools that a task shows, in OpenAI's form, without opening a world. Raises DatasetError as `check`."""
        return [tool.schema() for tool in _shown_tools(self._tools, task, self.removed).values()]

    def limited(self, tool: str, max_calls: int) -> WorldSpec:
        """The same world with one tool taken away (0 calls) or limited to so many calls an attempt.

        Raises ConfigError for a tool that there is not.
        """
        if tool not in self._tools:
            raise ConfigError(f"{self.name} has no tool {tool!r}{nearest(tool, self._tools)}")
        changed = copy.copy(self)
        changed.version += f"+{tool}<={max_calls}"
        if max_calls == 0:
            changed.removed = self.removed | {tool}
        else:
            budgets = {**self.permissions.budgets, tool: BudgetSettings(max_calls=max_calls)}
            changed.permissions = replace(self.permissions, budgets=budgets)
        return changed

    @property
    def tools(self) -> Mapping[str, Tool]:
        """Every tool by the name its author gave it, not yet bound to a world or connected to a server."""
        return self._tools

    async def open(self, task: Task, trace_id: str = "") -> World:
        """Make a world, connect its tool servers and reset it to the task; `trace_id` is what servers know it by.

        Raises DatasetError (the task's fault), WorldError (the world's) or ToolServerError (a server's).
        """
        fields = self._fields(task)
        if _made_without_user_code(self._make):
            instance = self._make()
        else:
            instance = await _call(self.name, "__init__", task, self._make, {})
        connections = await self.servers.connect(Trace(trace_id, task))
        try:
            approver = self.approver.for_attempt(trace_id) if self.approver else None
            world = World(
                self.name, self.system, instance, task, approver, connections, self.permissions, removed=self.removed
            )
            await world.start(fields)
        except BaseException:  # cancelled while it started: what it holds is released all the same
            with contextlib.suppress(WorldError, ToolServerError):  # why it did not start matters more than this
                await _close(self.name, instance, task, connections)
            raise
        return world

    def _fields(self, task: Task) -> dict[str, Any]:
        """Return the public fields that `reset` asks for, checked against its types."""
        wanted = self._reset.parameters
        public = {name: value for name, value in task.public.items() if self._reset.open or name in wanted}
        where = f"task {task.task_id!r}: {self.name}.reset"
        for name, parameter in wanted.items():
            if parameter.required and name not in public:
                hint = nearest(name, task.public) if task.public else "; the row has no public fields"
                raise DatasetError(f"{where} needs the field {name!r}{hint}")
        try:
            return self._reset.accept(public)
        except (BadArguments, TypeError) as error:
            raise DatasetError(f"{where}: {error}") from error


class World:
    """The world of one attempt at `task`: what it shows (`observation`, `system`, `tools`, `schemas`) and its end."""

    def __init__(
        self,
        name: str,
        system: str,
        instance: Any,
        task: Task,
        approver: Asked | None = None,
        connections: Connections | None = None,
        permissions: Permissions = NO_PERMISSIONS,
        removed: frozenset[str] = frozenset(),
    ) -> None:
        self._name, self._instance, self.task = name, instance, task
        self._connections = connections or Connections({})
        self.approver = approver
        self.allowance = permissions.for_attempt()
        self.tool_state: Mapping[str, Any] = {}
        self.failing: dict[str, str] = {}  # by call id: what a tool server answered to tries that go on
        self.system = system
        self.observation = ""
        self.has_user = hasattr(instance, "user_reply")
        self.tools: dict[str, Tool] = _in_turn(
            _shown_tools({**find_tools(instance), **self._connections.tools}, task, removed)
        )
        self.schemas: list[dict[str, Any]] = [tool.schema() for tool in self.tools.values()]

    async def start(self, fields: Mapping[str, Any]) -> None:
        """Reset the instance; what it returns is the first message, the observation."""
        observation = await self._call("reset", fields)
        if not isinstance(observation, str):
            raise self._error("reset", f"returned {type(observation).__name__}; it returns the first message, a str")
        added = injected_observation(self.task.surface)
        self.observation = f"{observation}\n{added}" if added else observation

    async def user_reply(self, text: str) -> str | None:
        """Return what the simulated user answers, or None when there is no user or nothing more to say."""
        if not self.has_user:
            return None
        reply = await self._call("user_reply", {}, text)
        if reply is not None and not isinstance(reply, str):
            raise self._error("user_reply", f"returned {type(reply).__name__}; it returns a str, or None to end")
        return reply

    async def export_state(self) -> Any:
        """Return the world's state as plain JSON values (a copy), or None for a world that exports none."""
        if not hasattr(self._instance, "export_state"):
            return None
        state = await self._call("export_state", {})
        try:
            return as_json(state)
        except ValueError as error:
            raise self._error("export_state", f"returned what cannot be stored: {error}") from error

    async def close(self) -> None:
        """Release what the world holds, here and at tool servers; `tool_state` is then what those told of their end."""
        self.tool_state = await _close(self._name, self._instance, self.task, self._connections)

    async def _call(self, method: str, arguments: Mapping[str, Any], *positional: Any) -> Any:
        return await _call(self._name, method, self.task, getattr(self._instance, method), arguments, *positional)

    def _error(self, method: str, what: str) -> WorldError:
        return _world_error(self._name, method, self.task, what)


async def _close(name: str, instance: Any, task: Task, connections: Connections) -> dict[str, Any]:
    """Close a world and its connections, the one whatever becomes of the other; the states that servers told."""
    try:
        if hasattr(instance, "close"):
            await _call(name, "close", task, instance.close, {})
    finally:
        states = await connections.close()
    return states


async def _call(
    name: str, method: str, task: Task, fn: Callable[..., Any], arguments: Mapping[str, Any], *positional: Any
) -> Any:
    """Run code of a world within the task's `max_seconds`."""
    finished = await run_user_code(fn, arguments, task.limits.max_seconds, *positional)
    if finished.timed_out:
        raise _world_error(name, method, task, f"did not return within {task.limits.max_seconds:g} s")
    if finished.error is not None:
        raise _world_error(name, method, task, f"raised {explain(finished.error)}") from finished.error
    return finished.value


def _world_error(name: str, method: str, task: Task, what: str) -> WorldError:
    return WorldError(f"{name}.{method} {what}, for task {task.task_id!r}")


def _shown_tools(tools: Mapping[str, Tool], task: Task, removed: frozenset[str] = frozenset()) -> dict[str, Tool]:
    """Return the tools a task allows (by the names the world gives them) under the names its surface gives them."""
    where = f"task {task.task_id!r}"
    if strangers := sorted(set(task.tools or ()) - set(tools)):
        hint = nearest(strangers[0], tools) if tools else "; the world has none"
        raise DatasetError(f"{where} allows tool {strangers[0]!r}, which the world does not have{hint}")
    try:
        shown = apply_surface(tools, task.surface)
    except DatasetError as error:
        raise DatasetError(f"{where}: {error.args[0]}") from error
    allowed = set(tools if task.tools is None else task.tools) - removed
    return {name: tool for name, tool in shown.items() if not tool.origin or tool.origin in allowed}


def _together(world: str, own: Mapping[str, Tool], others: Mapping[str, Tool]) -> dict[str, Tool]:
    for name in own:
        if name in others:
            raise ConfigError(
                f"tool {name!r} is one of the world {world} and of the tool server {others[name].server!r}; rename one"
            )
    return {**own, **others}


def _in_turn(tools: Mapping[str, Tool]) -> dict[str, Tool]:
    """Let sync tools of one world run one at a time, in the order they were called.

    Calls of one turn are made together; in threads they would race for the world's state, and end it differently
    each time (invariant 12). Async tools run together: they share the loop, and yield where their author chose to.
    """
    turn = asyncio.Lock()
    return {n: tool if inspect.iscoroutinefunction(tool.fn) else replace(tool, turn=turn) for n, tool in tools.items()}


def _made_without_user_code(make: Callable[[], Any]) -> bool:
    """Whether nothing of the user's runs when an instance is made: no thread is needed to bound it."""
    if type(make) is not type:  # a factory, or a class that a metaclass of the user's makes
        return False
    return not any({"__init__", "__new__"} & vars(base).keys() for base in make.__mro__[:-1])


def _example(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        raise ConfigError(
            f"world factory {make!r} raised {explain(error)}; it makes a world without arguments"
        ) from error


def _refuse_arguments(cls: type) -> None:
    try:
        inspect.signature(cls).bind()
    except TypeError as error:
        raise ConfigError(
            f"world {cls.__qualname__}() {error}; give defaults, or pass a factory: lambda: {cls.__name__}(...)"
        ) from error
