"""Importance ratios between policies on the tokens that were sampled. All arrays are [N] logs of probabilities.

Four streams are kept apart: mu (engine, at sampling), pi_old (learner, before the update), pi (learner, now), pi_ref.
`row` [N] says which of the R sequences a token belongs to; a sequence is one branch of an attempt, whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LOG_RATIO_BOUND = 20.0  # keeps exp finite in float32


def importance_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor) -> torch.Tensor:
    """rho_t = pi(t) / pi_old(t)."""
    return (logprobs - old_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def sequence_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """sg[s_i] pi/sg[pi], s_i = exp(mean_t log(pi/pi_old)): the sequence's ratio, its gradient spread over its tokens.

    GSPO, arXiv 2507.18071, eq. 7 and 14 (the token form).
    """
    mean = per_row(logprobs.detach() - old_logprobs, row, mean=True)
    return mean.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp() * (logprobs - logprobs.detach()).exp()


def per_row(values: torch.Tensor, row: torch.Tensor, *, mean: bool = False) -> torch.Tensor:
    """Sum (or mean) of the values over each row, given back to every token of it: [N] -> [N]."""
    if not len(row):
        return values
    rows = int(row.max()) + 1
    sums = values.new_zeros(rows).index_add(0, row, values)
    if mean:
        sums = sums / values.new_zeros(rows).index_add(0, row, values.new_ones(len(values))).clamp(min=1)
    return sums[row]
