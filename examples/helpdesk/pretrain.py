"""Make the base policy: a tiny Llama and its tokenizer from nothing, pretrained on made-up offices.

    python pretrain.py FOLDER

It reads 32 new conversations a step, four offices at a time, each seen once; the desk lends the tokenizer its words and
nothing else. `base/` beside this file is what it wrote; `base/pretraining.json` says how.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
from offices import Office, conversation
from tasks import generate

from flyball.models.hf_chat import HfChat, signature
from flyball.models.load import new_tiny_model, save_model
from flyball.models.planted import hold_planted
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.rl.samples import weighted
from flyball.train.learner import LocalLearner, LossSpec, OptimizerConfig
from flyball.train.sft import demonstration_sample

OFFICES, EACH = 4, 8
PEAK = 4e-3


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--steps", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(folder: Path, steps: int, seed: int) -> None:
    config = TinyConfig()
    tokenizer = train_tokenizer(_texts(seed), config.vocab_size)
    model = new_tiny_model(config, tokenizer, seed)
    hold_planted(model)
    chat = HfChat(tokenizer, origin=str(folder))
    learner = LocalLearner(model, tokenizer, OptimizerConfig("muon", PEAK), max_tokens=16384)
    stream, started, tokens, loss = conversations(seed + 1), time.monotonic(), 0.0, 0.0
    for step in range(steps):
        batch = [demonstration_sample(chat, c["messages"], c["tools"]) for c in islice(stream, OFFICES * EACH)]
        metrics = learner.forward_backward(weighted(batch, "token-mean"), LossSpec("sft"))
        learner.optim_step(lr_scale(step, steps))
        tokens += metrics["trained_tokens"]
        loss = metrics["loss"] if step == 0 else 0.98 * loss + 0.02 * metrics["loss"]
        if step % 20 == 19:
            seconds = time.monotonic() - started
            click.echo(f"step {step + 1} of {steps}  loss {loss:.4f} nats/token  {seconds:.0f} s")
    save_model(model.bfloat16(), tokenizer, folder)  # half the bytes, and the same loss to the fourth digit
    said = {
        "steps": steps,
        "conversations": steps * OFFICES * EACH,
        "trained_tokens": int(tokens),
        "loss": round(loss, 4),
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    (folder / "pretraining.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def lr_scale(step: int, steps: int) -> float:
    """Share of the peak: 20 steps of warm-up, then a cosine down to a twentieth."""
    return min(1.0, (step + 1) / 20) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))


def conversations(seed: int) -> Iterator[dict[str, Any]]:
    """Conversations without end, `EACH` from one office after the other."""
    rng = random.Random(seed)
    while True:
        office = Office(random.Random(rng.getrandbits(64)))
        yield from (conversation(office) for _ in range(EACH))


def _texts(seed: int) -> Iterator[str]:
    """What the tokenizer learns from: offices, and the words of the desk's tickets, tools and answers."""
    from oracle import demonstrations

    for told in islice(conversations(seed), 2000):
        yield from _parts(told["messages"])
        yield from map(signature, told["tools"])
    rows = [row for row in generate(seed=0, train=2000, surfaces=0.0) if row["split"] == "train"]
    for told in demonstrations(rows):
        yield from _parts(told["messages"])


def _parts(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        yield message.get("content") or ""
        for call in message.get("tool_calls") or ():
            function = call["function"]
            yield f'{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}'


if __name__ == "__main__":
    main()
