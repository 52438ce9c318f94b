"""How far the logprobs of the sampler and of the trainer lie apart, on the same weights.

    python -m benchmarks.logprob_agreement --fresh

32 completions of 64 tokens (8 to each of 4 prompts of 100 tokens) are sampled by the local engine with its caches and
scored by the learner in one pack, SmolLM2-135M. In float32 the mean difference is a claim; in bfloat16, as a run on such
a machine would sample and train, the distribution is reported. About 2 minutes on two cores.
"""

from __future__ import annotations

import asyncio
from typing import Any

import click
import numpy as np
import torch

from benchmarks.ratio import IDS
from benchmarks.result import Finding, append_row, publish, read_rows, rows_file
from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.errors import FlyballError
from flyball.models.load import load_model
from flyball.models.names import find
from flyball.train.learner import LocalLearner, OptimizerConfig
from flyball.types import TrainingSample

NAME = "logprob_agreement"
PROMPTS, PROMPT, GROUP, NEW = 4, 100, 8, 64
MOST = 1e-5
QUANTILES = (0.5, 0.9, 0.99, 1.0)


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--new", type=click.IntRange(min=1), default=NEW, show_default=True, help="Tokens of a completion.")
@click.option("--policy", default="smollm2-135m", show_default=True, help="Known name or model folder.")
@click.option("--fresh", is_flag=True, help="Discard the rows of earlier runs.")
@click.option("--reason", default="", help="Why the claim was missed, if it was.")
def main(seeds: int, new: int, policy: str, fresh: bool, reason: str) -> None:
    """Run what is not yet measured, then write the results."""
    try:
        file = rows_file(NAME)
        if fresh:
            file.unlink(missing_ok=True)
        done = {(row["dtype"], row["seed"]) for row in read_rows(file)}
        for dtype in ("float32", "bfloat16"):
            for seed in [s for s in range(seeds) if (dtype, s) not in done]:
                gaps = differences(find(policy), dtype, seed, new)
                append_row(file, {"dtype": dtype, "seed": seed, "gaps": np.round(gaps, 9).tolist()})
        command = f"python -m benchmarks.logprob_agreement --seeds {seeds} --new {new}"
        reasons = {f"{NAME}.float32": reason} if reason else {}
        for result in publish(NAME, findings(read_rows(file)), command=command, reasons=reasons):
            print(f"{'holds ' if result.holds else 'MISSED'}  {result.id} {result.value:.3g} {result.unit}")
    except FlyballError as exc:
        raise click.ClickException(str(exc)) from exc


def differences(folder: Any, dtype: str, seed: int, new: int) -> np.ndarray:
    """Trainer minus sampler, for every sampled token."""
    sampler, bf16 = load_model(folder), dtype == "bfloat16"
    engine = LocalEngine(sampler.bfloat16() if bf16 else sampler, num_slots=PROMPTS * GROUP)
    learner = LocalLearner(load_model(folder), None, OptimizerConfig(), bf16=bf16)
    prompts = np.random.default_rng(seed).integers(*IDS, (PROMPTS, PROMPT)).repeat(GROUP, 0)

    async def draw() -> list[Completion]:
        rules = [SamplingParams(1.0, new, 1000 * seed + i) for i in range(len(prompts))]
        asked = [Request(tuple(p.tolist()), rule, ()) for p, rule in zip(prompts, rules, strict=True)]
        return await asyncio.gather(*map(engine.generate, asked))

    samples = []
    for prompt, done in zip(prompts, asyncio.run(draw()), strict=True):
        tokens = np.array([*prompt, *done.token_ids], np.int64)
        logprobs = np.array([0.0] * PROMPT + list(done.logprobs), np.float32)
        zeros = np.zeros(len(tokens), np.float32)
        samples.append(TrainingSample(tokens, np.arange(len(tokens)) >= PROMPT, logprobs, zeros, zeros))
    scored = learner.forward(samples)
    print(f"{dtype} seed {seed}: {len(samples)} completions, {torch.get_num_threads()} threads", flush=True)
    return np.concatenate([(one - s.sampling_logprobs)[s.loss_mask] for one, s in zip(scored, samples, strict=True)])


def findings(rows: list[dict[str, Any]]) -> list[Finding]:
    """The claim in float32; in bfloat16 what was seen, which holds as long as it is a number."""
    found = []
    for dtype in ("float32", "bfloat16"):
        own = [np.array(row["gaps"]) for row in rows if row["dtype"] == dtype]
        gaps, means = np.concatenate(own), np.array([np.abs(each).mean() for each in own])
        drawn = np.random.default_rng(0).choice(means, (10_000, len(means))).mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        value, claimed = float(np.abs(gaps).mean()), dtype == "float32"
        found.append(
            Finding(
                f"{NAME}.{dtype}",
                f"sampler and trainer agree on the logprobs of sampled tokens in {dtype}"
                + ("" if claimed else " (reported, no bound claimed)"),
                "mean |trainer - sampler| over sampled tokens" + (f", at most {MOST:g}" if claimed else ""),
                value,
                (float(low), float(high)),
                len(means),
                "nats",
                value <= MOST if claimed else bool(np.isfinite(value)),
                {
                    "tokens": len(gaps),
                    "quantiles of |difference|": {str(q): float(np.quantile(np.abs(gaps), q)) for q in QUANTILES},
                    "mean difference": float(gaps.mean()),
                    "standard deviation": float(gaps.std()),
                    "sequence ratio, log, standard deviation": float(
                        np.std([each.reshape(PROMPTS * GROUP, -1).sum(1) for each in own])
                    ),
                },
            )
        )
    return found


if __name__ == "__main__":
    main()
