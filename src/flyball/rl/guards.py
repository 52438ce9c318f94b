"""Signs that a run is going wrong, read from its metrics. Pure: a history in, what was found out.

A guard needs a sign to last, because single steps are noisy. It says what it saw; what is done about it is decided by
`train/guards.py`, and by the setting `training.rl.guards`. Every metric is declared in `metrics.py`; a step without a
metric (a batch without signal has no entropy) is left out of what is read. The page docs/guards.md is made of the table
below: `python -m flyball.rl.guards > docs/guards.md`.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from flyball.errors import ConfigError, nearest

Action = Literal["ignore", "tell", "adjust", "pause", "stop"]
History = Sequence[Mapping[str, float]]
"""The metrics of the steps so far, oldest first."""
Found = tuple[float, str]
"""What was measured, and the sentence about it."""

LASTING = 3
"""Steps that a sign must last where nothing else is said."""
MIN_ENTROPY = 1e-3
ALIKE, ALIKE_STEPS = 0.9, 5
EXPECTED_KL = 0.5
"""Nats per token that a healthy run may be from its reference, where no schedule of the KL has a target."""
KL_EXCESS = 2.0
NORM_JUMP = 10.0
CONFLICT, CONFLICT_STEPS = -0.1, 10
EXPLOSION = 2.0
EARLY_STOP = 0.5
LEARNED = 0.05
"""Success that must be gained where answers got longer, or lost where they got shorter, for it to count."""
COLLAPSE = 0.5
HACKING_STEPS = 5
HACKING_VALIDATIONS = 2
HACKING_Z = 2.5
"""Standard errors by which a level must have moved."""
FORMAT_RISE = 0.1
HELD_OUT = "score/holdout/"
"""What a grader that learning never reads is recorded as, with its interval."""


@dataclass(frozen=True)
class Guard:
    """One row. `sign` is the definition, `window` the steps it looks back, `action` what is done unless set otherwise.

    `find` gives what it measured when the sign is there, else None.
    """

    name: str
    sign: str
    unit: str
    window: int
    action: Action
    find: Callable[[History], Found | None]


@dataclass(frozen=True)
class Alarm:
    """A guard that spoke after step `step`. `value` is in the guard's unit."""

    guard: str
    step: int
    value: float
    reason: str
    action: Action


# --- reading a history -----------------------------------------------------------------------------------------------


def _values(history: History, name: str) -> list[float]:
    return [step[name] for step in history if name in step]


def _lasting(history: History, name: str, wrong: Callable[[float], bool]) -> float | None:
    """The newest value when the last LASTING steps have the metric and are all wrong."""
    recent = [step.get(name) for step in history[-LASTING:]]
    if len(recent) == LASTING and all(value is not None and wrong(value) for value in recent):
        return recent[-1]
    return None


def _first_and_last(history: History, name: str, window: int) -> tuple[float, float] | None:
    """Means of the first and of the last `window` steps that have the metric; None while they overlap."""
    values = _values(history, name)
    if len(values) < 2 * window:
        return None
    return statistics.fmean(values[:window]), statistics.fmean(values[-window:])


@dataclass(frozen=True)
class _Level:
    """Mean of some points of a curve, its standard error, and the index of the step of the last point."""

    mean: float
    error: float
    last: int


def _level(history: History, name: str, steps: Sequence[int]) -> _Level:
    """Errors come from the 95 % intervals that are recorded with the points; a point without one adds none."""
    points = [history[i] for i in steps]
    widths = [max(p.get(f"{name}/high", p[name]) - p.get(f"{name}/low", p[name]), 0.0) for p in points]
    error = math.sqrt(sum((width / 3.92) ** 2 for width in widths)) / len(points)
    return _Level(statistics.fmean(p[name] for p in points), error, steps[-1])


def _fallen(history: History, name: str, window: int) -> tuple[_Level, _Level] | None:
    """The best earlier level and the last one, each of `window` points, where the last is lower beyond noise."""
    at = [i for i, step in enumerate(history) if name in step]
    if len(at) < 2 * window:
        return None
    last = _level(history, name, at[-window:])
    earlier = [_level(history, name, at[i : i + window]) for i in range(len(at) - 2 * window + 1)]
    best = max(earlier, key=lambda level: level.mean)
    return (best, last) if _moved(last, best) else None


def _moved(low: _Level, high: _Level) -> bool:
    return high.mean - low.mean > HACKING_Z * math.hypot(low.error, high.error)


# --- the signs -------------------------------------------------------------------------------------------------------


def _entropy_collapse(history: History) -> Found | None:
    value = _lasting(history, "entropy", lambda entropy: entropy < MIN_ENTROPY)
    if value is None:
        return None
    return value, f"entropy {value:.2g} nats/token is below {MIN_ENTROPY}: the policy explores nothing now"


def _advantage_collapse(history: History) -> Found | None:
    shares = _values(history[-ALIKE_STEPS:], "zero_variance_share")
    if len(shares) < ALIKE_STEPS or (mean := statistics.fmean(shares)) <= ALIKE:
        return None
    rates = _values(history[-ALIKE_STEPS:], "success_rate")
    solved = f" (success {statistics.fmean(rates):.1%})" if rates else ""
    return mean, (
        f"in {mean:.0%} of the groups of {ALIKE_STEPS} steps all attempts earned the same{solved}: there is next to "
        "nothing to learn; take harder or easier tasks, or a preset that refills its batches (dapo)"
    )


def _kl_excess(history: History) -> Found | None:
    recent = history[-LASTING:]
    over = [s["kl"] > KL_EXCESS * s.get("kl_expected", EXPECTED_KL) for s in recent if "kl" in s]
    if len(over) < LASTING or not all(over):
        return None
    value, expected = recent[-1]["kl"], recent[-1].get("kl_expected", EXPECTED_KL)
    return value, (
        f"kl {value:.3g} nats/token is above {KL_EXCESS:g} x the {expected:g} expected for {LASTING} steps: the policy "
        "left its reference"
    )


def _gradient_norm(history: History) -> Found | None:
    earlier = _values(history[:-LASTING], "grad_norm")
    if len(earlier) < LASTING:
        return None
    usual = statistics.median(earlier)
    value = _lasting(history, "grad_norm", lambda norm: norm > NORM_JUMP * usual > 0)
    if value is None:
        return None
    return value / usual, f"the gradient norm {value:.3g} is {value / usual:.0f} times its median {usual:.3g} before"


def _gradient_conflict(history: History) -> Found | None:
    cosines = _values(history[-CONFLICT_STEPS:], "gradient_cosine")
    if len(cosines) < CONFLICT_STEPS or (mean := statistics.fmean(cosines)) >= CONFLICT:
        return None
    return mean, (
        f"the gradients of the two halves of a batch have a mean cosine of {mean:.2f} over {CONFLICT_STEPS} steps: its "
        "families pull apart, or its rewards contradict each other"
    )


def _growth(history: History, values: History, name: str, what: str) -> Found | None:
    """`values` grew to EXPLOSION times its beginning and success did not rise by LEARNED meanwhile."""
    grown, success = _first_and_last(values, name, LASTING), _first_and_last(history, "success_rate", LASTING)
    if grown is None or success is None or grown[0] <= 0:
        return None
    ratio, gained = grown[1] / grown[0], success[1] - success[0]
    if ratio <= EXPLOSION or gained >= LEARNED:
        return None
    return (
        ratio,
        f"{what} grew from {grown[0]:.3g} to {grown[1]:.3g} while success moved {100 * gained:+.1f} points",
    )


def _length_explosion(history: History) -> Found | None:
    return _growth(history, history, "completion_tokens_mean", "tokens per attempt")


def _tool_call_explosion(history: History) -> Found | None:
    return _growth(history, history, "tool_calls_mean", "tool calls per attempt")


def _verbosity_explosion(history: History) -> Found | None:
    known = [s for s in history if s.get("turns_mean", 0) > 0 and "completion_tokens_mean" in s]
    said = [{"tokens_per_turn": s["completion_tokens_mean"] / s["turns_mean"]} for s in known]
    return _growth(history, said, "tokens_per_turn", "tokens per model call")


def _premature_stopping(history: History) -> Found | None:
    turns, success = _first_and_last(history, "turns_mean", LASTING), _first_and_last(history, "success_rate", LASTING)
    if turns is None or success is None or turns[0] <= 0:
        return None
    ratio, lost = turns[1] / turns[0], success[0] - success[1]
    if ratio >= EARLY_STOP or lost <= LEARNED:
        return None
    return ratio, (
        f"model calls per attempt fell from {turns[0]:.3g} to {turns[1]:.3g} and success by {100 * lost:.1f} points: "
        "attempts end before the work is done"
    )


def _reward_hacking(history: History) -> Found | None:
    held_out = [(name, HACKING_STEPS) for name in _score_names(history) if name.startswith(HELD_OUT)]
    for name, window in (("validation_success", HACKING_VALIDATIONS), ("success_rate", HACKING_STEPS), *held_out):
        fallen = _fallen(history, name, window)
        rewards = [i for i, step in enumerate(history) if "reward_mean" in step]
        if fallen is None:
            continue
        best, last = fallen
        then = [i for i in rewards if i <= best.last][-HACKING_STEPS:]
        if not then or then == rewards[-HACKING_STEPS:]:
            continue
        before, after = (_level(history, "reward_mean", at) for at in (then, rewards[-HACKING_STEPS:]))
        if _moved(before, after):
            return best.mean - last.mean, (
                f"reward rose from {before.mean:.3g} to {after.mean:.3g} while {name} fell from {best.mean:.1%} to "
                f"{last.mean:.1%}: the reward pays for something else than success"
            )
    return None


def _score_names(history: History) -> list[str]:
    """Every `score/...` that was recorded, without the ends and the n of its interval."""
    names = {name for step in history for name in step if name.startswith("score/")}
    return sorted(name for name in names if name.rpartition("/")[2] not in ("low", "high", "n"))


def _format_hacking(history: History) -> Found | None:
    success = _first_and_last(history, "success_rate", HACKING_STEPS)
    names = [name for name in _score_names(history) if "format" in name]
    for name in names if success and success[1] <= success[0] else ():
        form = _first_and_last(history, name, HACKING_STEPS)
        if form is not None and form[1] - form[0] > FORMAT_RISE:
            return form[1] - form[0], (
                f"{name.removeprefix('score/')} rose from {form[0]:.2f} to {form[1]:.2f} and success did not: the "
                "policy learns the form alone"
            )
    return None


def _success_collapse(history: History) -> Found | None:
    rates = _values(history, "success_rate")
    if len(rates) < 3 * LASTING:
        return None
    means = [statistics.fmean(rates[i : i + LASTING]) for i in range(len(rates) - LASTING + 1)]
    if max(means) <= 0.2 or means[-1] >= COLLAPSE * max(means):
        return None
    return means[-1], f"success fell to {means[-1]:.1%} from {max(means):.1%} (means of {LASTING} steps)"


# --- the table -------------------------------------------------------------------------------------------------------

_ROWS = (
    Guard(
        "entropy_collapse",
        f"`entropy` below {MIN_ENTROPY:g} in each of the last {LASTING} steps",
        "nats/token",
        LASTING,
        "stop",
        _entropy_collapse,
    ),
    Guard(
        "advantage_collapse",
        f"mean `zero_variance_share` above {ALIKE:g} over the last {ALIKE_STEPS} steps",
        "share of groups",
        ALIKE_STEPS,
        "tell",
        _advantage_collapse,
    ),
    Guard(
        "kl_excess",
        f"`kl` above {KL_EXCESS:g} x `kl_expected` in each of the last {LASTING} steps; expected is the target of the "
        f"KL schedule, without one {EXPECTED_KL:g}",
        "nats/token",
        LASTING,
        "stop",
        _kl_excess,
    ),
    Guard(
        "gradient_norm",
        f"`grad_norm` above {NORM_JUMP:g} x its median of all earlier steps in each of the last {LASTING}",
        "times the median",
        LASTING,
        "adjust",
        _gradient_norm,
    ),
    Guard(
        "gradient_conflict",
        f"mean `gradient_cosine` below {CONFLICT:g} over the last {CONFLICT_STEPS} steps: halves of a batch against "
        "each other, its groups in the order of their families",
        "cosine",
        CONFLICT_STEPS,
        "tell",
        _gradient_conflict,
    ),
    *(
        Guard(
            name,
            f"{what}: mean of the last {LASTING} steps above {EXPLOSION:g} x that of the first {LASTING}, and "
            f"`success_rate` gained less than {100 * LEARNED:g} points meanwhile",
            "times the beginning",
            LASTING,
            "tell",
            find,
        )
        for name, what, find in (
            ("length_explosion", "`completion_tokens_mean`", _length_explosion),
            ("tool_call_explosion", "`tool_calls_mean`", _tool_call_explosion),
            ("verbosity_explosion", "`completion_tokens_mean` / `turns_mean`", _verbosity_explosion),
        )
    ),
    Guard(
        "premature_stopping",
        f"`turns_mean`: mean of the last {LASTING} steps below {EARLY_STOP:g} x that of the first {LASTING}, and "
        f"`success_rate` lost more than {100 * LEARNED:g} points",
        "times the beginning",
        LASTING,
        "tell",
        _premature_stopping,
    ),
    Guard(
        "reward_hacking",
        f"`reward_mean` of {HACKING_STEPS} steps rose while success fell, each by more than {HACKING_Z:g} standard "
        f"errors: the last {HACKING_VALIDATIONS} validations against the best {HACKING_VALIDATIONS} in a row, or "
        f"`success_rate` or a grader held out (`score/holdout/...`) in the same way over {HACKING_STEPS} steps",
        "share of success lost",
        HACKING_STEPS,
        "pause",
        _reward_hacking,
    ),
    Guard(
        "format_hacking",
        f"a `score/...` with `format` in its name: mean of the last {HACKING_STEPS} steps above that of the first "
        f"{HACKING_STEPS} by more than {FORMAT_RISE:g}, and `success_rate` no higher",
        "score gained",
        HACKING_STEPS,
        "tell",
        _format_hacking,
    ),
    Guard(
        "success_collapse",
        f"`success_rate`: mean of the last {LASTING} steps below {COLLAPSE:g} x the best mean of {LASTING}, which was "
        f"above 0.2, after {3 * LASTING} steps or more",
        "share",
        LASTING,
        "stop",
        _success_collapse,
    ),
)

GUARDS: Mapping[str, Guard] = {guard.name: guard for guard in _ROWS}
"""The guards by name."""


def actions(own: Mapping[str, str]) -> dict[str, Action]:
    """What is done about each guard: `own` (a file's `training.rl.guards`), and the table for the rest.

    Raises ConfigError for a guard or an action that there is not.
    """
    found = {guard.name: guard.action for guard in _ROWS}
    for name, action in own.items():
        if name not in GUARDS:
            raise ConfigError(f"guard {name!r} is unknown{nearest(name, GUARDS)}")
        if action not in get_args(Action):
            raise ConfigError(f"guard {name!r}: action {action!r} is unknown{nearest(action, get_args(Action))}")
        found[name] = next(a for a in get_args(Action) if a == action)
    return found


def look(history: History, names: Sequence[str] = tuple(GUARDS)) -> dict[str, Found]:
    """What the guards of these names see now; a guard that sees nothing is left out."""
    return {name: found for name in names if (found := GUARDS[name].find(history)) is not None}


# --- the page --------------------------------------------------------------------------------------------------------

INTRODUCTION = """# Guards

Made by `python -m flyball.rl.guards > docs/guards.md`; change `src/flyball/rl/guards.py` instead.

Guards read the metrics of an RL run after every step, and after every validation. One that sees its sign speaks: on
the terminal, as the metric `guard/NAME`, as an event of the run, on the report and in the Reliability Brief. Then it is
quiet for as many steps as its window. What else is done is graded:

| action | what happens |
| --- | --- |
| `ignore` | the guard is off |
| `tell` | nothing else |
| `adjust` | the learning rate is halved from the next step on, and again each time the guard speaks |
| `pause` | the step is saved and the run stops for a person: look, then `flyball run --resume RUN` goes on |
| `stop` | training ends; the best checkpoint of the validations is the result |

A workflow file sets actions by name; a guard that is not named does what the table says.

```yaml
training: {rl: {guards: {reward_hacking: stop, length_explosion: adjust, gradient_conflict: ignore}}}
```

Success is what `success` of the workflow says, and judges releases; `reward` is what learning reads. Where they are
two graders, `reward_hacking` sees the proxy leave what it stands for; where they are one, it sees validation leave
training. Standard errors come from the recorded intervals, which are clustered by task.

| guard | sign | measured in | window, steps | action |
| --- | --- | --- | --- | --- |
"""


def markdown() -> str:
    """Return the page."""
    rows = [f"| `{g.name}` | {g.sign} | {g.unit} | {g.window} | `{g.action}` |" for g in _ROWS]
    return INTRODUCTION + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
