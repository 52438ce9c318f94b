"""What engines behind HTTP share: JSON requests with retries, requests in flight by session, abort."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import httpx

from flyball.engine.protocol import Completion, Request
from flyball.errors import ContextError, EngineError

PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Statuses that a second try may cure."""


class RemoteEngine(ABC):
    """An Engine whose model lives behind `base_url`. `timeout_seconds` bounds one try of `num_tries`.

    Waits between tries double from `retry_seconds` on.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        max_context: int,
        api_key: str = "",
        version: int = 0,
        timeout_seconds: float = 600.0,
        num_tries: int = 4,
        retry_seconds: float = 0.5,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._max_context = max_context
        self._version = version
        self._num_tries = num_tries
        self._retry_seconds = retry_seconds
        self._in_flight: dict[asyncio.Task[Completion], str] = {}
        self._aborted: set[asyncio.Task[Completion]] = set()
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    @property
    def max_context(self) -> int:
        return self._max_context

    @property
    def version(self) -> int:
        return self._version

    @property
    def adapters(self) -> Mapping[str, str]:
        return {}

    async def generate(self, request: Request) -> Completion:
        """Draw one completion. Raises ContextError when the prompt leaves no room for a token, else EngineError."""
        if request.adapter is not None:
            raise EngineError(
                f"adapter {request.adapter!r} would be ignored: an engine behind HTTP serves one model; use the local "
                "engine, or an engine of its own whose `model` is the name that the server gives the adapter"
            )
        task = asyncio.create_task(self._complete(request, request.room(self._max_context)))
        self._in_flight[task] = request.session
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current and current.cancelling():  # the caller was, not the request
                raise
            if task in self._aborted:
                return Completion((), (), (), "abort")
            raise EngineError("the engine was closed while this request waited for it") from None
        finally:
            self._aborted.discard(task)
            del self._in_flight[task]

    @abstractmethod
    async def _complete(self, request: Request, max_tokens: int) -> Completion:
        """Ask the server for at most `max_tokens` tokens."""

    async def abort(self, session: str) -> None:
        """Drop the session's requests, which ends them on the server too. What it had sampled by then is not known."""
        for task, of in self._in_flight.items():
            if of == session:
                self._aborted.add(task)
                task.cancel()

    async def end_session(self, session: str) -> None:
        """Return at once: caches are the server's own affair."""
        return

    async def close(self) -> None:
        """End what is in flight and the connections."""
        for task in list(self._in_flight):
            task.cancel()
        await self._client.aclose()

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """JSON answer of the server. Raises ContextError for a prompt it calls too long, EngineError for the rest."""
        for left in reversed(range(self._num_tries)):
            try:
                answer = await self._client.request(method, f"{self._base_url}{path}", json=body)
                if answer.status_code not in PASSING or not left:
                    break
            except httpx.TransportError as error:
                if not left:
                    raise EngineError(
                        f"{method} {self._base_url}{path} failed {self._num_tries} times: {type(error).__name__} "
                        f"{error}; is the server up and the address right?"
                    ) from error
            await asyncio.sleep(self._retry_seconds * 2 ** (self._num_tries - 1 - left))
        if answer.is_success:
            return _json(answer)
        said = " ".join(answer.text.split())[:300]
        error_type = ContextError if _is_about_context(answer) else EngineError
        raise error_type(f"{method} {self._base_url}{path} answered {answer.status_code}: {said}")


def _json(answer: httpx.Response) -> Any:
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError as error:
        raise EngineError(f"{answer.url} answered what is not JSON: {answer.text[:100]!r}") from error


def _is_about_context(answer: httpx.Response) -> bool:
    return answer.status_code in (400, 413) and (
        "context_length_exceeded" in answer.text or "maximum context length" in answer.text
    )
