"""POST JSON to somebody's server: bounded in number, time and size, retried with backoff, and a typed end.

What answers badly is named: no connection, a time-out, a redirect (never followed, it would send secrets elsewhere), a
status, an answer over the limit or one that is not JSON whatever its content type says.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import orjson

RETRIED = frozenset({408, 409, 429})
"""Statuses that may pass, beside every 5xx."""
MAX_BYTES = 1_000_000
REFUSAL_CHARS = 20_000
"""How much is read of what a server says beside a status that is no 200."""
LONGEST_WAIT_SECONDS = 120.0
"""A server that asks for more patience than this is not waited for."""


Kind = Literal["timeout", "connection", "redirect", "status", "too_large", "content"]
Headers = Mapping[str, str] | Callable[[bytes], Mapping[str, str]]


class PostFailed(Exception):
    """The server gave no answer that can be read; `passing` says whether another try may help.

    `status` and `body` are those of an answer whose status is not 200.
    """

    def __init__(
        self,
        what: str,
        *,
        kind: Kind,
        passing: bool,
        wait_seconds: float | None = None,
        status: int | None = None,
        body: str = "",
    ) -> None:
        super().__init__(what)
        self.kind = kind
        self.passing = passing
        self.wait_seconds = wait_seconds
        self.status = status
        self.body = body


POOL_SIZE = 16
"""Connections of one client. httpx looks through a pool's connections, squared, at every request: 200 in one pool cost
20 ms of the event loop each time, and answers were late. Several small pools cost nothing."""


class _Lane:
    """What belongs to one event loop: clients and the bound on requests in flight."""

    def __init__(self, concurrency: int, timeout_seconds: float, transport: httpx.AsyncBaseTransport | None) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        trust = ssl.create_default_context()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=POOL_SIZE)
        self._clients = [
            httpx.AsyncClient(timeout=timeout_seconds, limits=limits, transport=transport, verify=trust)
            for _ in range(math.ceil(concurrency / POOL_SIZE))
        ]
        self._busy = [0] * len(self._clients)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """The client with the fewest requests in flight, once there is a free slot."""
        async with self.slots:
            i = self._busy.index(min(self._busy))
            self._busy[i] += 1
            try:
                yield self._clients[i]
            finally:
                self._busy[i] -= 1

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


@dataclass
class Poster:
    """Posts with at most `concurrency` requests in flight per event loop.

    `max_retries` more tries, `backoff_seconds` doubling to 8 s with jitter between them, or as `Retry-After` says.
    `retried` are the statuses that may pass, beside every 5xx. `per_second` spaces requests out. `retries` counts.
    `json_only` refuses an answer that does not call itself JSON. `transport` replaces the network, for tests.
    """

    concurrency: int = 64
    timeout_seconds: float = 120.0
    max_retries: int = 3
    backoff_seconds: float = 0.5
    max_bytes: int = MAX_BYTES
    retried: frozenset[int] = RETRIED
    json_only: bool = False
    per_second: float | None = None
    transport: httpx.AsyncBaseTransport | None = None
    retries: int = 0
    _lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane] = field(
        default_factory=weakref.WeakKeyDictionary, repr=False
    )
    _next_start: float = 0.0

    async def post(
        self,
        url: str,
        body: Any,
        headers: Headers,
        *,
        max_retries: int | None = None,
        timeout_seconds: float | None = None,
    ) -> Any:
        """Return the JSON of the answer. Raises PostFailed after the last try.

        `headers` may be a function of the body's bytes, asked at every try: a signature holds the time. `max_retries`
        and `timeout_seconds` (of one try) take the place of the poster's own.
        """
        content = orjson.dumps(body)
        lane = self._lane()
        last = self.max_retries if max_retries is None else max_retries
        for attempt in range(last + 1):
            try:
                async with lane.client() as client:
                    await self._wait_for_turn()
                    return await self._once(client, url, content, headers, timeout_seconds or self.timeout_seconds)
            except PostFailed as failed:
                if not failed.passing or attempt == last:
                    raise
                self.retries += 1
                await asyncio.sleep(self._pause(attempt, failed.wait_seconds))
        raise AssertionError("the last try returns or raises")

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next post opens new ones."""
        if lane := self._lanes.pop(asyncio.get_running_loop(), None):
            await lane.aclose()

    def _lane(self) -> _Lane:
        loop = asyncio.get_running_loop()
        if loop not in self._lanes:
            self._lanes[loop] = _Lane(self.concurrency, self.timeout_seconds, self.transport)
        return self._lanes[loop]

    async def _wait_for_turn(self) -> None:
        if self.per_second is not None:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + 1 / self.per_second
            await asyncio.sleep(start - time.monotonic())

    async def _once(
        self, client: httpx.AsyncClient, url: str, content: bytes, headers: Headers, timeout_seconds: float
    ) -> Any:
        headers = {"content-type": "application/json", **(headers(content) if callable(headers) else headers)}
        try:
            # httpx bounds each read; a server that drips would never end, so the whole is bounded too.
            async with asyncio.timeout(timeout_seconds):
                async with client.stream("POST", url, content=content, headers=headers) as response:
                    if response.status_code != 200:
                        raise await self._refused(response)
                    if self.json_only:
                        _check_content_type(response)
                    return _as_json(await self._read(response))
        except (TimeoutError, httpx.TimeoutException):
            what = f"did not answer within {timeout_seconds:g} s"
            raise PostFailed(what, kind="timeout", passing=True) from None
        except httpx.HTTPError as error:
            raise PostFailed(f"{type(error).__name__}: {error}", kind="connection", passing=True) from None
        except httpx.InvalidURL as error:
            raise PostFailed(f"cannot be asked: {error}", kind="connection", passing=False) from None

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self.max_bytes:
                what = f"answered more than {self.max_bytes} bytes"
                raise PostFailed(what, kind="too_large", passing=False)
        return bytes(body)

    async def _refused(self, response: httpx.Response) -> PostFailed:
        status = response.status_code
        if 300 <= status < 400:
            where = response.headers.get("location", "nowhere")
            what = f"redirects ({status}) to {where[:200]}; name the final address"
            return PostFailed(what, kind="redirect", passing=False, status=status)
        if status < 400:
            what = f"answered {status}; an answer has status 200"
            return PostFailed(what, kind="status", passing=False, status=status)
        text = ""
        async for chunk in response.aiter_text():
            text += chunk
            if len(text) > REFUSAL_CHARS:
                break
        wait = _retry_after(response.headers.get("retry-after"))
        passing = (status in self.retried or status >= 500) and (wait is None or wait <= LONGEST_WAIT_SECONDS)
        what = f"answered {status}: {text[:300]!r}"
        return PostFailed(
            what, kind="status", passing=passing, wait_seconds=wait, status=status, body=text[:REFUSAL_CHARS]
        )

    def _pause(self, attempt: int, asked: float | None) -> float:
        if asked is not None:
            return asked
        longest: float = min(8.0, self.backoff_seconds * 2.0**attempt)
        return longest * random.uniform(0.75, 1.0)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header; a date, which servers of this kind do not send, counts as none."""
    return float(value) if value and value.replace(".", "", 1).isdecimal() else None


def _check_content_type(response: httpx.Response) -> None:
    given = response.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        what = f"answered with content type {given!r}; an answer is application/json"
        raise PostFailed(what, kind="content", passing=False)


def _as_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        what = f"answered what is not JSON ({error}): {body[:80]!r}"
        raise PostFailed(what, kind="content", passing=False) from None
