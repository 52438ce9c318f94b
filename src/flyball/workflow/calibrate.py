"""Seconds per token of an engine on this machine, measured once and applied to every version alike.

A long prompt with one new token gives the rate of reading; a short prompt with many gives the rate of writing. One
conversation at a time, the median of a few, so that a busy moment does not become the machine's speed.
"""

from __future__ import annotations

import os
import platform
import time
from statistics import median

from flyball.engine.protocol import Engine, Request, SamplingParams
from flyball.models.chat import ChatFormat
from flyball.release.evidence import TokenSpeed

LONG, SHORT, NUM_NEW, REPEATS = 512, 16, 48, 3
LEAST = 1e-9
"""Seconds: what is too fast to be measured is not free."""


async def calibrate(engine: Engine, chat: ChatFormat) -> TokenSpeed:
    """Measure. Raises EngineError when the engine cannot generate."""
    reading, writing = [], []
    for i in range(REPEATS):
        seconds, prompt, _ = await _timed(engine, chat, LONG, 1, f"speed-in-{i}")
        reading.append(seconds / prompt)
    seconds_in = max(median(reading), LEAST)
    for i in range(REPEATS):
        seconds, prompt, new = await _timed(engine, chat, SHORT, NUM_NEW, f"speed-out-{i}")
        writing.append((seconds - prompt * seconds_in) / new)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return TokenSpeed(seconds_in, max(median(writing), LEAST), machine)


async def _timed(
    engine: Engine, chat: ChatFormat, num_prompt: int, num_new: int, session: str
) -> tuple[float, int, int]:
    """Return seconds, prompt tokens and new tokens of one completion of a prompt that no cache has seen."""
    ids = _prompt(chat, session, max(1, min(num_prompt, engine.max_context - num_new - 1)))
    request = Request(ids, SamplingParams(1.0, num_new, seed=0), stop_ids=(), session=session)
    started = time.perf_counter()
    completion = await engine.generate(request)
    seconds = time.perf_counter() - started
    await engine.end_session(session)
    return seconds, len(ids), max(1, len(completion.token_ids))


def _prompt(chat: ChatFormat, session: str, most: int) -> tuple[int, ...]:
    """A question of its own, of at most so many tokens where the shortest one allows it."""
    words = f"{session} " * most
    while True:
        ids = tuple(chat.render([{"role": "user", "content": words}], []))
        if len(ids) <= most or words == session:
            return ids
        words = words[: max(len(session), min(len(words) - 1, len(words) * most // len(ids)))]
