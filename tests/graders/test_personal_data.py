"""Personal data is replaced wherever it stands, numbers of other kinds are left alone, and long texts lose nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.graders.personal_data import find_personal_data, without_personal_data

KINDS = ("email", "phone", "card", "iban", "ssn")
FOUND = {
    "email": ["ada@shop.example", "a.b+c@mail.co.uk"],
    "phone": ["+4915112345679", "+44 20 7946 0958", "(030) 123 456 78", "0171/123 4567"],
    "card": ["4111 1111 1111 1111", "4111-1111-1111-1111", "5500005555555559"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "ssn": ["078-05-1120"],
}
ALL = [(kind, text) for kind, texts in FOUND.items() for text in texts]
WORDS = st.lists(st.sampled_from(["order", "4711", "on", "2026-11-26", "12:45", "see", "a", "#17", "(x)"]), max_size=8)


@settings(deadline=None)
@given(st.sampled_from(ALL), WORDS, WORDS)
def test_what_is_personal_is_replaced_and_what_is_not_stays(personal: tuple[str, str], before, after) -> None:
    kind, text = personal
    left, right = " ".join([*before, ""]), " ".join(["", *after])
    assert without_personal_data(f"{left}({text}){right}".replace("()", ""), (kind,)).count(f"[{kind}]") >= 1
    plain = " ".join([*before, *after])
    assert without_personal_data(plain, ("email", "card", "iban")) is plain


@pytest.mark.parametrize(("kind", "text"), ALL)
def test_both_ways_of_looking_agree(kind: str, text: str) -> None:
    assert list(find_personal_data(f"call {text} now", (kind,))) == [text]
    assert without_personal_data(f"call {text} now", KINDS) == f"call [{kind}] now"


@pytest.mark.parametrize("number", ["4111 1111 1111 1112", "DE88 3704 0044 0532 0130 00", "1234567890123"])
def test_check_digits_tell_numbers_apart(number: str) -> None:
    assert without_personal_data(number, ("card", "iban")) is number


def test_long_texts_are_read_to_the_end() -> None:
    filler = "the quick brown fox went on, and on " * 1000
    text = "".join(f"{filler}{found} " for _, found in ALL * 3)
    clean = without_personal_data(text, KINDS)
    assert sum(clean.count(f"[{kind}]") for kind in KINDS) == 3 * len(ALL)
    assert not [found for _, found in ALL if found in clean]
    plain = filler * 10
    assert without_personal_data(plain, KINDS) is plain
