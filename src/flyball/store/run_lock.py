"""Whether the process that does a run still lives: it holds the run's file locked until it ends, however it ends.

The kernel lets go of the lock with the process, so neither a number that was given to another process nor a clock that
jumped can mislead. The files stay: taking one away while another process opens it would let two hold a run.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flyball.errors import RefusedError
from flyball.store import failures

TRIES, PAUSE_SECONDS = 20, 0.05
"""Whoever only looks (`is_abandoned`) holds the lock for a moment, so one refusal is no proof."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """A block in which this process, and no other, holds the run. Raises RefusedError when one does, or StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise failures.from_os(path, error) from error
    try:
        _lock(file, path)
        yield
    finally:
        os.close(file)


def is_abandoned(path: Path) -> bool:
    """Whether a process held the run and is gone. False where none of this folder ever did, which proves nothing."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(file)


def _lock(file: int, path: Path) -> None:
    for _ in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(PAUSE_SECONDS)
        except OSError as error:
            raise failures.from_os(path, error) from error
    raise RefusedError(f"run {path.name} is being done by another process; wait for it, or end that process (Ctrl-C)")
