"""A lean pass for Llama: what transformers' modules compute, in fewer operations.

A small model spends its time between operations, not in them. The weights are those of the model itself, so an update
reaches both; tests hold the numbers of the two passes together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import embedding, linear, rms_norm, silu
from transformers import LlamaForCausalLM

from flyball.engine.local_cache import SlotCache, attend


class LlamaPass:
    """Last hidden states [n, Q, C] of tokens [n, Q] at `positions` [n, Q], by the weights of `model`.

    Rows may be shorter than Q (`lengths` [n]): only attention then works on padded rows, and what comes back behind a
    row's length is 0.
    """

    def __init__(self, model: Any) -> None:
        self._inner = model.model
        self._dim: int = model.config.head_dim
        self._eps: float = model.config.rms_norm_eps

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this pass is the model's own: plain Llama with SiLU."""
        return type(model) is LlamaForCausalLM and model.config.hidden_act == "silu"

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: SlotCache,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        inner, rows = self._inner, _Rows(tokens.shape, lengths)
        x = embedding(rows.gather(tokens), inner.embed_tokens.weight)  # [N, C], padding left out
        cos, sin = (t[:, None] for t in inner.rotary_emb(x, positions))  # [n, 1, Q, D]
        for i, layer in enumerate(inner.layers):
            x = x + self._attention(layer, i, self._norm(x, layer.input_layernorm), rows, cos, sin, mask, cache)
            mlp, h = layer.mlp, self._norm(x, layer.post_attention_layernorm)
            gate = silu(_apply(mlp.gate_proj, h))
            x = x + _apply(mlp.down_proj, gate * _apply(mlp.up_proj, h))
        return rows.spread(self._norm(x, inner.norm))

    def _attention(
        self,
        layer: Any,
        index: int,
        x: torch.Tensor,
        rows: _Rows,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor,
        cache: SlotCache,
    ) -> torch.Tensor:
        projections = layer.self_attn
        query, keys, values = (
            rows.spread(_apply(p, x)).view(*rows.shape, -1, self._dim).transpose(1, 2)
            for p in (projections.q_proj, projections.k_proj, projections.v_proj)
        )
        keys, values = cache.update(_turned(keys, cos, sin), values, index)
        out = attend(_turned(query, cos, sin), keys, values, mask, self._dim**-0.5, cache, index)
        return _apply(projections.o_proj, rows.gather(out.flatten(2)))

    def _norm(self, x: torch.Tensor, norm: Any) -> torch.Tensor:
        return rms_norm(x, x.shape[-1:], norm.weight, self._eps)


class _Rows:
    """Ragged rows of a padded batch: `gather` [n, Q, ...] -> [N, ...] without the padding, `spread` back."""

    def __init__(self, shape: torch.Size, lengths: torch.Tensor | None) -> None:
        self.shape = shape
        self._used = None
        if lengths is not None:
            used = torch.arange(shape[1]) < lengths[:, None]
            self._used = None if bool(used.all()) else used.flatten().nonzero()[:, 0]

    def gather(self, padded: torch.Tensor) -> torch.Tensor:
        flat = padded.flatten(0, 1)
        return flat if self._used is None else flat[self._used]

    def spread(self, flat: torch.Tensor) -> torch.Tensor:
        if self._used is not None:
            padded = flat.new_zeros(self.shape.numel(), flat.shape[-1])
            padded[self._used] = flat
            flat = padded
        return flat.view(*self.shape, -1)


def _apply(projection: Any, x: torch.Tensor) -> torch.Tensor:
    return linear(x, projection.weight, projection.bias)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE in transformers' half-split form."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin
