"""What a tool server is to an attempt: tools it shows, a connection that carries them out, an end."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flyball.config import FunctionSettings
from flyball.errors import ConfigError, ToolError
from flyball.section import Section
from flyball.tools.arguments import arguments_of_remote_schema
from flyball.tools.source import UNREAD
from flyball.tools.tool import Tool
from flyball.types import Task


@dataclass(frozen=True)
class Trace:
    """One attempt as tool servers know it."""

    trace_id: str
    task: Task

    def item(self, send_hidden: bool) -> dict[str, Any]:
        """The dataset row: id and public fields, and with `send_hidden` those that otherwise only graders see."""
        return {"id": self.task.task_id, **self.task.public, **(self.task.hidden if send_hidden else {})}


class Connection(Protocol):
    """A server in use by one attempt."""

    @property
    def tools(self) -> Mapping[str, Tool]:
        """Its tools, ready to be called."""
        ...

    async def close(self) -> Any:
        """Release what the attempt holds there; what the server tells of its final state, None for nothing."""
        ...


class ToolServer(Protocol):
    """A server that was declared. `tools` are as the policy sees them and cannot be called yet."""

    name: str

    @property
    def tools(self) -> Mapping[str, Tool]: ...

    @property
    def version(self) -> str: ...

    @property
    def examples(self) -> Mapping[str, Mapping[str, Any]]:
        """Arguments that a tool may be tried with, by its name."""
        ...

    @property
    def isolates(self) -> bool:
        """Whether each attempt is known to have a world of its own there, so that trying a write harms nobody."""
        ...

    @property
    def sends_hidden(self) -> bool:
        """Whether it is told what otherwise only graders see."""
        ...

    def check(self) -> None:
        """Raise ConfigError for a secret that the environment does not have."""
        ...

    async def connect(self, trace: Trace) -> Connection:
        """Make ready for one attempt. Raises ToolServerError."""
        ...


class TooLarge(ToolError):
    """An answer over the limit; the model is told, and may ask for less."""

    problem: Literal["raised", "too_large", "unavailable"] = "too_large"


def remote_tool(
    server: str,
    settings: FunctionSettings,
    *,
    description: str,
    parameters: Mapping[str, Any],
    writes: bool,
    retries: int = 0,
    timeout_seconds: float | None = None,
) -> Tool:
    """Return a tool of a server, not yet connected: its schema is shown as it stands, plain types are checked here.

    Raises ConfigError for a name or schema that no model can be shown.
    """
    try:
        return Tool(
            name=settings.name,
            description=description,
            parameters=dict(parameters),
            fn=functools.partial(_not_connected, server),
            writes=writes,
            approval=settings.approval,
            retries=retries,
            cost_usd=settings.cost_usd,
            version=UNREAD + _digest([settings.name, description, parameters, settings.model_dump(mode="json")]),
            arguments=arguments_of_remote_schema(parameters),
            scopes=settings.scopes,
            server=server,
            timeout_seconds=timeout_seconds,
        )
    except ConfigError as error:
        raise ConfigError(f"tool server {server!r}: {error.args[0]}") from error


def version_of(settings: Section, tools: Mapping[str, Tool]) -> str:
    """The version of a server: its settings and the tools it shows. What runs there is not known, and it says so."""
    return UNREAD + _digest([settings.model_dump(mode="json"), {name: tool.version for name, tool in tools.items()}])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


async def _not_connected(server: str, *_: Any, **__: Any) -> str:
    raise AssertionError(f"a tool of {server!r} was called without a connection")
