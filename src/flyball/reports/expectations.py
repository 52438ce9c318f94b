"""What is expected of evidence where a page is read, from a dated data file, beside what the record holds of it.

It points at sources and says whether this record has something to show; it never says that a rule is met.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

PARTS = ("changes", "claims", "safety", "rollback", "live", "overrides", "signed", "log")
"""Parts of a Brief that an expectation may be shown by."""


@dataclass(frozen=True)
class Expectation:
    """One line. `asks` is in the language of its locale; `since` is the day from which the source applies."""

    source: str
    asks: str
    shown_by: str
    since: str
    url: str


@dataclass(frozen=True)
class Expected:
    """The lines of a locale, and the day on which a person last held them against their sources."""

    reviewed: str
    rows: tuple[Expectation, ...]


@cache
def expected_in(locale: str) -> Expected:
    """What is expected in a locale."""
    read = yaml.safe_load((files("flyball.reports") / "catalogue" / "expectations.yaml").read_text(encoding="utf-8"))
    rows = tuple(Expectation(**{name: str(said) for name, said in row.items()}) for row in read["expected"][locale])
    return Expected(str(read["reviewed"]), rows)
