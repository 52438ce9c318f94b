"""Canary decisions on simulated releases: errors at every margin, detection times, late labels, heavy users, replay.

    python -m benchmarks.canary --runs 2000        # about an hour on one core; finished cases are not run again

A release is a stream of sessions with a fair coin per key, judged by `judge_canary` as live ones are. Its rollback
tests are read at every look (the first block at which each of them fired), its promotion at four looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.result import RESULTS, Finding, append_row, publish, read_rows, rows_file
from flyball.release.canary.detection import detection_table
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.units import Label, ServedSession
from flyball.release.canary.verdict import CanaryVerdict, judge_canary
from flyball.stats.binomial import exact_upper

NAME = "canary"
PLAN = CanaryPlan(owner="benchmark", label_deadline=3600.0, cost_cap=0.2)
FOREVER = 1e12
BASE = 0.8


@dataclass(frozen=True)
class Candidate:
    """How the canary differs from the holdback. `delay`: seconds to the label of a success and of a failure."""

    drop: float = 0.0
    override: float = 0.0
    tool_error: float = 0.0
    unsafe_ratio: float = 1.0
    dearer: float = 1.0
    slower: float = 1.0
    lost_failures: float = 0.0
    delay: tuple[float, float] = (60.0, 60.0)


def traffic(rng: np.random.Generator, n: int, candidate: Candidate, *, every: float = 10.0) -> list[ServedSession]:
    """n sessions, one each `every` seconds; base rates 80 % success, 5 % overrides and tool errors, 2 % unsafe."""
    canary = rng.random(n) < 0.5
    ok = rng.random(n) < BASE - candidate.drop * canary
    override = rng.random(n) < 0.05 + candidate.override * canary
    tool_error = rng.random(n) < 0.05 + candidate.tool_error * canary
    unsafe = rng.random(n) < 0.02 * np.where(canary, candidate.unsafe_ratio, 1.0)
    cost = rng.gamma(4.0, 0.01, n) * np.where(canary, candidate.dearer, 1.0)
    seconds = np.exp(rng.normal(2.0, 0.5, n)) * np.where(canary, candidate.slower, 1.0)
    lost = canary & ~ok & (rng.random(n) < candidate.lost_failures)
    return [
        ServedSession(
            session_id=f"s{i:07}",
            key=f"s{i:07}",
            arm="canary" if canary[i] else "holdback",
            assigned_at=i * every,
            ended_at=i * every + 30.0,
            labels=() if lost[i] else (Label(bool(ok[i]), i * every + candidate.delay[0 if ok[i] else 1]),),
            override=bool(override[i]),
            tool_error=bool(tool_error[i]),
            unsafe=bool(unsafe[i]),
            cost_usd=float(cost[i]),
            seconds=float(seconds[i]),
        )
        for i in range(n)
    ]


def heavy_users(rng: np.random.Generator, n: int, users: int, by_user: bool) -> list[ServedSession]:
    """n sessions by users of their own skill (20 to 100 %) and Pareto-distributed diligence; both arms are equal."""
    weight = rng.pareto(1.2, users) + 0.05
    skill = rng.uniform(0.2, 1.0, users)
    who = rng.choice(users, n, p=weight / weight.sum())
    ok = rng.random(n) < skill[who]
    coin = rng.random(users if by_user else n) < 0.5
    canary = coin[who] if by_user else coin
    return [
        ServedSession(
            session_id=f"s{i:07}",
            key=f"u{who[i]}" if by_user else f"s{i:07}",
            arm="canary" if canary[i] else "holdback",
            assigned_at=i * 10.0,
            ended_at=i * 10.0 + 30.0,
            labels=(Label(bool(ok[i]), i * 10.0 + 60.0),),
            cost_usd=0.04,
            seconds=8.0,
        )
        for i in range(n)
    ]


# --- cases -----------------------------------------------------------------------------------------------------------


def _success_promotes(verdict: CanaryVerdict) -> bool:
    """Whether the success test alone would promote: what the other tests must not be needed for."""
    return any(reading.name == "success" and reading.promotes for reading in verdict.readings)


def _row(verdict: CanaryVerdict, promoted: bool) -> dict[str, Any]:
    return {
        "word": verdict.word,
        "promoted": promoted,
        "blocks": verdict.blocks,
        "units": verdict.units,
        "fired": {r.name: r.rollback_at for r in verdict.readings if r.rollback_at is not None},
    }


def judge(served: Sequence[ServedSession], plan: CanaryPlan, looks: int = 1) -> dict[str, Any]:
    """The verdict at the end (it knows when each rollback test fired), and whether the success test would have promoted
    at any of the looks on the way."""
    last = served[-1].assigned_at
    times = [last * (look + 1) / looks + plan.matures_after for look in range(looks)]
    verdicts = [judge_canary(served, plan, now) for now in times]
    return _row(verdicts[-1], any(map(_success_promotes, verdicts)))


def arrival_order(served: Sequence[ServedSession], plan: CanaryPlan) -> dict[str, Any]:
    """The wrong reading: a session enters when its label does, and only labelled ones are there at each look."""
    ordered = sorted(served, key=lambda s: s.labels[0].received_at)
    for now in np.linspace(0.1, 1.0, 10) * served[-1].assigned_at:
        known = [s for s in ordered if s.labels[0].received_at <= now]
        moved = [
            replace(
                s, assigned_at=s.labels[0].received_at, labels=(Label(s.labels[0].success, s.labels[0].received_at),)
            )
            for s in known
        ]
        if moved and _success_promotes(judge_canary(moved, plan, FOREVER)):
            return {"promoted": True}
    return {"promoted": False}


Case = Callable[[np.random.Generator], dict[str, Any]]

LATE = Candidate(drop=0.1, delay=(600.0, 10_800.0))
LATE_PLAN = replace(PLAN, label_deadline=14_400.0)


def release(candidate: Candidate, n: int = 3000, looks: int = 1) -> Case:
    return lambda rng: judge(traffic(rng, n, candidate), PLAN, looks)


def users(count: int, by_user: bool, n: int = 3000) -> Case:
    plan = replace(PLAN, unit="user", user_window=n * 10.0) if by_user else PLAN
    return lambda rng: judge(heavy_users(rng, n, count, by_user), plan)


CASES: dict[str, tuple[Case, float]] = {
    # name: the case, and its share of --runs
    "equal": (release(Candidate()), 1.0),
    "at.success": (release(Candidate(drop=PLAN.success.tolerated)), 1.0),
    "at.human_override": (release(Candidate(override=PLAN.human_override.tolerated)), 1.0),
    "at.tool_error": (release(Candidate(tool_error=PLAN.tool_error.tolerated)), 1.0),
    "at.safety": (release(Candidate(unsafe_ratio=PLAN.unsafe_ratio)), 1.0),
    "at.cost_per_success": (release(Candidate(dearer=1.0 + PLAN.cost_per_success.tolerated)), 1.0),
    "at.latency": (release(Candidate(slower=1.0 + PLAN.latency.tolerated)), 1.0),
    "excluded": (release(Candidate(drop=PLAN.success.excluded), 8000, 4), 0.25),
    "crashes.worse": (release(Candidate(drop=PLAN.success.excluded, lost_failures=0.3), looks=4), 0.25),
    "drop10": (release(Candidate(drop=0.1), 8000), 0.1),
    "drop20": (release(Candidate(drop=0.2), 3000), 0.1),
    "late": (lambda rng: judge(traffic(rng, 4000, LATE, every=5.0), LATE_PLAN, 4), 0.25),
    "late.arrival": (lambda rng: arrival_order(traffic(rng, 4000, LATE, every=5.0), LATE_PLAN), 0.05),
    "users100.session": (users(100, False), 0.25),
    "users400.session": (users(400, False), 0.25),
    "users100.user": (users(100, True), 0.25),
    "users400.user": (users(400, True), 0.25),
}


# --- findings --------------------------------------------------------------------------------------------------------


def at_most(id: str, claim: str, events: int, n: int, alpha: float) -> Finding:
    """A rate that may not exceed alpha: it holds when its exact lower 95 % bound does not."""
    low, high = 1.0 - exact_upper(n - events, n), exact_upper(events, n)
    target = f"exact lower 95 % bound of the share at most {100 * alpha:g} %"
    return Finding(id, claim, target, 100 * events / n, (100 * low, 100 * high), n, "%", low <= alpha)


def detection(id: str, drop: float, rows: list[dict[str, Any]]) -> Finding:
    """Units per arm to the rollback by the success test, against the table that is published before a launch."""
    (published,) = detection_table(PLAN, base=BASE, units_per_day=1000, share=0.5, drops=[drop])
    per_block = np.mean([row["units"] / row["blocks"] for row in rows]) / 2.0
    found = np.asarray([row["fired"].get("success", np.inf) for row in rows]) + 1.0
    n = len(found)
    median = float(np.median(found) * per_block)
    spread = 0.98 * np.sqrt(n)  # order statistics: n / 2 -+ z sqrt(n) / 2
    low, high = np.sort(found)[[int(n / 2 - spread), min(n - 1, int(n / 2 + spread))]] * per_block
    return Finding(
        id,
        f"a drop of {100 * drop:g} points at base {BASE:g}: median units per arm to rollback as published",
        f"within 15 % of the table's {published.units:.0f}",
        median,
        (float(low), float(high)),
        n,
        "units per arm",
        abs(median / published.units - 1.0) <= 0.15,
        {"published": published.units},
    )


def findings(rows: list[dict[str, Any]]) -> list[Finding]:
    """Every claim over the rows of its cases."""
    of = {case: [row for row in rows if row["case"] == case] for case in CASES}

    def count(case: str, test: Callable[[dict[str, Any]], bool]) -> tuple[int, int]:
        return sum(map(test, of[case])), len(of[case])

    def fired(row: dict[str, Any]) -> bool:
        return bool(row["fired"])

    def promoted(row: dict[str, Any]) -> bool:
        return bool(row["promoted"])

    alpha = PLAN.alpha_rollback
    found = [at_most("equal", "equal candidates rolled back by any of six tests", *count("equal", fired), alpha)]
    for test in PLAN.shares:
        events = count(f"at.{test}", lambda row, test=test: test in row["fired"])  # type: ignore[misc]
        claim = f"candidates with exactly the tolerated harm rolled back by {test}"
        found.append(at_most(f"boundary.{test}", claim, *events, PLAN.alpha(test)))
    for case, claim in (
        ("excluded", "candidates exactly 5 points worse that the success test would promote, four looks"),
        ("crashes.worse", "candidates 5 points worse that crash on 30 % of their own failures and would be promoted"),
        ("late", "candidates 10 points worse whose failures surface after 3 hours and that would be promoted"),
    ):
        found.append(at_most(case, claim, *count(case, promoted), PLAN.alpha_promote))
    for case in ("users100.session", "users400.session", "users100.user", "users400.user"):
        number, unit = case.removeprefix("users").split(".")
        claim = f"equal candidates before {number} users of Pareto diligence, arms by {unit}, rolled back"
        found.append(at_most(case, claim, *count(case, fired), alpha))
    found += [detection("drop10", 0.10, of["drop10"]), detection("drop20", 0.20, of["drop20"])]
    wrong, n = count("late.arrival", promoted)
    low = 1.0 - exact_upper(n - wrong, n)
    found.append(
        Finding(
            "late.arrival",
            "the same candidates when labels enter as they arrive: the reading that must fail",
            "exact lower 95 % bound of the share above 5 %",
            100 * wrong / n,
            (100 * low, 100 * exact_upper(wrong, n)),
            n,
            "%",
            low > PLAN.alpha_promote,
        )
    )
    return [*found, *replay_findings(of_replay(rows))]


def of_replay(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["case"] == "replay"]


def replay_findings(rows: list[dict[str, Any]]) -> list[Finding]:
    seconds = sorted(row["seconds"] for row in rows)
    return [
        Finding(
            "replay",
            "replay of 100,000 pairs from stored sessions gives the same verdict",
            "median under 5 s, every verdict equal",
            float(np.median(seconds)),
            (seconds[0], seconds[-1]),
            len(rows),
            "s",
            bool(np.median(seconds) < 5.0 and all(row["same"] for row in rows)),
        )
    ]


def replay(path: Path, times: int = 5) -> None:
    """Judge the same 200,000 sessions again and again."""
    served = traffic(np.random.default_rng(0), 200_000, Candidate())
    first = judge_canary(served, PLAN, FOREVER)
    for again in range(times):
        started = time.perf_counter()
        same = judge_canary(list(reversed(served)), PLAN, FOREVER) == first
        append_row(path, {"case": "replay", "seed": again, "seconds": time.perf_counter() - started, "same": same})


@click.command()
@click.option("--runs", type=click.IntRange(min=20), default=2000, show_default=True, help="Releases per boundary.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="Where results go.")
def main(runs: int, folder: Path) -> None:
    """Simulate, then write the findings."""
    path = rows_file(NAME, folder)
    done = {(row["case"], row["seed"]) for row in read_rows(path)}
    for index, (name, (case, part)) in enumerate(CASES.items()):
        seeds = [seed for seed in range(max(20, round(runs * part))) if (name, seed) not in done]
        with click.progressbar(seeds, label=f"{name:<20}") as bar:
            for seed in bar:
                append_row(path, {"case": name, "seed": seed, **case(np.random.default_rng((index, seed)))})
    if ("replay", 0) not in done:
        replay(path)
    found = findings(read_rows(path))
    for one in found:
        interval = " to ".join("?" if bound is None else f"{bound:.3g}" for bound in one.interval)
        print(f"{'holds ' if one.holds else 'missed'} {one.id:<22} {one.value:8.3g} [{interval}] {one.unit}, n={one.n}")
    publish(NAME, found, command=f"python -m benchmarks.canary --runs {runs}", reasons={}, folder=folder)


if __name__ == "__main__":
    main()
