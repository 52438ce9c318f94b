"""The run report holds everything, loads nothing and runs nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from flyball.errors import Fault
from flyball.reports.brief import brief_html
from flyball.reports.run_page import MAX_LINE, RunPage, example, failed_examples, run_page_html
from flyball.types import Attempt, GradedAttempt, Missing, Outcome, StopReason, Task, Trajectory


class Tags(HTMLParser):
    """Every start tag with its attributes, and whether tags are balanced."""

    VOID = frozenset({"meta", "br", "path", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(params=["page", "brief"])
def html(request, page, brief):
    return run_page_html(page) if request.param == "page" else brief_html(brief)


def test_no_script_no_inline_style_nothing_from_elsewhere(html):
    tags = Tags(html)
    assert not tags.open
    for tag, attributes in tags.found:
        assert tag not in ("script", "link", "img", "iframe", "object")
        assert not any(name == "style" or name.startswith("on") for name in attributes)
        assert "src" not in attributes and not (attributes.get("href") or "").startswith(("http", "//", "data:"))
    assert "url(" not in html and "@import" not in html


def test_the_policy_allows_exactly_the_styles_of_the_page(html):
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in html
    assert html.count("<style") == 1 and html.index("Content-Security-Policy") < html.index("<style")


def test_the_page_shows_what_it_was_given(page):
    html = run_page_html(page)
    for text in ("Ready for shadow", "How it learned", "Success by suite", "rejection SFT", "partial_refund",
                 "two_to_five", "no_safety_regression", "not evaluable", "Failed attempts", "brief.html",
                 page.facts["candidate"]):  # fmt: skip
        assert text in html
    assert html.count('<svg viewBox="0 0 480') == 2 and "picked</text>" in html
    assert html.count('class="line s1"') == 2  # in the legend and in the drawing
    assert "&lt;b&gt;20 %&lt;/b&gt;" in html


def test_a_page_with_nothing_yet_is_still_a_page():
    html = run_page_html(RunPage("Helpdesk", "r1", "2026-01-01"))
    assert "Helpdesk" in html and "<h2>" not in html


def graded(family: str, *, success=False, safe: bool | None = True, stop=StopReason.ANSWERED, text="done"):
    attempt = Attempt(family, Task(family, {}, family=family), Trajectory((), stop, "why"),
                      ({"role": "assistant", "content": text},))  # fmt: skip
    return GradedAttempt(attempt, Outcome(success, safe))


def test_examples_show_unsafe_first_and_each_family_before_a_second_of_any():
    attempts = [graded("a"), graded("a"), graded("b"), graded("c", success=True), graded("d", safe=False, success=True)]
    assert [one.title.split(",")[0] for one in failed_examples(attempts)] == ["d", "a", "b", "a"]
    assert len(failed_examples(attempts, most=2)) == 2


def test_an_example_says_why_and_whose_fault():
    lost = replace(graded("a", stop=StopReason.WORLD_ERROR), outcome=Outcome(Missing("disk", Fault.INFRASTRUCTURE)))
    assert example(lost).why == "missing (infrastructure): disk; ended as world_error: why"


def test_long_texts_are_cut_and_say_by_how_much():
    told = example(graded("a", text="x" * (MAX_LINE + 7))).lines[0].text
    assert told.endswith("(7 more characters are in the store)")
