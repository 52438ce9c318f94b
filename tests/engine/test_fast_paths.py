"""What is computed another way for speed, against the plain way: packed products, draws in two levels."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flyball.engine.local import LocalEngine
from flyball.engine.local_linear import PACKED_NUMEL, Projection
from flyball.engine.local_sampling import BLOCK, draw
from flyball.engine.protocol import Completion, Request, SamplingParams
from tests.engine.test_local import plain_logprobs


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def layer(width: int, out: int, *, bias: bool) -> torch.nn.Linear:
    torch.manual_seed(out)
    return torch.nn.Linear(width, out, bias=bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [8, PACKED_NUMEL // 512], ids=["small", "packed"])
@pytest.mark.parametrize("rows", [1, 5, 70])
@torch.inference_mode()
def test_a_projection_is_its_layers_side_by_side(bias: bool, width: int, rows: int) -> None:
    parts = [layer(width, out, bias=bias) for out in (256, 192, 64)]
    x, other = torch.randn(rows, width), torch.randn(rows, 512)
    projection = Projection(*parts)
    for _ in range(2):
        plain = torch.cat([part(x) for part in parts], -1)
        for found, expected in (
            (projection(x), plain),
            (projection.silu(x), torch.nn.functional.silu(plain)),
            (projection.times(x, other), plain * other),
            (projection.plus(x, other), plain + other),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        parts[1].weight.mul_(-3)
        projection.refresh()


@pytest.mark.parametrize("size", [5, BLOCK, BLOCK + 1, 7 * BLOCK - 3])
def test_a_draw_in_two_levels_is_the_plain_inverse_transform(size: int) -> None:
    """Against one running sum in float64: the same token wherever the random number is not within 1e-6 of an edge."""
    generator = torch.Generator().manual_seed(size)
    n = 400
    logits = 4 * torch.randn(n, size, generator=generator)
    uniforms = torch.rand(n, generator=generator, dtype=torch.float64)
    drawn, logprobs, _ = draw(logits, [SamplingParams(0.9)] * n, uniforms.tolist(), None)
    plain = (logits / 0.9).double().log_softmax(-1)
    running = plain.exp().cumsum(-1)
    expected = torch.searchsorted(running, uniforms[:, None], right=True)[:, 0]
    edge = (running - uniforms[:, None]).abs().amin(-1) < 1e-6
    assert bool(((drawn == expected) | edge).all()) and float(edge.double().mean()) < 0.01
    torch.testing.assert_close(logprobs, plain.gather(1, drawn[:, None])[:, 0], rtol=0, atol=1e-5)


def wide_llama(seed: int = 0) -> Any:
    """Wide enough that every product is packed."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 384, "intermediate_size": 512, "num_attention_heads": 6, "num_key_value_heads": 2}
    config = LlamaConfig(
        vocab_size=600,
        num_hidden_layers=2,
        max_position_embeddings=400,
        initializer_range=0.08,
        tie_word_embeddings=True,
        **shape,
    )
    return LlamaForCausalLM(config)


def test_packed_weights_give_the_plain_logprobs_and_are_renewed_by_an_update() -> None:
    """Long enough that the cache grows twice."""
    model, newer = wide_llama(), wide_llama(1)
    engine = LocalEngine(model, num_slots=4)
    assert engine._head._packed is not None or not torch.backends.mkldnn.is_available()
    prompts = [tuple((7 * i + 3 * j) % 600 for j in range(20 + 30 * i)) for i in range(3)]

    async def ask() -> list[Completion]:
        requests = [Request(p, SamplingParams(0.8, 90, i), ()) for i, p in enumerate(prompts)]
        return await asyncio.gather(*map(engine.generate, requests))

    for version in (0, 1):
        if version:
            engine.use_weights(newer.state_dict(), version)
        for prompt, done in zip(prompts, asyncio.run(ask()), strict=True):
            expected = plain_logprobs(model, prompt, done)
            torch.testing.assert_close(torch.tensor(done.logprobs), expected, rtol=0, atol=1e-4)
