"""A lean pass for Llama and its kin: what transformers' modules compute, in fewer operations.

A small model spends its time between products, not in them. Query, key and value are one product; what follows a
product is applied by it. The weights are those of the model itself, read again after an update; tests hold the numbers
of the two passes together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import embedding, rms_norm
from transformers import LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from flyball.engine.local_adapters import Adapters
from flyball.engine.local_cache import SlotCache, attend
from flyball.engine.local_linear import Projection

FAMILIES = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
"""RMS norm before attention and before a gated SiLU network; rotary positions over the whole head."""


class LlamaPass:
    """Last hidden states [n, Q, C] of tokens [n, Q] at `positions` [n, Q], by the weights of `model`.

    Rows may be shorter than Q (`lengths` [n]): only attention then works on padded rows, and what comes back behind a
    row's length is 0. `refresh` must be called when the weights have changed.
    """

    def __init__(self, model: Any, adapters: Adapters) -> None:
        self._inner = model.model
        self._eps: float = model.config.rms_norm_eps
        self._layers = [_Layer(layer, adapters) for layer in self._inner.layers]

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this pass is the model's own: SiLU, and every layer sees the whole context."""
        config = model.config
        if type(model) not in FAMILIES or config.hidden_act != "silu":
            return False
        return all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or ())

    def refresh(self) -> None:
        """Take the weights as they are now."""
        for layer in self._layers:
            layer.refresh()

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: SlotCache,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        rows = _Rows(tokens.shape, lengths)
        x = embedding(rows.gather(tokens), self._inner.embed_tokens.weight)  # [N, C], padding left out
        cos, sin = (rows.gather(t.expand(*tokens.shape, -1))[:, None] for t in self._inner.rotary_emb(x, positions))
        first, second = sin.chunk(2, -1)
        turn = (cos, torch.cat((-first, second), -1))  # [N, 1, D] each
        for i, layer in enumerate(self._layers):
            x = layer.attention.plus(self._attended(layer, i, x, rows, turn, mask, cache), x)
            h = self._norm(x, layer.norm_of_network)
            x = layer.down.plus(layer.up.times(h, layer.gate.silu(h)), x)
        return rows.spread(self._norm(x, self._inner.norm)).flatten(2)

    def _attended(
        self,
        layer: _Layer,
        index: int,
        x: torch.Tensor,
        rows: _Rows,
        turn: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        cache: SlotCache,
    ) -> torch.Tensor:
        heads, kv_heads, dim = layer.heads, layer.kv_heads, layer.dim
        together = layer.query_key_value(self._norm(x, layer.norm_of_attention)).view(-1, heads + 2 * kv_heads, dim)
        turned, values = together[:, : heads + kv_heads], together[:, heads + kv_heads :]
        if layer.norms_of_heads is not None:
            parts = zip(torch.split(turned, [heads, kv_heads], 1), layer.norms_of_heads, strict=True)
            turned = torch.cat([self._norm(part, norm) for part, norm in parts], 1)
        turned = torch.addcmul(turned * turn[0], turned.roll(dim // 2, -1), turn[1])
        query, keys, values = (
            rows.spread(part).transpose(1, 2) for part in (turned[:, :heads], turned[:, heads:], values)
        )
        keys, values = cache.update(keys, values, index)
        return rows.gather(attend(query, keys, values, mask, dim**-0.5, cache, index).flatten(2))

    def _norm(self, x: torch.Tensor, norm: Any) -> torch.Tensor:
        return rms_norm(x, x.shape[-1:], norm.weight, self._eps)


class _Layer:
    """The parts of one decoder layer."""

    def __init__(self, layer: Any, adapters: Adapters) -> None:
        attention, network = layer.self_attn, layer.mlp
        self.norm_of_attention, self.norm_of_network = layer.input_layernorm, layer.post_attention_layernorm
        self.norms_of_heads = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None
        self.dim: int = attention.head_dim
        self.heads, self.kv_heads = (p.out_features // self.dim for p in (attention.q_proj, attention.k_proj))
        self.query_key_value, self.attention, self.gate, self.up, self.down = (
            Projection(*parts, adapters=adapters)
            for parts in (
                (attention.q_proj, attention.k_proj, attention.v_proj),
                (attention.o_proj,),
                (network.gate_proj,),
                (network.up_proj,),
                (network.down_proj,),
            )
        )

    def refresh(self) -> None:
        for projection in (self.query_key_value, self.attention, self.gate, self.up, self.down):
            projection.refresh()


class _Rows:
    """Ragged rows of a padded batch: `gather` [n, Q, ...] -> [N, ...] without the padding, `spread` back."""

    def __init__(self, shape: torch.Size, lengths: torch.Tensor | None) -> None:
        self.shape = shape
        self._used = None
        if lengths is not None:
            used = torch.arange(shape[1], device=lengths.device) < lengths[:, None]
            self._used = None if bool(used.all()) else used.flatten().nonzero()[:, 0]

    def gather(self, padded: torch.Tensor) -> torch.Tensor:
        flat = padded.flatten(0, 1)
        return flat if self._used is None else flat[self._used]

    def spread(self, flat: torch.Tensor) -> torch.Tensor:
        if self._used is not None:
            padded = flat.new_zeros(self.shape.numel(), *flat.shape[1:])
            padded[self._used] = flat
            flat = padded
        return flat.view(*self.shape, *flat.shape[1:])
