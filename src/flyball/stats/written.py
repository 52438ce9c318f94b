"""Numbers as people read them, always with n and interval.

    62.5 % [56.1, 68.4], n=240        +21.3 points [+14.8, +27.9], n=240        $0.00021 [0.00019, 0.00024], n=240

Pure text: rounding happens here and nowhere else, so every page and every line shows the same number the same way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from flyball.types import Estimate

MINUS = "−"
NO_VALUE = "—"
SHARES = frozenset({"share", "score", "relative"})
WRITTEN_UNITS = SHARES | {"USD"}


@dataclass(frozen=True)
class Shown:
    """An estimate in three parts, for pages that set them apart."""

    value: str
    bounds: str
    n: str

    def __str__(self) -> str:
        return f"{self.value} {self.bounds}, {self.n}"


def shown(estimate: Estimate, *, signed: bool = False) -> Shown:
    """Round and name the unit. `signed`: it is a difference, so shares become points and a plus is written."""
    unit = estimate.unit
    if unit in SHARES:
        word = " points" if signed and unit != "relative" else " %"
        sign = "+" if signed or unit == "relative" else ""
        return _parts(estimate, lambda x: _number(f"{100 * x:{sign}.1f}", x), "", word)
    sign = "+" if signed else ""
    if unit == "USD":
        return _parts(estimate, lambda x: _number(significant(x, sign), x), "$", "")
    return _parts(estimate, lambda x: _number(significant(x, sign), x), "", f" {unit}" if unit else "")


def format_estimate(estimate: Estimate, *, signed: bool = False) -> str:
    """One line of `shown`."""
    return str(shown(estimate, signed=signed))


def significant(value: float, sign: str = "") -> str:
    """Three significant digits, or all digits before the point; never in powers of ten."""
    if value == 0 or not math.isfinite(value):
        return f"{value:{sign}g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:{sign}.{digits}f}"


def with_minus(text: str) -> str:
    """Hyphens before digits as minus signs; names with hyphens and dates stay."""
    return re.sub(r"(?<![\w.])-(?=\d)", MINUS, text)


def _number(text: str, value: float) -> str:
    if math.isinf(value):
        return "unbounded"
    return NO_VALUE if math.isnan(value) else with_minus(text)


def _parts(estimate: Estimate, write: Callable[[float], str], before: str, after: str) -> Shown:
    value, low, high = write(estimate.value), write(estimate.low), write(estimate.high)
    sign = value[0] if value[0] in f"+{MINUS}" else ""
    whole = f"{sign}{before}{value.removeprefix(sign)}{after}" if math.isfinite(estimate.value) else value
    return Shown(whole, f"[{low}, {high}]", f"n={estimate.n}")
