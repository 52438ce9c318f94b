"""Computing in another thread without slowing each other down.

OpenMP keeps a team of helpers for every thread that ever computed. As soon as all teams together are more than the
processor's cores (libgomp), idle helpers sleep between two products instead of waiting awake, and waking them costs
more than a small product does: products of SmolLM2 took twice as long beside a team that did nothing. So a team is
dismissed when its work is done, and comes back, within microseconds, with the next.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_MAPS = Path("/proc/self/maps")
_HARD = 2
"""omp_pause_hard, OpenMP 5.0 section 3.2.44: give back all resources."""


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread` for what computes: the caller's team is dismissed before, that of the worker after."""
    dismiss_team()
    return await asyncio.to_thread(_with_team, partial(function, *args, **kwargs))


def dismiss_team() -> None:
    """Dismiss the helpers of the calling thread. Without libgomp (macOS, Windows) there is nothing to do."""
    for pause in _pauses():
        pause(_HARD)


def _with_team(function: Callable[[], T]) -> T:
    try:
        return function()
    finally:
        dismiss_team()


@cache
def _pauses() -> tuple[Callable[[int], Any], ...]:
    """omp_pause_resource_all of every libgomp in this process (torch brings its own)."""
    if not _MAPS.exists():
        return ()
    loaded = {line.split()[-1] for line in _MAPS.read_text().splitlines() if "libgomp" in line}
    found = (getattr(ctypes.CDLL(path), "omp_pause_resource_all", None) for path in sorted(loaded))
    return tuple(pause for pause in found if pause is not None)
