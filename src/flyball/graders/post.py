"""POST JSON to somebody's server: bounded in number, time and size, retried with backoff, and a typed end.

What answers badly is named: no connection, a time-out, a redirect (never followed, it would send secrets elsewhere), a
status, an answer over the limit or one that is not JSON whatever its content type says.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

RETRIED = frozenset({408, 409, 429})
"""Statuses that may pass, beside every 5xx."""
MAX_BYTES = 1_000_000
LONGEST_WAIT_SECONDS = 120.0
"""A server that asks for more patience than this is not waited for."""


class PostFailed(Exception):
    """The server gave no answer that can be read; `passing` says whether another try may help."""

    def __init__(self, what: str, *, passing: bool, wait_seconds: float | None = None) -> None:
        super().__init__(what)
        self.passing = passing
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class _Lane:
    """What belongs to one event loop: a client and its bound."""

    client: httpx.AsyncClient
    slots: asyncio.Semaphore


@dataclass
class Poster:
    """Posts with at most `concurrency` requests in flight per event loop.

    `max_retries` more tries, `backoff_seconds` doubling to 8 s with jitter between them, or as `Retry-After` says.
    `per_second` spaces requests out. `retries` counts. `transport` replaces the network, for tests.
    """

    concurrency: int = 64
    timeout_seconds: float = 120.0
    max_retries: int = 3
    backoff_seconds: float = 0.5
    max_bytes: int = MAX_BYTES
    per_second: float | None = None
    transport: httpx.AsyncBaseTransport | None = None
    retries: int = 0
    _lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane] = field(
        default_factory=weakref.WeakKeyDictionary, repr=False
    )
    _next_start: float = 0.0

    async def post(self, url: str, body: Any, headers: Mapping[str, str]) -> Any:
        """Return the JSON of the answer. Raises PostFailed after the last try."""
        content = orjson.dumps(body)
        lane = self._lane()
        for attempt in range(self.max_retries + 1):
            try:
                async with lane.slots:
                    await self._wait_for_turn()
                    return await self._once(lane.client, url, content, headers)
            except PostFailed as failed:
                if not failed.passing or attempt == self.max_retries:
                    raise
                self.retries += 1
                await asyncio.sleep(self._pause(attempt, failed.wait_seconds))
        raise AssertionError("the last try returns or raises")

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next post opens new ones."""
        if lane := self._lanes.pop(asyncio.get_running_loop(), None):
            await lane.client.aclose()

    def _lane(self) -> _Lane:
        loop = asyncio.get_running_loop()
        if loop not in self._lanes:
            limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
            client = httpx.AsyncClient(timeout=self.timeout_seconds, limits=limits, transport=self.transport)
            self._lanes[loop] = _Lane(client, asyncio.Semaphore(self.concurrency))
        return self._lanes[loop]

    async def _wait_for_turn(self) -> None:
        if self.per_second is not None:
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + 1 / self.per_second
            await asyncio.sleep(start - time.monotonic())

    async def _once(self, client: httpx.AsyncClient, url: str, content: bytes, headers: Mapping[str, str]) -> Any:
        headers = {"content-type": "application/json", **headers}
        try:
            # httpx bounds each read; a server that drips would never end, so the whole is bounded too.
            async with asyncio.timeout(self.timeout_seconds):
                async with client.stream("POST", url, content=content, headers=headers) as response:
                    if response.status_code != 200:
                        raise await _refused(response)
                    return _as_json(await self._read(response))
        except (TimeoutError, httpx.TimeoutException):
            raise PostFailed(f"did not answer within {self.timeout_seconds:g} s", passing=True) from None
        except httpx.HTTPError as error:
            raise PostFailed(f"{type(error).__name__}: {error}", passing=True) from None
        except httpx.InvalidURL as error:
            raise PostFailed(f"cannot be asked: {error}", passing=False) from None

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self.max_bytes:
                raise PostFailed(f"answered more than {self.max_bytes} bytes", passing=False)
        return bytes(body)

    def _pause(self, attempt: int, asked: float | None) -> float:
        if asked is not None:
            return asked
        longest: float = min(8.0, self.backoff_seconds * 2.0**attempt)
        return longest * random.uniform(0.75, 1.0)


async def _refused(response: httpx.Response) -> PostFailed:
    status = response.status_code
    if 300 <= status < 400:
        where = response.headers.get("location", "nowhere")
        return PostFailed(f"redirects ({status}) to {where[:200]}; name the final address", passing=False)
    if status < 400:
        return PostFailed(f"answered {status}; an answer has status 200", passing=False)
    text = ""
    async for chunk in response.aiter_text():
        text += chunk
        if len(text) > 300:
            break
    wait = _retry_after(response.headers.get("retry-after"))
    passing = (status in RETRIED or status >= 500) and (wait is None or wait <= LONGEST_WAIT_SECONDS)
    return PostFailed(f"answered {status}: {text[:300]!r}", passing=passing, wait_seconds=wait)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header; a date, which servers of this kind do not send, counts as none."""
    return float(value) if value and value.replace(".", "", 1).isdecimal() else None


def _as_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise PostFailed(f"answered what is not JSON ({error}): {body[:80]!r}", passing=False) from None
