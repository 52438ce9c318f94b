"""The page docs/results.md, made of benchmarks/results/paper: `python -m benchmarks.paper.page > docs/results.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from benchmarks.paper.mini import FOLDER
from benchmarks.paper.run import ROWS

HEAD = """# The papers' mechanisms in miniature

Made by `python -m benchmarks.paper.page > docs/results.md` from `benchmarks/results/paper/`; `make paper` runs what is
missing. An arm that was run with the same code is not run again.

These are checks of mechanisms: our functions of `src/flyball/rl/` on simulated worlds with policies of a few hundred
to two thousand parameters. **The effect sizes of the papers do not transfer to these rows, nor these to your model.**
A row says whether the mechanism does what it is said to do where it can be seen at all. Worlds, learning rates and
claims were chosen on seeds below 2000, so that there is something to see; the table is the first run of seeds 2000 and
up. [log.md](log.md) says what was tried before. A claim is the mean paired difference of two arms on the same seeds,
with its 95 % t interval; n counts seeds. One that was missed stays, with what we think of it.

Budgets: `@samples` compares after the same number of attempts, `@cost` after the same cost by a declared price list (a
sampled token or call 1, a token trained once 0.5), because seconds of a simulation say nothing about a model's.
"""

FOOT = """Seen in `details` of the JSON files beside each claim: the mean of every arm, and the CPU seconds of the row.
"""


def results(folder: Path = FOLDER) -> dict[str, list[dict[str, Any]]]:
    """The published results of every row that has some, in the order of the table."""
    return {name: orjson.loads((folder / f"{name}.json").read_bytes()) for name in ROWS}


def markdown(found: dict[str, list[dict[str, Any]]]) -> str:
    """The page."""
    claims = [one for row in found.values() for one in row]
    held = sum(one["holds"] for one in claims)
    parts = [HEAD, f"{held} of {len(claims)} claims hold, {len(claims) - held} were missed.\n"]
    for name, row in found.items():
        mine = ROWS[name]
        parts.append(f"## {mine.title}\n")
        parts.append(f"Paper: {mine.paper}. Here: {mine.policy}. Script: `benchmarks/paper/{name}.py`.\n")
        parts.append("| claim | measured | ours, 95 % interval | n | verdict |\n| --- | --- | --- | --- | --- |")
        parts += [_line(one) for one in row]
        parts.append("")
        parts += [f"Missed: {one['claim']}. {one['reason']}\n" for one in row if not one["holds"]]
    return "\n".join([*parts, FOOT])


def _line(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    sign = "" if one["unit"] == "times" else "+"
    number = f"{one['value']:{sign}.3g} [{low:{sign}.3g}, {high:{sign}.3g}]"
    what = one["target"].partition(";")[0]
    return f"| {one['claim']} | {what} | {number} | {one['n']} | {'holds' if one['holds'] else 'missed'} |"


if __name__ == "__main__":
    print(markdown(results()), end="")
