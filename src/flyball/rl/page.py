"""The page docs/algorithms.md, made of the tables: `python -m flyball.rl.page > docs/algorithms.md`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from flyball.rl.aggregate import MODES
from flyball.rl.algorithms import ALGORITHMS, CHOICES, Algorithm
from flyball.rl.chooser import RULES
from flyball.rl.correction import CORRECTIONS
from flyball.rl.kl import PLACEMENTS
from flyball.rl.preference import bradley_terry, dpo, kto, simpo, soft_labels, turn_weights
from flyball.rl.preference_methods import METHODS

INTRODUCTION = """# Algorithms

Made by `python -m flyball.rl.page > docs/algorithms.md`; change the tables under `src/flyball/rl/` instead.

`training.rl.preset` names a row; the default is `rloo`. Tiers: `verified` (a curve on a model people know), `exact`
(tests against the formulae), `experimental`. Papers are arXiv numbers. What every row
shares: a clip acts with two updates per batch or more (`updates_per_batch`), the gap to the
engine is corrected by `tis` at 2, and a group whose advantages are all 0 trains nothing."""

PREFERENCES: tuple[tuple[str, Callable[..., Any], str], ...] = (
    ("DPO", dpo, "b 0.1"),
    ("Step-DPO, segment DPO", dpo, "b 0.4; trained are the tokens of the step or segment that differs"),
    ("SimPO", simpo, "b 2.5, gamma 1.375"),
    ("KTO", kto, "b 0.1, weights 1 and 1"),
    ("DMPO", turn_weights, "g 0.7; `dpo` on scores weighted by turn"),
    ("labels from 0 to 1", soft_labels, "q in {0, 1}: an outcome; else the value of a step"),
    ("Bradley-Terry", bradley_terry, "margin 0"),
)


def markdown() -> str:
    """Return the page."""
    parts = [INTRODUCTION, "## Presets"]
    parts.append(
        _table(
            ("preset", "formula", "functions", "paper", "fits", "tier", "defaults", "deviations"),
            [
                (
                    f"`{row.name}`",
                    row.formula,
                    _names(row.functions),
                    row.source,
                    row.fits,
                    row.tier,
                    _defaults(row),
                    row.deviations or "none",
                )
                for row in ALGORITHMS.values()
            ],
        )
    )
    parts += _choosing()
    parts += ["## Corrections of the gap to the engine", "`training.rl.correction`; formulae in `rl/correction.py`."]
    parts.append(
        _table(
            ("name", "about", "low", "high", "rejects"),
            [
                (
                    f"`{c.name}`",
                    "sequences" if c.whole else "tokens",
                    _number(c.low),
                    _number(c.high),
                    "yes" if c.rejects else "no",
                )
                for c in CORRECTIONS.values()
            ],
        )
    )
    parts += ["## Where a KL to the reference may stand", "`training.rl.kl`; arXiv 2512.21852."]
    parts.append(
        _table(
            ("placement", "expected gradient on policy", "refused because"),
            [(f"`{k.name}`", k.gradient, k.refused or "allowed") for k in PLACEMENTS.values()],
        )
    )
    parts += [
        "## Losses of preferences",
        "Functions of `rl/preference.py`. `training.preference.method` names a row of `rl/preference_methods.py`:",
    ]
    parts.append(
        _table(
            ("method", "source", "trained", "weight of a token", "reference", "defaults", "tier"),
            [
                (
                    f"`{row.name}`",
                    row.source,
                    {
                        "all": "all turns",
                        "segment": "from the turn that parts the answers on",
                        "step": "that turn alone",
                    }[row.scope],
                    {"sum": "1", "mean": "1 / tokens", "turns": "phi(turn, turns)"}[row.weights],
                    "yes" if row.reference else "no",
                    ", ".join(f"{name} {value:g}" for name, value in row.reads.items()),
                    row.tier,
                )
                for row in METHODS.values()
            ],
        )
    )
    parts.append(
        _table(
            ("loss", "function", "formula and paper", "defaults"),
            [(name, f"`{fn.__name__}`", _first_line(fn), defaults) for name, fn, defaults in PREFERENCES],
        )
    )
    return "\n\n".join(parts) + "\n"


def _choosing() -> list[str]:
    """Which preset fits, and what a file may set."""
    choices, modes = (", ".join(f"`{name}`" for name in names) for names in (CHOICES, MODES))
    return [
        "## Which preset fits",
        "The first line that holds; `flyball doctor` measures it on attempts.",
        _table(("the attempts", "`training.rl`", "because"), [(r.when, f"`{r.settings}`", r.why) for r in RULES]),
        "What attempts cannot tell: a learned reward model speaks for `ppo_kl`, a mixture of experts for `gspo`, "
        "outcomes alone and a wish for credit by token for `prime`. To reproduce a paper, take its row.",
        f"A workflow file may set, under `training.rl`: {choices}.",
        "Under the schedule `sync`, `max_refills` attempts other tasks in place of groups that teach nothing "
        "(`train/selective.py`), and `greso: true` skips tasks that taught nothing lately (arXiv 2506.02177, "
        "`rl/selection.py`).",
        f"`loss_agg_mode` is one of {modes}; see `rl/aggregate.py`.",
    ]


def _defaults(row: Algorithm) -> str:
    clip = ", ".join(_number(v) for v in (row.clip_ratio_low, row.clip_ratio_high))
    kl = f"{row.kl_coef:g} {row.kl}" if row.uses_kl else "0"
    refills = f"; refills {row.max_refills}" if row.max_refills else ""
    return f"clip {clip}; {row.loss_agg_mode}; KL {kl}; overlong {row.overlong}{refills}"


def _first_line(fn: Callable[..., Any]) -> str:
    return (fn.__doc__ or "").splitlines()[0]


def _names(functions: Sequence[Callable[..., Any]]) -> str:
    return ", ".join(f"`{fn.__module__.removeprefix('flyball.')}.{fn.__name__}`" for fn in functions)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(markdown())
