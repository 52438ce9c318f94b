"""The local engine in a process of its own, so that generation and training do not share an interpreter.

    trainer ──requests, completions: asyncio over a socket pair──▶ engine process (`local_child.py`)
            ──weights: a safetensors file in shared memory, told over a second socket pair──▶

Weights go through a file on the memory-backed file system of the machine (`/dev/shm`, else the temporary folder): the
trainer copies them in, the engine maps the file and copies them out. Both sockets are inherited and have no name; the
process ends when they close, however its parent died.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from flyball.engine.local_frames import read_frame, write_frame
from flyball.engine.protocol import Completion, Request
from flyball.errors import EngineError, EngineLostError
from flyball.models.lora import adapter_version
from flyball.types import WeightsRef

SHARED_MEMORY = Path("/dev/shm")
STARTS_WITHIN = 600.0
"""Seconds after which a process that has not come up counts as lost."""


@dataclass(frozen=True)
class ProcessSpec:
    """What the process makes its engine of: a model folder, and the settings of `LocalEngine`."""

    folder: str
    num_slots: int = 64
    on_new_weights: Literal["recompute", "keep"] = "recompute"
    deterministic: bool = False
    tool_format: str | None = None


class ProcessEngine:
    """See above; otherwise as `LocalEngine`. Returns when the model is loaded.

    Raises the error of the process where it could not start. A process that ends later is an EngineLostError for every
    request in flight and for all that follow.
    """

    def __init__(self, spec: ProcessSpec) -> None:
        self._version = 0
        self._adapters: dict[str, str] = {}
        self._lost: EngineError | None = None
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._lock = threading.Lock()
        """held by whoever talks over the second socket"""
        where = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix="flyball-weights-", dir=where))
        self._socket, theirs = socket.socketpair()
        ours, control = socket.socketpair()
        self._control: Connection[Any, Any] = Connection(ours.detach())
        with theirs, control, (self._folder / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "flyball.engine.local_child"),
                    *(str(theirs.fileno()), str(control.fileno()), str(self._folder), json.dumps(asdict(spec))),
                ],
                pass_fds=(theirs.fileno(), control.fileno()),
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
            )
        try:
            self._max_context = int(self._answer(within=STARTS_WITHIN))
        except BaseException:
            self._end()
            raise

    @property
    def max_context(self) -> int:
        return self._max_context

    @property
    def version(self) -> int:
        return self._version

    @property
    def adapters(self) -> Mapping[str, str]:
        return self._adapters

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def generate(self, request: Request) -> Completion:
        """As `LocalEngine`. Raises EngineLostError when the process has ended."""
        number = next(self._numbers)
        try:
            done: Completion = await self._ask(number, "generate", request)
        except asyncio.CancelledError:
            if self._writer is not None:
                write_frame(self._writer, (number, "cancel", ()))
            raise
        return done

    async def abort(self, session: str) -> None:
        await self._ask(next(self._numbers), "abort", session)

    async def end_session(self, session: str) -> None:
        await self._ask(next(self._numbers), "end_session", session)

    async def load_weights(self, ref: WeightsRef) -> None:
        """Load a published safetensors folder, also while requests run. Raises WeightsError; the old weights stay."""
        await asyncio.to_thread(self._tell, "load_weights", ref)
        self._version = ref.version

    def use_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Take weights from memory, through shared memory; they are in use when this returns. Raises WeightsError."""
        with self._lock:
            save_file(_each_once(state), self._folder / "weights.safetensors")
            self._exchange("load_weights", WeightsRef(version, str(self._folder), ""))
            self._version = version

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """See LocalEngine."""
        self._tell("add_adapter", name, str(folder))
        self._adapters[name] = adapter_version(Path(folder))

    async def close(self) -> None:
        """End the process; requests in flight are told."""
        self._fail(EngineError("the engine was closed while this request waited for it"))
        if self._reading is not None and self._writer is not None:
            self._reading.cancel()
            self._writer.close()
            await asyncio.gather(self._reading, self._writer.wait_closed(), return_exceptions=True)
        await asyncio.to_thread(self._end)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _ask(self, number: int, method: str, *arguments: Any) -> Any:
        async with self._connecting:
            if self._writer is None and self._lost is None:
                reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
                self._reading = asyncio.create_task(self._read(reader))
        if self._lost is not None:
            raise self._lost
        assert self._writer is not None
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        try:
            write_frame(self._writer, (number, method, arguments))
            return await answer
        finally:
            del self._pending[number]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Give answers to those who wait, until the process ends."""
        try:
            while True:
                number, value, error = await read_frame(reader)
                answer = self._pending.get(number)
                if answer is None or answer.done():
                    continue
                if error is None:
                    answer.set_result(value)
                else:
                    answer.set_exception(error)
        except EOFError:
            self._fail(await asyncio.to_thread(self._reason))

    def _fail(self, error: EngineError) -> None:
        self._lost = self._lost or error
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(self._lost)

    # --- weights -----------------------------------------------------------------------------------------------------

    def _tell(self, method: str, *arguments: Any) -> None:
        with self._lock:
            self._exchange(method, *arguments)

    def _exchange(self, method: str, *arguments: Any) -> None:
        if self._lost is not None:
            raise self._lost
        try:
            self._control.send((method, arguments))
        except OSError as error:
            raise self._reason() from error
        self._answer()

    def _answer(self, within: float | None = None) -> Any:
        """What the process answers over the second socket. Raises its error, EngineLostError when it has gone."""
        try:
            if not self._control.poll(within):
                raise EngineLostError(f"the engine process did not come up within {within:.0f} s")
            value, error = self._control.recv()
        except (EOFError, OSError) as gone:
            raise self._reason() from gone
        if error is not None:
            raise error
        return value

    def _reason(self) -> EngineLostError:
        """Why the process ended: its exit code, and the last line that it wrote."""
        try:
            code: int | None = self._process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            code = None
        log = self._folder / "stderr"
        lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        return EngineLostError(
            f"the engine process {self._process.pid} {how} ({last[:300]}); what was recorded is kept and `--resume` "
            "goes on with a new process. Signal 9 is mostly want of memory: lower `concurrency` or `limits`"
        )

    def _end(self) -> None:
        self._control.close()
        if self._writer is None:
            self._socket.close()
        try:
            self._process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _each_once(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state without the second name of tied weights, which safetensors does not write."""
    seen: set[int] = set()
    once: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            once[name] = tensor.detach().contiguous()
    return once
