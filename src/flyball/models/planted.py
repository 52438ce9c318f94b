"""Start a tiny Llama with the circuit that large models find first: copying by induction.

A model this small needs millions of tokens before it can repeat a number it was told, so its weights do not start at
random alone: layer 0 gets heads that look one token back, layer 1 heads that look for an earlier place where the
token before was the one now being read, and copy what followed it. Olsson et al. 2022, "In-context Learning and
Induction Heads", describe the circuit. Everything stays trainable and of the plain Llama architecture.

The residual stream of width C is split: T (token identity), P (identity of the token before), one constant dimension.

    embedding      T = random unit code, P = 0, constant = 1
    layer 0        query and key from the constant, turned by RoPE to peak one position back; value T -> P
    layer 1        query from T, key from P, on RoPE's slow dimensions where distance hardly turns; value T -> T

"""

from __future__ import annotations

from typing import Any

import torch

from flyball.errors import ConfigError

PEAK = 120.0  # score (before 1/sqrt(D)) at exactly one token back
MATCH = 14.0  # score (after it) of a matching token
COPY = 4.0  # length of the copied code beside the token's own


@torch.no_grad()
def plant_copying(model: Any, seed: int) -> None:
    """Add the circuit to a fresh `LlamaForCausalLM`: tied embeddings, two layers and two key/value heads at least.

    Raises ConfigError for a shape without room for it.
    """
    config = model.config
    width, dim, groups = config.hidden_size, config.head_dim, config.num_attention_heads // config.num_key_value_heads
    half = min((width - 1) // 2, 2 * dim)
    _check_room(config, half)
    constant = width - 1
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(config.vocab_size, half, generator=generator) / half**0.5
    embedding = model.model.embed_tokens.weight
    embedding.zero_()
    embedding[:, :half] = codes
    embedding[:, constant] = 1.0
    for layer in model.model.layers:  # nothing else speaks at first, so the circuit is heard
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    _look_back(model.model.layers[0].self_attn, model.model.rotary_emb.inv_freq, width, half, dim, groups)
    _match_and_copy(model.model.layers[1].self_attn, width, half, dim, groups, generator)


def _check_room(config: Any, half: int) -> None:
    dim = config.head_dim
    slow = 2 * (dim // 2 - dim // 4)  # dimensions that a match is made on, each a direction of the token's code
    rules = {
        f"num_layers {config.num_hidden_layers} must be at least 2": config.num_hidden_layers >= 2,
        f"num_kv_heads {config.num_key_value_heads} must be at least 2": config.num_key_value_heads >= 2,
        f"head_dim {dim} must be even and at least 24": dim >= 24 and dim % 2 == 0,
        f"hidden_size {config.hidden_size} must be at least {2 * slow + 1} for a head_dim of {dim}": half >= slow,
        "embeddings must be tied": config.tie_word_embeddings,
    }
    if broken := [rule for rule, kept in rules.items() if not kept]:
        raise ConfigError(f"the tiny policy starts with a circuit that copies, which has no room: {'; '.join(broken)}")


def _look_back(attention: Any, frequencies: torch.Tensor, width: int, half: int, dim: int, groups: int) -> None:
    """score(distance) = sum_i PEAK/fast cos((distance - 1) w_i) / sqrt(D), in the first query head of both groups."""
    constant, pairs = width - 1, dim // 2
    fast = max(6, pairs // 4)  # RoPE's quick pairs, which tell neighbours apart
    seen = (width / 2) ** 0.5  # what RMSNorm makes of the constant beside a unit code
    size = (PEAK / fast) ** 0.5 / seen
    gain = 1.0 / seen
    for kv in range(2):
        q, k = kv * groups * dim, kv * dim
        attention.q_proj.weight[q : q + dim] = 0.0
        attention.k_proj.weight[k : k + dim] = 0.0
        for i in range(fast):
            attention.k_proj.weight[k + i, constant] += size
            attention.q_proj.weight[q + i, constant] += size * torch.cos(frequencies[i])
            attention.q_proj.weight[q + pairs + i, constant] -= size * torch.sin(frequencies[i])
        for j in range(min(dim, half - kv * dim)):
            attention.v_proj.weight[k + j, kv * dim + j] += 1.0
            attention.o_proj.weight[half + kv * dim + j, q + j] += gain


def _match_and_copy(attention: Any, width: int, half: int, dim: int, groups: int, generator: torch.Generator) -> None:
    pairs = dim // 2
    slow = [*range(pairs // 2, pairs), *range(pairs + pairs // 2, dim)]
    seen = (width / 3) ** 0.5  # of a unit code beside two others
    size = (MATCH * dim**0.5 * half / len(slow)) ** 0.5 / seen
    gain = COPY / seen
    for kv in range(2):
        q, k = kv * groups * dim, kv * dim
        attention.q_proj.weight[q : q + dim] = 0.0
        attention.k_proj.weight[k : k + dim] = 0.0
        projection = torch.linalg.qr(torch.randn(half, len(slow), generator=generator))[0].T * size
        for row, at in enumerate(slow):
            attention.q_proj.weight[q + at, :half] += projection[row]
            attention.k_proj.weight[k + at, half : 2 * half] += projection[row]
        for j in range(min(dim, half - kv * dim)):
            attention.v_proj.weight[k + j, kv * dim + j] += 1.0
            attention.o_proj.weight[kv * dim + j, q + j] += gain
