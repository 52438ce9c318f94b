"""Traces out of Langfuse: observations as its API and its exports give them.

Read are `GENERATION`s: a page of the API (`{"data": [...]}`), traces with their `observations`, a list, or one a line.
Every generation repeats the conversation so far, so those that another one goes on from are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from flyball.errors import StoreError
from flyball.store.formats.trace import Trace, leaves
from flyball.types import Message


def read(data: bytes) -> list[Trace]:
    """Read traces. Raises StoreError where no generation holds a conversation."""
    try:
        observations = list(_observations(_document(data), ""))
        generations = [one for one in observations if one[0].get("type") == "GENERATION"]
        found = [_trace(one, session) for one, session in generations]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"these are no observations of Langfuse: {type(error).__name__} {error}") from error
    traces = [trace for trace in found if trace.messages and trace.messages[-1].get("role") == "assistant"]
    if not traces:
        raise StoreError(f"of {len(observations)} observations {len(generations)} are generations, none with an answer")
    return leaves(traces)


def _document(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return [orjson.loads(line) for line in data.splitlines() if line.strip()]


def _observations(read: Any, session: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    if isinstance(read, list):
        for one in read:
            yield from _observations(one, session)
    elif "data" in read:
        yield from _observations(read["data"], session)
    elif isinstance(inner := read.get("observations"), list) and all(isinstance(one, dict) for one in inner):
        yield from _observations(inner, read.get("sessionId") or read.get("id") or session)
    else:
        yield read, read.get("sessionId") or session or read.get("traceId") or ""


def _trace(given: Mapping[str, Any], session: str) -> Trace:
    asked, tools = _asked(given.get("input"))
    answer = _answer(given.get("output"))
    usage = given.get("usageDetails") or given.get("usage") or {}
    start, end = _time(given.get("startTime")), _time(given.get("endTime"))
    return Trace(
        session=session,
        messages=(*asked, *([answer] if asked and answer else [])),
        agent=str(given.get("name") or "main"),
        model=str(given.get("model") or ""),
        tools=tuple(tools),
        tokens_in=usage.get("input"),
        tokens_out=usage.get("output"),
        cost_usd=(given.get("costDetails") or {}).get("total", given.get("calculatedTotalCost")),
        seconds=end - start if start is not None and end is not None else None,
        at=start,
        meta={"source": "langfuse", "trace_id": given.get("traceId"), "observation_id": given.get("id")},
    )


def _asked(given: Any) -> tuple[list[Message], Sequence[Mapping[str, Any]]]:
    if isinstance(given, str):
        return ([{"role": "user", "content": given}] if given else []), ()
    if isinstance(given, Mapping):
        return list(given.get("messages") or ()), given.get("tools") or ()
    return list(given or ()), ()


def _answer(given: Any) -> Message | None:
    if isinstance(given, str):
        return {"role": "assistant", "content": given} if given else None
    if isinstance(given, list):
        return _answer(given[0]) if given else None
    if not isinstance(given, Mapping):
        return None
    if choices := given.get("choices"):
        return _answer(choices[0].get("message"))
    known = {name: given[name] for name in ("content", "tool_calls", "refusal", "reasoning_content") if name in given}
    return {"role": "assistant", "content": "", **known} if known else None


def _time(text: Any) -> float | None:
    return datetime.fromisoformat(text).timestamp() if isinstance(text, str) and text else None
