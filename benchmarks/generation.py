"""Tokens per second of the local engine beside Transformers, on one machine, model and type of number.

    python -m benchmarks.generation --batch 32 --batch 64 --rounds 5 --fresh

Each round runs every way once, one after the other, on prompts that were never used. A claim is the median over rounds
of the ratio of two ways of the same round. `flyball` and its rivals get prompts that share nothing; `flyball groups`
gets eight attempts at each prompt, as in a step of RL. The weight-read floor is what reading the weights once for every
token of the batch would allow at the bandwidth measured in the same round; prefill counts as time in all numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.helpdesk.run import read_reasons
from benchmarks.result import Finding, append_row, median_ratio, publish, read_rows, rows_file
from benchmarks.speed import (
    Way,
    flyball,
    instructions,
    make_prompts,
    read_bandwidth,
    timed,
    transformers_continuous_batching,
    transformers_generate,
    weight_bytes,
)
from flyball.errors import FlyballError
from flyball.models.load import load_model, pays_bfloat16
from flyball.models.names import find

NAME = "generation"
REASONS = Path(__file__).with_name("generation_reasons.json")
OVER_GENERATE, STRETCH = 3.0, 4.0
SHARE_OF_FLOOR = 0.37
WITHIN = 1.5
FLYBALL, GROUPS, GENERATE, BATCHING, FLOOR = (
    "flyball",
    "flyball groups",
    "generate",
    "generate_batch",
    "weight-read floor",
)

Row = Mapping[str, Any]


@click.command()
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(32, 64), show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--policy", default="smollm2-135m", show_default=True, help="Known name or model folder.")
@click.option("--fresh", is_flag=True, help="Discard the rows of earlier runs.")
def main(batches: tuple[int, ...], rounds: int, policy: str, fresh: bool) -> None:
    """Run what is not yet measured, then write the results."""
    try:
        file = rows_file(NAME)
        if fresh:
            file.unlink(missing_ok=True)
        measure(policy, batches, rounds, file)
        sizes = " ".join(f"--batch {batch}" for batch in batches)
        reasons = read_reasons(REASONS) if REASONS.exists() else {}
        found = findings(read_rows(file))
        command = f"python -m benchmarks.generation {sizes} --rounds {rounds}"
        results = publish(NAME, found, command=command, reasons={k: v for k, v in reasons.items() if k in ids(found)})
    except FlyballError as exc:
        raise click.ClickException(str(exc)) from exc
    for result in results:
        print(f"{'holds ' if result.holds else 'MISSED'}  {result.id:36} {result.value:8.2f} {result.unit}")


def ids(found: Sequence[Finding]) -> set[str]:
    """Return the names of the claims."""
    return {finding.id for finding in found}


def measure(policy: str, batches: Sequence[int], rounds: int, file: Path) -> None:
    """Append one row for each batch and round that `file` lacks."""
    missing = [(b, r) for b in batches for r in range(rounds) if (b, r) not in _done(file)]
    if not missing:
        return
    folder = find(policy)
    rival, own = load_model(folder), load_model(folder)
    if pays_bfloat16(own):
        rival, own = rival.bfloat16(), own.bfloat16()
    shared = flyball(own)
    ways: dict[str, Way] = {
        FLYBALL: shared,
        GROUPS: shared,
        GENERATE: transformers_generate(rival),
        BATCHING: transformers_continuous_batching(rival),
    }
    for way in ways.values():
        timed(way, make_prompts(2, "different", 10**6), 0)  # what is loaded and compiled on the first call
    for batch, number in missing:
        row = {"batch": batch, "round": number, "dtype": str(own.dtype), **instructions()}
        row[FLOOR] = batch * read_bandwidth() / weight_bytes(own)
        for name, way in ways.items():
            prompts = make_prompts(batch, "groups" if name == GROUPS else "different", number)
            row[name] = timed(way, prompts, number)
            print(f"batch {batch} round {number}: {row[name]:7.1f} tokens/s  {name}", flush=True)
        append_row(file, row)


def _done(file: Path) -> set[tuple[int, int]]:
    return {(row["batch"], row["round"]) for row in read_rows(file)}


def findings(rows: Sequence[Row]) -> list[Finding]:
    """Return the claims for every batch in `rows`."""
    found = []
    for batch in sorted({row["batch"] for row in rows}):
        own = [row for row in rows if row["batch"] == batch]
        found += [
            _ratio(own, batch, FLYBALL, GENERATE, OVER_GENERATE, "at least 3 times Transformers' generate", STRETCH),
            _ratio(own, batch, FLYBALL, FLOOR, SHARE_OF_FLOOR, "at least 37 % of the weight-read floor", 0.5),
            _ratio(own, batch, FLYBALL, BATCHING, WITHIN, "more than 1.5 times Transformers' continuous batching"),
            _ratio(own, batch, GROUPS, GENERATE, OVER_GENERATE, "eight attempts a prompt: 3 times generate", STRETCH),
        ]
    return found


def _ratio(
    rows: Sequence[Row], batch: int, over: str, under: str, least: float, claim: str, stretch: float | None = None
) -> Finding:
    value, interval, n = median_ratio(rows, over, under)
    details: dict[str, Any] = {
        over: sorted(row[over] for row in rows),
        under: sorted(row[under] for row in rows),
        "amx": bool(rows[0]["amx_bf16"]),
        "avx512_bf16": bool(rows[0]["avx512_bf16"]),
        "dtype": rows[0]["dtype"],
    }
    if stretch is not None:
        details["stretch_met"] = value >= stretch
    return Finding(
        f"generation.{over}_over_{under}.{batch}".replace(" ", "_").replace("-", "_"),
        f"batch {batch}, 64 new tokens after 100, logprobs on: {claim}",
        f"median over rounds of the ratio of tokens/s, {over} over {under}, at least {least:g}",
        value,
        interval,
        n,
        "times",
        value >= least,
        details,
    )


if __name__ == "__main__":
    main()
