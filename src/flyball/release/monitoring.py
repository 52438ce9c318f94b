"""What `monitoring` in a workflow file says: which monitors look, and what of them is not as their table has it.

tool_error_rate                                                         as `monitors.py` defines it
{metric: tool_error_rate, margin: 0.05, window_days: 14, owner: ML}     what is left out stays as defined
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

from flyball.errors import ConfigError, nearest
from flyball.release.gate import Owner
from flyball.release.monitors import DAY, MAY_BE_SET, MONITORS, Monitor

Written = str | Mapping[str, Any]
"""One entry of the list."""


def monitors(written: Iterable[Written] = ()) -> tuple[Monitor, ...]:
    """The monitors of a list, all of them for an empty one. Raises ConfigError for what cannot be honoured."""
    found = tuple(monitor(one) for one in written) or tuple(MONITORS.values())
    names = [one.name for one in found]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"monitor {repeated[0]!r} is listed twice; list each once")
    return found


def monitor(written: Written) -> Monitor:
    """One entry: a name, or {metric, margin, window_days, owner}. Raises ConfigError for what cannot be honoured."""
    if isinstance(written, str):
        return _named(written)
    if unknown := sorted(written.keys() - {"metric", *MAY_BE_SET}):
        raise ConfigError(
            f"monitor {dict(written)}: unknown key {unknown[0]!r}; it has metric, {', '.join(MAY_BE_SET)}"
        )
    if "metric" not in written:
        raise ConfigError(
            f"monitor {dict(written)}: no metric; add metric: NAME, `flyball monitors list` prints the names"
        )
    default, given = _named(written["metric"]), {key: written[key] for key in MAY_BE_SET if key in written}
    for key, check in (("margin", _check_margin), ("window_days", _check_window), ("owner", _check_owner)):
        if key in given:
            check(default, given[key])
    return replace(default, **given)


def _named(name: object) -> Monitor:
    if not isinstance(name, str) or name not in MONITORS:
        raise ConfigError(f"unknown monitor {name!r}{nearest(str(name), MONITORS)}")
    return MONITORS[name]


def _check_margin(default: Monitor, margin: object) -> None:
    """Only nats have no upper end: a share cannot change by more than 1, and 15 was meant as 15 %."""
    most = float("inf") if default.absolute else 1.0
    if _is_number(margin) and 0 < margin < most:  # type: ignore[operator]
        return
    rule = f"a number above 0{'' if default.absolute else ' and below 1'}"
    unit = default.unit if default.absolute else f"shares of 1, so {default.written()} are {default.margin:g}"
    raise ConfigError(
        f"monitor {default.name!r}: margin {margin!r} is not {rule}: it is in {unit}, and an alarm is raised where the "
        f"monitor {default.turns} by more than that; to switch it off, list the other monitors without it"
    )


def _check_window(default: Monitor, days: object) -> None:
    least = default.lag / DAY
    if not (_is_number(days) and least < days < float("inf")):  # type: ignore[operator]
        why = f": its newest {least:g} days are left out" if least else ""
        raise ConfigError(
            f"monitor {default.name!r}: window_days {days!r} is not a number above {least:g}{why}; the default is "
            f"{default.window_days:g}"
        )


def _check_owner(default: Monitor, owner: object) -> None:
    if owner not in get_args(Owner):
        known = nearest(str(owner), get_args(Owner))
        raise ConfigError(f"monitor {default.name!r}: unknown owner {owner!r}{known}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
