"""An agent that is a Python function: `async def agent(attempt, client) -> str`, in this process.

`client` is a plain `openai.AsyncOpenAI` whose requests go straight to the attempt's door, without a socket.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from flyball.agent.foreign import AttemptHandle, drive
from flyball.agent.runner import AgentEnd
from flyball.capture.door import Door, Stopped
from flyball.capture.http import DoorApp, OpenAttempt
from flyball.errors import AgentError
from flyball.tasks.world import World
from flyball.types import Limits

if TYPE_CHECKING:
    from openai import AsyncOpenAI

AgentFunction = Callable[[AttemptHandle, Any], Awaitable[str]]


class CallableAgent:
    """Runs the user's function. What it raises is the agent's failure, unless the door had ended the attempt before."""

    def __init__(self, fn: AgentFunction) -> None:
        self._fn = fn
        self._name = getattr(fn, "__qualname__", type(fn).__qualname__)

    @property
    def name(self) -> str:
        return f"callable({self._name})"

    async def run(self, world: World, door: Door, limits: Limits) -> AgentEnd:
        """Drive one attempt; see AgentRunner.run. Raises AgentError when the openai package is missing."""
        app = DoorApp()
        base_url = f"http://door/{door.session}/v1"
        handle = AttemptHandle(world, door, limits, base_url)
        with app.open(door.session, OpenAttempt(door, handle)):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), trust_env=False) as http_client:
                client = _openai_client(base_url, http_client)
                return await drive(self._answer(handle, client), world, door, limits)

    async def _answer(self, handle: AttemptHandle, client: AsyncOpenAI) -> str:
        try:
            running = self._fn(handle, client)
            if not inspect.isawaitable(running):
                raise AgentError(f"{self._name} is not a coroutine function; write `async def {self._name}(...)`")
            answer = await running
        except (AgentError, Stopped):
            raise
        except Exception as error:  # the boundary to the user's code: named, never swallowed
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            raise AgentError(f"{self._name} raised {type(error).__name__}: {error} ({where})") from error
        if not isinstance(answer, str):
            raise AgentError(f"{self._name} returned {type(answer).__name__}; return the final answer as a str")
        return answer


def _openai_client(base_url: str, http_client: httpx.AsyncClient) -> AsyncOpenAI:
    try:
        from openai import AsyncOpenAI
    except ImportError as error:
        raise AgentError(
            "a callable agent gets an openai.AsyncOpenAI client and the package is not installed; "
            "`pip install openai`, or use the built-in loop, fb.Command or fb.Http"
        ) from error
    # The door is in this process: there is no network whose hiccups a retry would cure.
    client: Any = http_client  # recent versions are annotated with a fork of httpx and take both
    return AsyncOpenAI(base_url=base_url, api_key="flyball", http_client=client, max_retries=0)
