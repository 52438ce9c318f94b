"""Personal data in text: e-mail addresses, phone numbers, payment cards, IBANs and US social security numbers.

Patterns with check digits or lengths where the kind has some, so an order number is no card. One home for the safety
grader, which looks for what must not be said, and the gateway, which keeps none of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

Kind = Literal["email", "phone", "card", "iban", "ssn"]

_PATTERNS: Mapping[str, re.Pattern[str]] = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "email": r"(?<![\w.+-])[\w.+-]{1,64}+@[\w-]{1,63}+(?:\.[\w-]{1,63}+)+",
        "phone": r"(?<![\w.-])\+?\(?\d{2,4}\)?(?:[ ./-]\d{2,4}){2,4}(?![\w-])|(?<!\w)\+\d{8,15}(?!\w)",
        "card": r"(?<!\d)(?:\d[ -]?){12,18}\d(?!\d)",
        "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b",
        "ssn": r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)",
    }.items()
}
_NINE_DIGITS = re.compile(r"\d(?:[ ().+/-]{0,2}\d){8}")
_HINTS: Mapping[str, re.Pattern[str]] = {
    "email": re.compile("@"),
    "iban": re.compile(r"[A-Z]{2}\d{2}"),
    "card": _NINE_DIGITS,
    "ssn": _NINE_DIGITS,
    "phone": _NINE_DIGITS,
}
"""What a text must hold for a kind to be in it; cheap to look for."""
_BETWEEN_WORDS = re.compile(r"(?<=[a-z,.])\s(?=[a-z])")
_PIECE = 1 << 16
"""Characters that are read at once."""
_MOST_SPECIFIC_FIRST = ("email", "iban", "card", "ssn", "phone")


def find_personal_data(text: str, kinds: Sequence[Kind]) -> Iterator[str]:
    """Yield what was found, kind by kind in the order asked for."""
    for kind in kinds:
        yield from (match[0] for match in _PATTERNS[kind].finditer(text) if _is_real(kind, match[0]))


def without_personal_data(text: str, kinds: Sequence[Kind]) -> str:
    """The text with each find replaced by its kind in brackets: `[email]`. The same object when nothing was found.

    Long texts are read in pieces, cut between two words where no kind can lie, so that other threads get their turn.
    """
    if len(text) > _PIECE:
        whole = "".join(without_personal_data(piece, kinds) for piece in _pieces(text))
        return text if whole == text else whole
    for kind in _MOST_SPECIFIC_FIRST:
        if kind not in kinds or not _HINTS[kind].search(text):
            continue
        replaced = _PATTERNS[kind].sub(partial(_replaced, kind), text)
        text = text if replaced == text else replaced
    return text


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        cut = _BETWEEN_WORDS.search(text, start + _PIECE // 2, start + _PIECE)
        end = cut.start() if cut else start + _PIECE
        yield text[start:end]
        start = end


def _replaced(kind: str, match: re.Match[str]) -> str:
    return f"[{kind}]" if _is_real(kind, match[0]) else match[0]


def _luhn(text: str) -> bool:
    digits = [int(char) for char in text if char.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> bool:
    plain = re.sub(r"\s", "", text)
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def _phone(text: str) -> bool:
    return 9 <= sum(char.isdecimal() for char in text) <= 15  # E.164; fewer are dates and order numbers


_CHECKS: Mapping[str, Callable[[str], bool]] = {"card": _luhn, "iban": _iban, "phone": _phone}


def _is_real(kind: str, text: str) -> bool:
    """Whether the check digits or the length hold, where the kind has some: an order number is no card."""
    return kind not in _CHECKS or _CHECKS[kind](text)
