"""Estimators of KL(sampler || other) from tokens that the sampler drew (J. Schulman, "Approximating KL divergence").

With r = other/sampler at the drawn token:  k1 = -log r,  k2 = (log r)^2 / 2,  k3 = r - 1 - log r. All are [T]; k1 and
k3 are unbiased values, k3 is never negative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def kl_k1(logprobs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """-log r."""
    return logprobs - other


def kl_k2(logprobs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(log r)^2 / 2."""
    return (other - logprobs) ** 2 / 2


def kl_k3(logprobs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """r - 1 - log r. As a loss term its gradient is that of the forward KL, as published in GRPO."""
    log_r = other - logprobs
    return log_r.exp() - 1 - log_r
