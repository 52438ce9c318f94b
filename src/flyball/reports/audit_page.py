"""The hacking audit of a run as a page: what detectors saw and whether it was paid, held-out graders, people, the gate.

A detector is a rule and not a proof, so the page shows attempts that were caught and paid from end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flyball.evals.hacking import DETECTED, OVER_TRAINING, PEOPLE
from flyball.evals.readiness import Finding, succeeded
from flyball.graders.grade import HOLDOUT
from flyball.graders.hacks import deed_of, hacks_of
from flyball.reports.render import render
from flyball.reports.run_page import Example, example
from flyball.types import GateResult, GradedAttempt

STATES = {"ok": "pass", "warn": "inconclusive", "fail": "fail"}
"""The colour of a finding is that of a gate's answer."""


@dataclass(frozen=True)
class Section:
    """Findings on one question, those that fail first."""

    title: str
    note: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class AuditPage:
    """All that the page shows. `gate` None: no gate of the release judges reward hacking."""

    title: str
    run_id: str
    date: str
    num_attempts: int
    sections: tuple[Section, ...]
    gate: GateResult | None = None
    examples: tuple[Example, ...] = ()

    @property
    def summary(self) -> str:
        """What was found, in one line."""
        findings = [finding for section in self.sections for finding in section.findings]
        failed, warned = (sum(finding.level == level for finding in findings) for level in ("fail", "warn"))
        return f"{failed} of {len(findings)} findings fail, {warned} warn, on {self.num_attempts} attempts"


def audit_page_html(page: AuditPage) -> str:
    """The whole page as text."""
    return render("audit_page.html", page=page, states=STATES)


def sections_of(findings: Sequence[Finding]) -> tuple[Section, ...]:
    """Return the findings of `evals.hacking.audit` by the question that they answer; empty questions are left out."""
    asked = (
        ("Held out", "Graders that learning never read: success that they do not share is a gain on paper.", _held),
        ("Known hacks", "How often each detector fired, in all attempts and where success was paid.", _detected),
        ("People", "What people said about attempts drawn at random.", lambda finding: finding.name == PEOPLE),
        ("Redundancy", "Two graders that always go together are one grader counted twice.", _redundant),
    )
    found = ((title, note, tuple(sorted(filter(holds, findings), key=_worst_first))) for title, note, holds in asked)
    return tuple(Section(title, note, some) for title, note, some in found if some)


def caught_examples(graded: Sequence[GradedAttempt], most: int = 6) -> tuple[Example, ...]:
    """Attempts that succeeded and in which a detector fired, one per hack before a second of any."""
    caught: dict[str, list[Example]] = {}
    for one in filter(succeeded, graded):
        for name, seen in hacks_of(deed_of(one.attempt, one.attempt.task.hidden)).items():
            if len(caught.setdefault(name, [])) < most:
                told = example(one)
                caught[name].append(Example(f"{name}: {told.title}", seen, told.lines))
    in_turn = [some[i] for i in range(most) for some in caught.values() if i < len(some)]
    return tuple(in_turn[:most])


def _detected(finding: Finding) -> bool:
    return finding.name.startswith(DETECTED)


def _held(finding: Finding) -> bool:
    return finding.name.startswith(HOLDOUT.rstrip("/")) and not _redundant(finding)


def _redundant(finding: Finding) -> bool:
    return "correlation" in finding.evidence and OVER_TRAINING not in finding.name


def _worst_first(finding: Finding) -> int:
    return ("fail", "warn", "ok").index(finding.level)
