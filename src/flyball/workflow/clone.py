"""An adjacent workflow begins as a copy of one that pays and stands still: expansion by a rule, not by enthusiasm.

The rule: the lower 95 % bound of the margin per success lies above `economics.least_margin_usd`, no line of the budget
is empty, no incident is open, nothing is frozen or was rolled back in the period, and no flat score with rising cost
asks for a pause.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from flyball.config import read_settings
from flyball.errors import ConfigError
from flyball.release.standing import frozen, open_incidents
from flyball.reports.budget import UnitEconomics, optimistic, unit_economics
from flyball.reports.weekly import WEEK, advise, by_week, of_users, recoveries, week_of
from flyball.stats.written import format_estimate
from flyball.store.store import Store
from flyball.types import SessionRecord

UNLOCK_WEEKS = 1


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
    begins = now - weeks * WEEK
    by_age = by_week(store.served_sessions(project=project, since=begins), now, weeks)
    served: list[SessionRecord] = [session for week in by_age for session in of_users(week)]
    found = unit_economics(served, budget, weeks * WEEK / 86_400.0)
    assert found.margin is not None  # there is a value of a success
    against: list[str] = []
    if not found.pays:
        against.append(
            f"margin per success {format_estimate(found.margin)}: its lower bound is not above "
            f"${budget.least_margin_usd:g}"
        )
    if found.empty:
        against.append(optimistic(found.empty))
    against += [*open_incidents(store), *frozen(store, UNLOCK_WEEKS, now)]
    back = [one for one in recoveries(store.acts()) if begins <= one.at < now]
    against += [f"release {one.release[:12]} was rolled back: {one.reason}" for one in back]
    advice = advise([week_of(week) for week in by_age])
    if advice.pause:
        against.append(f"training pauses: {advice.reason}")
    return Expansion(found, tuple(against))


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
