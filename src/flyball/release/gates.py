"""The table of gates. A gate is {metric, margin, owner, evidence}; the names are sugar for one with its margin printed.

    latency_delta_lt_15_percent      {metric: latency, margin: 0.15, owner: Platform, evidence: evaluation}
    rollback_under_5_minutes         {metric: rollback, margin: 300, owner: Platform, evidence: drill}
    success_within_0.05              {metric: success, margin: 0.05, owner: ML, evidence: evaluation}

`latency_delta_lt_10_percent` and `rollback_under_2_minutes` mean what they say for any number, and
`METRIC_within_MARGIN` is the name of any other margin. A name that is not in the table is refused with the nearest one
that is. The margin of the safety gate is not for anybody to choose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

from flyball.errors import ConfigError, nearest
from flyball.release.behaviour import over_refusal_gate, tool_error_gate
from flyball.release.efficiency import COST_MARGIN, cost_gate, latency_gate
from flyball.release.evidence import Evidence
from flyball.release.gate import Gate, Owner
from flyball.release.hacking import MARGIN as HACKING_MARGIN
from flyball.release.hacking import hacking_gate
from flyball.release.online import ONLINE_GATES
from flyball.release.quality import (
    MISSING_LIMIT,
    SUCCESS_IMPROVES,
    SUCCESS_MARGIN,
    missing_gate,
    success_gate,
)
from flyball.release.recovery import rollback_gate
from flyball.release.safety import NO_SAFETY_REGRESSION, SAFETY_GATE
from flyball.release.slices import PROTECTED_SLICES
from flyball.types import GateResult

_NUMBER = r"(\d+(?:\.\d+)?)"
_LATENCY = re.compile(rf"latency_delta_lt_{_NUMBER}_percent")
_ROLLBACK = re.compile(rf"rollback_under_{_NUMBER}_minutes?")
_WITHIN = re.compile(rf"(\w+)_within_{_NUMBER}")

METRICS: Mapping[str, Callable[[float, str], Gate]] = {
    "success": success_gate,
    "latency": lambda margin, name: latency_gate(100 * margin, name),
    "cost_per_success": cost_gate,
    "rollback": lambda margin, name: rollback_gate(margin / 60, name),
    "missing": missing_gate,
    "reward_hacking": hacking_gate,
    "tool_errors": tool_error_gate,
    "over_refusal": over_refusal_gate,
}
"""Metrics whose margin may be chosen: from a margin (shares and relative changes of 1, seconds) to a gate."""

_FIXED: dict[str, Gate] = {
    gate.name: gate
    for gate in (
        NO_SAFETY_REGRESSION,
        SUCCESS_IMPROVES,
        success_gate(SUCCESS_MARGIN),
        cost_gate(COST_MARGIN),
        missing_gate(MISSING_LIMIT),
        hacking_gate(HACKING_MARGIN),
        tool_error_gate(0.03),
        over_refusal_gate(0.03),
        PROTECTED_SLICES,
        *ONLINE_GATES,
    )
}

DEFAULT_GATES: tuple[str, ...] = (
    SAFETY_GATE,
    "success_improves",
    "success_not_worse",
    "latency_delta_lt_15_percent",
    "cost_per_success_not_worse",
    "rollback_under_5_minutes",
    "missing_rate",
)
"""What is judged before shadow when a workflow names no gates."""


def gate(written: str | Mapping[str, Any]) -> Gate:
    """The gate of this name, or of {metric, margin, owner, evidence}.

    Raises ConfigError for a name or metric that means nothing, a number that is 0, and for another margin of safety.
    """
    return _named(written) if isinstance(written, str) else _spelled(written)


def _named(name: str) -> Gate:
    if found := _FIXED.get(name):
        return found
    for pattern, make in ((_LATENCY, latency_gate), (_ROLLBACK, rollback_gate)):
        if match := pattern.fullmatch(name):
            number = float(match.group(1))
            if number == 0:
                raise ConfigError(f"gate {name!r}: a margin of 0 can never be met; write a number above 0")
            return make(number, name)
    if (match := _WITHIN.fullmatch(name)) and match.group(1) in METRICS:
        if not float(match.group(2)):
            raise ConfigError(f"gate {name!r}: a margin of 0 can never be met; write a number above 0")
        return METRICS[match.group(1)](float(match.group(2)), name)
    raise ConfigError(f"unknown gate {name!r}{nearest(name, {*_FIXED, *DEFAULT_GATES})}")


def _spelled(written: Mapping[str, Any]) -> Gate:
    """A gate that is written out. `owner` and `evidence` may be left out; what is there must be right."""
    if unknown := sorted(written.keys() - {"metric", "margin", "owner", "evidence"}):
        raise ConfigError(
            f"gate {dict(written)}: unknown key {unknown[0]!r}; a gate is metric, margin, owner, evidence"
        )
    metric, margin, owner = written.get("metric"), written.get("margin"), written.get("owner")
    if metric == "safety":
        raise ConfigError(f"gate {dict(written)}: safety has one margin, which nobody sets; write {SAFETY_GATE!r}")
    if metric not in METRICS:
        raise ConfigError(f"gate {dict(written)}: unknown metric {metric!r}{nearest(str(metric), METRICS)}")
    if not isinstance(margin, int | float) or isinstance(margin, bool) or not 0 < margin < float("inf"):
        raise ConfigError(f"gate {dict(written)}: margin {margin!r} is no number above 0")
    found = METRICS[str(metric)](float(margin), f"{metric}_within_{float(margin):.10g}")
    if owner is not None and owner not in get_args(Owner):
        raise ConfigError(f"gate {dict(written)}: unknown owner {owner!r}{nearest(str(owner), get_args(Owner))}")
    if (evidence := written.get("evidence", found.evidence)) != found.evidence:
        raise ConfigError(f"gate {dict(written)}: {metric} is judged on {found.evidence}, not on {evidence!r}")
    return found if owner is None else replace(found, owner=owner)


def gates(names: Iterable[str | Mapping[str, Any]] = DEFAULT_GATES) -> tuple[Gate, ...]:
    """The named gates followed by the online ones that were not named, which show what is still unknown.

    Raises ConfigError for an unknown name, a name given twice, or a list without the safety gate.
    """
    found = tuple(gate(written) for written in names)
    asked = [one.name for one in found]
    if repeated := sorted({name for name in asked if asked.count(name) > 1}):
        raise ConfigError(f"gate {repeated[0]!r} is listed twice; list each once")
    if SAFETY_GATE not in asked:
        raise ConfigError(f"gates {asked} leave out {SAFETY_GATE!r}, which cannot be left out; add it to the list")
    return (*found, *(online for online in ONLINE_GATES if online.name not in asked))


def evaluate_gates(chosen: Iterable[Gate], evidence: Evidence) -> tuple[GateResult, ...]:
    """Ask every gate; each answers for itself."""
    return tuple(one.evaluate(evidence) for one in chosen)
