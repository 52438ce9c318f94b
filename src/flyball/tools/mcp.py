"""Tools of MCP servers, through the official SDK: a command that speaks on stdin and stdout, or streamable HTTP.

The server is asked once which tools it has. With `sessions: attempt` every attempt has a session of its own (for a
command, a process of its own), opened before its first call and closed after its end; with `shared` all attempts that
run at the same time use one. The attempt's id is told: `FLYBALL_TRACE_ID` in the environment of a command, the header
`x-flyball-trace-id` of a session over HTTP.

What a tool answers as an error is shown to the model. A server that dies, hangs or breaks the protocol is
`unavailable`: the attempt ends as `tool_error`, the machinery's fault, with the end of what the server wrote to stderr.
A call is not tried again: MCP does not say whether that would do it twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import tempfile
import weakref
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from flyball.config import FunctionSettings, McpSettings
from flyball.errors import ConfigError, ToolError, ToolServerError, nearest
from flyball.tools.jsonable import to_json
from flyball.tools.post import MAX_BYTES
from flyball.tools.secrets import Secrets
from flyball.tools.server import TooLarge, Trace, remote_tool, version_of
from flyball.tools.tool import Tool
from flyball.types import ToolCall

if TYPE_CHECKING:
    from mcp import Client

CONNECT_SECONDS = 60.0
CLOSE_SECONDS = 15.0
STDERR_CHARS = 500
TRACE_VARIABLE, TRACE_HEADER = "FLYBALL_TRACE_ID", "x-flyball-trace-id"
_ABOUT_THE_CALL = frozenset({-32602})
"""JSON-RPC's invalid params: the model's mistake. Every other protocol error is the server's."""


class McpServer:
    """A declared server. `discover` comes before everything else.

    A command runs in `folder`, the workflow's; `python` in it is the Python that runs Flyball.
    """

    def __init__(self, name: str, settings: McpSettings, folder: Path | None = None) -> None:
        self.name = name
        self.settings = settings
        self.folder = folder
        self.secrets = Secrets(f"MCP server {name!r}")
        self.tools: Mapping[str, Tool] = {}
        self._shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = weakref.WeakKeyDictionary()

    @property
    def version(self) -> str:
        return version_of(self.settings, self.tools)

    @property
    def examples(self) -> Mapping[str, Mapping[str, Any]]:
        functions = self.settings.functions or ()
        return {function.name: function.example for function in functions if function.example is not None}

    @property
    def isolates(self) -> bool:
        return False  # whether a session has a world of its own is the server's secret

    @property
    def sends_hidden(self) -> bool:
        return False

    def check(self) -> None:
        """Raise ConfigError for a secret that the environment does not have."""
        self.secrets.fill_all({**self.settings.env, **self.settings.headers})
        self.secrets.fill(self.settings.url or "")

    async def discover(self) -> None:
        """Ask which tools there are. Raises ToolServerError, ConfigError for a function that it does not have."""
        session = await self._session("")
        try:
            listed = {tool.name: tool for tool in await session.list_tools()}
        finally:
            await session.close()
        wanted = self.settings.functions
        chosen = {f.name: f for f in wanted} if wanted else {name: FunctionSettings(name=name) for name in listed}
        for name in chosen:
            if name not in listed:
                raise ConfigError(f"MCP server {self.name!r} has no tool {name!r}{nearest(name, listed)}")
        self.tools = {name: self._tool(listed[name], function) for name, function in chosen.items()}

    async def connect(self, trace: Trace) -> McpConnection:
        """Open the session of an attempt, or join the shared one. Raises ToolServerError, ConfigError for a secret."""
        if self.settings.sessions == "attempt":
            return McpConnection(self, await self._session(trace.trace_id))
        shared = self._shared.setdefault(asyncio.get_running_loop(), _Shared())
        return McpConnection(self, await shared.join(self), shared)

    async def open_session(self) -> _Session:
        """Open a session that is no attempt's own."""
        return await self._session("")

    async def call(self, session: _Session, call: ToolCall, /, **arguments: Any) -> str:
        """Carry out one call. Raises ToolError for what the model is to read, ToolServerError for the rest."""
        text, is_error = await session.call(call.name, arguments)
        text = self.secrets.mask(text)
        if len(text) > MAX_BYTES:
            raise TooLarge(f"413: the answer of {call.name} has more than {MAX_BYTES} characters; ask for less")
        if is_error:
            raise ToolError(text)
        return text

    def error(self, what: str) -> ToolServerError:
        return ToolServerError(self.secrets.mask(f"MCP server {self.name!r} {what}"))

    def _tool(self, listed: Any, function: FunctionSettings) -> Tool:
        hints = listed.annotations
        writes = not (hints is not None and hints.read_only_hint) if function.writes is None else function.writes
        return remote_tool(
            self.name,
            function,
            description=listed.description or "",
            parameters=listed.input_schema,
            writes=writes,
            timeout_seconds=self.settings.timeout_seconds,
        )

    async def _session(self, trace_id: str) -> _Session:
        session = _Session(self, trace_id)
        await session.open()
        return session


class McpConnection:
    """The server in use by one attempt."""

    def __init__(self, server: McpServer, session: _Session, shared: _Shared | None = None) -> None:
        self._session, self._shared = session, shared
        self.tools: Mapping[str, Tool] = {
            name: replace(tool, fn=functools.partial(server.call, session)) for name, tool in server.tools.items()
        }

    async def close(self) -> None:
        """End the session, or leave the shared one."""
        if self._shared is None:
            await self._session.close()
        else:
            await self._shared.leave(self._session)


@dataclass
class _Shared:
    """The session that the attempts of one event loop share; it is closed with the last of them.

    One that died is replaced for attempts that come later.
    """

    session: _Session | None = None
    users: dict[_Session, int] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def join(self, server: McpServer) -> _Session:
        async with self.lock:
            if self.session is None or self.session.dead:
                self.session = await server.open_session()
            self.users[self.session] = self.users.get(self.session, 0) + 1
            return self.session

    async def leave(self, session: _Session) -> None:
        self.users[session] -= 1
        if self.users[session] == 0:
            del self.users[session]
            if self.session is session:
                self.session = None
            await session.close()


class _Session:
    """A session, held by a task of its own: what the SDK opens must be closed by the task that opened it."""

    def __init__(self, server: McpServer, trace_id: str) -> None:
        self._server, self._trace_id = server, trace_id
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stderr: TextIO = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.dead = False

    async def open(self) -> None:
        """Raises ToolServerError when there is no session within `CONNECT_SECONDS`."""
        self._task = asyncio.create_task(self._hold(), name=f"flyball mcp {self._server.name}")
        try:
            ready: set[asyncio.Future[Any]] = {self._task, self._client}
            await asyncio.wait(ready, timeout=CONNECT_SECONDS, return_when="FIRST_COMPLETED")
            if not self._client.done():
                error = self._task.exception() if self._task.done() and not self._task.cancelled() else None
                if isinstance(error, ConfigError):
                    raise error
                why = _why(error) if error is not None else f"no answer within {CONNECT_SECONDS:g} s"
                raise self._server.error(f"cannot be used: {why}{self._last_words()}")
        except BaseException:
            await self.close()
            raise

    async def list_tools(self) -> list[Any]:
        """Every tool, page by page."""
        found: list[Any] = []
        cursor = None
        while True:
            page = await self._guarded((await self._client).list_tools(cursor=cursor), "tools/list")
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """(what it says, whether it says that something went wrong). Raises ToolServerError."""
        result = await self._guarded((await self._client).call_tool(name, arguments), name)
        return _text_of(result), result.is_error

    async def close(self) -> None:
        """End the session and its process. A server that does not end is left to the SDK, which kills it."""
        self._over.set()
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)
            self._task.cancel()
            if done and not self._task.cancelled():
                self._task.exception()  # seen here: whoever was waiting has been told
        self._stderr.close()

    async def _hold(self) -> None:
        async with self._connected() as client:
            self._client.set_result(client)
            await self._over.wait()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        try:
            from mcp import Client, StdioServerParameters, stdio_client
            from mcp.client.streamable_http import streamable_http_client
        except ImportError as error:
            raise ConfigError(
                f"MCP server {self._server.name!r} needs the package mcp: pip install 'flyball[mcp]'"
            ) from error
        settings, secrets = self._server.settings, self._server.secrets
        trace = self._trace_id
        # A session that keeps state begins with a handshake; the newest protocol has neither.
        mode = "legacy" if settings.sessions == "attempt" else "auto"
        if settings.command is not None:
            env = {**secrets.fill_all(settings.env), **({TRACE_VARIABLE: trace} if trace else {})}
            program, *rest = settings.command
            program = sys.executable if program == "python" else program
            parameters = StdioServerParameters(command=program, args=rest, env=env, cwd=self._server.folder)
            async with Client(stdio_client(parameters, errlog=self._stderr), mode=mode) as client:
                yield client
            return
        import httpx2  # what the SDK speaks HTTP with

        headers = {**secrets.fill_all(settings.headers), **({TRACE_HEADER: trace} if trace else {})}
        async with httpx2.AsyncClient(headers=headers, timeout=None) as http:
            transport = streamable_http_client(secrets.fill(settings.url or ""), http_client=http)
            async with Client(transport, mode=mode) as client:
                yield client

    async def _guarded(self, asking: Any, what: str) -> Any:
        """Await an answer, or the end of the session, whichever is first."""
        assert self._task is not None
        asked = asyncio.ensure_future(asking)
        try:
            await asyncio.wait({asked, self._task}, return_when="FIRST_COMPLETED")
            if asked.done():
                return asked.result()
            raise RuntimeError("the session ended")
        except Exception as error:  # of the SDK's many: each is the end of this call, and named
            if getattr(error, "code", None) in _ABOUT_THE_CALL:
                raise ToolError(self._server.secrets.mask(str(error))) from None
            self.dead = True
            raise self._server.error(f"{what}: {_why(error)}{self._last_words()}") from error
        finally:
            asked.cancel()

    def _last_words(self) -> str:
        if self._stderr.closed:
            return ""
        self._stderr.flush()
        self._stderr.seek(0)
        said = self._stderr.read().strip()
        return f"; its stderr ends with {said[-STDERR_CHARS:]!r}" if said else ""


def _why(error: BaseException) -> str:
    """The innermost of an exception group, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _text_of(result: Any) -> str:
    """The text blocks of an answer; what is no text is named. Without any block, the structured value."""
    if not result.content and result.structured_content is not None:
        return to_json(result.structured_content)
    return "\n".join(block.text if block.type == "text" else f"[{block.type} not shown]" for block in result.content)
