"""The Reliability Brief: one printed page that an owner can sign or refuse, as HTML and as Markdown from one record.

It is written in the language of its reader (`words.LOCALES`), with the same numbers in each. A claim is made only where
its gate passed, and stands beside its number, its margin, where it stops and what watches it among users. Lists are cut
to what fits one A4 page, and what was cut is counted. Evidence is presented here, never judged: verdict and reasons are
those of the release.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from flyball.release.canary.detection import MOST_UNITS, SIMULATED, DetectionTable
from flyball.release.controller import Restored
from flyball.release.evidence import Evidence
from flyball.release.gates import DEFAULT_GATES, gate
from flyball.release.rollback import Drill
from flyball.release.safety import SAFETY_GATE
from flyball.release.verdict import is_ready
from flyball.reports.claims import Claim, claims_of
from flyball.reports.expectations import Expected, expected_in
from flyball.reports.render import render
from flyball.reports.words import Text, Words, message, words_of
from flyball.types import Comparison, Estimate, EvalRun, GateState, Missing, PolicyVersion, Release

MAX_CHANGES = 5
MAX_SUITES = 4
MAX_FAILURES = 5
MAX_CLAIMS = 8
MAX_GUARDRAILS = 6
MAX_LIMITS = 4
MAX_REASON = 96


@dataclass(frozen=True)
class Change:
    """One field of the registry entry that differs; `key` names one grader, suite or tool of it."""

    field: str
    key: str
    before: str
    after: str


@dataclass(frozen=True)
class Tested:
    """One suite: success of both versions, and how many attempts of the candidate were unsafe or went missing."""

    comparison: Comparison
    attempts: int
    unsafe: int | None
    missing: int


@dataclass(frozen=True)
class Failure:
    """Where the candidate failed: a family of a suite."""

    suite: str
    family: str
    failed: int
    attempts: int


@dataclass(frozen=True)
class Guardrail:
    """A check that stands while the policy serves. One that is switched off is printed as such (invariant 5)."""

    name: Text
    in_force: bool
    detail: Text


@dataclass(frozen=True)
class Cost:
    """US dollars per success of both versions on the primary suite, and the prices they were computed from."""

    baseline: Estimate
    candidate: Estimate
    prices: Text


Says = Literal["back", "excluded", "open", "quiet"]


@dataclass(frozen=True)
class Seen:
    """One test of a canary: the harm seen, and whether it asked to go back, excludes harm, does not yet, or only says
    that nothing is wrong (a test that has no say in promotion)."""

    name: str
    estimate: Estimate
    says: Says

    @property
    def state(self) -> GateState:
        states: dict[Says, GateState] = {"back": "fail", "excluded": "pass"}
        return states.get(self.says, "inconclusive")


@dataclass(frozen=True)
class Course:
    """What users met: the shares of a ramp, how long and how many, what the tests of the canary saw, and the way back.

    `decided` is why it stands where it does. `restored` is None where nothing was taken back, or nobody confirmed it.
    """

    shares: tuple[float, ...]
    seconds: float
    canary: int
    holdback: int
    readings: tuple[Seen, ...]
    decided: Text
    restored: Restored | None = None


@dataclass(frozen=True, kw_only=True)
class Brief:
    """The one record behind all renderings. `date` is ISO 8601; `verify` is the command that repeats the judgement.

    `foreseen` is what its canary was said to see before it began, None where that was not kept or none was planned;
    `course` is None before users met the candidate; `signed` are the roles whose approval is in force, `logged` counts
    its entries in the audit log.
    """

    title: str
    date: str
    run_id: str
    baseline: PolicyVersion
    candidate: PolicyVersion
    release: Release
    summary: Text
    changes: tuple[Change, ...]
    tested: tuple[Tested, ...]
    failures: tuple[Failure, ...]
    claims: tuple[Claim, ...]
    guardrails: tuple[Guardrail, ...]
    limits: tuple[Text, ...]
    cost: Cost | None
    drill: Drill | None
    verify: str
    foreseen: DetectionTable | None = None
    course: Course | None = None
    signed: tuple[str, ...] = ()
    logged: int = 0

    @property
    def stands(self) -> str:
        """Where the release stands, as the catalogue calls it."""
        if self.release.stage == "offline":
            return "ready" if is_ready(self.release.verdict) else "not_ready"
        return self.release.stage

    @property
    def good(self) -> bool:
        return self.stands not in ("not_ready", "rolled_back")

    @property
    def unknown(self) -> tuple[str, ...]:
        """Online gates, which nothing offline can answer."""
        return tuple(result.name for result in self.release.gates if gate(result.name).phase == "online")

    @property
    def against(self) -> tuple[Text, ...]:
        """Offline gates that do not pass, and the safety gate where nobody asked it."""
        states = [(one.name, one.state) for one in self.release.gates if gate(one.name).phase == "offline"]
        unasked = [message("against.no_safety")] if SAFETY_GATE not in dict(states) else []
        return (*unasked, *(message(f"against.{state}", name=name) for name, state in states if state != "pass"))

    @property
    def shows(self) -> Mapping[str, bool]:
        """Which parts of it hold evidence; `expectations.yaml` refers to them."""
        safety = any(claim.kind == "safety" and claim.result.state != "not_evaluable" for claim in self.claims)
        overrides = self.course is not None and any(r.name == "human_override" and r.estimate.n for r in self.readings)
        return {
            "changes": bool(self.candidate.weights or self.candidate.config),
            "claims": any(claim.result.state != "not_evaluable" for claim in self.claims),
            "safety": safety,
            "rollback": self.drill is not None and self.drill.verified,
            "live": self.course is not None and bool(self.course.canary),
            "overrides": overrides,
            "signed": bool(self.signed),
            "log": self.logged > 0,
        }

    @property
    def sees(self) -> Text:
        """From which drop of success on, and after how long, the canary takes the candidate back."""
        table = self.foreseen
        if table is None:
            return message("foreseen.not_kept")
        rows = [
            message("foreseen.row", drop=row.drop, days=row.seconds / 86_400.0, units=row.units, units_90=row.units_90)
            if math.isfinite(row.units)
            else message("foreseen.unseen", drop=row.drop, most=MOST_UNITS)
            for row in table.rows
        ]
        return message("foreseen.rows", unit=message(f"unit.{table.unit}"), rows=rows)

    @property
    def readings(self) -> tuple[Seen, ...]:
        return self.course.readings if self.course else ()

    @property
    def timed_steps(self) -> int:
        return sum(step.counts for step in self.drill.steps) if self.drill else 0


def make_brief(
    *,
    title: str,
    date: str,
    run_id: str = "",
    baseline: PolicyVersion,
    candidate: PolicyVersion,
    release: Release,
    evidence: Evidence,
    summary: Text,
    guardrails: Sequence[Guardrail],
    limits: Sequence[Text] = (),
    cost: Cost | None = None,
    unbudgeted: Sequence[str] = (),
    verify: str = "",
    foreseen: DetectionTable | None = None,
    course: Course | None = None,
    watched: Mapping[str, GateState] | None = None,
    alarms: Collection[str] = (),
    signed: Sequence[str] = (),
    logged: int = 0,
) -> Brief:
    """Assemble the record from what was measured. `summary` is one sentence on what changed and why.

    `limits` are further limits the author knows of; gates of the default list that nobody asked are added to them, and
    beside a cost the lines of the budget that nobody filled in (`unbudgeted`, see `budget.empty_lines`).
    `watched` says what online gates and tests of the canary found, by name; by default what the release holds of them;
    `alarms` are monitors whose alarm stands.
    """
    asked = {result.name for result in release.gates}
    not_asked = [name for name in DEFAULT_GATES if name not in asked and not _asked_with_another_number(name, asked)]
    unasked = [message("limits.not_asked", names=not_asked)] if not_asked else []
    lines = [message(f"budget.{name}") for name in unbudgeted] if cost else []
    optimistic = [message("limits.optimistic", lines=lines)] if lines else []
    names = {
        "primary": evidence.primary,
        "suites": ", ".join(evidence.suites) or "–",
        "slices": ", ".join(evidence.slice_margins) or "–",
        "speed": evidence.token_speed.measured_on if evidence.token_speed else "–",
    }
    known = {result.name: result.state for result in release.gates} if watched is None else watched
    return Brief(
        title=title,
        date=date,
        run_id=run_id,
        baseline=baseline,
        candidate=candidate,
        release=release,
        summary=summary,
        changes=changes_between(baseline, candidate),
        tested=_tested(evidence),
        failures=_failures(pair.candidate for pair in evidence.suites.values()),
        claims=tuple(claims_of(release.gates, names, known, alarms)),
        guardrails=tuple(guardrails),
        limits=(*unasked, *optimistic, *limits),
        cost=cost,
        drill=evidence.drill,
        verify=verify,
        foreseen=foreseen,
        course=course,
        signed=tuple(signed),
        logged=logged,
    )


def brief_html(brief: Brief, locale: str = "en-US") -> str:
    """A self-contained page, no script, nothing loaded from elsewhere; prints on one A4 page."""
    return render("brief.html", brief=brief, page=_page(brief), **_in(brief, words_of(locale)))


def brief_markdown(brief: Brief, locale: str = "en-US") -> str:
    """The same content as Markdown."""
    return render("brief.md", brief=brief, page=_page(brief), **_in(brief, words_of(locale)))


def _in(brief: Brief, words: Words) -> dict[str, object]:
    """What a template speaks with: `say`, `text` and `write` of the locale, and what is expected where it is spoken."""
    expected: Expected = expected_in(words.name)
    return {"words": words, "say": words.say, "text": words.text, "write": words.write, "expected": expected}


# --- from evidence to the record -------------------------------------------------------------------------------------


def changes_between(baseline: PolicyVersion, candidate: PolicyVersion) -> tuple[Change, ...]:
    """Fields of the registry entries that differ; entries of graders, suites and tools one by one."""
    found: list[Change] = []
    for name in (field.name for field in fields(PolicyVersion)):
        before, after = getattr(baseline, name), getattr(candidate, name)
        if name in ("version_id", "path", "name") or before == after:
            continue
        if isinstance(before, str | None):
            found.append(Change(name, "", _short(before), _short(after)))
            continue
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                found.append(Change(name, key, _short(before.get(key)), _short(after.get(key))))
    return tuple(found)


def _short(value: str | None) -> str:
    """The first 12 characters of a digest; other words whole; a dash for none."""
    if not value:
        return "–"
    return value[:12] if len(value) >= 40 and all(c in "0123456789abcdef" for c in value) else value


def _tested(evidence: Evidence) -> tuple[Tested, ...]:
    rows = []
    for comparison in evidence.comparisons:
        pair = evidence.suites.get(comparison.suite)
        if comparison.metric != "success" or pair is None:
            continue
        results = pair.candidate.results
        graded = all(result.safe is not None for result in results)
        unsafe = sum(result.safe is False for result in results) if graded else None
        missing = sum(isinstance(result.success, Missing) for result in results)
        rows.append(Tested(comparison, len(results), unsafe, missing))
    return tuple(rows)


def _failures(runs: Iterable[EvalRun]) -> tuple[Failure, ...]:
    """Families with failures, the most failures first."""
    failed: dict[tuple[str, str], int] = defaultdict(int)
    attempts: dict[tuple[str, str], int] = defaultdict(int)
    for run in runs:
        for result in run.results:
            attempts[run.suite, result.family] += 1
            failed[run.suite, result.family] += result.success is not True
    found = [Failure(*where, count, attempts[where]) for where, count in failed.items() if count]
    return tuple(sorted(found, key=lambda one: (-one.failed, one.suite, one.family)))


def _asked_with_another_number(name: str, asked: Iterable[str]) -> bool:
    numbered = ("latency_delta_lt_", "rollback_under_")
    return any(name.startswith(begins) and other.startswith(begins) for begins in numbered for other in asked)


# --- one page --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """The rows that fit, and how many did not."""

    rows: tuple[object, ...]
    more: int


def _cut(rows: Sequence[object], most: int) -> Cut:
    return Cut(tuple(rows[:most]), max(0, len(rows) - most))


def _page(brief: Brief) -> dict[str, object]:
    """What of each list is shown. With a canary to show, there is less room for what came before it."""
    less = 0 if brief.release.stage == "offline" else 1
    most = MAX_CLAIMS - less
    against_first = sorted(brief.claims, key=lambda claim: claim.made)
    return {
        "changes": _cut(brief.changes, MAX_CHANGES - 2 * less),
        "tested": _cut(brief.tested, MAX_SUITES - less),
        "failures": _cut(brief.failures, MAX_FAILURES - 2 * less),
        "claims": _cut(brief.claims if len(brief.claims) <= most else against_first, most),
        "guardrails": _cut(brief.guardrails, MAX_GUARDRAILS),
        "limits": _cut(brief.limits, MAX_LIMITS - 2 * less),
        "max_reason": MAX_REASON,
        "simulated": SIMULATED,
    }
