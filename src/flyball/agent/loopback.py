"""A loopback server for agents in other processes: alive while an attempt needs it, gone with the last one.

An attempt's address holds an unguessable name, which is all the protection there is; the server listens on 127.0.0.1
only.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import uvicorn

from flyball.agent.foreign import AttemptHandle, drive
from flyball.agent.runner import AgentEnd
from flyball.capture.door import Door
from flyball.capture.http import DoorApp, OpenAttempt
from flyball.tasks.world import World
from flyball.types import Limits


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program: Ctrl-C ends the run, not this server."""
        yield


class Loopback:
    """One server shared by the attempts that a runner drives at the same time on one event loop."""

    def __init__(self) -> None:
        self.app = DoorApp()
        self._num_users = 0
        self._url = ""
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Keep the server up and yield its URL."""
        if self._num_users == 0:
            self._start()
        self._num_users += 1
        try:
            yield self._url
        finally:
            self._num_users -= 1
            if self._num_users == 0:
                await self._stop()

    def _start(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            self.app, log_level="error", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]), name="flyball loopback")

    async def _stop(self) -> None:
        server, serving = self._server, self._serving
        self._server = self._serving = None
        if server is not None and serving is not None:
            server.should_exit = True
            await serving


async def drive_over(
    loopback: Loopback,
    answer: Callable[[AttemptHandle], Coroutine[Any, Any, str]],
    world: World,
    door: Door,
    limits: Limits,
) -> AgentEnd:
    """Drive one attempt by an agent in another process: `answer` reaches it, the attempt is open on the loopback."""
    async with loopback.serving() as url:
        handle = AttemptHandle(world, door, limits, f"{url}/{door.session}/v1")
        with loopback.app.open(door.session, OpenAttempt(door, handle)):
            return await drive(answer(handle), world, door, limits)
