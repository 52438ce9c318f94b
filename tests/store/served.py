"""Frames as the gateway writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from flyball.store.frames import Arm, Kind
from flyball.store.spool import Spool

ASKED = ({"role": "user", "content": "Where is o1?"},)
ANSWERED = {"role": "assistant", "content": "On its way."}
TOOLS = ({"type": "function", "function": {"name": "find_order"}},)


def names(call_id: str, session: str = "s1", **given: Any) -> dict[str, Any]:
    return {
        "v": 1,
        "call_id": call_id,
        "project": "shop",
        "session": session,
        "agent": "main",
        "at": 1000.0,
        "arm": "canary",
        "version": "v2",
        "release_id": "r1",
        "table": 3,
        **given,
    }


def call(call_id: str, session: str = "s1", **given: Any) -> dict[str, Any]:
    said = {"messages": ASKED, "message": ANSWERED, "tools": TOOLS, "tokens": None}
    numbers = {"status": 200, "tokens_in": 12, "tokens_out": 3, "seconds": 0.5, "cost_usd": 0.001, "model": "m-1"}
    links = {"exactness": "text", "stands_at": f"at-{call_id}", "ends": f"end-{call_id}"}
    return {**names(call_id, session), **said, **numbers, **links, **given}


def session(first_call: str, name: str = "s1", **given: Any) -> dict[str, Any]:
    sums = {"calls": 2, "tokens_in": 24, "tokens_out": 6, "tool_calls_count": 1, "tool_error_count": 0}
    rest = {"first_call": first_call, "duration_ms": 40.0, "cost_usd": 0.002, "release_channel": "canary"}
    return {**names(first_call, name), **sums, **rest, **given}


def report(report_id: str, name: str = "s1", **given: Any) -> dict[str, Any]:
    about = {"report_id": report_id, "project": "shop", "session": name, "call_id": "c1", "at": 2000.0}
    return {**about, **given}


def spooled(folder: Path, *frames: tuple[Kind, dict[str, Any] | bytes], arm: Arm = "canary", **settings: Any) -> Path:
    """Append frames to a spool, close it, and return its folder."""
    with Spool(folder, **settings) as spool:
        for kind, body in frames:
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            spool.append(kind, data, arm="" if kind == "feedback" else arm)
    return folder
