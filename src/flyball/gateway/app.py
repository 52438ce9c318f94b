"""The gateway as a raw ASGI application: no framework on the way of a request.

    POST /v1/chat/completions   POST /v1/responses   GET /v1/models      OpenAI's interface
    POST /v1/flyball/report                                              how a matter ended, see feedback.py
    GET  /v1/flyball/answered?since=SECONDS                              an operator's: versions that answered users
    GET  /healthz   GET /readyz   GET /metrics (where `metrics` is set)      no key needed

A session is named by path (`/s/NAME/v1/...`), by the header `x-flyball-session` or in the key (`KEY/NAME`); a
conversation that nobody named is a session by its opening. Answers carry `x-flyball-session` and `x-flyball-receipt`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs

import orjson

from flyball.capture.openai_form import BadRequest, error_body
from flyball.errors import FlyballError
from flyball.gateway.answered import Answered
from flyball.gateway.capture import Capture
from flyball.gateway.checks import Blocked, Checks
from flyball.gateway.conversation import opening
from flyball.gateway.feedback import Feedback
from flyball.gateway.log import note
from flyball.gateway.memory import Memory
from flyball.gateway.metrics import GatewayMetrics
from flyball.gateway.receipts import Receipt, Receipts
from flyball.gateway.relay import Relay
from flyball.gateway.request import (
    AGENT_HEADER,
    PASSED_HEADERS,
    PIN_HEADER,
    PROBE_HEADER,
    SESSION_HEADER,
    USER_HEADER,
    Asked,
    Caller,
    Form,
    Keyring,
    check_operator,
    checked_name,
    named_session,
    read_body,
    read_headers,
)
from flyball.gateway.router import Router, SessionCut
from flyball.gateway.served import Served, note_call
from flyball.gateway.settings import GatewaySettings
from flyball.gateway.shadow import Shadow
from flyball.gateway.upstream import UpstreamError
from flyball.store.prometheus import CONTENT_TYPE

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

FORMS: dict[str, Form] = {"/v1/chat/completions": "chat", "/v1/responses": "responses"}


class Gateway:
    """The application. `start` and `close` frame its life on one event loop; ASGI's lifespan calls them."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        keys: Keyring,
        router: Router,
        relay: Relay,
        capture: Capture,
        receipts: Receipts,
        shadow: Shadow,
        checks: Checks,
        memory: Memory,
        metrics: GatewayMetrics | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """answers by what they were"""
        self.router, self.capture, self.relay = router, capture, relay
        self._settings = settings
        self._keys = keys
        self._receipts = receipts
        self._shadow = shadow
        self._checks = checks
        self._feedback = Feedback(receipts, capture, memory)
        self._answered = Answered()
        self._metrics = metrics
        self._max_body = int(settings.max_body_mb * (1 << 20))
        self._in_flight = 0
        self._following: asyncio.Task[None] | None = None
        self.resources = ExitStack()
        """what is closed last, after everything is written"""
        self._memory = memory
        self.resources.callback(memory.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(f"the gateway speaks HTTP, not {scope['type']}")

    async def start(self) -> None:
        """Look at the routing table once, then follow it; begin to write what is captured."""
        await self.router.look()
        self._following = asyncio.create_task(self.router.follow())
        self.capture.start()
        table = self.router.table
        note("started", logging.INFO, table=table.version if table else None, upstreams=sorted(self.relay.upstreams))

    async def close(self) -> None:
        """Write what was captured and close every connection."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._shadow.close()
        await self.capture.close()
        await self.relay.close()
        note("stopped", logging.INFO)
        await asyncio.to_thread(self.resources.close)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what is refused on purpose is told in OpenAI's error form."""
        try:
            await self._route(scope, receive, send)
        except BadRequest as bad:
            kind = "server_error" if bad.status >= 500 else "invalid_request_error"
            await self._refuse(send, bad.status, str(bad), kind, bad.param, bad.code)
        except Blocked as blocked:
            await self._refuse(send, 400, str(blocked), "invalid_request_error", None, blocked.code)
        except SessionCut as cut:
            await self._refuse(send, 409, f"this session is over: {cut}", "invalid_request_error", None, "session_cut")
        except UpstreamError as error:
            await self._refuse(send, error.status, str(error), "server_error", None, error.code)
        except FlyballError as error:
            await self._refuse(send, 500, str(error), "server_error", None, error.boundary)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path in ("/healthz", "/readyz"):
            await self._health(path, send)
            return
        if path == "/metrics" and self._metrics is not None:
            await self._reply(send, 200, CONTENT_TYPE.encode(), self._metrics.text())
            return
        if path.endswith("/v1/messages"):
            raise BadRequest("Anthropic's Messages are not served; use /v1/chat/completions", None, "not_served", 501)
        headers = read_headers(scope["headers"])
        caller, by_key = self._keys.find(headers.get(b"authorization", b""))
        by_path = ""
        if path.startswith("/s/"):
            by_path, _, rest = path[3:].partition("/")
            path = f"/{rest}"
        session = named_session(by_path, headers.get(SESSION_HEADER, b"").decode("latin-1"), by_key)
        method = scope["method"]
        if method == "POST" and (form := FORMS.get(path)):
            if self._in_flight >= self._settings.max_requests:
                raise BadRequest(f"{self._in_flight} requests are in flight here; wait", None, "overloaded", 503)
            self._in_flight += 1
            try:
                await self._serve(form, caller, session, headers, receive, send)
            finally:
                self._in_flight -= 1
        elif method == "POST" and path == "/v1/flyball/report":
            told = await self._feedback.report(caller, await self._body(receive, headers))
            await self._json(send, 202 if told["new"] else 200, told)
        elif method == "GET" and path == "/v1/models":
            names = sorted({u.settings.model or u.name for u in self.relay.upstreams.values()})
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "flyball"} for name in names]
            await self._json(send, 200, {"object": "list", "data": models})
        elif method == "GET" and path == "/v1/flyball/answered":
            await self._json(send, 200, self._tell_answered(caller, scope["query_string"]))
        else:
            raise BadRequest(f"{method} {path[:80]} is not served here", None, "not_found", 404)

    async def _serve(
        self, form: Form, caller: Caller, session: str, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        asked = read_body(form, await self._body(receive, headers))
        passed = {n.decode(): headers[n].decode("latin-1") for n in PASSED_HEADERS if n in headers}
        if (key := headers.get(PROBE_HEADER)) is not None:
            await self._probe(caller, key.decode("latin-1"), asked, passed, send)
            return
        session = session or f"auto-{opening(asked)}"
        self._refuse_stored_elsewhere(asked)
        agent = checked_name(headers.get(AGENT_HEADER, b"main").decode("latin-1"), "an agent")
        user = headers.get(USER_HEADER, b"").decode("latin-1") or _user_of(asked)
        pin = headers.get(PIN_HEADER, b"").decode("latin-1")
        assigned = self.router.assign(caller, f"{caller.project}~{session}", user, pin)
        served = Served(_call_id(), caller, session, agent, user, asked, assigned, assigned.arm)
        served.traceparent = passed.get("traceparent", "")
        own = [
            (b"x-flyball-session", session.encode()),
            (b"x-flyball-receipt", self._receipts.sign(Receipt(caller.project, session, served.call_id)).encode()),
        ]
        self._checks.admit(served)
        self.relay.choose(served)
        self.capture.begin(served)
        gone = asyncio.ensure_future(_until_gone(receive, asyncio.current_task()))
        try:
            if self._checks.hold(served):
                await self._checks.serve(served, self.relay, passed, own, send)
            else:
                await self.relay.serve(served, passed, own, send)
            self.counts[f"{served.arm} {served.status}"] += 1
        except asyncio.CancelledError:
            if not gone.done():
                raise  # the server is stopping, not the client
            served.problem = "client_gone"
            self.counts["client gone"] += 1
        except UpstreamError as error:
            served.problem, served.status = error.code, error.status
            raise
        except Blocked as blocked:
            served.problem, served.status = blocked.code, 400
            raise
        finally:
            gone.cancel()
            self._answered.note(served)
            note_call(served)
            if self._metrics is not None:
                self._metrics.note(served)
            self.capture.end(served)
            version = self.router.shadowed(f"{caller.project}~{session}", self._settings.shadow.share)
            if version and assigned.reason != "pin":  # written with the call, since nothing was awaited since `end`
                served.shadow = self._shadow.follow(served, version, passed)

    async def _probe(self, caller: Caller, key: str, asked: Asked, passed: Mapping[str, str], send: Send) -> None:
        """Answer on the way that users take, and say who answered. Neither kept nor checked, in no statistics."""
        assigned = self.router.probe(caller, key)
        served = Served(_call_id(), caller, "probe", "main", "", asked, assigned, assigned.arm)
        self.relay.choose(served)

        async def send_signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                by = [(b"x-flyball-version", served.version.encode()), (b"x-flyball-table", b"%d" % assigned.table)]
                message = {**message, "headers": [*message["headers"], *by]}
            await send(message)

        await self.relay.serve(served, passed, [], send_signed)

    def _tell_answered(self, caller: Caller, query: bytes) -> dict[str, Any]:
        check_operator(caller, "ask who answered", "not_allowed")
        try:
            (since,) = parse_qs(query.decode("latin-1"))["since"]
            versions = self._answered.since(float(since))
        except (KeyError, ValueError):
            raise BadRequest("give `since` once, in seconds since 1970", "since") from None
        return {"pid": os.getpid(), "versions": versions}

    def _refuse_stored_elsewhere(self, asked: Asked) -> None:
        """With several projects on one upstream account, a stored response may be another project's."""
        if len(self._keys.projects) < 2:
            return
        for name in ("previous_response_id", "conversation"):
            if asked.value(name) is not None:
                raise BadRequest(
                    f"{name} is not served where several projects share an upstream, for it could be another's; send "
                    "the whole conversation as input",
                    name,
                    "unsupported",
                )

    async def _body(self, receive: Receive, headers: dict[bytes, bytes]) -> bytes:
        """The whole body. Raises BadRequest for one that is too large, too slow or cut off."""
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_body:
            raise self._too_large(int(declared))
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self._settings.client_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise BadRequest("the request ended before its body did", None, "cut_off")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._max_body:
                        raise self._too_large(size)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise BadRequest(
                f"the body did not come within {self._settings.client_seconds:g} s", None, "too_slow", 408
            ) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self, size: int) -> BadRequest:
        return BadRequest(
            f"the body has {size} bytes, {self._max_body} are allowed (max_body_mb)", None, "too_large", 413
        )

    async def _health(self, path: str, send: Send) -> None:
        """`healthz`: the process answers. `readyz`: it knows whom to serve and can write what it serves."""
        table = self.router.table
        told = {
            "table": table.version if table else None,
            "killed": self.router.killed,
            "stale": self.router.stale,
            "capture": self.capture.failing or "ok",
            "memory": self._memory.failing or "ok",
            "in_flight": self._in_flight,
            "pid": os.getpid(),
        }
        refusing = bool(self.capture.failing) and self._settings.capture.on_full == "refuse"
        await self._json(send, 503 if path == "/readyz" and refusing else 200, told)

    async def _refuse(self, send: Send, status: int, text: str, kind: str, param: str | None, code: str | None) -> None:
        self.counts[f"refused {code}"] += 1
        note("refused", logging.WARNING, status=status, error=code or "bad_request")
        if self._metrics is not None:
            self._metrics.refuse(code)
        retry = (b"retry-after", b"1") if status == 503 else (b"x-should-retry", b"false")
        passing = status in (408, 429, 502, 504)
        await self._json(send, status, error_body(text, kind, param, code), () if passing else (retry,))

    async def _json(self, send: Send, status: int, body: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        await self._reply(send, status, b"application/json", orjson.dumps(body), headers)

    async def _reply(
        self, send: Send, status: int, kind: bytes, data: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        about = [(b"content-type", kind), (b"content-length", b"%d" % len(data)), *headers]
        await send({"type": "http.response.start", "status": status, "headers": about})
        await send({"type": "http.response.body", "body": data})


async def _until_gone(receive: Receive, serving: asyncio.Task[Any] | None) -> None:
    """Stop serving when the client has gone: nobody would read the rest, and it costs."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if serving is not None:
        serving.cancel()


def _call_id() -> str:
    """Ordered by time to the microsecond, and unguessable."""
    return f"{time.time_ns() // 1000:014x}{os.urandom(8).hex()}"


def _user_of(asked: Asked) -> str:
    for name in ("safety_identifier", "user"):
        if isinstance(value := asked.value(name), str) and value:
            return value
    return ""
