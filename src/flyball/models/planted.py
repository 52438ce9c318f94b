"""Start a tiny Llama with the circuit that large models find first: copying by induction.

A model this small needs millions of tokens before it can repeat a number it was told, so its weights do not start at
random alone: layer 0 gets a head that looks one token back, layer 1 one that looks for an earlier place where the
token before was the one now being read, and copies what followed it. Olsson et al. 2022, "In-context Learning and
Induction Heads", describe the circuit. The architecture stays plain Llama; training holds these two heads
(`hold_planted`) and moves everything else.

The residual stream of width C is split: T (token identity, as wide as a head), P (identity of the token before), one
constant dimension, and what is left for learning.

    embedding          T = random unit code, P = 0, constant = 1
    layer 0, head 0    query and key from the constant, turned by RoPE to peak one position back; value T -> P
    layer 1, head 0    query from T, key from P, on RoPE's slow dimensions where distance hardly turns; value T -> T
    later heads        random queries and keys; value T -> T: whatever they learn to look at, they can name

"""

from __future__ import annotations

from typing import Any

import torch

from flyball.errors import ConfigError

PEAK = 120.0  # score (before 1/sqrt(D)) at exactly one token back
MATCH = 20.0  # score (after it) of a matching token
COPY = 6.0  # length of the copied code beside the token's own
POINT = 0.5  # the same for a head that has yet to learn where to look


@torch.no_grad()
def plant_copying(model: Any, seed: int) -> None:
    """Add the circuit to a fresh `LlamaForCausalLM`: tied embeddings and two layers at least.

    Raises ConfigError for a shape without room for it.
    """
    config = model.config
    config.flyball_planted = True
    width, dim, groups = config.hidden_size, config.head_dim, config.num_attention_heads // config.num_key_value_heads
    _check_room(config)
    generator = torch.Generator().manual_seed(seed)
    embedding = model.model.embed_tokens.weight
    embedding.zero_()
    embedding[:, :dim] = torch.randn(config.vocab_size, dim, generator=generator) / dim**0.5
    embedding[:, width - 1] = 1.0
    for layer in model.model.layers:  # nothing else speaks at first, so the circuit is heard
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    _look_back(model.model.layers[0].self_attn, model.model.rotary_emb.inv_freq, width, dim)
    _match(model.model.layers[1].self_attn, width, dim, generator)
    seen = (width / 3) ** 0.5  # what RMSNorm makes of a unit code beside two others
    for i, layer in enumerate(model.model.layers[1:], start=1):
        for kv in range(config.num_key_value_heads):
            planted = i == 1 and kv == 0
            for head in range(kv * groups, kv * groups + (1 if planted else groups)):
                _copy(layer.self_attn, kv, head, dim, (COPY if planted else POINT) / seen)


def hold_planted(model: Any) -> None:
    """Keep the first two layers' head 0 of a planted model as they are in training; another model stays free.

    Without it the first hundred steps, which learn what a turn looks like, wash the circuit away before it is used.
    """
    if not getattr(model.config, "flyball_planted", False):
        return
    dim = model.config.head_dim
    for layer in model.model.layers[:2]:
        attention = layer.self_attn
        for projection, axis in (
            (attention.q_proj, 0),
            (attention.k_proj, 0),
            (attention.v_proj, 0),
            (attention.o_proj, 1),
        ):
            free = torch.ones_like(projection.weight)
            free.narrow(axis, 0, dim).zero_()
            projection.weight.register_hook(free.mul)


def _check_room(config: Any) -> None:
    dim, width = config.head_dim, config.hidden_size
    rules = {
        f"num_layers {config.num_hidden_layers} must be at least 2": config.num_hidden_layers >= 2,
        f"head_dim {dim} must be even and at least 24": dim >= 24 and dim % 2 == 0,
        f"hidden_size {width} must be at least {2 * dim + 1} for a head_dim of {dim}": width > 2 * dim,
        "embeddings must be tied": config.tie_word_embeddings,
    }
    if broken := [rule for rule, kept in rules.items() if not kept]:
        raise ConfigError(f"the tiny policy starts with a circuit that copies, which has no room: {'; '.join(broken)}")


def _look_back(attention: Any, frequencies: torch.Tensor, width: int, dim: int) -> None:
    """score(distance) = sum_i PEAK/fast cos((distance - 1) w_i) / sqrt(D), in head 0; value T -> P."""
    constant, pairs = width - 1, dim // 2
    fast = max(6, pairs // 4)  # RoPE's quick pairs, which tell neighbours apart
    seen = (width / 2) ** 0.5  # what RMSNorm makes of the constant beside a unit code
    size = (PEAK / fast) ** 0.5 / seen
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[:dim] = 0.0
    for i in range(fast):
        attention.k_proj.weight[i, constant] = size
        attention.q_proj.weight[i, constant] = size * torch.cos(frequencies[i])
        attention.q_proj.weight[pairs + i, constant] = -size * torch.sin(frequencies[i])
    attention.v_proj.weight[:dim, :dim] = torch.eye(dim)
    attention.o_proj.weight[dim : 2 * dim, :dim] = torch.eye(dim) / seen


def _match(attention: Any, width: int, dim: int, generator: torch.Generator) -> None:
    """Head 0 looks where the token before was the one now being read."""
    pairs = dim // 2
    slow = [*range(pairs // 2, pairs), *range(pairs + pairs // 2, dim)]
    seen = (width / 3) ** 0.5
    size = (MATCH * dim**0.5 * dim / len(slow)) ** 0.5 / seen
    attention.q_proj.weight[:dim] = 0.0
    attention.k_proj.weight[:dim] = 0.0
    projection = torch.linalg.qr(torch.randn(dim, len(slow), generator=generator))[0].T * size
    for row, at in enumerate(slow):
        attention.q_proj.weight[at, :dim] = projection[row]
        attention.k_proj.weight[at, dim : 2 * dim] = projection[row]


def _copy(attention: Any, kv: int, head: int, dim: int, gain: float) -> None:
    """Value T of whatever is looked at, written to T."""
    attention.v_proj.weight[kv * dim : (kv + 1) * dim] = 0.0
    attention.v_proj.weight[kv * dim : (kv + 1) * dim, :dim] = torch.eye(dim)
    attention.o_proj.weight[:dim, head * dim : (head + 1) * dim] = torch.eye(dim) * gain
