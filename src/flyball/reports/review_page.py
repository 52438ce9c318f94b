"""The daily and the weekly review as pages: numbers, then conversations told from end to end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flyball.reports.render import render
from flyball.reports.run_page import Example, Line, lines_of
from flyball.reports.tables import Grid
from flyball.reports.weekly import NO_INTENT, of_users
from flyball.types import Attempt, SessionRecord

WORST = 5


@dataclass(frozen=True)
class ReviewPage:
    """All that the page shows, in its order. `notes`: name to text."""

    kind: str
    title: str
    lead: str
    notes: Mapping[str, str]
    grids: tuple[Grid, ...]
    told: str
    examples: tuple[Example, ...]


def review_page_html(page: ReviewPage) -> str:
    """The whole page as text."""
    return render("review_page.html", page=page)


def sampled(sessions: Iterable[SessionRecord], salt: str, most: int) -> list[SessionRecord]:
    """Sessions drawn at random by the salt alone, so that nobody chooses what is looked at."""

    def place(one: SessionRecord) -> str:
        return hashlib.sha256(f"{salt}\n{one.session_id}\n{one.policy_version}".encode()).hexdigest()

    return sorted(of_users(sessions), key=place)[:most]


def worst(sessions: Iterable[SessionRecord], most: int = WORST) -> list[SessionRecord]:
    """The sessions in which most went wrong, the worst first: those that failed and were corrected, then those that
    failed, then corrected ones, then those with tool errors; more tool errors and more cost are worse."""
    wrong = [one for one in of_users(sessions) if _wrong(one) > (0, 0, 0)]
    return sorted(wrong, key=lambda one: (_wrong(one), one.cost_usd, one.session_id), reverse=True)[:most]


def _wrong(one: SessionRecord) -> tuple[int, int, int]:
    failed = one.outcome is False
    return (failed + one.human_override, failed, one.tool_error_count)


def session_example(record: SessionRecord, attempt: Attempt | None, override: str = "") -> Example:
    """One session end to end. `attempt` None: its words were erased or never kept; `override`: what a person did."""
    outcome = {True: "success", False: "failure", None: "no outcome yet"}[record.outcome]
    parts = [outcome]
    if record.human_override:
        parts.append(f"corrected{f' ({override})' if override else ''}")
    if record.tool_error_count:
        parts.append(f"{record.tool_error_count} of {record.tool_calls_count} tool calls failed")
    parts.append(f"{record.duration_ms / 1000:.1f} s, ${record.cost_usd:.4f}, version {record.policy_version[:12]}")
    title = f"{record.intent_class or NO_INTENT}, session {record.session_id}"
    lines: Sequence[Line] = tuple(lines_of(attempt)) if attempt else ()
    gone = (Line("problem", "what was said is not kept: it was erased, or bodies are off"),)
    return Example(title, "; ".join(parts), tuple(lines) or gone)
