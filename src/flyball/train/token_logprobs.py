"""Log-probabilities of chosen tokens, and the entropy they were chosen at, without a float32 copy of the logits.

The log-softmax of a vocabulary reads and writes far more than a processor's cache holds; a few rows at a time it stays
inside. Backward makes the probabilities anew from the logits: nothing of the size of the logits is kept but themselves.
"""

from __future__ import annotations

from typing import Any

import torch

BLOCK_ELEMENTS = 2**18
"""Logits that are worked on at a time: 1 MiB in float32, about the second-level cache of one core."""


def token_logprobs(
    logits: torch.Tensor, at: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log softmax(logits / temperature)[at, labels] and the entropy in nats at each, both [N] in float32.

    `logits` [D, V] of any floating type, with NEVER for what cannot be drawn; `at` [N] ascends, and several tokens may
    be chosen from one row. The entropy has no gradient.
    """
    logprobs, entropy = _TokenLogprobs.apply(logits, at, labels, temperature)  # type: ignore[no-untyped-call]
    return logprobs, entropy


NEVER = -1e30
"""The logit of what cannot be drawn: its probability is exactly 0, and 0 times it is still a number."""


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, at: torch.Tensor, labels: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = logits.new_empty(len(at), dtype=torch.float32)
        entropy = torch.empty_like(logprobs)
        for rows in _blocks(logits):
            log_softmax = torch.log_softmax(_scaled(logits[rows], temperature), -1)
            chosen = slice(*torch.searchsorted(at, torch.tensor([rows.start, rows.stop], device=at.device)).tolist())
            inside = at[chosen] - rows.start
            logprobs[chosen] = log_softmax[inside, labels[chosen]]
            entropy[chosen] = -torch.linalg.vecdot(log_softmax.exp(), log_softmax)[inside]
        ctx.save_for_backward(logits, at, labels)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _entropy: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """d log p_label / d logits = (onehot - p) / temperature."""
        logits, at, labels = ctx.saved_tensors
        scaled_grad = grad / ctx.temperature
        of_row = torch.zeros(len(logits), dtype=torch.float32, device=grad.device).index_add_(0, at, scaled_grad)
        out = torch.empty_like(logits)
        for rows in _blocks(logits):
            out[rows] = torch.softmax(_scaled(logits[rows], ctx.temperature), -1).mul_(-of_row[rows, None])
        out.index_put_((at, labels), scaled_grad.to(out.dtype), accumulate=True)
        return out, None, None, None


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits.float() if temperature == 1 else logits.float() / temperature


def _blocks(logits: torch.Tensor) -> list[slice]:
    size = max(1, BLOCK_ELEMENTS // logits.shape[1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]
