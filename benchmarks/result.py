"""What a benchmark claims, what was measured, and on what: the one form in which every number of this project is kept.

    benchmarks/results/NAME.json         a list of results, one per claim
    benchmarks/results/NAME.rows.jsonl   the raw rows behind them, one per seed or case, appended as each is finished

A claim that was missed is kept with the reason. A benchmark works out findings; `publish` makes results of them and
writes nothing as long as a missed claim has no reason.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import orjson

from flyball.errors import EvalError, nearest
from flyball.types import Estimate

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "flyball")

Interval = tuple[float | None, float | None]
"""Lower and upper bound; None is an open side."""


@dataclass(frozen=True)
class Finding:
    """One claim beside what was measured. `target` says in words what is computed and when the claim holds.

    `value` and `interval` are in `unit`; `n` counts what the interval is over. `details` holds what `value` sums up.
    """

    id: str
    claim: str
    target: str
    value: float
    interval: Interval
    n: int
    unit: str
    holds: bool
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result(Finding):
    """A finding with where it comes from. `kind`: a target of this project, or the reproduction of a published number.

    Raises EvalError for a missed claim without a reason.
    """

    kind: Literal["target", "reproduction"]
    command: str
    reason: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    date: str

    def __post_init__(self) -> None:
        if not self.holds and not self.reason.strip():
            raise EvalError(f"{self.id}: the claim was missed and has no reason; say why")


def bounds(estimate: Estimate, scale: float = 1.0) -> Interval:
    """Return the interval of an estimate, times `scale`; an infinite side is open."""
    low, high = (scale * bound if abs(bound) != float("inf") else None for bound in (estimate.low, estimate.high))
    return low, high


def publish(
    name: str,
    findings: Sequence[Finding],
    *,
    command: str,
    reasons: Mapping[str, str],
    kind: Literal["target", "reproduction"] = "target",
    folder: Path = RESULTS,
) -> list[Result]:
    """Write the findings as results, whole or not at all.

    `reasons` explains missed claims by their id; one for a claim that holds is kept for another day. Raises EvalError
    that lists every missed claim without a reason, or names a reason for a claim that does not exist.
    """
    _check(findings, reasons)
    results = [
        Result(
            **vars(finding),
            kind=kind,
            command=command,
            reason="" if finding.holds else reasons[finding.id],
            machine=machine(),
            versions=versions(),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
        )
        for finding in findings
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    partial.replace(path)
    return results


def _check(findings: Sequence[Finding], reasons: Mapping[str, str]) -> None:
    ids = [finding.id for finding in findings]
    if unknown := [name for name in reasons if name not in ids]:
        raise EvalError(f"a reason is given for {unknown[0]!r}, which is no claim{nearest(unknown[0], ids)}")
    unexplained = [f for f in findings if not f.holds and not reasons.get(f.id, "").strip()]
    if unexplained:
        lines = [f"  {f.id}: {f.claim}: {f.value:.4g} {f.unit}" for f in unexplained]
        raise EvalError(
            "these claims were missed, and nothing is written until each has a reason "
            "(a JSON file of claim id to text, --reasons FILE):\n" + "\n".join(lines)
        )


# --- raw rows --------------------------------------------------------------------------------------------------------


def rows_file(name: str, folder: Path = RESULTS) -> Path:
    """Return where the rows of a benchmark lie."""
    return folder / f"{name}.rows.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows written so far, none when there is no file. Raises EvalError for a line that is no object."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            rows.append(dict(orjson.loads(line)))
        except (orjson.JSONDecodeError, TypeError, ValueError) as exc:
            raise EvalError(f"{path}:{number}: no JSON object ({exc}); delete the line, its case runs again") from exc
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one row; it is on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(orjson.dumps(row) + b"\n")
        file.flush()
        os.fsync(file.fileno())


# --- where it was measured -------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return processor model, cores this process may use, and memory in GiB: what speed depends on, and no names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": _cpu_model(), "cores": _cores(), "memory_gib": round(memory, 1)}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the numbers depend on."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def median_ratio(rows: Sequence[Mapping[str, float]], over: str, under: str) -> tuple[float, tuple[float, float], int]:
    """Median over rounds of `over` / `under`, its 95 % bootstrap interval, and the number of rounds that have both."""
    ratios = np.array([row[over] / row[under] for row in rows if over in row and under in row])
    if not len(ratios):
        raise EvalError(f"no round has both {over} and {under}")
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return median(ratios.tolist()), (float(low), float(high)), len(ratios)
