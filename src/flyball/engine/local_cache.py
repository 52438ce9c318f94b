"""Keys and values of many conversations in one tensor: a shared root, and a slot for each conversation's own part.

Attempts of one job start with the same tokens (system prompt, tool schemas). Those are the root: stored and read
once for the whole batch. What follows lies in slot rows, so a tool result resumes from the cached keys and values.

    sequence of slot s = root[0:R] + slot[s][0:length[s]]

Shapes: S slots, H key/value heads, G query heads per key/value head, Q new tokens, R root tokens, L slot tokens, D head
width. Works with any Hugging Face decoder that goes through the attention and cache interfaces.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

ATTENTION = "flyball_slots"
MIN_SPARE, SPARE_SHARE = 32, 8
"""Columns that are added beyond need: at least so many, and this part of those in use."""


class SlotCache:
    """The part of Hugging Face's cache protocol that a decoder calls (`update`), writing into slots.

    Set `target` before each forward pass: `rows` (slot of each batch row; a slice when they are 0..n-1, so nothing is
    copied), `starts` [n] (slot position of each row's first new token) and how many slot columns are needed. It returns
    the columns to attend to: all there are while few are spare, because a product copies keys that do not lie
    together. With `rows` None the pass computes the root itself.
    """

    def __init__(self, num_slots: int, *, exact: bool = False) -> None:
        self.num_slots = num_slots
        self.exact = exact
        """attend to the needed columns only, so that what is computed does not depend on who else is cached"""
        self.keys: list[torch.Tensor] = []  # per layer [S, H, L, D]
        self.values: list[torch.Tensor] = []
        self.root_keys: list[torch.Tensor] = []  # per layer [H, R, D]
        self.root_values: list[torch.Tensor] = []
        self.root_length = 0
        self.columns = 0
        self.rows: slice | torch.Tensor | None = None
        self.starts = torch.zeros(0, dtype=torch.long)
        self.extent = 0
        self._placed: tuple[tuple[int, int], torch.Tensor] | None = None

    def target(self, rows: slice | torch.Tensor | None, starts: torch.Tensor, needed: int) -> int:
        if needed > self.columns:
            self.columns = needed + max(MIN_SPARE, needed // SPARE_SHARE)
        few = not self.exact and self.columns - needed <= 2 * max(MIN_SPARE, needed // SPARE_SHARE)
        self.rows, self.starts, self.extent = rows, starts, self.columns if few else needed
        self._placed = None
        return self.extent

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values [n, H, Q, D]; return those of the slots [n, H, extent, D] (the root is apart)."""
        if self.rows is None:
            if layer == len(self.root_keys):
                self.root_keys.append(keys[0])
                self.root_values.append(values[0])
            return keys, values
        self._reserve(layer, keys)
        slot_keys, slot_values = self.keys[layer], self.values[layer]
        places = self._places(keys.shape[1], keys.shape[2], slot_keys.shape[2])
        for slots, new in ((slot_keys, keys), (slot_values, values)):
            slots.flatten(0, 2).index_copy_(0, places, new.reshape(-1, new.shape[3]))
        return slot_keys[self.rows, :, : self.extent], slot_values[self.rows, :, : self.extent]

    def _places(self, heads: int, width: int, columns: int) -> torch.Tensor:
        """Where new keys [n, H, Q] go among all [S * H * columns]; the same for all layers of a pass."""
        if self._placed is None or self._placed[0] != (heads, columns):
            rows = self.rows
            if isinstance(rows, slice):
                rows = torch.arange(rows.stop, device=self.starts.device)
            assert rows is not None
            row_and_head = rows[:, None] * heads + torch.arange(heads, device=rows.device)
            column = self.starts[:, None] + torch.arange(width, device=rows.device)
            self._placed = (heads, columns), (row_and_head[:, :, None] * columns + column[:, None]).flatten()
        return self._placed[1]

    def _reserve(self, layer: int, like: torch.Tensor) -> None:
        """Make room for `columns`."""
        _n, heads, _width, dim = like.shape
        have = self.keys[layer].shape[2] if layer < len(self.keys) else 0
        if have >= self.columns:
            return
        for tensors in (self.keys, self.values):
            grown = like.new_zeros(self.num_slots, heads, self.columns, dim)
            if layer < len(tensors):
                grown[:, :, :have] = tensors[layer]
                tensors[layer] = grown
            else:
                tensors.append(grown)

    @property
    def num_bytes(self) -> int:
        """Memory of root and slots."""
        return sum(t.nbytes for t in (*self.keys, *self.values, *self.root_keys, *self.root_values))

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Put the first `length` columns of one slot into others."""
        if length > 0 and targets:
            for slots in (*self.keys, *self.values):
                slots[targets, :, :length] = slots[source, :, :length]

    def shrink_root(self, length: int, slot_lengths: list[int]) -> None:
        """Keep `length` root tokens and move the rest to the front of every slot, so that sequences stay the same."""
        moved = self.root_length - length
        self.columns = max(self.columns, moved + max(slot_lengths, default=0))
        for layer, (root_keys, root_values) in enumerate(zip(self.root_keys, self.root_values, strict=True)):
            for tensors, root in ((self.keys, root_keys), (self.values, root_values)):
                if layer < len(tensors):
                    old = tensors[layer]
                    have = min(old.shape[2], max(slot_lengths, default=0))
                    grown = old.new_zeros(old.shape[0], old.shape[1], self.columns, old.shape[3])
                    grown[:, :, :moved] = root[None, :, length:]
                    grown[:, :, moved : moved + have] = old[:, :, :have]
                    tensors[layer] = grown
            self.root_keys[layer] = root_keys[:, :length].clone()
            self.root_values[layer] = root_values[:, :length].clone()
        self.root_length = length

    def clear(self) -> None:
        """Drop the root; slots keep their memory, because whoever uses one next writes before reading."""
        self.root_keys.clear()
        self.root_values.clear()
        self.root_length = 0

    def drop_slots(self) -> None:
        """Drop the slots with what they hold. Masked values still meet a weight of 0, and 0 x NaN is NaN."""
        self.keys.clear()
        self.values.clear()
        self.columns = 0

    # What decoders ask a cache besides `update`.
    def get_seq_length(self, layer: int = 0) -> int:
        return 0

    @property
    def is_compileable(self) -> bool:
        return False


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    slot_cache: SlotCache | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`attend` in the form that transformers calls."""
    assert slot_cache is not None
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer: int = module.layer_idx  # type: ignore[assignment]
    return attend(query, keys, values, attention_mask, scale, slot_cache, layer), None


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    slot_cache: SlotCache,
    layer: int,
) -> torch.Tensor:
    """Attention over root and slot in one softmax.

    query [n, H*G, Q, D], keys and values [n, H, L, D], mask additive [n, 1, Q, L] for the slot part (the root is
    visible to all). Returns [n, Q, H*G, D].
    """
    n, query_heads, width, dim = query.shape
    heads, length = keys.shape[1:3]
    groups = query_heads // heads
    root_length = 0 if slot_cache.rows is None else slot_cache.root_length
    if root_length == 0 and width > 1:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scale, enable_gqa=groups > 1
        )
        return out.transpose(1, 2)
    q = (query * scale).reshape(n, heads, groups * width, dim)
    scores = query.new_empty(n, heads, groups * width, root_length + length, dtype=torch.float32)
    if root_length:  # one matrix for the whole batch: [H, n*G*Q, D] x [H, D, R]
        q_flat = q.transpose(0, 1).reshape(heads, n * groups * width, dim)
        on_root = torch.bmm(q_flat, slot_cache.root_keys[layer].transpose(1, 2))
        scores[..., :root_length] = on_root.view(heads, n, groups * width, root_length).transpose(0, 1)
    if width == 1:  # few queries: the long side first is twice as fast
        on_slot = torch.bmm(keys.flatten(0, 1), q.flatten(0, 1).transpose(1, 2)).transpose(1, 2)
        scores[..., root_length:] = on_slot.view(n, heads, groups, length)
    else:
        scores[..., root_length:] = torch.matmul(q, keys.transpose(2, 3))
    if mask is not None:
        scores[..., root_length:].unflatten(2, (groups, width)).add_(mask[:, :, None])  # type: ignore[no-untyped-call]
    weights = torch.softmax(scores, dim=-1).to(query.dtype)
    out = torch.bmm(weights[..., root_length:].flatten(0, 1), values.flatten(0, 1)).view(n, heads, -1, dim)
    if root_length:
        w_flat = weights[..., :root_length].transpose(0, 1).reshape(heads, n * groups * width, root_length)
        out += torch.bmm(w_flat, slot_cache.root_values[layer]).view(heads, n, -1, dim).transpose(0, 1)
    return out.reshape(n, query_heads, width, dim).transpose(1, 2)


def _mask_given(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> torch.Tensor | None:
    return attention_mask


AttentionInterface.register(ATTENTION, slot_attention)
AttentionMaskInterface.register(ATTENTION, _mask_given)
