"""One page, one record, two renderings, and no claim without its gate."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from flyball.release.canary.detection import Detection, DetectionTable
from flyball.release.controller import Restored
from flyball.release.evidence import Evidence
from flyball.release.incidents import open_incident, raise_incident
from flyball.release.monitors import MONITORS
from flyball.release.registry import new_version
from flyball.release.verdict import READY, judge_release
from flyball.reports.brief import (
    Brief,
    Change,
    Course,
    Failure,
    Guardrail,
    Seen,
    brief_html,
    brief_markdown,
    changes_between,
    make_brief,
)
from flyball.reports.budget import LINES
from flyball.reports.claims import KINDS, Watch, claims_of
from flyball.reports.release_brief import alarms_of
from flyball.reports.words import LOCALES, message, words_of
from flyball.store.store import Store
from flyball.types import Estimate

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WORDS = "long words that fill the space they are given and then go on for some more of it, as real ones do. "


FORESEEN = DetectionTable(
    "session", 0.8, 2000.0, 0.05,
    (
        Detection(0.03, math.inf, math.inf, math.inf, math.inf), Detection(0.05, 4310.0, 11207.0, 3.8e6, 215.5),
        *(Detection(drop, 1234.0, 12345.0, 1.2e6, 99.0) for drop in (0.10, 0.125, 0.20, 0.30)),
    ),
)  # fmt: skip
"""What `detection_table` makes, with as many digits as it may have."""


def crowded(brief: Brief) -> Brief:
    """More of everything than a page holds, with every text as long as the page allows."""
    gates = tuple(replace(result, state="inconclusive", reason=WORDS * 3, more_needed=99999)
                  if result.state == "pass" else result for result in brief.release.gates)  # fmt: skip
    release = replace(brief.release, gates=gates, verdict="not ready: " + ", ".join(f"{g.name} fails" for g in gates))
    return replace(
        brief,
        title=WORDS,
        release=release,
        summary=WORDS * 5,
        changes=tuple(Change("tools", WORDS, "a" * 12, "b" * 12) for _ in range(30)),
        tested=brief.tested * 3,
        failures=tuple(Failure("adversarial-suite", WORDS, 100, 240) for _ in range(30)),
        claims=tuple(replace(claim, result=gate) for claim, gate in zip(brief.claims, gates, strict=False)),
        guardrails=tuple(Guardrail("Some guardrail", True, WORDS * 2) for _ in range(20)),
        limits=tuple(WORDS * 3 for _ in range(20)),
        drill=replace(brief.drill, verified=False, problem=WORDS * 4),
        verify=WORDS * 3,
    )  # fmt: skip


def with_users(brief: Brief) -> Brief:
    """A release that users met and that was taken back."""
    seen = [
        Seen(name, Estimate(0.107, 0.061, 0.153, 612, unit=unit), says)
        for name, unit, says in (
            ("safety", "share", "quiet"), ("success", "share", "back"), ("human_override", "share", "excluded"),
            ("latency", "relative", "open"), ("cost_per_success", "USD", "open"), ("tool_error", "share", "quiet"),
        )
    ]  # fmt: skip
    decided = message("decided.back", test=message("test.success"), harm=seen[1].estimate)
    course = Course((0.05, 0.25), 3.25 * 86400, 1834, 1790, tuple(seen), decided, Restored(78_120.0, 0.5))
    return replace(
        brief, foreseen=FORESEEN, course=course, signed=("ML", "Product"),
        release=replace(brief.release, stage="rolled_back"),
    )  # fmt: skip


def at_stage(brief: Brief, stage: str) -> Brief:
    if stage == "shadow":
        return replace(brief, foreseen=FORESEEN, release=replace(brief.release, stage="shadow"))
    return brief if stage == "offline" else with_users(brief)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the printed page is not measured")
@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("stage", ["offline", "shadow", "rolled_back"])
def test_it_prints_on_one_page(brief, tmp_path, locale, stage):
    """With more of everything than a page holds, in the language of the longest words too."""
    source, target = tmp_path / "brief.html", tmp_path / "brief.pdf"
    full = crowded(at_stage(brief, stage))
    source.write_text(brief_html(full, locale), encoding="utf-8")
    subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", "--no-pdf-header-footer", f"--print-to-pdf={target}",
         source.as_uri()],
        check=True, capture_output=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert len(re.findall(rb"/Type */Page\b", target.read_bytes())) == 1


def test_lists_are_cut_to_the_page_and_say_so(brief):
    html, markdown = brief_html(crowded(brief)), brief_markdown(crowded(brief))
    for text in (html, markdown):
        assert "and 25 more changes in the record" in text
        assert "and 25 more families in the record" in text
        assert "and 8 more suites in the record" in text
        assert "and 14 more guardrails in the record" in text
        assert "and 16 more limits in the record" in text


def test_both_renderings_say_the_same_numbers(brief):
    """Every number with its interval in the Markdown is in the page, and the other way round."""
    numbers = re.compile(r"[+−$]?\d[\d.]*%? \[[^\]]+\]")
    page = re.sub(r"\s+", " ", text_of(brief_html(brief)))
    markdown = brief_markdown(brief).replace(" points [", " [")
    found = numbers.findall(markdown)
    assert len(found) > 12
    for number in found:
        assert number in page.replace(" points [", " [")


def text_of(html: str) -> str:
    """The visible text."""

    class Text(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.parts: list[str] = []
            self.hidden = 0

        def handle_starttag(self, tag, attributes):
            self.hidden += tag == "style"

        def handle_endtag(self, tag):
            self.hidden -= tag == "style"

        def handle_data(self, data):
            if not self.hidden:
                self.parts.append(data)

    parser = Text()
    parser.feed(html)
    return "".join(parser.parts)


def test_ready_says_so_and_what_is_still_unknown(brief):
    assert brief.release.verdict == READY
    for text in (brief_html(brief), brief_markdown(brief)):
        assert "Ready for shadow" in text and "Not ready" not in text
        assert "policy_kl_drift" in text and "nobody has met this candidate" in text
        assert "released" not in text.lower()


def test_the_seven_things_a_brief_owes(brief):
    for text in (brief_html(brief), brief_markdown(brief)):
        for heading in ("What changed", "What was tested", "What failed", "Claims, how sure they are",
                        "Guardrails in force", "Cost per success", "Rollback guarantee"):  # fmt: skip
            assert heading in text
        assert "0.34 s" in text and "OFF" in text and "n=240" in text and "95%" in text


def test_a_claim_is_made_only_where_its_gate_passes(brief):
    assert all(claim.made for claim in brief.claims) and len(brief.claims) == 7
    assert "Not claimed" not in brief_html(brief)
    failed = tuple(replace(c, result=replace(c.result, state="fail")) for c in brief.claims)
    page = brief_html(replace(brief, claims=failed))
    assert page.count("Not claimed: ") == 7 and ">It harms no more" not in page


def test_without_evidence_nothing_is_claimed_and_nothing_breaks(brief):
    release = judge_release(Evidence())
    empty = make_brief(
        title="t", date="2026-01-01", run_id="r", baseline=brief.baseline, candidate=brief.candidate, release=release,
        evidence=Evidence(), summary="s", guardrails=[],
    )  # fmt: skip
    for text in (brief_html(empty), brief_markdown(empty)):
        assert "Not ready" in text and "No drill, no guarantee" in text and "Not measured" in text
        assert "None were declared" in text and not any(claim.made for claim in empty.claims)


def test_default_gates_that_nobody_asked_are_named(brief):
    release = judge_release(Evidence(), ["no_safety_regression", "latency_delta_lt_20_percent"])
    made = make_brief(
        title="t", date="2026-01-01", run_id="r", baseline=brief.baseline, candidate=brief.candidate, release=release,
        evidence=Evidence(), summary="s", guardrails=[], limits=["mine"],
    )  # fmt: skip
    assert made.limits[1] == "mine"
    said = words_of("en-US").text(made.limits[0])
    assert "missing_rate" in said and "latency_delta" not in said


def test_lines_of_the_budget_that_nobody_filled_in_are_said_beside_a_cost_in_full(brief):
    def limits(cost, unbudgeted, locale="en-US"):
        made = make_brief(
            title="t", date="2026-01-01", baseline=brief.baseline, candidate=brief.candidate, release=brief.release,
            evidence=Evidence(), summary="s", guardrails=[], cost=cost, unbudgeted=unbudgeted,
        )  # fmt: skip
        return [text for text in map(words_of(locale).text, made.limits) if "ptimis" in text]

    assert limits(brief.cost, ("labelling", "retries")) == ["Optimistic by default, unbudgeted: labeling, retries."]
    assert limits(brief.cost, ()) == limits(None, tuple(LINES)) == []
    for locale in LOCALES:
        (said,) = limits(brief.cost, tuple(LINES), locale)
        assert said.count(",") == 5 and len(said) <= 110, "the page clips a longer one"


def test_a_monitor_stands_behind_a_claim_under_a_name_that_exists(brief):
    assert {after for *_, after in KINDS if after} <= MONITORS.keys()
    gates = tuple(one for one in brief.release.gates if one.name == "missing_rate")
    for alarms, said in (((), "`missing_rate` |"), (["missing_rate"], "`missing_rate`: fail |")):
        claims = claims_of(gates, {}, {"missing_rate": "pass"}, alarms)  # the gate of that name is not the monitor
        assert claims[0].monitor == Watch("missing_rate", "fail" if alarms else None)
        offline = replace(brief, claims=tuple(claims))
        assert said in brief_markdown(offline) and "<code>telemetry_loss</code>" in brief_html(offline)
        everybody = replace(offline, release=replace(brief.release, stage="general"))
        assert "<code>missing_rate</code>" in brief_html(everybody) and "telemetry_loss</code>" not in brief_html(
            everybody
        )


@pytest.mark.parametrize("locale", LOCALES)
def test_what_the_canary_can_see_is_told_on_both_pages(brief, locale):
    words = words_of(locale)
    planned = at_stage(brief, "shadow")
    html, markdown = text_of(brief_html(planned, locale)), brief_markdown(planned, locale)
    said = {
        "en": "by 5 points, 44.0 d, 4,310 [11,207]; by 10 points",
        "fr": "de 5 points, 44,0 j, 4\u202f310 [11\u202f207]",
    }
    unseen = {"en": "by 3 points, not within 100,000;", "fr": "de 3 points, pas en 100\u202f000\u202f;"}
    for page in (html, markdown):
        assert said[locale[:2]] in page and unseen[locale[:2]] in page and words.say("foreseen") in page
    old = replace(planned, foreseen=None)
    assert words.say("foreseen.not_kept") in brief_html(old, locale) and words.say(
        "foreseen.not_kept"
    ) in brief_markdown(old, locale)
    assert words.say("foreseen") not in brief_markdown(brief, locale), "nobody has planned a canary of it"


def test_only_an_open_alarm_of_the_candidate_is_told(tmp_path):
    with Store(tmp_path) as store:
        for name, version in (("missing_rate", "mine"), ("latency_seconds", "another")):
            detail = {"monitor": name, "version": version}
            raise_incident(store, name, source="alarm", by="flyball", reason="it rose", at=1.0, detail=detail)
        open_incident(store, "wrong-refunds", by="bob", reason="seen", at=2.0)
        assert alarms_of(store, "mine") == {"missing_rate"}


def test_changes_are_what_the_registry_binds():
    old = new_version(name="a", weights="1" * 64, base="b", graders={"success": "g1", "safety": "s"}, path="/x")
    new = new_version(name="z", weights="2" * 64, base="b", graders={"success": "g2", "style": "n"}, path="/y")
    assert changes_between(old, new) == (
        Change("weights", "", "1" * 12, "2" * 12),
        Change("graders", "safety", "s", "–"),
        Change("graders", "style", "–", "n"),
        Change("graders", "success", "g1", "g2"),
    )


def test_failures_are_counted_by_family_with_the_most_first(brief):
    counts = [failure.failed for failure in brief.failures]
    assert counts == sorted(counts, reverse=True) and all(f.attempts == 24 for f in brief.failures)


def test_text_of_others_is_escaped(brief):
    page = brief_html(replace(brief, title="<script>alert(1)</script>"))
    assert "<script" not in page and "&lt;script&gt;" in page
