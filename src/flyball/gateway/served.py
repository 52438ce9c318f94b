"""One call while it is served: who asked what, who answers, how long it took and how it ended."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from flyball.gateway.answer import Answer
from flyball.gateway.log import LOG, note
from flyball.gateway.request import Asked, Caller
from flyball.gateway.router import Assignment
from flyball.gateway.settings import UpstreamSettings
from flyball.store.frames import Arm


@dataclass(slots=True)
class Served:
    """One call while it is served; times of `started` and so on are monotonic seconds."""

    call_id: str
    caller: Caller
    session: str
    agent: str
    user: str
    asked: Asked
    assigned: Assignment
    arm: Arm
    upstream: str = ""
    version: str = ""
    exact: bool = False
    fallback: str = ""
    shadow_of: str = ""
    shadow: str = ""
    """what became of the copy for the shadow: sent, or why it was not; '' where the session is not shadowed"""
    traceparent: str = ""
    """the agent's own span, as W3C's header has it"""
    at: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)
    first_byte: float = 0.0
    ended: float = 0.0
    upstream_seconds: float = 0.0
    status: int = 0
    content_type: str = ""
    body: list[bytes] = field(default_factory=list)
    problem: str = ""
    checks: list[dict[str, Any]] = field(default_factory=list)
    prices: UpstreamSettings | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.asked.fields.values())) + sum(map(len, self.body))


def cost_usd(served: Served, answer: Answer) -> float:
    """Dollars by the upstream's prices, which are per million tokens."""
    if served.prices is None:
        return 0.0
    given, sampled = answer.tokens_in or 0, answer.tokens_out or 0
    return (given * served.prices.input_usd + sampled * served.prices.output_usd) / 1e6


def note_call(served: Served) -> None:
    """Write one line about a call that is over; at level warning where something went wrong."""
    wrong = bool(served.problem or served.fallback) or served.status >= 500
    level = logging.WARNING if wrong else logging.INFO
    if not LOG.isEnabledFor(level):
        return
    note(
        "call",
        level,
        request_id=served.call_id,
        project=served.caller.project,
        session=served.session,
        agent=served.agent,
        arm=served.arm,
        reason=served.assigned.reason,
        table=served.assigned.table,
        version=served.version,
        upstream=served.upstream,
        form=served.asked.form,
        stream=served.asked.stream,
        status=served.status,
        error=served.problem or None,
        fallback=served.fallback or None,
        seconds=round(time.monotonic() - served.started, 6),
        first_byte_seconds=round(served.first_byte - served.started, 6) if served.first_byte else None,
        upstream_seconds=round(served.upstream_seconds, 6),
    )
