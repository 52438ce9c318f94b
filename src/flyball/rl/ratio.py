"""Importance ratios between policies on the tokens that were sampled. All arrays are [T] logs of probabilities.

Four streams are kept apart: mu (engine, at sampling), pi_old (learner, before the update), pi (learner, now), pi_ref.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LOG_RATIO_BOUND = 20.0  # keeps exp finite in float32


def importance_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor) -> torch.Tensor:
    """rho_t = pi(t) / pi_old(t)."""
    return (logprobs - old_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def truncated_weight(old_logprobs: torch.Tensor, sampling_logprobs: torch.Tensor, cap: float) -> torch.Tensor:
    """Token-level truncated importance sampling for the engine gap: w_t = min(pi_old(t)/mu(t), cap), no gradient."""
    return importance_ratio(old_logprobs, sampling_logprobs).clamp(max=cap).detach()
