"""All tool servers of a workflow: discovered once, connected for each attempt, closed after it."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flyball.config import ToolsSettings
from flyball.errors import ConfigError, ToolServerError
from flyball.tools.http import HttpToolServer
from flyball.tools.mcp import McpServer
from flyball.tools.server import Connection, ToolServer, Trace
from flyball.tools.source import UNREAD
from flyball.tools.tool import Tool

T = TypeVar("T")


class ToolServers:
    """Servers by name. `tools` are those of all servers as a task shows them."""

    def __init__(self, servers: Sequence[ToolServer] = ()) -> None:
        self.servers: Mapping[str, ToolServer] = {server.name: server for server in servers}
        self.tools: dict[str, Tool] = {}
        for server in servers:
            for name, tool in server.tools.items():
                if name in self.tools:
                    raise ConfigError(
                        f"tool {name!r} is one of {self.tools[name].server!r} and of {server.name!r}; a policy calls "
                        "tools by name, so rename one, or leave it out of the server's `functions`"
                    )
                self.tools[name] = tool

    @property
    def version(self) -> str:
        """Digest over the servers; '' without any."""
        versions = [f"{name} {server.version}" for name, server in sorted(self.servers.items())]
        return f"{UNREAD}{hashlib.sha256(repr(versions).encode()).hexdigest()}" if versions else ""

    def check(self) -> None:
        """Raise ConfigError for a secret that the environment does not have."""
        for server in self.servers.values():
            server.check()

    async def connect(self, trace: Trace) -> Connections:
        """Connect all for one attempt, at the same time. Raises ToolServerError, after closing those that did."""
        made: dict[str, Connection] = {}

        async def connect(server: ToolServer) -> None:
            made[server.name] = await server.connect(trace)

        tasks = [asyncio.ensure_future(connect(server)) for server in self.servers.values()]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await Connections(made).close_quietly()
            raise
        return Connections({name: made[name] for name in self.servers})


class Connections:
    """The servers in use by one attempt."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = connections
        self.tools: dict[str, Tool] = {n: t for each in connections.values() for n, t in each.tools.items()}
        self._closing: asyncio.Task[dict[str, Any]] | None = None

    async def close(self) -> dict[str, Any]:
        """Close all, each whatever becomes of the others and of the caller. Returns the states that servers told.

        Raises the first ToolServerError. A second call returns what the first one did.
        """
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        return await asyncio.shield(self._closing)

    async def close_quietly(self) -> None:
        """Close all, when something else is already known to have gone wrong."""
        try:
            await self.close()
        except ToolServerError:
            return

    async def _close(self) -> dict[str, Any]:
        closing = [connection.close() for connection in self._connections.values()]
        ended = await asyncio.gather(*closing, return_exceptions=True)
        for end in ended:
            if isinstance(end, BaseException):
                raise end
        return {name: state for name, state in zip(self._connections, ended, strict=True) if state is not None}


def tool_servers(settings: ToolsSettings, folder: Path | None = None) -> ToolServers:
    """Return the servers that a workflow in `folder` declares. MCP servers are asked which tools they have.

    Raises ConfigError for what cannot be honoured, ToolServerError for an MCP server that does not answer.
    """
    if both := sorted(settings.http.keys() & settings.mcp.keys()):
        raise ConfigError(f"tools.http and tools.mcp both have a server {both[0]!r}; rename one")
    http = [HttpToolServer(name, each) for name, each in settings.http.items()]
    mcp = [McpServer(name, each, folder) for name, each in settings.mcp.items()]
    if mcp:
        _run_apart(_discover(mcp))
    return ToolServers([*http, *mcp])


async def _discover(servers: Sequence[McpServer]) -> None:
    await asyncio.gather(*(server.discover() for server in servers))


def _run_apart(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run on an event loop of its own, in a thread: the caller may be on one already and cannot wait for it."""
    ended: list[T | BaseException] = []

    def work() -> None:
        try:
            ended.append(asyncio.run(coroutine))
        except BaseException as error:  # raised again below, in the thread of the caller
            ended.append(error)

    thread = threading.Thread(target=work, name="flyball discovery")
    thread.start()
    thread.join()
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]
