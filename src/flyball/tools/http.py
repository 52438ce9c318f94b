"""Tools behind a server of the agent-RFT contract: one POST for each call, its answer put before the model.

    -> {"type": "function_call", "id", "call_id", "name", "arguments": "<JSON text>", "trace_id", "item": {row}}
    <- {"type": "function_call_output", "call_id", "output": "..."}                               `output` is needed

    answered                                      what becomes of the call
    200 with an `output`                          shown to the model
    4xx (408 and 429 apart)                       shown to the model, which can act on it
    more than `max_bytes`                         the model is told so; no more is read
    5xx, 408, 429, a time-out, no connection      tried again `max_retries` times, then `unavailable`
    a redirect, another content type, no JSON,    `unavailable` at once: nothing of it is the policy's doing
    no `output`, the answer to another call

`unavailable` ends the attempt as `tool_error`: the machinery's fault, so it is run again and then Missing, never zero.
A call has the same `call_id` on every try, so that a server can recognise a repetition.

`context` are two addresses of the server, posted `{"type": "context.open" | "context.close", "trace_id", "item"}`
before the first call of an attempt and after its end, however it ended. What the answer to the second one holds under
`state` is kept in `Attempt.tool_state` for graders.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from flyball.config import HttpToolsSettings
from flyball.errors import ConfigError, ToolError, ToolServerError
from flyball.tools.jsonable import to_json
from flyball.tools.post import Headers, Poster, PostFailed
from flyball.tools.secrets import Secrets
from flyball.tools.server import TooLarge, Trace, remote_tool, version_of
from flyball.tools.signing import signature_headers, signing_key
from flyball.tools.tool import Tool
from flyball.types import ToolCall

OUTPUT = "function_call_output"
RETRIED = frozenset({408, 429})
"""Statuses below 500 that are not about what the model asked for."""
LONGEST_SECONDS = 600.0
"""Of one request, as in OpenAI's contract; a shorter limit of the call cuts it off earlier."""


class HttpToolServer:
    """A declared server. `transport` replaces the network, for tests."""

    def __init__(
        self, name: str, settings: HttpToolsSettings, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.name = name
        self.settings = settings
        self.secrets = Secrets(f"tool server {name!r}")
        self.tools: Mapping[str, Tool] = {
            function.name: remote_tool(
                name,
                function,
                description=function.description or "",
                parameters=function.parameters or {},
                writes=bool(function.writes),
                retries=settings.max_retries,
                timeout_seconds=settings.timeout_seconds,
            )
            for function in settings.functions
        }
        if len(self.tools) != len(settings.functions):
            raise ConfigError(f"tool server {name!r} has two functions of one name; rename one")
        self._slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self._poster = Poster(
            concurrency=settings.concurrency,
            timeout_seconds=LONGEST_SECONDS,
            max_retries=settings.max_retries,
            max_bytes=settings.max_bytes,
            retried=RETRIED,
            json_only=True,
            transport=transport,
        )

    @property
    def version(self) -> str:
        return version_of(self.settings, self.tools)

    @property
    def examples(self) -> Mapping[str, Mapping[str, Any]]:
        return {function.name: function.example for function in self.settings.functions if function.example is not None}

    @property
    def isolates(self) -> bool:
        return self.settings.context is not None

    @property
    def sends_hidden(self) -> bool:
        return self.settings.send_hidden

    def check(self) -> None:
        """Raise ConfigError for a secret that the environment does not have."""
        _ = self._url, self._plain_headers, self._key

    async def connect(self, trace: Trace) -> HttpConnection:
        """Open the context of an attempt, where there is one. Raises ToolServerError, ConfigError for a secret."""
        self.check()
        connection = HttpConnection(self, trace)
        await connection.open()
        return connection

    async def call(self, trace: Trace, call: ToolCall, /, **arguments: Any) -> str:
        """Carry out one call, once. Raises ToolError for what the model is to read, ToolServerError for the rest."""
        call_id = f"call_{trace.trace_id.removeprefix('trace_')}_{call.call_id}"
        name = call.name
        body = {
            "type": "function_call",
            "id": f"fc_{call_id.removeprefix('call_')}",
            "call_id": call_id,
            "name": name,
            "arguments": json.dumps(arguments, ensure_ascii=False),
            "trace_id": trace.trace_id,
            "item": trace.item(self.settings.send_hidden),
        }
        try:
            answer = await self._poster.post(self._url, body, self._headers(call_id), max_retries=0)
        except PostFailed as failed:
            raise self._blame(name, failed) from None
        return self.secrets.mask(self._output(answer, name, call_id))

    def slots(self) -> asyncio.Semaphore:
        """The bound on calls under way on this event loop; waiting for it is not the server's time."""
        loop = asyncio.get_running_loop()
        if loop not in self._slots:
            self._slots[loop] = asyncio.Semaphore(self.settings.concurrency)
        return self._slots[loop]

    async def post_context(self, address: str, trace: Trace, kind: str) -> Any:
        """Open or close an attempt's context. Raises ToolServerError."""
        body: dict[str, Any] = {"type": f"context.{kind}", "trace_id": trace.trace_id}
        body["item"] = trace.item(self.settings.send_hidden)
        request_id = f"{kind}_{trace.trace_id.removeprefix('trace_')}"
        limit = self.settings.timeout_seconds or trace.task.limits.tool_timeout_seconds
        url, headers = self.secrets.fill(address), self._headers(request_id)
        try:
            answer = await self._poster.post(url, body, headers, timeout_seconds=limit)
        except PostFailed as failed:
            raise self._error(f"context.{kind} {failed}") from None
        if not isinstance(answer, dict):
            raise self._error(f"context.{kind} answered {to_json(answer)[:80]}; it answers a JSON object, such as {{}}")
        return answer

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        await self._poster.aclose()

    @functools.cached_property
    def _url(self) -> str:
        return self.secrets.fill(self.settings.url)

    @functools.cached_property
    def _plain_headers(self) -> Mapping[str, str]:
        return self.secrets.fill_all(self.settings.headers)

    @functools.cached_property
    def _key(self) -> bytes | None:
        secret = self.settings.signing_secret
        return None if secret is None else signing_key(self.secrets.fill(secret))

    def _headers(self, request_id: str) -> Headers:
        plain, key = self._plain_headers, self._key
        if key is None:
            return plain
        return lambda body: {**plain, **signature_headers(key, request_id, int(time.time()), body)}

    def _blame(self, name: str, failed: PostFailed) -> ToolError:
        if failed.kind == "too_large":
            return TooLarge(f"413: the answer of {name} has more than {self.settings.max_bytes} bytes; ask for less")
        if failed.status is not None and 400 <= failed.status < 500 and failed.status not in RETRIED:
            return ToolError(self.secrets.mask(f"{failed.status}: {_said(failed.body)}"))
        return self._error(f"{name} {failed}", failed.passing, failed.wait_seconds)

    def _output(self, answer: Any, name: str, call_id: str) -> str:
        if not isinstance(answer, dict) or "output" not in answer:
            raise self._error(f'{name} answered {str(answer)[:120]!r}; it answers {{"output": "text"}}')
        if answer.get("type", OUTPUT) != OUTPUT:
            raise self._error(f"{name} answered an object of type {answer['type']!r}; it answers {OUTPUT!r}")
        if answer.get("call_id", call_id) != call_id:
            raise self._error(f"{name} answered call {answer['call_id']!r} when {call_id!r} was asked")
        output = answer["output"]
        return output if isinstance(output, str) else to_json(output)

    def _error(self, what: str, passing: bool = False, wait_seconds: float | None = None) -> ToolServerError:
        where = f"tool server {self.name!r} at {self.settings.url}"
        return ToolServerError(self.secrets.mask(f"{where}: {what}"), passing=passing, wait_seconds=wait_seconds)


class HttpConnection:
    """The server in use by one attempt."""

    def __init__(self, server: HttpToolServer, trace: Trace) -> None:
        self._server, self._trace = server, trace
        self.tools: Mapping[str, Tool] = {
            name: replace(tool, fn=functools.partial(server.call, trace), turn=server.slots())
            for name, tool in server.tools.items()
        }

    async def open(self) -> None:
        """Post `context.open`; when that fails or is cancelled, `context.close` too, as it may have been opened."""
        context = self._server.settings.context
        if context is None:
            return
        try:
            await self._server.post_context(context.open, self._trace, "open")
        except BaseException:
            await self.close_quietly()
            raise

    async def close(self) -> Any:
        """Post `context.close`. Returns the `state` of the answer."""
        context = self._server.settings.context
        if context is None:
            return None
        return (await self._server.post_context(context.close, self._trace, "close")).get("state")

    async def close_quietly(self) -> None:
        """Close what was perhaps never opened: why it could not be opened matters more than this."""
        try:
            await self.close()
        except ToolServerError:
            return


def _said(body: str) -> str:
    """What a refusal says: its `output` where there is one, else all of it."""
    try:
        said = json.loads(body)
    except ValueError:
        return body
    if isinstance(said, dict) and isinstance(said.get("output"), str):
        return str(said["output"])
    return body
