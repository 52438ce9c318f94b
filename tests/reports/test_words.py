"""Three locales: nothing missing, nothing left over, the same numbers, and the typography of each."""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import replace
from datetime import date
from importlib.resources import files

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import ConfigError
from flyball.release.evidence import Evidence
from flyball.release.gates import DEFAULT_GATES, METRICS, gate
from flyball.release.verdict import judge_release
from flyball.reports.brief import Brief, brief_html, brief_markdown, make_brief
from flyball.reports.claims import claims_of
from flyball.reports.expectations import PARTS, expected_in
from flyball.reports.words import LOCALES, NARROW_SPACE, catalogue, message, words_of
from flyball.types import Estimate
from tests.reports.test_brief import text_of, with_users

NARROW = NARROW_SPACE


@pytest.fixture(params=["ready", "taken back", "nothing known"])
def any_brief(request: pytest.FixtureRequest, brief: Brief) -> Brief:
    if request.param == "taken back":
        return with_users(brief)
    if request.param == "nothing known":
        evidence = Evidence()
        return make_brief(
            title="t", date="2026-01-01", run_id="r", baseline=brief.baseline, candidate=brief.candidate,
            release=judge_release(evidence), evidence=evidence, summary="s", guardrails=[],
        )  # fmt: skip
    return brief


# --- messages --------------------------------------------------------------------------------------------------------


def placeholders(said: str | dict[str, str]) -> list[set[str]]:
    forms = [said] if isinstance(said, str) else list(said.values())
    return [{f"{name}:{spec}" for _, name, spec, _ in string.Formatter().parse(form) if name} for form in forms]


def test_every_locale_says_every_message_with_the_same_values() -> None:
    """A message that one locale lacks, or a number that it leaves out, is a fault of the catalogue."""
    first = catalogue(LOCALES[0])
    for name in LOCALES[1:]:
        other = catalogue(name)
        assert other.keys() == first.keys()
        for key, said in first.items():
            assert isinstance(other[key], dict) == isinstance(said, dict), key
            assert {frozenset(one) for one in placeholders(other[key])} == {
                frozenset(one) for one in placeholders(said)
            }


def test_british_says_only_what_it_says_differently() -> None:
    written = yaml.safe_load((files("flyball.reports") / "catalogue" / "en-GB.yaml").read_text())["messages"]
    american = catalogue("en-US")
    assert written and all(american[key] != said for key, said in written.items())
    american_spelling = re.compile(r"behavior|judgment\b|\bcolor|license[sd]? ", re.I)
    assert not [key for key, said in catalogue("en-GB").items() if american_spelling.search(str(said))]


ALL_GATES = (
    *DEFAULT_GATES, "protected_slices_not_worse", "no_reward_hacking",
    "tool_errors_not_worse", "over_refusal_not_worse",
    *(f"{metric}_within_0.07" for metric in METRICS),
)  # fmt: skip


@pytest.mark.parametrize("name", LOCALES)
def test_every_offline_gate_has_its_words_and_its_margin(brief: Brief, name: str) -> None:
    """However it is written, alone or as metric and margin."""
    results = tuple(one.evaluate(Evidence()) for one in map(gate, ALL_GATES))
    claims = claims_of(results, dict.fromkeys(("primary", "suites", "slices", "speed"), "named"), {})
    words = words_of(name)
    assert len(claims) == len(ALL_GATES)
    for claim in claims:
        assert words.text(claim.text) and words.text(claim.limit) and words.text(claim.found)
        if "_within_" in claim.result.name and claim.kind != "rollback":
            assert "7" in words.text(claim.rule)


def test_a_message_that_is_missing_or_wants_a_value_is_an_error() -> None:
    words = words_of("fr-FR")
    with pytest.raises(KeyError):
        words.say("no such message")
    with pytest.raises(KeyError):
        words.say("found.change", value=0.1, high=0.2)
    with pytest.raises(KeyError, match="lost"):
        words.say("found.rollback", seconds=1.0, lost=2.0)


def test_a_locale_without_a_catalogue_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fr-FR'"):
        words_of("fr-BE")


# --- numbers ---------------------------------------------------------------------------------------------------------


def numbers(text: str, locale: str) -> Counter[str]:
    """The numbers of a page, whatever marks the locale writes them with. Codes and dates are left out."""
    plain = re.sub(r"`[^`]*`|<http[^>]*>|(?:US)?\$", "", text)  # a dollar may stand between a sign and its number
    if locale == "fr-FR":
        plain = re.sub(rf"(?<=\d){NARROW}(?=\d{{3}})", "", plain)
        plain = re.sub(r"(?<=\d),(?=\d)", ".", plain)
    else:
        plain = re.sub(r"(?<=\d),(?=\d{3})", "", plain)
    return Counter(re.findall(r"[+−]?\d+(?:\.\d+)?", plain))


def test_the_same_numbers_in_all_three(any_brief: Brief) -> None:
    pages = {name: brief_markdown(any_brief, name).split(words_of(name).say("expected"))[0] for name in LOCALES}
    found = {name: numbers(page, name) for name, page in pages.items()}
    assert found["en-US"] == found["en-GB"] == found["fr-FR"] and len(found["en-US"]) > 5


@given(st.floats(-1e6, 1e6, allow_subnormal=False), st.sampled_from(["percent", "number", "usd", "seconds", "+points"]))
def test_any_number_has_the_same_digits_everywhere(value: float, spec: str) -> None:
    said = [words_of(name).write(value, spec) for name in LOCALES]
    assert len({str(numbers(text, name)) for text, name in zip(said, LOCALES, strict=True)}) == 1


def test_numbers_worked_by_hand() -> None:
    american, british, french = map(words_of, LOCALES)
    assert american.write(0.6254, "percent") == "62.5%" and french.write(0.6254, "percent") == f"62,5{NARROW}%"
    assert american.write(-0.0213, "+points") == "−2.1" and french.write(0.0213, "+points") == "+2,1"
    assert american.write(1234567, "count") == "1,234,567"
    assert french.write(1234567, "count") == f"1{NARROW}234{NARROW}567"
    assert [w.write(0.0214, "usd") for w in (american, british, french)] == ["$0.0214", "US$0.0214", "0,0214 $US"]
    assert american.write(0.975, "rate") == "97.5%" and american.write(0.15, "rate") == "15%"
    assert french.write(float("inf"), "number") == "sans borne" and french.write(float("nan"), "number") == "—"


def test_an_estimate_has_value_bounds_and_n() -> None:
    share = Estimate(0.625, 0.561, 0.684, 240, unit="share")
    assert str(words_of("en-US").estimate(share)) == "62.5% [56.1, 68.4], n=240"
    assert str(words_of("fr-FR").estimate(share)) == f"62,5{NARROW}% [56,1{NARROW}; 68,4], n{NARROW}={NARROW}240"
    change = Estimate(-0.11, -0.125, -0.095, 1240, unit="share")
    assert (
        str(words_of("fr-FR").estimate(change, signed=True))
        == f"−11,0 points [−12,5{NARROW}; −9,5], n{NARROW}={NARROW}1{NARROW}240"
    )


def test_dates_are_written_as_they_are_spoken() -> None:
    assert [words_of(name).date("2026-03-14") for name in LOCALES] == [
        "March 14, 2026",
        "14 March 2026",
        "14 mars 2026",
    ]
    assert words_of("fr-FR").date("2026-08-01") == "1er août 2026"


def test_forms_follow_the_number() -> None:
    french, english = words_of("fr-FR"), words_of("en-US")
    assert french.say("more.suites", n=1).startswith("et 1 autre suite ")
    assert french.say("more.suites", n=2).startswith("et 2 autres suites ")
    assert english.text(message("limits.guard", name="kl", n=1)) == "kl"


# --- typography ------------------------------------------------------------------------------------------------------


def test_french_puts_narrow_spaces_and_its_own_quotation_marks(any_brief: Brief) -> None:
    """In what is ours; words of others stay as they are."""
    ours = replace(any_brief, title="t", summary="s", guardrails=(), limits=(), verify="", cost=None)
    for page in (text_of(brief_html(ours, "fr-FR")), brief_markdown(ours, "fr-FR")):
        said = re.sub(r"`[^`]*`|<http[^>]*>|2 CPU cores", "", page)
        assert not re.findall(r"[^\s\u202f][;!?»]| [;!?%»]|« |\d%|\d\.\d|'", said)
        assert f"{NARROW};" in said and f"{NARROW}%" in said


@pytest.mark.parametrize("name", LOCALES)
def test_a_page_says_its_language_and_never_that_a_rule_is_met(any_brief: Brief, name: str) -> None:
    page = brief_html(any_brief, name)
    assert f'<html lang="{name}">' in page
    for text in (page, brief_markdown(any_brief, name)):
        assert not re.search(r"complian|conform|certifi(?!tude)", text, re.I)


# --- what is expected where ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOCALES)
def test_expectations_are_dated_have_a_source_and_point_into_the_brief(brief: Brief, name: str) -> None:
    expected = expected_in(name)
    assert date.fromisoformat(expected.reviewed) and len(expected.rows) == 4
    assert set(PARTS) == set(brief.shows)
    for row in expected.rows:
        assert row.shown_by in PARTS and row.url.startswith("https://") and date.fromisoformat(row.since)
        assert row.source in brief_html(brief, name) and row.url in brief_markdown(brief, name)


def test_an_expectation_says_from_when_and_whether_there_is_something_to_show(brief: Brief) -> None:
    assert "(à partir du 2 décembre 2027)" in brief_markdown(brief, "fr-FR")
    assert "à partir" not in brief_markdown(replace(brief, date="2028-01-01"), "fr-FR")
    undrilled = replace(brief, drill=None)
    assert brief.shows["rollback"] and not undrilled.shows["rollback"]
    assert brief_html(brief, "en-US").count("nothing in this brief") == 2
    assert brief_html(undrilled, "en-US").count("nothing in this brief") == 3
