"""Doors over HTTP, so that an agent in any language trains as it is: it is given a base URL and nothing else.

    POST /{attempt}/v1/chat/completions     stream or not
    POST /{attempt}/v1/responses            stream or not
    GET  /{attempt}/v1/models
    GET  /{attempt}/tools                   schemas of the world's tools
    POST /{attempt}/tools/{name}            {"arguments": {...}, "tool_call_id": "..."} -> {"content", "problem"}
    POST /{attempt}/user                    {"text": "..."} -> {"reply": "..." | null}
    GET  /{attempt}/calls/{call}            tokens and logprobs of one model call, as the engine saw them

An attempt that is over answers 400 with the stop reason as `code` and tells clients not to retry. The header
`x-flyball-agent` names a sub-agent; without it a call is the main agent's. Where the engine has adapters, `model` names
one of them or "policy"; otherwise the name is free.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from flyball.capture.constraint import Constraint
from flyball.capture.door import Door, Stopped
from flyball.capture.openai_form import (
    POLICY,
    BadRequest,
    completion_body,
    completion_chunks,
    error_body,
    read_chat_request,
)
from flyball.capture.responses_form import (
    Conversation,
    read_response_request,
    response_body,
    response_events,
    response_id,
)
from flyball.errors import Fault, FlyballError, GrammarError, ModelError, nearest
from flyball.store.records import to_json
from flyball.types import ToolResult

AGENT_HEADER = "x-flyball-agent"


class Tools(Protocol):
    """The world's side of an attempt, as a foreign agent uses it."""

    @property
    def schemas(self) -> list[dict[str, Any]]: ...

    async def use_tool(self, name: str, arguments: str, tool_call_id: str | None = None) -> ToolResult: ...

    async def user_reply(self, text: str) -> str | None: ...


@dataclass(frozen=True)
class OpenAttempt:
    """What an address leads to: a door and, where the agent may use them over HTTP, the world's tools.

    `responses`: the conversations that a later request may continue by `previous_response_id`.
    """

    door: Door
    tools: Tools | None = None
    responses: dict[str, Conversation] = field(default_factory=dict)


class DoorApp:
    """The ASGI application. The first part of a path names the attempt."""

    def __init__(self) -> None:
        self._attempts: dict[str, OpenAttempt] = {}
        self._app = Starlette(
            routes=[
                Route("/{attempt}/v1/chat/completions", _answered(self._chat), methods=["POST"]),
                Route("/{attempt}/v1/responses", _answered(self._responses), methods=["POST"]),
                Route("/{attempt}/v1/models", _answered(self._models)),
                Route("/{attempt}/tools", _answered(self._schemas)),
                Route("/{attempt}/tools/{name}", _answered(self._use_tool), methods=["POST"]),
                Route("/{attempt}/user", _answered(self._user), methods=["POST"]),
                Route("/{attempt}/calls/{call}", _answered(self._call)),
            ]
        )

    @contextlib.contextmanager
    def open(self, name: str, attempt: OpenAttempt) -> Iterator[None]:
        """Serve an attempt under `/{name}/` inside the block."""
        self._attempts[name] = attempt
        try:
            yield
        finally:
            del self._attempts[name]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _chat(self, request: Request) -> Response:
        door = self._find(request).door
        chat = read_chat_request(await _json(request), door.sampling)
        agent = request.headers.get(AGENT_HEADER, "main")
        with _constrained_by(chat.constraint):
            reply = await door.complete(
                chat.messages,
                chat.tools,
                agent=agent,
                constraint=chat.constraint,
                stop=chat.stop,
                adapter=_adapter_named(chat.model, door),
            )
        if not chat.stream:
            return _json_response(completion_body(reply, chat.model))
        chunks = completion_chunks(reply, chat.model, chat.include_usage)
        return _event_stream([*[b"data: " + orjson.dumps(chunk) for chunk in chunks], b"data: [DONE]"])

    async def _responses(self, request: Request) -> Response:
        attempt = self._find(request)
        door = attempt.door
        asked = read_response_request(await _json(request), door.sampling, attempt.responses)
        agent = request.headers.get(AGENT_HEADER, "main")
        with _constrained_by(asked.constraint):
            reply = await door.complete(
                asked.messages,
                asked.tools,
                agent=agent,
                constraint=asked.constraint,
                adapter=_adapter_named(asked.model, door),
            )
        if asked.store:
            attempt.responses[response_id(reply)] = (*asked.conversation, reply.message)
        body = response_body(reply, asked, door.sampling)
        if not asked.stream:
            return _json_response(body)
        events = response_events(body)
        return _event_stream([f"event: {e['type']}\ndata: ".encode() + orjson.dumps(e) for e in events])

    async def _models(self, request: Request) -> Response:
        names = (POLICY, *self._find(request).door.adapters)
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "flyball"} for name in names]
        return _json_response({"object": "list", "data": models})

    async def _schemas(self, request: Request) -> Response:
        return _json_response({"tools": self._find_tools(request).schemas})

    async def _use_tool(self, request: Request) -> Response:
        tools = self._find_tools(request)
        body = await _json_object(request)
        arguments = body.get("arguments", {})
        raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
        result = await tools.use_tool(request.path_params["name"], raw, body.get("tool_call_id"))
        return _json_response({"content": result.content, "problem": result.problem, "truncated": result.truncated})

    async def _user(self, request: Request) -> Response:
        tools = self._find_tools(request)
        text = (await _json_object(request)).get("text")
        if not isinstance(text, str):
            raise BadRequest(f"text is {text!r}; it is what the agent says to the user, a string", "text")
        return _json_response({"reply": await tools.user_reply(text)})

    async def _call(self, request: Request) -> Response:
        wanted = request.path_params["call"]
        for call in reversed(self._find(request).door.calls):
            if call.call_id == wanted:
                return Response(to_json(call), media_type="application/json")
        raise BadRequest(f"no call {wanted!r} was made here", code="call_not_found", status=404)

    def _opened(self, name: str) -> OpenAttempt | None:
        """What a name leads to, None when nothing is open under it."""
        return self._attempts.get(name)

    def _find(self, request: Request) -> OpenAttempt:
        name = request.path_params["attempt"]
        found = self._opened(name)
        if found is None:
            raise BadRequest(f"no attempt {name!r} is open here; it may be over", code="attempt_not_found", status=404)
        return found

    def _find_tools(self, request: Request) -> Tools:
        tools = self._find(request).tools
        if tools is None:
            raise BadRequest("this attempt has no tools over HTTP; use them where the agent runs", status=404)
        return tools


def _adapter_named(model: str, door: Door) -> str | None:
    """The adapter that a request asks for by `model`, None for the policy.

    Without adapters there is nothing to choose, and an agent may keep the name it was written with.
    """
    if not door.adapters or model == POLICY:
        return None
    if model not in door.adapters:
        known = (POLICY, *door.adapters)
        text = f"no model {model!r} is served here{nearest(model, known)}; there are: {', '.join(known)}"
        raise BadRequest(text, "model", "model_not_found", status=404)
    return model


@contextlib.contextmanager
def _constrained_by(constraint: Constraint | None) -> Iterator[None]:
    """Name the field that asked for a grammar which cannot be honoured."""
    try:
        yield
    except GrammarError as error:
        field = constraint.field if constraint else None
        raise BadRequest(f"{error.args[0]} (asked for by {field})", field, "unsupported") from error


async def _json(request: Request) -> Any:
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


async def _json_object(request: Request) -> dict[str, Any]:
    body = await _json(request)
    if not isinstance(body, dict):
        raise BadRequest(f"the body is {type(body).__name__}; send a JSON object")
    return body


def _json_response(body: dict[str, Any], status: int = 200) -> Response:
    # A refused request is refused again when it is repeated; OpenAI's clients honour this header.
    headers = {} if status == 200 else {"x-should-retry": "false"}
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def _event_stream(events: list[bytes]) -> Response:
    """Server-sent events. A turn is parsed when it is whole, so they leave together: tool calls are never cut apart."""
    return Response(b"".join(event + b"\n\n" for event in events), media_type="text/event-stream")


def _answered(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Answer what the handlers raise on purpose in OpenAI's error form."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except BadRequest as bad:
            return _json_response(error_body(str(bad), "invalid_request_error", bad.param, bad.code), bad.status)
        except Stopped as stopped:
            kind = "server_error" if stopped.reason.fault is Fault.INFRASTRUCTURE else "invalid_request_error"
            status = 500 if kind == "server_error" else 400
            return _json_response(error_body(str(stopped), kind, None, stopped.reason.value), status)
        except ModelError as error:
            return _json_response(error_body(str(error), "invalid_request_error", "messages", "cannot_render"), 400)
        except FlyballError as error:
            return _json_response(error_body(str(error), "server_error", None, error.boundary), 500)

    return answer
