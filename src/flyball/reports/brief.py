"""The Reliability Brief: one printed page that an owner can sign or refuse, as HTML and as Markdown from one record.

A claim is made only where its gate passed, and stands beside its number, its margin and where it stops. Lists are cut
to what fits one A4 page, and what was cut is counted. Evidence is presented here, never judged: verdict and reasons are
those of the release.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from flyball.release.evidence import Evidence
from flyball.release.gates import DEFAULT_GATES, gate
from flyball.release.rollback import Drill
from flyball.release.verdict import is_ready
from flyball.reports.render import render
from flyball.types import Comparison, Estimate, EvalRun, GateResult, GateState, Missing, PolicyVersion, Release

MAX_CHANGES = 5
MAX_SUITES = 5
MAX_FAILURES = 5
MAX_GUARDRAILS = 6
MAX_LIMITS = 3
MAX_REASON = 112


@dataclass(frozen=True)
class Change:
    """One field of the registry entry that differs."""

    what: str
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
class Claim:
    """A gate as a sentence. `limit` says where the claim stops; a gate that did not pass makes no claim."""

    text: str
    limit: str
    result: GateResult

    @property
    def made(self) -> bool:
        return self.result.state == "pass"

    @property
    def words(self) -> str:
        return self.text if self.made else f"Not claimed: {self.text[0].lower()}{self.text[1:]}"

    @property
    def found(self) -> str:
        """The gate's reason, and how many more tasks would settle an open one, led by what is short."""
        more = self.result.more_needed
        return f"about {more} more tasks would settle it; {self.result.reason}" if more else self.result.reason


@dataclass(frozen=True)
class Guardrail:
    """A check that stands while the policy serves. One that is switched off is printed as such (invariant 5)."""

    name: str
    in_force: bool
    detail: str


@dataclass(frozen=True)
class Cost:
    """US dollars per success of both versions on the primary suite, and the prices they were computed from."""

    baseline: Estimate
    candidate: Estimate
    prices: str


@dataclass(frozen=True)
class Brief:
    """The one record behind both renderings. `date` is ISO 8601; `verify` is the command that repeats the judgement."""

    title: str
    date: str
    run_id: str
    baseline: PolicyVersion
    candidate: PolicyVersion
    release: Release
    summary: str
    changes: tuple[Change, ...]
    tested: tuple[Tested, ...]
    failures: tuple[Failure, ...]
    claims: tuple[Claim, ...]
    guardrails: tuple[Guardrail, ...]
    limits: tuple[str, ...]
    cost: Cost | None
    drill: Drill | None
    verify: str

    @property
    def ready(self) -> bool:
        return is_ready(self.release.verdict)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Online gates, which nothing offline can answer."""
        return tuple(result.name for result in self.release.gates if gate(result.name).phase == "online")


def make_brief(
    *,
    title: str,
    date: str,
    run_id: str,
    baseline: PolicyVersion,
    candidate: PolicyVersion,
    release: Release,
    evidence: Evidence,
    summary: str,
    guardrails: Sequence[Guardrail],
    limits: Sequence[str] = (),
    cost: Cost | None = None,
    verify: str = "",
) -> Brief:
    """Assemble the record from what was measured. `summary` is one sentence on what changed and why.

    `limits` are further limits the author knows of; gates of the default list that nobody asked are added to them.
    """
    asked = {result.name for result in release.gates}
    not_asked = [name for name in DEFAULT_GATES if name not in asked and not _asked_with_another_number(name, asked)]
    unasked = [f"Not judged, since the workflow does not list it: {', '.join(not_asked)}."] if not_asked else []
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
        claims=tuple(_claim(result, evidence) for result in release.gates if gate(result.name).phase == "offline"),
        guardrails=tuple(guardrails),
        limits=(*unasked, *limits),
        cost=cost,
        drill=evidence.drill,
        verify=verify,
    )


def brief_html(brief: Brief) -> str:
    """A self-contained page, no script, nothing loaded from elsewhere; prints on one A4 page."""
    return render("brief.html", brief=brief, page=_page(brief))


def brief_markdown(brief: Brief) -> str:
    """The same content as Markdown."""
    return render("brief.md", brief=brief, page=_page(brief))


# --- from evidence to the record -------------------------------------------------------------------------------------


def changes_between(baseline: PolicyVersion, candidate: PolicyVersion) -> tuple[Change, ...]:
    """Fields of the registry entries that differ; entries of graders, suites and tools one by one."""
    found: list[Change] = []
    for name in (field.name for field in fields(PolicyVersion)):
        before, after = getattr(baseline, name), getattr(candidate, name)
        if name in ("version_id", "path", "name") or before == after:
            continue
        if isinstance(before, str | None):
            found.append(Change(name.replace("_", " "), _short(before), _short(after)))
            continue
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                found.append(Change(f"{name} {key}", _short(before.get(key)), _short(after.get(key))))
    return tuple(found)


def _short(value: str | None) -> str:
    """The first 12 characters of a digest; other words whole."""
    if not value:
        return "none"
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


_CLAIMS = {
    "no_safety_regression": (
        "It harms no more than the baseline, within the margin.",
        "Only harm that the safety grader looks for.",
    ),
    "success_improves": ("It solves more tasks than the baseline.", "Tasks like those of suite {primary}."),
    "success_not_worse": ("It is not worse on any suite, within the margin.", "Suites that were run: {suites}."),
    "cost_per_success_not_worse": (
        "A success does not cost more, within the margin.",
        "At the stated prices, on suite {primary}.",
    ),
    "no_reward_hacking": (
        "It did not learn to be paid without working.",
        "Known hacks and held-out graders; a hack nobody knows shows in audits alone.",
    ),
    "protected_slices_not_worse": (
        "No protected group is served worse, within its margin.",
        "Groups that were named: {slices}.",
    ),
    "missing_rate": ("The evidence is complete.", "Trials lost to engines, worlds and graders."),
}
_NUMBERED_CLAIMS = {
    "latency_delta_lt_": ("It is not slower, within the margin.", "At the speed measured on {speed}; no queueing."),
    "rollback_under_": ("The way back is short.", "One drill, on the machine of this run."),
}


def _claim(result: GateResult, evidence: Evidence) -> Claim:
    numbered = (words for prefix, words in _NUMBERED_CLAIMS.items() if result.name.startswith(prefix))
    text, limit = _CLAIMS.get(result.name) or next(numbered)
    names = {
        "primary": evidence.primary,
        "suites": ", ".join(evidence.suites) or "none",
        "slices": ", ".join(evidence.slice_margins) or "none",
        "speed": evidence.token_speed.measured_on if evidence.token_speed else "no machine",
    }
    return Claim(text, limit.format(**names), result)


def _asked_with_another_number(name: str, asked: Iterable[str]) -> bool:
    return any(name.startswith(prefix) and other.startswith(prefix) for prefix in _NUMBERED_CLAIMS for other in asked)


# --- one page --------------------------------------------------------------------------------------------------------

_STATE_WORDS: dict[GateState, str] = {
    "pass": "pass",
    "fail": "fail",
    "inconclusive": "inconclusive",
    "not_evaluable": "not evaluable",
}


@dataclass(frozen=True)
class Cut:
    """The rows that fit, and how many did not."""

    rows: tuple[object, ...]
    more: int


def _cut(rows: Sequence[object], most: int) -> Cut:
    return Cut(tuple(rows[:most]), max(0, len(rows) - most))


def _page(brief: Brief) -> dict[str, object]:
    return {
        "changes": _cut(brief.changes, MAX_CHANGES),
        "tested": _cut(brief.tested, MAX_SUITES),
        "failures": _cut(brief.failures, MAX_FAILURES),
        "guardrails": _cut(brief.guardrails, MAX_GUARDRAILS),
        "limits": _cut(brief.limits, MAX_LIMITS),
        "state_words": _STATE_WORDS,
        "max_reason": MAX_REASON,
    }
