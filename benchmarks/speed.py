"""What the generation benchmarks share: one workload, the ways to run it, and what memory alone would allow.

Workload: `batch` prompts of `PROMPT` tokens, `NEW` tokens sampled for each at temperature 1 with their logprobs, no
stop token. `different` prompts share nothing; in `groups` every eight attempts have one prompt, as in a step of RL.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.errors import EvalError

PROMPT, NEW, GROUP = 100, 64, 8
IDS = (1000, 40_000)
"""Prompts are drawn from these token ids: ordinary words of the vocabulary, no special tokens."""
STREAMED_BYTES = 2**30
STREAMS = 5

Shape = Literal["different", "groups"]
Prompts = list[list[int]]
Way = Callable[[Prompts, int], "list[Drawn]"]
"""Prompts and a seed in, one completion per prompt out."""


@dataclass(frozen=True)
class Drawn:
    """A completion, as every way must return it."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]


def make_prompts(batch: int, shape: Shape, seed: int) -> Prompts:
    """Return prompts that no earlier seed used, so no cache of an earlier round helps anybody."""
    rng = np.random.default_rng([seed, batch, shape == "groups"])
    count = math.ceil(batch / GROUP) if shape == "groups" else batch
    distinct = rng.integers(*IDS, size=(count, PROMPT)).tolist()
    return [distinct[i // GROUP if shape == "groups" else i] for i in range(batch)]


def timed(way: Way, prompts: Prompts, seed: int) -> float:
    """Return tokens per second of one round. Raises EvalError when a completion is not what was asked for."""
    started = time.perf_counter()
    drawn = way(prompts, seed)
    seconds = time.perf_counter() - started
    for one in drawn:
        if len(one.token_ids) != NEW or len(one.logprobs) != NEW or not all(map(math.isfinite, one.logprobs)):
            raise EvalError(f"a completion has {len(one.token_ids)} tokens and {len(one.logprobs)} logprobs, not {NEW}")
    if len(drawn) != len(prompts):
        raise EvalError(f"{len(drawn)} completions for {len(prompts)} prompts")
    return len(prompts) * NEW / seconds


def flyball(model: Any) -> Way:
    """The local engine, asked as the rollouts ask it: one request per attempt, all at once."""
    engine = LocalEngine(model, num_slots=64)

    async def draw(prompts: Prompts, seed: int) -> list[Completion]:
        params = [SamplingParams(1.0, NEW, seed * len(prompts) + i) for i in range(len(prompts))]
        requests = [Request(tuple(ids), p, ()) for ids, p in zip(prompts, params, strict=True)]
        return await asyncio.gather(*map(engine.generate, requests))

    return lambda prompts, seed: [Drawn(d.token_ids, d.logprobs) for d in asyncio.run(draw(prompts, seed))]


def transformers_generate(model: Any) -> Way:
    """`generate` on the whole batch; logprobs by one pass over the logits it returns, each step for itself."""

    @torch.inference_mode()
    def draw(prompts: Prompts, seed: int) -> list[Drawn]:
        torch.manual_seed(seed)
        ids = torch.tensor(prompts)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=NEW,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        new = out.sequences[:, PROMPT:]
        steps = [logits.float().log_softmax(-1).gather(1, new[:, i : i + 1]) for i, logits in enumerate(out.logits)]
        return [Drawn(t, p) for t, p in zip(new.tolist(), torch.cat(steps, 1).tolist(), strict=True)]

    return draw


def transformers_continuous_batching(model: Any) -> Way:
    """`generate_batch`, Transformers' own continuous batching with a paged cache."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    def draw(prompts: Prompts, seed: int) -> list[Drawn]:
        settings = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=NEW, eos_token_id=-1, pad_token_id=0
        )
        batching = ContinuousBatchingConfig(return_logprobs=True, seed=seed)
        found = model.generate_batch(prompts, settings, batching)
        return [Drawn(done.generated_tokens, done.logprobs) for done in found.values()]

    return draw


# --- what memory allows ----------------------------------------------------------------------------------------------


def read_bandwidth() -> float:
    """Bytes per second that this process reads from memory: the best of a few sums over a buffer of a GiB."""
    buffer = torch.ones(STREAMED_BYTES // 4)
    best = math.inf
    for _ in range(STREAMS):
        started = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - started)
    return STREAMED_BYTES / best


def weight_bytes(model: Any) -> int:
    """Bytes of all weights; those that are tied are read once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def instructions() -> dict[str, bool]:
    """Which matrix instructions for bfloat16 the processor has."""
    found = torch.cpu.get_capabilities()
    return {name: bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16", "amx_tile")}
