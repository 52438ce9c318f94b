"""`flyball canary`: what a canary will be able to see, and what served sessions prove. Needs no run and no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import click

from flyball.cli.group import Group
from flyball.cli.output import table
from flyball.release.canary.detection import Detection, detection_table, recommended_share
from flyball.release.canary.plan import Unit
from flyball.release.canary.read import read_plan, read_sessions
from flyball.release.canary.readings import Reading
from flyball.release.canary.verdict import CanaryVerdict, judge_canary
from flyball.stats.written import format_estimate

WORD_COLOURS = {"rolling_back": "red", "holding": "yellow", "not_yet": "bright_black", "ready": "green"}
EXIT_CODES = {"ready": 0, "not_yet": 3, "holding": 3, "rolling_back": 1}

plan_argument = click.argument("plan_file", metavar="PLAN.yaml", type=click.Path(path_type=Path))


@click.group(cls=Group)
def canary() -> None:
    """Say what a canary can see before it starts, and judge its sessions."""


@canary.command()
@plan_argument
@click.option("--base", type=float, required=True, help="Share of success of the version in force.")
@click.option("--per-day", type=float, required=True, help="Sessions a day (users a day, if the plan's unit is user).")
def plan(plan_file: Path, base: float, per_day: float) -> None:
    """Print the detection table of a plan and the split it needs.

    Refused, with exit code 4, when the harm that the owner named cannot be seen within the horizon, whatever the split.
    """
    found = read_plan(plan_file)
    click.echo("simulating releases under this plan (small drops take longest) ...", err=True)
    share = recommended_share(found, base=base, units_per_day=per_day)
    click.echo(
        f"{100 * share:g} % canary and {100 * share:g} % holdback show a drop of {100 * found.harm:g} points within "
        f"{found.horizon / 86_400:.3g} days\n"
    )
    print_detection(detection_table(found, base=base, units_per_day=per_day, share=share), found.unit)


@canary.command()
@plan_argument
@click.argument("sessions_file", metavar="SESSIONS.jsonl", type=click.Path(path_type=Path))
@click.option("--now", type=float, required=True, help="Time of the look, on the clock of the sessions, in seconds.")
def judge(plan_file: Path, sessions_file: Path, now: float) -> None:
    """Judge served sessions: rolling_back, holding, not_yet or ready.

    The same files give the same verdict again. Exit codes: 0 ready, 1 rolling_back, 3 not_yet or holding, 4 an error.
    """
    verdict = judge_canary(read_sessions(sessions_file), read_plan(plan_file), now)
    print_verdict(verdict)
    click.get_current_context().exit(EXIT_CODES[verdict.word])


def print_detection(found: Sequence[Detection], unit: Unit) -> None:
    """Print after how many units and days a canary takes a drop of success back."""
    rows = [
        [
            f"{100 * row.drop:g}",
            _number(row.units),
            _number(row.units_90),
            _days(row.seconds),
            _number(row.extra_failures),
        ]
        for row in found
    ]
    table(["drop, points", f"{unit}s per arm (median)", "(9 of 10)", "days", "extra failures"], rows)


def print_verdict(verdict: CanaryVerdict) -> None:
    """Print every test with its owner, rule and estimate, the reasons and the word."""
    for reading in verdict.readings:
        click.echo(f"{_state(reading):<12} {reading.name} ({reading.owner}): {reading.rule}")
        seen = f"{format_estimate(reading.estimate, signed=True)} blocks" if verdict.blocks else "no block"
        click.echo(f"{'':<12} {seen}")
    click.echo(f"\n{verdict.units} units in {verdict.blocks} blocks, {verdict.waiting} wait for labels or their turn")
    for reason in verdict.reasons:
        click.echo(f"because {reason}")
    click.echo(f"verdict: {click.style(verdict.word, fg=WORD_COLOURS[verdict.word], bold=True)}")


def _state(reading: Reading) -> str:
    if reading.rollback_at is not None:
        return "back"
    return {None: "no harm seen", True: "met", False: "open"}[reading.promotes]


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "not seen"


def _days(seconds: float) -> str:
    return f"{seconds / 86_400:.1f}" if math.isfinite(seconds) else "-"
