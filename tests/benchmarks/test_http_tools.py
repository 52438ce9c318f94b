"""What the benchmark of HTTP tools counts as lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.http_tools import count, findings
from flyball.errors import EvalError
from flyball.types import Attempt, Call, StopReason, Task, ToolCall, ToolResult, Trajectory

CALLS = tuple(ToolCall(f"c0_{i}", "lookup", f'{{"n": {i}}}') for i in range(2))
RESULTS = tuple(ToolResult(f"c0_{i}", "lookup", f"t0 {i}") for i in range(2))
SEEN = [(f"call_1_c0_{i}", "trace_1", "answered") for i in range(2)]


def attempt(results: tuple[ToolResult, ...]) -> Attempt:
    call = Call("c0", None, "main", (), (), (), (), {}, "stop", {}, CALLS, results)
    return Attempt("a", Task("t0", {}), Trajectory((call,), StopReason.ANSWERED), (), trace_id="trace_1")


def lost(results: tuple[ToolResult, ...], seen: list[tuple[str, str, str]]) -> tuple[int, int, int]:
    row = count([attempt(results)], seen, 1)
    return row["lost"], row["crossed"], row["uncounted"]


def test_what_is_whole_is_not_lost() -> None:
    assert lost(RESULTS, SEEN) == (0, 0, 0)
    row = {"seed": 0, "seconds": 1.0, **count([attempt(RESULTS)], SEEN, 1)}
    (found,) = findings([row])
    assert (found.holds, found.value, found.n) == (True, 0.0, 2)


def test_every_way_to_lose_a_call_is_seen() -> None:
    assert lost(RESULTS[:1], SEEN) == (1, 0, 0)
    assert lost((RESULTS[0], replace(RESULTS[1], content="t0 0")), SEEN) == (0, 1, 0)
    assert lost(RESULTS, [*SEEN, SEEN[0]]) == (0, 0, 1)
    assert lost(RESULTS, SEEN[:1]) == (0, 0, 1)
    row = {"seed": 0, "seconds": 1.0, **count([attempt(RESULTS[:1])], SEEN, 1)}
    assert not findings([row])[0].holds
    with pytest.raises(EvalError, match="no round"):
        findings([])
