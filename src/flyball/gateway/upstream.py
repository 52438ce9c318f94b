"""One server that answers: connections, time limits, and a circuit that opens after failures in a row.

Connections are never shared between upstreams, cookies are not kept, redirects are not followed and no proxy comes in
from the environment: what one caller was answered can reach no other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from flyball.gateway.log import note
from flyball.gateway.settings import RoutingSettings, UpstreamSettings, secret

FAILURES = frozenset({500, 502, 503, 504, 529})
"""Statuses that count against an upstream. 429 does not: the caller is told to wait."""

KEPT_SECONDS = 4.0
"""An idle connection is closed after this, before servers close theirs (mostly after 5 s): a request that meets a
connection which is just being closed would fail."""

DROPPED_HEADERS = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "content-encoding",
        "set-cookie",
        "server",
        "date",
    }
)
"""Headers of an answer that concern one connection only, or somebody else's."""


class UpstreamError(Exception):
    """No answer that can be used. `status` is what the agent is told; `code` names the cause."""

    def __init__(self, code: str, detail: str, status: int = 502) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status


class Upstream:
    """A server by its settings; `name` is that of the file. Made and closed on one event loop."""

    def __init__(self, name: str, settings: UpstreamSettings, routing: RoutingSettings, socket: str = "") -> None:
        self.name = name
        self.settings = settings
        self.version = settings.version or name
        self.prompt = None if settings.prompt is None else Path(settings.prompt).read_text(encoding="utf-8")
        self.exact = bool(socket)
        self._base = "http://engine" if socket else (settings.url or "").rstrip("/")
        self._routing = routing
        self._socket = socket
        self._failures = 0
        self._open_until = 0.0
        key = secret(settings.key_env, f"upstreams.{name}.key_env") if settings.key_env else ""
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client: aiohttp.ClientSession | None = None

    @property
    def circuit_open(self) -> bool:
        """Whether it failed so often that it is left alone for a while."""
        return time.monotonic() < self._open_until

    @asynccontextmanager
    async def ask(
        self, path: str, body: bytes | None, headers: Mapping[str, str], method: str = "POST"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The head of the answer to one request; read the rest inside the block. Raises UpstreamError."""
        client = self._opened()
        sent = {"Accept-Encoding": "identity", **headers, **self._headers}
        try:
            async with asyncio.timeout(self.settings.first_byte_seconds):
                response = await client.request(
                    method, f"{self._base}{path}", data=body, headers=sent, allow_redirects=False
                )
        except TimeoutError as error:
            self._count(failed=True)
            raise UpstreamError("upstream_timeout", f"upstream {self.name} did not begin to answer", 504) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._count(failed=True)
            raise UpstreamError("upstream_unreachable", f"upstream {self.name}: {type(error).__name__}") from error
        self._count(failed=response.status in FAILURES)
        try:
            yield response
        finally:
            response.close() if not response.content.at_eof() else response.release()

    async def parts(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The body as it comes. Raises UpstreamError when it breaks off or stalls."""
        while True:
            try:
                async with asyncio.timeout(self.settings.idle_seconds):
                    part = await response.content.readany()
            except TimeoutError as error:
                self._count(failed=True)
                raise UpstreamError("upstream_stalled", f"upstream {self.name} stopped in the middle", 504) from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                self._count(failed=True)
                raise UpstreamError("upstream_broken", f"upstream {self.name}: {type(error).__name__}") from error
            if not part:
                return
            yield part

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._client is None:
            limit = self.settings.max_connections
            connector: aiohttp.BaseConnector = (
                aiohttp.UnixConnector(self._socket, limit=limit)
                if self._socket
                else aiohttp.TCPConnector(limit=limit, keepalive_timeout=KEPT_SECONDS)
            )
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.settings.connect_seconds)
            self._client = aiohttp.ClientSession(
                connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._client

    def _count(self, *, failed: bool) -> None:
        self._failures = self._failures + 1 if failed else 0
        if self._failures >= self._routing.max_failures:
            note("circuit_open", upstream=self.name, failures=self._failures)
            self._open_until = time.monotonic() + self._routing.open_seconds


def passed_headers(response: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    """Headers of an answer for the agent: those of the connection, and names that are ours, are left out."""
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in response.headers.items()
        if (lower := name.lower()) not in DROPPED_HEADERS and not lower.startswith("x-flyball-")
    ]
