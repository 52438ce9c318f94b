"""The table of gates, and the names that people may write for them.

Two names carry a number: `latency_delta_lt_15_percent` and `rollback_under_5_minutes` mean what they say for any
number. A name that is not in the table is refused with the nearest one that is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flyball.errors import ConfigError, nearest
from flyball.release.efficiency import COST_PER_SUCCESS_NOT_WORSE, latency_gate
from flyball.release.evidence import Evidence
from flyball.release.gate import Gate
from flyball.release.hacking import NO_REWARD_HACKING
from flyball.release.online import ONLINE_GATES
from flyball.release.quality import MISSING_RATE, SUCCESS_IMPROVES, SUCCESS_NOT_WORSE
from flyball.release.recovery import rollback_gate
from flyball.release.safety import NO_SAFETY_REGRESSION, SAFETY_GATE
from flyball.types import GateResult

_NUMBER = r"(\d+(?:\.\d+)?)"
_LATENCY = re.compile(rf"latency_delta_lt_{_NUMBER}_percent")
_ROLLBACK = re.compile(rf"rollback_under_{_NUMBER}_minutes?")

_FIXED: dict[str, Gate] = {
    gate.name: gate
    for gate in (
        NO_SAFETY_REGRESSION,
        SUCCESS_IMPROVES,
        SUCCESS_NOT_WORSE,
        COST_PER_SUCCESS_NOT_WORSE,
        MISSING_RATE,
        NO_REWARD_HACKING,
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


def gate(name: str) -> Gate:
    """The gate of this name. Raises ConfigError for a name that means nothing, or a number that is 0."""
    if found := _FIXED.get(name):
        return found
    for pattern, make in ((_LATENCY, latency_gate), (_ROLLBACK, rollback_gate)):
        if match := pattern.fullmatch(name):
            number = float(match.group(1))
            if number == 0:
                raise ConfigError(f"gate {name!r}: a margin of 0 can never be met; write a number above 0")
            return make(number, name)
    raise ConfigError(f"unknown gate {name!r}{nearest(name, {*_FIXED, *DEFAULT_GATES})}")


def gates(names: Iterable[str] = DEFAULT_GATES) -> tuple[Gate, ...]:
    """The named gates followed by the online ones that were not named, which show what is still unknown.

    Raises ConfigError for an unknown name, a name given twice, or a list without the safety gate.
    """
    asked = list(names)
    if repeated := sorted({name for name in asked if asked.count(name) > 1}):
        raise ConfigError(f"gate {repeated[0]!r} is listed twice; list each once")
    found = tuple(gate(name) for name in asked)
    if SAFETY_GATE not in asked:
        raise ConfigError(f"gates {asked} leave out {SAFETY_GATE!r}, which cannot be left out; add it to the list")
    return (*found, *(online for online in ONLINE_GATES if online.name not in asked))


def evaluate_gates(chosen: Iterable[Gate], evidence: Evidence) -> tuple[GateResult, ...]:
    """Ask every gate; each answers for itself."""
    return tuple(one.evaluate(evidence) for one in chosen)
