"""Attention inside a pack (`rl/pack.py`): one row of tokens that is a tree of sequences.

    pack        piece 0 | piece 1 | piece 2 | ...       a sequence is a path of pieces
    positions   each token's place in its own sequence
    sees        the pieces of its path, and its own piece causally

What is not attention works token by token, so a pack costs what its tokens cost. Gradients of shared pieces gather from
all who share them, because their keys and values are part of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from flyball.errors import ModelError
from flyball.rl.pack import Piece

ATTENTION = "flyball_packed"
OTHER_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of transformers' models (Gemma, Cohere, Granite) that act between the output layer and the softmax."""


QUERIES = 128
"""Rows of queries that are scored at a time: their scores against all they see then stay near the processor."""


@dataclass(frozen=True)
class Block:
    """Queries `rows` of the pack, what they see of the pieces before theirs (`path`), and of their own (`own`).

    All are spans of the pack. `own` ends where `rows` does, so that only its last len(rows) columns are triangular.
    """

    rows: slice
    path: tuple[slice, ...]
    own: slice

    @property
    def seen(self) -> tuple[slice, ...]:
        return (*self.path, self.own)


class Layout:
    """Where the pieces of a pack lie: `positions` [N] is each token's place in its sequence, `blocks` what it sees."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        lengths = [len(piece.tokens) for piece in pieces]
        spans = [slice(end - n, end) for n, end in zip(lengths, accumulate(lengths), strict=True)]
        before = [sum(lengths[i] for i in piece.path) for piece in pieces]
        self.longest = max(p + n for p, n in zip(before, lengths, strict=True))
        self.positions = torch.cat([torch.arange(p, p + n) for p, n in zip(before, lengths, strict=True)])
        self.blocks: list[Block] = []
        for piece, span in zip(pieces, spans, strict=True):
            path = tuple(spans[i] for i in piece.path)
            for start in range(span.start, span.stop, QUERIES):
                end = min(start + QUERIES, span.stop)
                self.blocks.append(Block(slice(start, end), path, slice(span.start, end)))


def use_packed_attention(model: Any) -> None:
    """Let a model accept packs; without one it attends as before.

    Raises ModelError for a model that does not go through transformers' attention interface, and for one whose logits
    are not what its output layer makes of the hidden states.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise ModelError(
            f"{type(model).__name__} does not use transformers' attention interface, which training needs; "
            "take a model of another family (Llama, Qwen, Mistral and SmolLM use it)"
        )
    for name in OTHER_LOGITS:
        if getattr(model.config, name, None) not in (None, 1.0):
            raise ModelError(
                f"the model changes its logits after the output layer ({name} is {getattr(model.config, name)}), which "
                "training does not compute; take a model of another family (Llama, Qwen, Mistral and SmolLM do not)"
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
    scale = scaling or query.shape[-1] ** -0.5
    out = _TreeAttention.apply(query[0], keys[0], values[0], layout.blocks, scale)  # type: ignore[no-untyped-call]
    return out.transpose(0, 1)[None], None


class _TreeAttention(torch.autograd.Function):
    """Softmax attention, block by block, by matrix products that a processor does at full speed.

    torch's own kernels take over twice as long backward on a CPU. Scores are products of what the matrices hold summed
    in float32, as in those kernels; the other products are in the type of the values (bfloat16 under autocast). Scores
    are made anew in the backward pass: nothing of the size queries x keys is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, blocks: list[Block], scaling: float
    ) -> torch.Tensor:
        heads, dtype = len(keys), values.dtype
        query, keys = query.to(dtype), keys.to(dtype)
        out = torch.empty_like(query)
        with torch.autocast(query.device.type, enabled=False):
            for block in blocks:
                weights = _weights(_rows(query, block, heads), _seen(keys, block), block, scaling)
                out[:, block.rows] = _of_heads(weights.to(dtype) @ _seen(values, block), len(query))
        ctx.save_for_backward(query, keys, values)
        ctx.blocks, ctx.scaling = blocks, scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        """FlashAttention, arXiv 2205.14135, appendix B.4, with the softmax' own backward in place of its D."""
        query, keys, values = ctx.saved_tensors
        heads, dtype = len(keys), values.dtype
        d_query = torch.empty_like(query)
        d_keys, d_values = (torch.zeros_like(of, dtype=torch.float32) for of in (keys, values))
        for block in ctx.blocks:
            rows, seen, d_out = _rows(query, block, heads), _seen(keys, block), _rows(grad, block, heads)
            weights = _weights(rows, seen, block, ctx.scaling)
            _add(d_values, block, weights.to(dtype).mT @ d_out)
            d_weights = (d_out @ _seen(values, block).mT).float()
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, torch.float32).mul_(ctx.scaling).to(dtype)
            d_query[:, block.rows] = _of_heads(d_scores @ seen, len(query))
            _add(d_keys, block, d_scores.mT @ rows)
        return d_query, d_keys.to(dtype), d_values.to(dtype), None, None


def _weights(rows: torch.Tensor, seen: torch.Tensor, block: Block, scaling: float) -> torch.Tensor:
    """Softmax [H, G*L, S] in float32 of queries [H, G*L, D] over keys [H, S, D]; 0 for the tokens that come later."""
    scores = (rows.float() * scaling) @ seen.float().mT
    length = block.rows.stop - block.rows.start
    later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    last = scores.view(len(scores), -1, length, scores.shape[-1])[..., -length:]
    last.masked_fill_(later, -torch.inf)
    return torch.softmax(scores, -1)


def _rows(query: torch.Tensor, block: Block, heads: int) -> torch.Tensor:
    """Queries [H, G*L, D] of a block, of all G heads that share keys and values."""
    return query[:, block.rows].reshape(heads, -1, query.shape[-1])


def _of_heads(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """[G*H, L, D] from [H, G*L, D]."""
    return rows.view(heads, -1, rows.shape[-1])


def _seen(of: torch.Tensor, block: Block) -> torch.Tensor:
    """Keys or values [H, S, D] that a block sees."""
    return torch.cat([of[:, span] for span in block.seen], 1)


def _add(to: torch.Tensor, block: Block, gradient: torch.Tensor) -> None:
    """Add the gradient [H, S, D] of what a block sees to where it lies."""
    lengths = [span.stop - span.start for span in block.seen]
    for span, part in zip(block.seen, torch.split(gradient, lengths, 1), strict=True):
        to[:, span] += part


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
