"""From the upstream to the agent, byte for byte, with a fallback as long as nothing was sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from flyball.capture.openai_form import error_body
from flyball.gateway.extras import Withheld, extras
from flyball.gateway.request import Asked
from flyball.gateway.served import Served
from flyball.gateway.upstream import FAILURES, Upstream, UpstreamError, passed_headers

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

PATHS = {"chat": "/chat/completions", "responses": "/responses"}
MOST_CAPTURED = 16 << 20
"""Bytes of one answer that are kept for capture; the agent gets all of it."""


class Relay:
    """Knows the upstreams by name. `default` serves where no version is asked for; `fallback` may be None."""

    def __init__(
        self, upstreams: Mapping[str, Upstream], default: str, fallback: str | None, client_seconds: float
    ) -> None:
        self.upstreams = upstreams
        self._by_version = {upstream.version: upstream for upstream in upstreams.values()}
        self._default = upstreams[default]
        self._fallback = upstreams[fallback] if fallback is not None else None
        self._client_seconds = client_seconds

    def find(self, version: str) -> Upstream | None:
        """The upstream that serves a version."""
        return self._by_version.get(version)

    def choose(self, served: Served) -> Upstream:
        """Note who will answer. A version that no upstream serves, or whose circuit is open, falls back, marked."""
        wanted = self._by_version.get(served.assigned.version)
        chosen = wanted or self._default
        if wanted is None and served.assigned.version:
            served.fallback = "no_upstream"
        elif chosen.circuit_open and (other := self._other(served, chosen)):
            chosen, served.fallback = other, "circuit_open"
        self._note(served, chosen)
        return chosen

    async def serve(self, served: Served, headers: Mapping[str, str], own: Headers, send: Send) -> None:
        """Answer one request. Raises UpstreamError as long as nothing was sent."""
        upstream = self.upstreams[served.upstream]
        try:
            await self._serve_by(upstream, served, headers, own, send, last=served.fallback != "")
        except _TryOther as failed:
            if (other := self._other(served, upstream)) is None:
                raise failed.error from None
            served.fallback = failed.error.code
            self._note(served, other)
            await self._serve_by(other, served, headers, own, send, last=True)

    async def whole(self, served: Served, asked: Asked, headers: Mapping[str, str]) -> tuple[bytes, Headers]:
        """The whole answer to `asked` and its headers, for whoever looks at it first. Raises UpstreamError."""
        try:
            return await self._whole_by(self.upstreams[served.upstream], served, asked, headers)
        except UpstreamError as error:
            if (other := self._other(served, self.upstreams[served.upstream])) is None or served.fallback:
                raise
            served.fallback = error.code
            self._note(served, other)
            return await self._whole_by(other, served, asked, headers)

    async def close(self) -> None:
        """Close every connection."""
        for upstream in self.upstreams.values():
            await upstream.close()

    async def _whole_by(
        self, upstream: Upstream, served: Served, asked: Asked, headers: Mapping[str, str]
    ) -> tuple[bytes, Headers]:
        began = time.monotonic()
        async with upstream.ask(self._path(upstream, served), self._body(upstream, asked), headers) as response:
            if response.status in FAILURES and not served.fallback and self._other(served, upstream):
                raise UpstreamError(f"status_{response.status}", f"upstream {upstream.name} failed")
            served.status, served.content_type = response.status, response.headers.get("content-type", "")
            served.first_byte = served.first_byte or time.monotonic()
            raw = b"".join([part async for part in upstream.parts(response)])
            served.upstream_seconds += time.monotonic() - began
            return raw, passed_headers(response)

    async def _serve_by(
        self, upstream: Upstream, served: Served, headers: Mapping[str, str], own: Headers, send: Send, *, last: bool
    ) -> None:
        body, began = self._body(upstream, served.asked), time.monotonic()
        try:
            async with upstream.ask(self._path(upstream, served), body, headers) as response:
                if response.status in FAILURES and not last and self._other(served, upstream):
                    raise UpstreamError(f"status_{response.status}", f"upstream {upstream.name} failed")
                served.first_byte = time.monotonic()
                served.status, served.content_type = response.status, response.headers.get("content-type", "")
                withheld = Withheld(extras(upstream.settings, served.asked), served.content_type)
                start = {"status": response.status, "headers": [*passed_headers(response), *own]}
                await send({"type": "http.response.start", **start})
                await self._pass_on(upstream, response, served, withheld, send)
                served.upstream_seconds = time.monotonic() - began
        except UpstreamError as error:
            if served.first_byte == 0.0 and not last:
                raise _TryOther(error) from error
            if served.first_byte == 0.0:
                raise
            await self._break_off(served, error, send)

    async def _pass_on(self, upstream: Upstream, response: Any, served: Served, withheld: Withheld, send: Send) -> None:
        size = 0
        async for part in upstream.parts(response):
            size += len(part)
            if size <= MOST_CAPTURED:
                served.body.append(part)
            else:
                served.problem = "too_large_to_capture"
            if not (part := withheld.feed(part)):
                continue
            await self._send(send, {"type": "http.response.body", "body": part, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": withheld.rest()})

    async def _send(self, send: Send, message: MutableMapping[str, Any]) -> None:
        """Send one part to a client that takes it in time. Raises UpstreamError, which ends the answer."""
        try:
            async with asyncio.timeout(self._client_seconds):
                await send(message)
        except TimeoutError as error:
            raise UpstreamError("client_too_slow", "the client does not take its answer") from error

    async def _break_off(self, served: Served, error: UpstreamError, send: Send) -> None:
        """An answer has begun and will not end: say so in a stream, and never end it as if it were whole."""
        served.problem = error.code
        if served.content_type.startswith("text/event-stream") and error.code != "client_too_slow":
            told = orjson.dumps(error_body(str(error), "server_error", None, error.code))
            event = b"\n\ndata: " + told + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})

    def _other(self, served: Served, failed: Upstream) -> Upstream | None:
        """Who else may answer: for a canary the version in force, else the fallback of the file."""
        if served.assigned.arm == "canary":
            in_force = self._by_version.get(served.assigned.in_force, self._default)
            if in_force is not failed:
                return in_force
        return self._fallback if self._fallback is not failed else None

    def _note(self, served: Served, upstream: Upstream) -> None:
        served.upstream, served.version = upstream.name, upstream.version
        served.exact, served.prices = upstream.exact, upstream.settings

    def _body(self, upstream: Upstream, asked: Asked) -> bytes:
        more = extras(upstream.settings, asked).fields
        return asked.body(model=upstream.settings.model, prompt=upstream.prompt, more=more)

    def _path(self, upstream: Upstream, served: Served) -> str:
        if upstream.exact:
            return f"/{served.caller.project}~{served.session}/v1{PATHS[served.asked.form]}"
        return PATHS[served.asked.form]


class _TryOther(Exception):
    """The upstream failed before a byte was sent."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(str(error))
        self.error = error
