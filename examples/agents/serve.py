"""What `fb.Http` expects of an agent's server: `POST /run` with an attempt, answered with `{"answer": "..."}`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

PORT = 8100


@dataclass(frozen=True)
class Attempt:
    """What to do, where the policy answers (`base_url`, OpenAI's form) and where the world's tools are."""

    system: str
    observation: str
    base_url: str
    api_key: str
    tools: list[dict[str, Any]]
    tools_url: str
    http: httpx.AsyncClient

    async def use(self, name: str, arguments: str | dict[str, Any]) -> str:
        """Use a tool of the world, arguments as the policy wrote them or read; returns what it is to be shown."""
        response = await self.http.post(f"{self.tools_url}/{name}", json={"arguments": arguments})
        response.raise_for_status()
        return response.json()["content"]


Answer = Callable[[Attempt], Awaitable[str]]


def app(answer: Answer) -> Starlette:
    """The server of one agent."""
    http = httpx.AsyncClient(timeout=None)

    async def run(request: Request) -> JSONResponse:
        body = await request.json()
        sent = {field.name: body[field.name] for field in fields(Attempt) if field.name != "http"}
        return JSONResponse({"answer": await answer(Attempt(http=http, **sent))})

    @contextlib.asynccontextmanager
    async def open_http(_: Starlette) -> AsyncIterator[None]:
        async with http:
            yield

    return Starlette(routes=[Route("/run", run, methods=["POST"])], lifespan=open_http)


def serve(answer: Answer) -> None:
    """Serve the agent where `workflow.py` looks for it."""
    uvicorn.run(app(answer), host="127.0.0.1", port=PORT)
