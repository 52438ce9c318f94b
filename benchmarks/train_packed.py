"""Completion tokens per second of a gradient: a group as one pack beside one row per completion in Transformers.

    python -m benchmarks.train_packed --fresh

8 completions of 100 tokens to one prompt of 400, SmolLM2-135M, one policy gradient at the same precision (autocast to
bfloat16 where the processor multiplies it). Each round runs every way once on text that no earlier round had, and the
ways must agree on the direction of the gradient. The text is this project's own pages: after random tokens the gradient
of opposed advantages is mostly rounding. The rival is the faster of two: logits at every position, and logits at the
completions only. About 2 minutes on two cores.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.result import Finding, append_row, median_ratio, publish, read_rows, rows_file
from flyball.errors import EvalError, FlyballError
from flyball.models.load import load_model, pays_bfloat16
from flyball.models.names import find
from flyball.rl.algorithms import algorithm
from flyball.rl.samples import weighted
from flyball.train.learner import LocalLearner, LossSpec, OptimizerConfig
from flyball.types import TrainingSample

NAME = "train_packed"
PROMPT, COMPLETION, GROUP = 400, 100, 8
LEAST = 3.0
SAME_DIRECTION = 0.99
"""Least cosine between two gradients; in bfloat16 0.9995 was seen, in float32 tests/train proves them equal."""
PAGES = Path(__file__).parent.parent / "docs"
FLYBALL, ROWS, ROWS_KEPT = "flyball", "one row per completion", "one row per completion, logits of completions"
TIS_CAP = 2.0
LOSS = LossSpec("policy", algorithm("rloo").loss_params(kl_coef=0.0) | {"gap_high": TIS_CAP})

Way = Callable[[list[TrainingSample]], None]


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--policy", default="smollm2-135m", show_default=True, help="Known name or model folder.")
@click.option("--fresh", is_flag=True, help="Discard the rows of earlier runs.")
@click.option("--reason", default="", help="Why the claim was missed, if it was.")
def main(rounds: int, policy: str, fresh: bool, reason: str) -> None:
    """Run what is not yet measured, then write the result."""
    try:
        file = rows_file(NAME)
        if fresh:
            file.unlink(missing_ok=True)
        measure(policy, rounds)
        command = f"python -m benchmarks.train_packed --rounds {rounds}"
        reasons = {f"{NAME}.speed": reason} if reason else {}
        for result in publish(NAME, [finding(read_rows(file))], command=command, reasons=reasons):
            print(f"{'holds ' if result.holds else 'MISSED'}  {result.id} {result.value:.2f} {result.unit}")
    except FlyballError as exc:
        raise click.ClickException(str(exc)) from exc


def measure(policy: str, rounds: int) -> None:
    """Append a row for every round that is missing."""
    file = rows_file(NAME)
    done = {row["round"] for row in read_rows(file)}
    missing = [number for number in range(rounds) if number not in done]
    if not missing:
        return
    folder = find(policy)
    own, rival = load_model(folder), load_model(folder)
    bf16 = pays_bfloat16(own)
    learner = LocalLearner(own, None, OptimizerConfig(), bf16=bf16)
    ways: dict[str, tuple[Any, Way]] = {
        FLYBALL: (own, lambda samples: _discard(learner.forward_backward(samples, LOSS))),
        ROWS: (rival, plain(rival, bf16, keep=False)),
        ROWS_KEPT: (rival, plain(rival, bf16, keep=True)),
    }
    text = pages(folder, max(missing) + 2)
    for number in (-1, *missing):  # one that does not count
        samples = group(number + 1, text[number + 1])
        row: dict[str, Any] = {"round": number, "bf16": bf16, "threads": torch.get_num_threads()}
        gradients: list[list[torch.Tensor]] = []
        for name, (model, way) in ways.items():
            model.zero_grad(set_to_none=True)
            started = time.perf_counter()
            way(samples)
            row[name] = GROUP * COMPLETION / (time.perf_counter() - started)
            gradients.append([p.grad for p in model.parameters() if p.grad is not None])
            print(f"round {number}: {row[name]:7.1f} completion tokens/s  {name}", flush=True)
        row["cosine"] = min(cosine(gradients[0], other) for other in gradients[1:])
        if row["cosine"] < SAME_DIRECTION:
            raise EvalError(f"two ways have gradients of cosine {row['cosine']:.4f}; they do not compute the same")
        if number >= 0:
            append_row(file, row)


def pages(folder: Path, rounds: int) -> np.ndarray:
    """Token ids [rounds, PROMPT + GROUP * COMPLETION] of the pages under docs/, each used once.

    Raises EvalError when they are fewer than that.
    """
    text = "\n".join(page.read_text("utf-8") for page in sorted(PAGES.rglob("*.md")))
    ids = np.array(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
    size = PROMPT + GROUP * COMPLETION
    if len(ids) < rounds * size:
        raise EvalError(f"{rounds} rounds need {rounds * size} tokens and docs/ has {len(ids)}; take fewer rounds")
    return ids[: rounds * size].reshape(rounds, size)


def group(seed: int, text: np.ndarray) -> list[TrainingSample]:
    """A prompt and its completions cut from `text` [PROMPT + GROUP * COMPLETION]; advantages as a step would have."""
    rng = np.random.default_rng(seed)
    prompt, completions, length = text[:PROMPT], text[PROMPT:].reshape(GROUP, COMPLETION), PROMPT + COMPLETION
    mask = np.arange(length) >= PROMPT
    samples = []
    for completion in completions:
        advantage = np.full(length, rng.normal(), np.float32) * mask
        samples.append(
            TrainingSample(
                np.concatenate([prompt, completion]),
                mask,
                np.full(length, -99, np.float32),
                advantage,
                np.zeros(length, np.float32),
            )
        )
    return weighted(samples, "token-mean")


def cosine(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Cosine of two gradients, summed in float64: in float32 the sums of 135 million terms are off by percents."""
    dot, a, b = (
        sum(float((x.double() * y.double()).sum()) for x, y in zip(u, v, strict=True))
        for u, v in ((one, other), (one, one), (other, other))
    )
    return dot / (a * b) ** 0.5


def plain(model: Any, bf16: bool, *, keep: bool) -> Way:
    """What one writes with Transformers alone; sampling weights are at their cap, so that all ways do equal work."""

    def backward(samples: list[TrainingSample]) -> None:
        tokens = torch.from_numpy(np.stack([s.token_ids for s in samples]))
        precision = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
        with precision:
            logits = model(tokens, logits_to_keep=COMPLETION + 1 if keep else 0).logits
        logprobs = logits[:, -COMPLETION - 1 : -1].float().log_softmax(-1)
        chosen = logprobs.gather(-1, tokens[:, PROMPT:, None])[..., 0]
        factor = np.stack([(s.advantages * s.loss_weights)[PROMPT:] for s in samples])
        (-TIS_CAP * torch.from_numpy(factor) * (chosen - chosen.detach()).exp()).sum().backward()

    return backward


def _discard(_found: object) -> None:
    """What a timed way returns is not looked at."""


def finding(rows: list[dict[str, Any]]) -> Finding:
    """The claim over all rounds."""
    best = max((ROWS, ROWS_KEPT), key=lambda name: float(np.median([row[name] for row in rows])))
    value, interval, n = median_ratio(rows, FLYBALL, best)
    return Finding(
        f"{NAME}.speed",
        "a group of 8 completions of 100 tokens to a prompt of 400 trains at 3 times the speed of one row for each",
        f"median over rounds of completion tokens/s, {FLYBALL} over {best!r} (the faster rival), at least {LEAST:g}",
        value,
        interval,
        n,
        "times",
        value >= LEAST,
        {name: sorted(row[name] for row in rows) for name in (FLYBALL, ROWS, ROWS_KEPT)} | {"bf16": rows[0]["bf16"]},
    )


if __name__ == "__main__":
    main()
