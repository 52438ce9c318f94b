"""An agent behind a URL: `POST {url}/run` with the task starts an attempt and answers `{"answer": "..."}`.

The body is `AttemptHandle.public`: the task, the policy's address (`base_url`) and the tools' (`tools_url`). Both
addresses are on this machine's loopback interface, so the agent's server runs here too.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any

import httpx

from flyball.agent.foreign import AttemptHandle
from flyball.agent.loopback import Loopback, drive_over
from flyball.agent.runner import AgentEnd
from flyball.capture.door import Door
from flyball.errors import AgentError, ConfigError
from flyball.tasks.world import World
from flyball.types import Limits


class Http:
    """Drives attempts through an agent's own server. `headers` are sent along, for its authentication."""

    def __init__(self, url: str, *, headers: dict[str, str] | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"the agent's url {url!r} must start with http:// or https://")
        self._url = f"{url.rstrip('/')}/run"
        self._headers = headers or {}
        self._loopback = Loopback()

    @property
    def name(self) -> str:
        return f"http({self._url})"

    async def run(self, world: World, door: Door, limits: Limits) -> AgentEnd:
        """Drive one attempt; see AgentRunner.run."""
        return await drive_over(self._loopback, self._answer, world, door, limits)

    async def _answer(self, handle: AttemptHandle) -> str:
        # Time is bounded by the attempt's limit, not by the client.
        async with httpx.AsyncClient(timeout=None, headers=self._headers, verify=_trust()) as client:
            try:
                response = await client.post(self._url, json={**handle.public(), "api_key": "flyball"})
            except httpx.HTTPError as error:
                raise AgentError(f"{self._url} did not answer: {type(error).__name__}: {error}") from error
        if response.status_code != 200:
            raise AgentError(f"{self._url} answered {response.status_code}: {response.text[:500]!r}")
        answer = _answer_in(response)
        if not isinstance(answer, str):
            raise AgentError(f'{self._url} answered {response.text[:200]!r}; it must answer {{"answer": "text"}}')
        return answer


@functools.cache
def _trust() -> ssl.SSLContext:
    """The machine's certificates, loaded once: it takes some 20 ms, during which no other attempt would move."""
    return ssl.create_default_context()


def _answer_in(response: httpx.Response) -> Any:
    try:
        body = response.json()
    except ValueError:
        return None
    return body.get("answer") if isinstance(body, dict) else None
