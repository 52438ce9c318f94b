"""From logits to tokens: temperature, the cuts, and one uniform number per draw.

Everything is row by row, so a draw depends on its own logits, parameters and random number and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from flyball.engine.protocol import SamplingParams

BLOCK = 256
"""Tokens whose probability is summed at once when a draw looks for its place."""
LOOKS = (256, 4096)
"""How many of the likeliest tokens are looked at first; only a nucleus that is larger costs a sort of the whole row."""


def draw(
    logits: torch.Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], allowed: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Draw one token per row of `logits` [n, V] by inverse transform: (tokens [n], logprobs [n], kept [n, V]).

    `allowed` [n, V] is what grammars permit. `kept` is what was drawn among, None when no row was cut.
    """
    temperature = logits.new_tensor([p.temperature for p in params])[:, None]
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    scaled = logits
    if any(p.temperature not in (0, 1) for p in params):
        scaled = logits / torch.where(temperature > 0, temperature, 1.0)
    kept = cut(scaled, params) if any(p.has_cuts for p in params) else allowed
    if kept is not None:
        scaled = scaled.masked_fill(~kept, -torch.inf)
    drawn, log_total = _inverse_transform(scaled, torch.tensor(np.asarray(uniforms), dtype=torch.float64)[:, None])
    if any(p.temperature == 0 for p in params):
        drawn = torch.where(temperature > 0, drawn, logits.argmax(-1, keepdim=True))
    return drawn[:, 0].cpu(), (scaled.gather(1, drawn).cpu().double() - log_total)[:, 0], kept


def _inverse_transform(scaled: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The token [n, 1] at which the cumulative probability passes `uniforms` [n, 1], and log-sum-exp [n, 1].

    First the block of tokens, then the token in it: a running sum of the vocabulary would cost more than the products
    of a small model. Weights are float32, their sums float64, and those are few: they are taken on the processor, since
    not every device has float64.
    """
    n, size = scaled.shape
    likeliest = scaled.amax(-1, keepdim=True)
    weights = scaled.new_zeros(n, -(-size // BLOCK), BLOCK)
    torch.sub(scaled, likeliest, out=weights.flatten(1)[:, :size]).exp_()
    sums = weights.sum(-1).cpu().double()
    block, rest = _passed(sums, uniforms * sums.sum(-1, keepdim=True))
    inside = weights[torch.arange(n), block[:, 0].to(weights.device)].cpu().double()
    token, _ = _passed(inside, rest)
    return (block * BLOCK + token).to(scaled.device), likeliest.cpu().double() + sums.sum(-1, keepdim=True).log()


def _passed(weights: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first place [n, 1] whose running sum passes `target` [n, 1], and what of the target is left for it.

    Rounding can bring the target to the sum of all; then it is the last place that weighs anything.
    """
    running = weights.cumsum(-1)
    total = running[:, -1:]
    place = torch.searchsorted(running, target.minimum(total.nextafter(torch.zeros_like(total))), right=True)
    before = running.gather(1, place) - weights.gather(1, place)
    return place, (target - before).clamp(min=0)


def cut(scaled: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """What min-p, top-k and top-p keep [n, V] of logits [n, V] at their temperature (-inf = cut before)."""
    kept = scaled > -torch.inf
    for i, p in enumerate(params):
        if p.has_cuts:
            kept[i] &= _cut_row(scaled[i], p)
    return kept


def _cut_row(row: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """One row [V]. Each rule is a least logit that is kept, so nothing depends on how equal logits are sorted."""
    least = torch.tensor(-torch.inf)
    if params.min_p > 0:
        least = row.max() + torch.tensor(params.min_p, dtype=torch.float64).log()
    if 0 < params.top_k < len(row):
        least = least.maximum(row.topk(params.top_k).values[-1])
    if params.top_p < 1:
        least = least.maximum(_nucleus_edge(row.masked_fill(row < least, -torch.inf), params.top_p))
    return row >= least


def _nucleus_edge(row: torch.Tensor, top_p: float) -> torch.Tensor:
    """The logit at which the likeliest tokens of `row` [V] first hold `top_p` of its probability."""
    likeliest = row.max()
    mass = (row - likeliest).double().exp().sum()
    for count in (*LOOKS, len(row)):
        values = row.topk(min(count, len(row))).values
        reached = (values - likeliest).double().exp().cumsum(-1) >= top_p * mass
        if bool(reached[-1]):
            return values[int(reached.int().argmax())]
    return values[-1]  # sums in another order may round below the mass: then the nucleus is everything
