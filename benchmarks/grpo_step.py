"""Seconds of one GRPO step beside TRL's GRPOTrainer: 4 prompts of 100 tokens x 8 completions of 64 tokens, on a CPU.

    python -m benchmarks.grpo_step --rival /path/of/your/choice/bin/python --fresh

How to make the environment of the rival is said in requirements-rivals.txt. A step samples, rewards (the share of even
tokens), takes the gradient and moves the weights; neither side has a reference model. First every row of SWEEP takes
one step that does not count and one that does; then `flyball`, the defaults and the best row take their steps in turn.
Every process stays up, so loading is in no number. TRL at its defaults uses bfloat16 and gradient checkpointing.
About 40 minutes on two cores.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.result import Finding, append_row, median_ratio, publish, read_rows, rows_file
from benchmarks.rival import Rival
from benchmarks.speed import IDS
from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.errors import EvalError, FlyballError
from flyball.models.load import load_model, pays_bfloat16
from flyball.models.names import find
from flyball.rl.advantage import grpo_advantages
from flyball.rl.algorithms import algorithm
from flyball.rl.samples import weighted
from flyball.train.learner import LocalLearner, LossSpec, OptimizerConfig
from flyball.types import TrainingSample

NAME = "grpo_step"
PROMPTS, PROMPT, GROUP, NEW = 4, 100, 8, 64
OVER_DEFAULTS, OVER_BEST, STRETCH = 8.0, 3.5, 5.0
DEFAULTS = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
"""TRL's own batch of 8; 4 of them make a step of 32."""
_WHOLE = {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 1}
SWEEP: dict[str, dict[str, Any]] = {
    "defaults": DEFAULTS,
    "no checkpointing": DEFAULTS | {"gradient_checkpointing": False},
    "no checkpointing, one batch": _WHOLE | {"gradient_checkpointing": False},
    "no checkpointing, one batch, float32": _WHOLE | {"gradient_checkpointing": False, "bf16": False},
    "no checkpointing, one batch, weights in bfloat16": _WHOLE
    | {"gradient_checkpointing": False, "model_dtype": "bfloat16"},
    "no checkpointing, one batch, continuous batching": _WHOLE
    | {"gradient_checkpointing": False, "use_transformers_continuous_batching": True},
}
FLYBALL = "flyball"
LOSS = LossSpec("policy", algorithm("grpo").loss_params(kl_coef=0.0))

Step = Callable[[int], float]
"""Number of the step in, its seconds out."""


@click.command()
@click.option("--rival", type=click.Path(exists=True, path_type=Path), required=True, help="Python that has TRL.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--policy", default="smollm2-135m", show_default=True, help="Known name or model folder.")
@click.option("--row", "rows", multiple=True, type=click.Choice(list(SWEEP)), help="Of the sweep; unset = all.")
@click.option("--fresh", is_flag=True, help="Discard the rows of earlier runs.")
@click.option("--reasons", type=click.Path(exists=True, path_type=Path), help="JSON of claim id to reason.")
def main(rival: Path, rounds: int, policy: str, rows: tuple[str, ...], fresh: bool, reasons: Path | None) -> None:
    """Run the sweep and the rounds that are missing, then write the results."""
    try:
        file = rows_file(NAME)
        if fresh:
            file.unlink(missing_ok=True)
        folder = find(policy)
        best = sweep(rival, folder, rows or tuple(SWEEP), file)
        measure(rival, folder, best, rounds, file)
        command = f"python -m benchmarks.grpo_step --rival PYTHON --rounds {rounds}"
        given = json.loads(reasons.read_text()) if reasons else {}
        for result in publish(NAME, findings(read_rows(file), best), command=command, reasons=given):
            print(f"{'holds ' if result.holds else 'MISSED'}  {result.id} {result.value:.2f} {result.unit}")
    except FlyballError as exc:
        raise click.ClickException(str(exc)) from exc


def sweep(rival: Path, folder: Path, names: tuple[str, ...], file: Path) -> str:
    """Time every row of the sweep that `file` lacks; returns the fastest that ran."""
    done = {row["sweep"]: row for row in read_rows(file) if "sweep" in row}
    for name in [name for name in names if name not in done]:
        try:
            with trl_step(rival, folder, SWEEP[name]) as step:
                step(0)
                done[name] = {"sweep": name, "seconds": step(1)}
        except EvalError as failed:  # a setting that does not run here is part of the record
            done[name] = {"sweep": name, "failed": str(failed)}
        append_row(file, done[name])
        print(done[name], flush=True)
    ran = [row for row in done.values() if "seconds" in row]
    if not ran:
        raise EvalError("no setting of the sweep ran; what the rival said is in the rows and above")
    return str(min(ran, key=lambda row: float(row["seconds"]))["sweep"])


def measure(rival: Path, folder: Path, best: str, rounds: int, file: Path) -> None:
    """Append the rounds that are missing: every way takes one step in each."""
    done = {row["round"] for row in read_rows(file) if "round" in row}
    missing = [number for number in range(rounds) if number not in done]
    if not missing:
        return
    with trl_step(rival, folder, SWEEP["defaults"]) as defaults, trl_step(rival, folder, SWEEP[best]) as tuned:
        ways: dict[str, Step] = {FLYBALL: own_step(folder), "defaults": defaults, "best": tuned}
        for number in (-1, *missing):  # one that does not count
            row: dict[str, Any] = {"round": number, "best is": best, "threads": torch.get_num_threads()}
            for name, way in ways.items():
                row[name] = way(number + 1)
                print(f"round {number}: {row[name]:7.2f} s  {name}", flush=True)
            if number >= 0:
                append_row(file, row)


# --- the ways --------------------------------------------------------------------------------------------------------


def make_prompts(seed: int) -> np.ndarray:
    """Token ids [PROMPTS, PROMPT] that no other seed gives."""
    return np.random.default_rng(seed).integers(*IDS, (PROMPTS, PROMPT))


def own_step(folder: Path) -> Step:
    """Sampling by the local engine, gradient and update by the learner, weights handed over in memory."""
    model = load_model(folder)
    bf16 = pays_bfloat16(model)
    sampler = load_model(folder)
    engine = LocalEngine(sampler.bfloat16() if bf16 else sampler, num_slots=PROMPTS * GROUP)
    learner = LocalLearner(model, None, OptimizerConfig(lr=1e-6), bf16=bf16)

    async def draw(prompts: np.ndarray, seed: int) -> list[Completion]:
        rules = [SamplingParams(1.0, NEW, 1000 * seed + i) for i in range(len(prompts))]
        asked = [Request(tuple(p.tolist()), rule, ()) for p, rule in zip(prompts, rules, strict=True)]
        return await asyncio.gather(*map(engine.generate, asked))

    def step(number: int) -> float:
        prompts = make_prompts(number).repeat(GROUP, 0)
        started = time.perf_counter()
        engine.use_weights(learner.weights(), learner.version)
        drawn = asyncio.run(draw(prompts, number))
        learner.forward_backward(_samples(prompts, drawn), LOSS)
        learner.optim_step()
        return time.perf_counter() - started

    return step


def _samples(prompts: np.ndarray, drawn: list[Completion]) -> list[TrainingSample]:
    rewards = np.array([np.mean(np.array(done.token_ids) % 2 == 0) for done in drawn])
    advantages = np.concatenate([grpo_advantages(group) for group in rewards.reshape(PROMPTS, GROUP)])
    samples = []
    for prompt, done, advantage in zip(prompts, drawn, advantages, strict=True):
        if len(done.token_ids) != NEW:
            raise EvalError(f"a completion has {len(done.token_ids)} tokens, not {NEW}")
        tokens = np.array([*prompt, *done.token_ids], np.int64)
        mask, zeros = np.arange(len(tokens)) >= PROMPT, np.zeros(len(tokens), np.float32)
        logprobs = np.array([0.0] * PROMPT + list(done.logprobs), np.float32)
        samples.append(TrainingSample(tokens, mask, logprobs, np.float32(advantage) * mask, zeros))
    return weighted(samples, "token-mean")


@contextmanager
def trl_step(python: Path, folder: Path, settings: Mapping[str, Any]) -> Iterator[Step]:
    """One step of TRL at `settings`. Raises EvalError when its completions are not as asked for."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.decode(ids) for seed in range(16) for ids in make_prompts(seed).tolist()]
    job = {"folder": str(folder), "settings": settings, "prompts": texts, "group": GROUP, "new": NEW}

    def step(_number: int) -> float:
        answer = rival.step()
        if answer["tokens"] != [NEW] * (PROMPTS * GROUP):
            raise EvalError(f"TRL's step had completions of {answer['tokens']} tokens, not {PROMPTS * GROUP} of {NEW}")
        return float(answer["seconds"])

    with Rival(python, "grpo_step_trl.py", job) as rival:
        yield step


# --- the claims ------------------------------------------------------------------------------------------------------


def findings(rows: list[dict[str, Any]], best: str) -> list[Finding]:
    """Both claims over all rounds."""
    rounds = [row for row in rows if "round" in row]
    swept = {row["sweep"]: row.get("seconds", row.get("failed")) for row in rows if "sweep" in row}
    found = []
    for rival, least, words in (
        ("defaults", OVER_DEFAULTS, "its defaults"),
        ("best", OVER_BEST, "its best of a sweep"),
    ):
        value, interval, n = median_ratio(rounds, rival, FLYBALL)
        seconds = {name: sorted(row[name] for row in rounds) for name in (FLYBALL, rival)}
        details = {"seconds": seconds, "sweep": swept, "best": best, "stretch_met": value >= STRETCH}
        found.append(
            Finding(
                f"{NAME}.over_{rival}",
                f"one GRPO step, 4 prompts x 8 completions x 64 new tokens, against TRL 1.16 at {words}",
                f"median over rounds of the ratio of seconds, TRL over {FLYBALL}, at least {least:g}",
                value,
                interval,
                n,
                "times",
                value >= least,
                details,
            )
        )
    return found


if __name__ == "__main__":
    main()
