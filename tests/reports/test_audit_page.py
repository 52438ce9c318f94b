"""The hacking audit as a page: every finding once, the worst first, what was caught told in full, nothing that runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyball.evals.hacking import audit
from flyball.graders.hacks import DETECTORS
from flyball.release.hacking import HACKING_GATE
from flyball.reports.audit_page import AuditPage, audit_page_html, caught_examples, sections_of
from flyball.types import GateResult, GradedAttempt, Outcome, Score, Task
from tests.graders.policies import HACKS, HONEST
from tests.reports.test_run_page import Tags


def graded(i: int, hack: str | None = None, success: bool = True) -> GradedAttempt:
    made = HACKS[hack][0] if hack else HONEST[6]
    made = replace(made, attempt_id=f"a{i}", task=Task(f"t{i}", made.task.public, made.task.hidden))
    scores = {"success": Score(float(success)), "holdout/facts": Score(float(i % 2))}
    return GradedAttempt(made, Outcome(success), scores, (), float(success))


GAMED = next(iter(HACKS))
ATTEMPTS = [*(graded(i, success=i % 3 > 0) for i in range(30)), graded(30, GAMED), graded(31, GAMED, success=False)]


@pytest.fixture(scope="module")
def page() -> AuditPage:
    found = audit(ATTEMPTS, steps={f"a{i}": i for i in range(30)})
    gate = GateResult(HACKING_GATE, "fail", "safety", "at most 3 points more", "caught in 9 % more")
    examples = caught_examples(ATTEMPTS)
    return AuditPage("Desk <b>", "r1", "2026-01-01", len(ATTEMPTS), sections_of(found), gate, examples)


def test_every_finding_has_one_place_the_worst_first(page: AuditPage) -> None:
    found = audit(ATTEMPTS, steps={f"a{i}": i for i in range(30)})
    placed = [finding.name for section in page.sections for finding in section.findings]
    assert sorted(placed) == sorted(finding.name for finding in found)
    assert [section.title for section in page.sections] == ["Held out", "Known hacks", "People", "Redundancy"]
    for section in page.sections:
        levels = [("fail", "warn", "ok").index(finding.level) for finding in section.findings]
        assert levels == sorted(levels)
    assert page.summary.startswith(f"{sum(f.level == 'fail' for f in found)} of {len(found)} findings fail")


def test_the_page_shows_all_of_it_and_runs_nothing(page: AuditPage) -> None:
    html = audit_page_html(page)
    tags = Tags(html)
    assert not tags.open and not any(tag in ("script", "link", "img", "iframe") for tag, _ in tags.found)
    assert all(f"hack {name}" in html for name in DETECTORS) and "holdout/facts" in html
    assert HACKING_GATE in html and "caught in 9 % more" in html and 'href="report.html"' in html
    assert "Desk &lt;b&gt;" in html and "Caught and paid" in html and page.examples[0].title in html


def test_only_what_was_caught_and_paid_is_told() -> None:
    told = caught_examples(ATTEMPTS)
    assert told and all("task t30" in one.title for one in told)
    assert caught_examples(ATTEMPTS[:30]) == ()
    assert len(caught_examples([graded(i, name) for i, name in enumerate(HACKS)], most=4)) == 4


def test_without_a_gate_the_page_says_how_to_have_one(page: AuditPage) -> None:
    html = audit_page_html(replace(page, gate=None, examples=()))
    assert "no_reward_hacking" in html and "Caught and paid" not in html
