"""A gateway and the servers behind it, all on the test's event loop; what was spooled is read back as dictionaries."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from flyball.capture.sessions import SessionDoors
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import SamplingParams
from flyball.gateway.app import Gateway
from flyball.gateway.router import Source
from flyball.gateway.serve import build, serving
from flyball.gateway.settings import GatewaySettings
from flyball.store.frames import Frame
from flyball.store.spool import Spool, SpoolReader
from flyball.store.store import Store

KEYS = {"SHOP_KEY": "shop-key", "OTHER_KEY": "other-key", "OPERATOR_KEY": "operator-key"}
RECEIPT_KEY = "receipt-secret"


def text_answer(text: str, model: str = "m", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **more}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if more else "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def tool_call(name: str, arguments: str = "{}", call_id: str = "c1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + (e if isinstance(e, bytes) else orjson.dumps(e)) + b"\n\n" for e in events)


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [choice], **more}


USAGE_CHUNK = {**chunk({}), "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}


@dataclass
class Answered:
    """What a mock answers: parts are sent one by one; `broken`: the connection ends without an end of the body."""

    status: int = 200
    parts: tuple[bytes, ...] = ()
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    broken: bool = False
    delay: float = 0.0
    pause: float = 0.0
    """seconds between two parts"""


def json_answer(body: Any, status: int = 200, **more: Any) -> Answered:
    return Answered(status, (orjson.dumps(body),), **more)


def stream_answer(*parts: bytes, **more: Any) -> Answered:
    return Answered(200, parts, "text/event-stream", **more)


@dataclass
class Mock:
    """An upstream. `answer` makes an `Answered` of a request's JSON; what came in is kept."""

    answer: Callable[[dict[str, Any]], Answered]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.raw.append(body)
        self.bodies.append(orjson.loads(body))
        self.headers.append({n.decode(): v.decode("latin-1") for n, v in scope["headers"]})
        self.paths.append(scope["path"])
        answered = self.answer(self.bodies[-1])
        headers = [(b"content-type", answered.content_type.encode())]
        headers += [(n.encode(), v.encode()) for n, v in answered.headers]
        if await self._left(receive, answered.delay):
            return
        await send({"type": "http.response.start", "status": answered.status, "headers": headers})
        for part in answered.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
            if await self._left(receive, answered.pause):
                return
        if not answered.broken:
            await send({"type": "http.response.body", "body": b""})

    async def _left(self, receive: Any, seconds: float) -> bool:
        """Wait; whether the client left meanwhile."""
        if not seconds:
            return False
        waiting = asyncio.ensure_future(receive())
        done, _ = await asyncio.wait({waiting}, timeout=seconds)
        waiting.cancel()
        if done:
            self.gone.set()
        return bool(done)


@dataclass
class Running:
    """A gateway that is being served. `http` has the key of project shop."""

    app: Gateway
    url: str
    http: httpx.AsyncClient
    spool: Path

    async def chat(self, *messages: Any, **more: Any) -> httpx.Response:
        headers = more.pop("headers", {})
        path = more.pop("path", "/v1/chat/completions")
        said = [m if isinstance(m, dict) else {"role": "user", "content": m} for m in messages]
        return await self.http.post(path, json={"model": "x", "messages": said, **more}, headers=headers)

    async def frames(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """The frames of a kind, once there are `count` of them."""
        for _ in range(2000):
            found = [orjson.loads(f.body) for f in read_frames(self.spool) if f.kind == kind]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.005)
        raise AssertionError(f"{len(found)} {kind} frames, {count} expected")


def read_frames(root: Path) -> list[Frame]:
    """Every frame of the spools below a folder, folder by folder."""
    frames: list[Frame] = []
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        reader, place = SpoolReader(folder), None
        while True:
            found, place = reader.read(place)
            if not found:
                break
            frames += found
    return frames


@contextlib.contextmanager
def ingested(tmp_path: Path) -> Iterator[Store]:
    """The store with everything that gateways spooled; nothing of it may be in quarantine or missing."""
    with Store(tmp_path / "store") as store:
        for folder in sorted((tmp_path / "store" / "spool").iterdir()):
            store.ingest(folder)
        assert store.quarantined() == [] and store.reconciliations(missing_only=True) == []
        yield store


def settings(tmp_path: Path, upstreams: dict[str, Any], **more: Any) -> GatewaySettings:
    keys = [
        {"key_env": "SHOP_KEY", "project": "shop", "scopes": more.pop("scopes", [])},
        {"key_env": "OPERATOR_KEY", "project": "shop", "role": "operator"},
        *([{"key_env": "OTHER_KEY", "project": "other"}] if more.pop("two_projects", False) else ()),
    ]
    more["routing"] = {"kill_file": str(tmp_path / "KILL"), "poll_seconds": 0.02, **more.get("routing", {})}
    more["store"] = str(tmp_path / "store")
    return GatewaySettings.model_validate(
        {"keys": keys, "upstreams": upstreams, "default": next(iter(upstreams)), **more}
    )


@contextlib.asynccontextmanager
async def running(
    tmp_path: Path,
    mocks: dict[str, Any],
    *,
    table: Source | None = None,
    upstream: dict[str, Any] | None = None,
    spool: Any = None,
    **more: Any,
) -> AsyncIterator[Running]:
    """A gateway in front of mocks (or addresses), by name; `upstream` are settings of each of them."""
    os.environ.update(KEYS, FLYBALL_RECEIPT_KEY=RECEIPT_KEY)
    async with contextlib.AsyncExitStack() as stack:
        upstreams: dict[str, Any] = {}
        for name, mock in mocks.items():
            url = mock if isinstance(mock, str) else await stack.enter_async_context(serving(mock))
            upstreams[name] = {"url": f"{url}/v1", **(upstream or {})}
        made = settings(tmp_path, upstreams, **more)
        app = build(made, spool or Spool.claim(made.spool), source=table)
        await app.start()
        try:
            url = await stack.enter_async_context(serving(app))
            client = httpx.AsyncClient(
                base_url=url, headers={"Authorization": f"Bearer {KEYS['SHOP_KEY']}"}, timeout=20.0, trust_env=False
            )
            yield Running(app, url, await stack.enter_async_context(client), made.spool)
        finally:
            await stack.aclose()
            await app.close()


@contextlib.asynccontextmanager
async def with_engine(tmp_path: Path, engine: FakeEngine) -> AsyncIterator[Running]:
    """A gateway whose only upstream is an engine of ours behind a Unix socket."""
    os.environ.update(KEYS, FLYBALL_RECEIPT_KEY=RECEIPT_KEY)
    doors = SessionDoors(engine, engine.chat, SamplingParams(1.0, 512))
    async with serving(doors, uds=str(tmp_path / "engine")) as socket, contextlib.AsyncExitStack() as stack:
        made = settings(tmp_path, {"ours": {"local": "m"}})
        app = build(made, Spool.claim(made.spool), engines={"ours": socket})
        await app.start()
        try:
            url = await stack.enter_async_context(serving(app))
            client = httpx.AsyncClient(
                base_url=url, headers={"Authorization": f"Bearer {KEYS['SHOP_KEY']}"}, timeout=20.0, trust_env=False
            )
            yield Running(app, url, await stack.enter_async_context(client), made.spool)
        finally:
            await stack.aclose()
            await app.close()


def go(test: Callable[[], Awaitable[None]]) -> None:
    """Run one test's coroutine."""
    asyncio.run(asyncio.wait_for(test(), 60))
