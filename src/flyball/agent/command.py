"""An agent that is a command: any program that speaks to an OpenAI-compatible endpoint, one process per attempt.

It finds the policy at `OPENAI_BASE_URL`, its task as JSON in `FLYBALL_TASK` (see `AttemptHandle.public`) and the
world's tools at `tools_url` in there. What it prints is the final answer. A non-zero exit is the agent's failure. It
gets this process's environment besides, and is killed with all its children when the attempt is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from flyball.agent.foreign import AttemptHandle
from flyball.agent.loopback import Loopback, drive_over
from flyball.agent.runner import AgentEnd
from flyball.capture.door import Door
from flyball.errors import AgentError, ConfigError
from flyball.tasks.world import World
from flyball.types import Limits

MAX_OUTPUT_BYTES = 1_000_000
POLL_SECONDS = 0.02


class Command:
    """Runs a command per attempt. A string is split as a shell would, but no shell runs; `env` adds variables.

    It runs in `cwd`; where none is given a workflow runs it in its own folder, so that a file runs from anywhere.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        self._argv = shlex.split(command) if isinstance(command, str) else list(command)
        if not self._argv:
            raise ConfigError("the agent's command is empty; give a program, such as 'node agent.js'")
        self._env = dict(env or {})
        self._cwd = cwd
        self._loopback = Loopback()

    def beside(self, folder: Path) -> Command:
        """The same, run in `folder` unless it has a `cwd`."""
        return Command(self._argv, env=self._env, cwd=folder if self._cwd is None else self._cwd)

    @property
    def name(self) -> str:
        return f"command({shlex.join(self._argv)})"

    async def run(self, world: World, door: Door, limits: Limits) -> AgentEnd:
        """Drive one attempt; see AgentRunner.run."""
        return await drive_over(self._loopback, self._answer, world, door, limits)

    async def _answer(self, handle: AttemptHandle) -> str:
        environment = {
            **os.environ,
            **self._env,
            "OPENAI_BASE_URL": handle.base_url,
            "OPENAI_API_KEY": "flyball",
            "FLYBALL_TASK": orjson.dumps(handle.public()).decode(),
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                cwd=self._cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise AgentError(f"{shlex.join(self._argv)} could not be started: {error}") from error
        try:
            stdout, stderr = await _finish(process)
        except asyncio.CancelledError:
            _kill(process)
            await _finish(process)
            raise
        return self._answer_in(process.returncode, stdout, stderr)

    def _answer_in(self, returncode: int | None, stdout: bytes, stderr: bytes) -> str:
        if len(stdout) > MAX_OUTPUT_BYTES or len(stderr) > MAX_OUTPUT_BYTES:
            raise AgentError(f"the agent printed more than {MAX_OUTPUT_BYTES} bytes; print the final answer only")
        if returncode != 0:
            said = stderr.decode(errors="replace").strip()[-500:]
            raise AgentError(f"{shlex.join(self._argv)} exited with {returncode}; it said: {said!r}")
        return stdout.decode(errors="replace").strip()


async def _finish(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """Wait until the process is gone and its pipes are empty, so that nothing of it is left on the event loop."""
    assert process.stdout is not None and process.stderr is not None

    async def exit_with_children() -> None:
        # Process.wait() returns only once the pipes are closed (Python 3.11), and a child left behind holds them open.
        while process.returncode is None:
            await asyncio.sleep(POLL_SECONDS)
        _kill(process)

    stdout, stderr, _ = await asyncio.gather(
        _read(process, process.stdout), _read(process, process.stderr), exit_with_children()
    )
    return stdout, stderr


async def _read(process: asyncio.subprocess.Process, stream: asyncio.StreamReader) -> bytes:
    """All that is printed; past the limit the program is killed, so that a chatty one cannot fill the memory."""
    kept = b""
    while part := await stream.read(65536):
        if len(kept) <= MAX_OUTPUT_BYTES:
            kept += part
        else:
            _kill(process)
    return kept


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the process and its children, which share its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
