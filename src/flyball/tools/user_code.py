"""Runs code the user wrote (tools, worlds, graders; sync or async) under a time limit, and says how it ended.

Nothing the code does reaches the event loop: it cannot block it (sync code runs in a thread), cannot raise through it
(`SystemExit` and `StopIteration` included) and cannot hold it up (what does not return in time is abandoned). The
threads are our own because `concurrent.futures` joins its threads at exit, where one hung tool would hang the process;
ours are daemons, and one is started whenever none is idle, so abandoned ones starve nobody.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyball.errors import FlyballError


@dataclass(frozen=True)
class Finished:
    """How a call ended: with `value`, with `error`, or `timed_out`."""

    value: Any = None
    error: BaseException | None = None
    timed_out: bool = False


async def run_user_code(
    fn: Callable[..., Any], arguments: Mapping[str, Any], timeout_seconds: float, *positional: Any
) -> Finished:
    """Call `fn(*positional, **arguments)` and await what it returns if that is awaitable.

    Never raises what the code raised; raises CancelledError only when the caller itself is cancelled.
    """
    deadline = time.monotonic() + timeout_seconds
    call = functools.partial(fn, *positional, **arguments)
    if inspect.iscoroutinefunction(fn):
        return await _within(asyncio.ensure_future(_settle(call)), timeout_seconds)
    finished = await _within(_in_thread(call), timeout_seconds)
    if inspect.isawaitable(finished.value):
        awaitable = finished.value
        return await _within(asyncio.ensure_future(_settle(lambda: awaitable)), deadline - time.monotonic())
    return finished


def explain(error: BaseException) -> str:
    """Return `ValueError: no such order (shop.py:31)`: what was raised and the user's line that raised it."""
    text = message_of(error)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text


def message_of(error: BaseException) -> str:
    """Return `ValueError: no such order`, or the bare message of an error of this package."""
    if isinstance(error, FlyballError) and error.args:
        return str(error.args[0])
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _settle(call: Callable[[], Awaitable[Any]]) -> Finished:
    try:
        return Finished(await call())
    except (Exception, SystemExit) as error:  # handed to the caller, who knows whose fault it is
        return Finished(error=error)


async def _within(future: asyncio.Future[Finished], timeout_seconds: float) -> Finished:
    try:
        await asyncio.wait({future}, timeout=max(timeout_seconds, 0.0))
        if not future.done():
            return Finished(timed_out=True)
        return Finished(error=asyncio.CancelledError()) if future.cancelled() else future.result()
    finally:
        future.cancel()  # does nothing to one that is done


@dataclass(frozen=True)
class _Job:
    call: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Finished]

    def run(self) -> Finished:
        try:
            return Finished(self.call())
        except BaseException as error:  # a thread has nobody above it; sys.exit() in a tool is the tool's failure
            return Finished(error=error)

    def deliver(self, finished: Finished) -> None:
        try:
            self.loop.call_soon_threadsafe(_set_result, self.future, finished)
        except RuntimeError:  # an abandoned call came back after its loop was closed: nobody waits for it
            return


def _set_result(future: asyncio.Future[Finished], finished: Finished) -> None:
    if not future.done():
        future.set_result(finished)


class _Worker:
    """A daemon thread that runs one job at a time and lies down among the idle ones in between."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="flyball-user-code", daemon=True).start()

    def _serve(self) -> None:
        while True:
            job = self.inbox.get()
            finished = job.run()
            _idle.append(self)  # before delivery, so that the next call finds this thread
            job.deliver(finished)
            del job, finished  # an idle thread keeps no world alive


_idle: deque[_Worker] = deque()
os.register_at_fork(after_in_child=_idle.clear)


def _in_thread(call: Callable[[], Any]) -> asyncio.Future[Finished]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Finished] = loop.create_future()
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
    worker.inbox.put(_Job(call, loop, future))
    return future
