"""Attention inside a pack (`rl/pack.py`): one row of tokens that is a tree of sequences.

    pack        piece 0 | piece 1 | piece 2 | ...       a sequence is a path of pieces
    positions   each token's place in its own sequence
    sees        the pieces of its path, and its own piece causally

What is not attention works token by token, so a pack costs what its tokens cost. Gradients of shared pieces gather from
all who share them, because their keys and values are part of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from flyball.errors import ModelError
from flyball.rl.pack import Piece

ATTENTION = "flyball_packed"


class Layout:
    """How long the pieces of a pack are and what they see.

    `paths[i]` are the pieces before piece i in its sequences, `positions` [N] each token's place in its sequence.
    `visible[i]` [L, P+L] is True where token l of piece i sees position p; None for a piece that begins a sequence,
    which is plainly causal.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.lengths = [len(piece.tokens) for piece in pieces]
        self.paths = [piece.path for piece in pieces]
        before = [sum(self.lengths[i] for i in path) for path in self.paths]
        shape = list(zip(before, self.lengths, strict=True))
        self.longest = max(p + n for p, n in shape)
        self.positions = torch.cat([torch.arange(p, p + n) for p, n in shape])
        self.visible = [torch.ones(n, p + n, dtype=torch.bool).tril(p) if p else None for p, n in shape]


def use_packed_attention(model: Any) -> None:
    """Let a model accept packs; without one it attends as before.

    Raises ModelError for a model that does not go through transformers' attention interface.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise ModelError(
            f"{type(model).__name__} does not use transformers' attention interface, which training needs; "
            "take a model of another family (Llama, Qwen, Mistral and SmolLM use it)"
        )
    model.set_attn_implementation(ATTENTION)


def packed_hidden_states(model: Any, tokens: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Last hidden states [N, C] of a pack of `tokens` [N]."""
    out = model.base_model(
        input_ids=tokens[None],
        position_ids=layout.positions[None],
        attention_mask=torch.zeros(1, 1, 1, 1),  # four dimensions: the model then makes no mask of its own
        use_cache=False,
        layout=layout,
    )
    return out.last_hidden_state[0]  # type: ignore[no-any-return]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside a pack: query [1, G*H, N, D], keys and values [1, H, N, D]. Returns [1, N, G*H, D].

    Raises ModelError where the model's own attention is not this one: a window shorter than a sequence, sinks, caps.
    """
    if layout is None:
        return sdpa_attention_forward(
            module, query, keys, values, attention_mask, scaling=scaling, sliding_window=sliding_window, **others
        )
    _refuse_other_attention(layout, sliding_window, others)
    grouped = query.shape[1] != keys.shape[1]
    queries, keys_of, values_of = (torch.split(t, layout.lengths, 2) for t in (query, keys, values))
    out = []
    for i, (path, visible) in enumerate(zip(layout.paths, layout.visible, strict=True)):
        seen = (*path, i)
        seen_keys, seen_values = (torch.cat([of[j] for j in seen], 2) for of in (keys_of, values_of))
        out.append(
            scaled_dot_product_attention(
                queries[i],
                seen_keys,
                seen_values,
                attn_mask=visible,
                is_causal=visible is None,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    return torch.cat(out, 2).transpose(1, 2), None


def _refuse_other_attention(layout: Layout, sliding_window: int | None, others: dict[str, Any]) -> None:
    if sliding_window is not None and sliding_window < layout.longest:
        raise ModelError(
            f"the attention window of {sliding_window} is shorter than a sequence of {layout.longest} tokens, "
            "which packed training does not compute; shorten the conversations"
        )
    for name in ("s_aux", "softcap"):
        if others.get(name) is not None:
            raise ModelError(f"the model's attention has {name!r}, which packed training does not compute")


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
