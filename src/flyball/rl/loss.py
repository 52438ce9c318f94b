"""Token losses [T]. The learner multiplies by `loss_weights` and sums; nothing here reduces.

Symbols: rho = pi/pi_old, A advantage, eps_low and eps_high the clip range, w the engine-gap weight, beta the KL weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyball.rl.kl import kl_k3
from flyball.rl.ratio import importance_ratio, truncated_weight

if TYPE_CHECKING:
    import torch


def ppo_clip_loss(rho: torch.Tensor, advantages: torch.Tensor, eps_low: float, eps_high: float) -> torch.Tensor:
    """-min(rho A, clip(rho, 1-eps_low, 1+eps_high) A).  PPO, arXiv 1707.06347 eq. 7; two bounds: DAPO, 2503.14476."""
    clipped = rho.clamp(1 - eps_low, 1 + eps_high)
    return -(rho * advantages).minimum(clipped * advantages)


def sft_loss(logprobs: torch.Tensor) -> torch.Tensor:
    """-log pi: maximum likelihood."""
    return -logprobs


def policy_loss(
    logprobs: torch.Tensor,
    sampling_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip_ratio_low: float,
    clip_ratio_high: float,
    tis_cap: float,
    kl_coef: float = 0.0,
    old_logprobs: torch.Tensor | None = None,
    ref_logprobs: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """w * ppo_clip(pi/pi_old) + beta * k3(pi, pi_ref). Returns loss and metrics [T].

    The decoupled form of AReaL (arXiv 2505.24298) with TIS (cap) for w: rho compares with pi_old, the learner's policy
    before the batch; w = pi_old/mu carries what differs from the engine. With one update per batch pi_old is pi itself
    (`old_logprobs` None): rho is 1 in value and has the gradient of pi, and the clip cannot act.
    """
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    rho = importance_ratio(logprobs, old)
    weight = truncated_weight(old, sampling_logprobs, tis_cap)
    surrogate = ppo_clip_loss(rho, advantages, clip_ratio_low, clip_ratio_high)
    loss = weight * surrogate
    kl_loss = loss.new_zeros(loss.shape)
    if kl_coef:
        if ref_logprobs is None:
            raise ValueError(
                f"kl_coef is {kl_coef} but the samples carry no ref_logprobs; compute them before the update"
            )
        kl_loss = kl_coef * kl_k3(logprobs, ref_logprobs)
    gap = importance_ratio(old, sampling_logprobs).detach()
    return loss + kl_loss, {
        "ratio": rho.detach(),
        "clip_fraction": (surrogate > -(rho * advantages)).float(),
        "tis_capped": (gap > tis_cap).float(),
        "logprob_gap": (old - sampling_logprobs).abs(),
        "kl_loss": kl_loss.detach(),
    }
