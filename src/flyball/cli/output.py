"""How results look on a terminal: aligned plain text, the same for a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click
from rich.console import Console

from flyball.evals.readiness import Finding
from flyball.evals.slices import verdict_with
from flyball.stats.binomial import wilson
from flyball.stats.written import format_estimate
from flyball.types import Comparison, EvalRun, Missing, Release
from flyball.workflow.pages import summaries_of
from flyball.workflow.progress import LiveProgress, PlainProgress, Progress
from flyball.workflow.record import Record

STATE_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "not_evaluable": "bright_black"}
LEVEL_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
VERDICT_COLOURS = {"accept": "green", "reject": "red", "inconclusive": "yellow"}


def progress_for_terminal() -> Progress:
    """Return a live bar on a terminal, lines now and then elsewhere; both on stderr, so stdout holds results only."""
    if sys.stderr.isatty():
        return LiveProgress(Console(stderr=True))
    return PlainProgress(lambda line: click.echo(line, err=True))


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what checks saw, one line each, the level first."""
    for finding in findings:
        level = click.style(f"{finding.level:<6}", fg=LEVEL_COLOURS[finding.level])
        click.echo(f"{level}{finding.name}: {finding.text}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; the last one is not padded."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for number, row in enumerate((head, *rows)):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)


def print_success(record: Record) -> None:
    """Print success of every arm on every suite."""
    summaries = summaries_of(record)
    suites = list(next(iter(summaries.values())))
    rows = [
        [suite, *(format_estimate(by_suite[suite][0].numbers["success"]) for by_suite in summaries.values())]
        for suite in suites
    ]
    table(["success", *summaries], rows)
    if any(uses > len(summaries) for uses in record.suite_uses.values()):
        uses = ", ".join(f"{suite} {uses}" for suite, uses in record.suite_uses.items())
        click.echo(f"versions judged by these frozen suites so far: {uses}; fresh tasks owe nothing to the choice")


def print_coverage(arms: Mapping[str, EvalRun]) -> None:
    """Print how many trials of each arm have an outcome; the others count against the candidate."""
    seen = []
    for arm, run in arms.items():
        judged = sum(not isinstance(result.success, Missing) for result in run.results)
        seen.append(f"{arm} {format_estimate(wilson(judged, len(run.results)))}")
    click.echo(f"{next(iter(arms.values())).suite}, trials with an outcome: {'; '.join(seen)}")


def print_comparisons(comparisons: Sequence[Comparison], slices: Mapping[str, Sequence[Comparison]]) -> None:
    """Print the paired difference and the verdict: each suite, its protected slices below it, and what they come to."""
    for found in comparisons:
        of_suite = slices.get(found.suite, ())
        for one in (found, *of_suite):
            more = f"; about {one.more_needed} more tasks would settle it" if one.more_needed else ""
            verdict = click.style(one.verdict, fg=VERDICT_COLOURS[one.verdict])
            margin = f" at margin {one.margin:g}" if one.margin else ""
            click.echo(f"{one.suite}: {format_estimate(one.difference, signed=True)}  {verdict}{margin}{more}")
        if of_suite:
            both, m = verdict_with(found, of_suite), len(of_suite)
            verdict = click.style(both, fg=VERDICT_COLOURS[both])
            rule = f"each must be accepted; a loss is shown at 5 % over the {m} together"
            click.echo(f"{found.suite} and its protected slices ({m}): {verdict} ({rule})")


def print_release(release: Release) -> None:
    """Print every gate with its owner, rule and reason, and the verdict."""
    for gate in release.gates:
        state = click.style(f"{gate.state:<14}", fg=STATE_COLOURS[gate.state])
        click.echo(f"{state} {gate.name} ({gate.owner}): {gate.rule}\n{'':<15}{gate.reason}")
    click.echo(f"\nverdict: {click.style(release.verdict, bold=True)}")
