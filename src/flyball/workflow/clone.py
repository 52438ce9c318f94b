"""An adjacent workflow begins as a copy of one that pays and stands still: expansion by a rule, not by enthusiasm.

The rules are those of the decision page (`reports/expansion.py`), and all of them must be met.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from flyball.config import read_settings
from flyball.errors import ConfigError
from flyball.reports.budget import UnitEconomics, unit_economics
from flyball.reports.expansion import expansion_rules
from flyball.reports.weekly import WEEK, by_week, week_of
from flyball.store.store import Store

DAY = 24 * 3600.0


@dataclass(frozen=True)
class Expansion:
    """Whether an adjacent workflow may start: the numbers, and every reason against it."""

    economics: UnitEconomics
    against: tuple[str, ...]


def may_expand(store: Store, source: Path, *, weeks: int, now: float, project: str | None = None) -> Expansion:
    """Judge the workflow of a settings file by the last whole `weeks` that end at `now` (seconds since 1970).

    Raises ConfigError for a file without the value of a success and the margin rule, EvalError without a session.
    """
    budget = read_settings(source)[0].economics
    if budget.value_of_success_usd is None or budget.least_margin_usd is None:
        raise ConfigError(
            f"{source}: economics.value_of_success_usd and economics.least_margin_usd are needed: the margin rule "
            "compares what a success earns with what it costs"
        )
    by = by_week(store.served_sessions(project=project, since=now - weeks * WEEK), now, weeks)
    found = unit_economics([session for week in by for session in week], budget, weeks * WEEK / DAY)
    rules = expansion_rules(store, [week_of(week) for week in by], found, budget, now)
    return Expansion(found, tuple(f"{rule.text}: {rule.found}" for rule in rules if rule.state != "pass"))


def clone_file(source: Path, target: Path, name: str) -> None:
    """Copy a workflow file under another name into the same folder, where its relative paths start.

    Raises ConfigError for a name that is the source's or none, another folder, and a target that exists.
    """
    settings = read_settings(source)[0]
    if not name.strip() or settings.name == name:
        raise ConfigError(f"{source} is called {settings.name!r}; an adjacent workflow needs a name of its own")
    if target.resolve().parent != source.resolve().parent:
        raise ConfigError(f"{target} is in another folder than {source}, and paths in the file start at its folder")
    line = f"name: {json.dumps(name, ensure_ascii=False)}"
    text, count = re.subn(r"^name:.*$", lambda _: line, source.read_text("utf-8"), count=1, flags=re.MULTILINE)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text if count else f"{line}\n{text}")
    except OSError as error:
        raise ConfigError(f"{target} was not written: {error}; name a new file") from error
