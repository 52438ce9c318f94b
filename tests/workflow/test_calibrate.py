"""The token speed is per token, of prompts that no cache has seen."""

from __future__ import annotations

import asyncio

from flyball.engine.fake import FakeEngine
from flyball.workflow.calibrate import LONG, NUM_NEW, REPEATS, SHORT, calibrate


def test_reading_and_writing_are_measured_apart() -> None:
    engine = FakeEngine(["x" * 100])
    speed = asyncio.run(calibrate(engine, engine.chat))
    assert speed.seconds_per_token_in > 0
    assert speed.seconds_per_token_out > 0
    asked = [(len(request.prompt_ids), request.sampling.max_new_tokens) for request in engine.requests]
    assert asked == [(LONG, 1)] * REPEATS + [(SHORT, NUM_NEW)] * REPEATS
    assert len({request.prompt_ids for request in engine.requests}) == len(asked), "no prompt is met twice"
    assert len(set(engine.ended_sessions)) == len(asked)


def test_a_short_context_is_respected() -> None:
    engine = FakeEngine(["x" * 100], max_context=128)
    asyncio.run(calibrate(engine, engine.chat))
    assert all(len(r.prompt_ids) + r.sampling.max_new_tokens <= 128 for r in engine.requests)
