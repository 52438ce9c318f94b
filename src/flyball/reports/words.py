"""What a page says in the language of its reader: messages from one file per locale, numbers and dates by Babel (CLDR).

    words = words_of("fr-FR")
    words.say("found.change", value=0.021, high=0.049, n=240)        +2,1 %, au plus +4,9 %, n = 240

A message names how each value is written after a colon, so code hands over numbers and never their text. What is
rounded is rounded before it meets a locale: every locale shows the same digits.

    count      1,234             percent   62.5%  (of 0.625, measured)       points  21.3  (of 0.213)
    number     three digits      rate      15%    (of 0.15, set by somebody) hundred 3     (of 0.03, set by somebody)
    plain      as short as it is  tenth 1.8   usd       $0.021          seconds   0.34    rates 5% → 25%
    list       a, b      semicolons  a; b           signed  +21.3 points [+14.8, +27.9], n=240 (a difference)

A `+` before the name writes the sign of positive numbers too.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, get_args

import yaml
from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal

from flyball.config import LocaleName
from flyball.errors import ConfigError, nearest
from flyball.stats.written import MINUS, NO_VALUE, SHARES, Shown, significant
from flyball.types import Estimate

LOCALES: tuple[str, ...] = get_args(LocaleName)
NARROW_SPACE = "\u202f"
"""No-break, a fifth of an em: what French typography puts before ; : ! ? % and inside its quotation marks."""


@dataclass(frozen=True)
class Message:
    """A text of ours: said in the reader's language when the page is written. `values` may be messages again."""

    key: str
    values: Mapping[str, Any]


Text = str | Message
"""Words of somebody else stay as they are; words of ours are said in the reader's language."""


def message(key: str, /, **values: Any) -> Message:
    """A message by its key in the catalogue."""
    return Message(key, values)


class Words:
    """One locale: its messages, and how it writes numbers and dates."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._locale = Locale.parse(name, sep="-")
        self._messages = catalogue(name)
        self._formatter = _Formatter(self)

    def say(self, key: str, /, **values: Any) -> str:
        """The message with its values. A message with forms takes that of `n`. Raises KeyError for one that is missing.

        A missing value raises KeyError too: a page is whole, or it is not written.
        """
        found = self._messages[key]
        if isinstance(found, Mapping):
            found = found.get(self._locale.plural_form(values["n"]), found["other"])
        return self._formatter.vformat(found, (), values)

    def text(self, text: Text) -> str:
        """A text in the reader's language."""
        return text if isinstance(text, str) else self.say(text.key, **text.values)

    def date(self, day: str) -> str:
        """A day (ISO 8601) with the month in words. The first of a French month is an ordinal."""
        found = date.fromisoformat(day)
        written = format_date(found, "long", self._locale)
        return f"1er{written[1:]}" if (self._locale.language, found.day) == ("fr", 1) else written

    def estimate(self, estimate: Estimate, *, signed: bool = False) -> Shown:
        """`tables.shown` in the reader's language. `signed`: it is a difference, so shares become points."""
        sign = "+" if signed else ""
        if estimate.unit in SHARES:
            relative = estimate.unit == "relative"
            spec = "+percent" if relative else f"{sign}points" if signed else "percent"
            bounds = "+points" if relative else f"{sign}points"
            value = self.write(estimate.value, spec)
            if signed and not relative:
                value = self.say("points", x=value)
        else:
            bounds = f"{sign}number"
            value = self.write(estimate.value, f"{sign}usd" if estimate.unit == "USD" else bounds)
        low, high = (self.write(bound, bounds) for bound in (estimate.low, estimate.high))
        return Shown(value, self.say("bounds", low=low, high=high), self.say("n", n=estimate.n))

    def write(self, value: Any, spec: str) -> str:
        """A value in one of the ways of writing that the module's docstring lists."""
        if isinstance(value, Message):
            return self.text(value)
        if isinstance(value, Estimate):
            return str(self.estimate(value, signed=spec == "signed"))
        if spec in ("", "list"):
            return ", ".join(self.write(one, "") for one in value) if spec else str(value)
        if spec == "rates":
            return " → ".join(self.write(one, "rate") for one in value)
        if spec == "semicolons":
            return self.say("semicolon").join(self.text(one) for one in value)
        sign, name = ("+", spec[1:]) if spec.startswith("+") else ("", spec)
        if math.isnan(value):
            return NO_VALUE
        if math.isinf(value):
            return self.say("unbounded")
        digits = _WRITTEN[name](value, sign)
        if name == "usd":  # the sign stands before the currency
            return self._sign(digits) + self.say(name, x=self._grouped(digits.lstrip("+-")))
        return self.say(name, x=self._grouped(digits)) if name in ("percent", "rate") else self._grouped(digits)

    def _sign(self, digits: str) -> str:
        return digits[0].replace("-", MINUS) if digits[0] in "+-" else ""

    def _grouped(self, digits: str) -> str:
        """Rounded digits with the locale's decimal mark and groups, and a true minus sign."""
        whole = Decimal(digits.lstrip("+-"))
        places = len(digits.partition(".")[2])
        pattern = "#,##0" + ("." + "0" * places if places else "")
        return self._sign(digits) + format_decimal(whole, format=pattern, locale=self._locale)


@cache
def words_of(name: str) -> Words:
    """The words of a locale. Raises ConfigError for one that there is no catalogue of."""
    if name not in LOCALES:
        raise ConfigError(f"no pages in {name!r}{nearest(name, LOCALES)}; there are {', '.join(LOCALES)}")
    return Words(name)


def catalogue(name: str) -> dict[str, str | dict[str, str]]:
    """The messages of a locale by key. A file that extends another says only what it says differently."""
    read = yaml.safe_load((files("flyball.reports") / "catalogue" / f"{name}.yaml").read_text(encoding="utf-8"))
    found = catalogue(read["extends"]) if "extends" in read else {}
    spaced = _spacing(read.get("narrow_space", {}))
    for key, said in read["messages"].items():
        found[key] = spaced(said) if isinstance(said, str) else {form: spaced(one) for form, one in said.items()}
    return found


def _spacing(rule: Mapping[str, str]) -> Callable[[str], str]:
    """Turns the spaces before and after certain marks into narrow no-break ones."""
    if not rule:
        return lambda text: text
    pattern = re.compile(rf" (?=[{rule['before']}])|(?<=[{rule['after']}]) ")
    return lambda text: pattern.sub(NARROW_SPACE, text)


class _Formatter(string.Formatter):
    """`str.format` whose format specs are ways of writing."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def format_field(self, value: Any, format_spec: str) -> str:
        return self._words.write(value, format_spec)

    def check_unused_args(self, used_args: set[int | str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if unused := kwargs.keys() - used_args - {"n"}:  # n may only choose the form
            raise KeyError(f"values that the message does not say: {sorted(unused)}")


def _short(value: float, sign: str) -> str:
    """As few digits as say it."""
    return f"{value:{sign}.10f}".rstrip("0").rstrip(".")


_WRITTEN: Mapping[str, Callable[[float, str], str]] = {
    "count": lambda x, sign: f"{x:{sign}.0f}",
    "percent": lambda x, sign: f"{100 * x:{sign}.1f}",
    "points": lambda x, sign: f"{100 * x:{sign}.1f}",
    "rate": lambda x, sign: _short(100 * x, sign),
    "hundred": lambda x, sign: _short(100 * x, sign),
    "tenth": lambda x, sign: f"{x:{sign}.1f}",
    "number": significant,
    "plain": _short,
    "usd": significant,
    "seconds": lambda x, sign: f"{x:{sign}.2f}",
}
