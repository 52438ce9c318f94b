"""Token losses [N]. The learner multiplies by `loss_weights` and sums; nothing here reduces.

Symbols: rho = pi/pi_old, A advantage, eps_low and eps_high the clip range, c the dual clip, w the engine-gap weight,
beta the KL weight, sg[.] no gradient. A surrogate is one formula; `policy_loss` puts it together with the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyball.rl.correction import by_length, correction, log_gap
from flyball.rl.kl import kl_placement
from flyball.rl.ratio import importance_ratio

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Tokens:
    """N trained tokens as a loss sees them; all [N]. They may be of any sequences, and not all of a sequence.

    `logprobs` carry the gradient; `lengths` are the trained tokens of each token's sequence. None = not computed before
    the update.
    """

    logprobs: torch.Tensor
    sampling_logprobs: torch.Tensor
    advantages: torch.Tensor
    lengths: torch.Tensor | None = None
    old_logprobs: torch.Tensor | None = None
    ref_logprobs: torch.Tensor | None = None


@dataclass(frozen=True)
class Clip:
    """Bounds of a surrogate. None = the preset has no such bound."""

    low: float | None = None
    high: float | None = None
    dual: float | None = None


# --- surrogates ------------------------------------------------------------------------------------------------------

Surrogate = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor", Clip], "torch.Tensor"]
"""(logprobs, rho, advantages, clip) -> loss [N]."""


def reinforce(logprobs: torch.Tensor, rho: torch.Tensor, advantages: torch.Tensor, clip: Clip) -> torch.Tensor:
    """-rho A: no clip."""
    return -(rho * advantages)


def ppo_clip(logprobs: torch.Tensor, rho: torch.Tensor, advantages: torch.Tensor, clip: Clip) -> torch.Tensor:
    """-min(rho A, clip(rho, 1-eps_low, 1+eps_high) A); where A < 0 at most -c A.

    PPO, arXiv 1707.06347 eq. 7; two bounds: DAPO, 2503.14476 eq. 8; dual clip: 1912.09729 eq. 5, for A < 0 only.
    """
    clipped = rho.clamp(1 - (1.0 if clip.low is None else clip.low), None if clip.high is None else 1 + clip.high)
    loss = -(rho * advantages).minimum(clipped * advantages)
    if clip.dual is None:
        return loss
    return loss.where(advantages >= 0, loss.minimum(-clip.dual * advantages))


def cispo(logprobs: torch.Tensor, rho: torch.Tensor, advantages: torch.Tensor, clip: Clip) -> torch.Tensor:
    """-sg[min(rho, 1+eps_high)] A log pi: a token past the bound keeps its gradient, with the weight of the bound.

    CISPO, MiniMax-M1, arXiv 2506.13585, eq. 4-5; the lower bound is not used, as there.
    """
    weight = rho.detach().clamp(max=None if clip.high is None else 1 + clip.high)
    return -(weight * advantages * logprobs)


def value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """0.5 max((V - Ret)^2, (clip(V, V_old - e, V_old + e) - Ret)^2): what a critic learns.  PPO's code; e 0.5: verl.

    The maximum keeps the gradient of the side that is worse, so a value cannot be moved further than e at a time.
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return ((values - returns) ** 2).maximum((clipped - returns) ** 2) / 2


# --- what the learner calls ------------------------------------------------------------------------------------------

Found = tuple["torch.Tensor", dict[str, "torch.Tensor"]]


def sft_loss(tokens: Tokens) -> Found:
    """-log pi: maximum likelihood."""
    return -tokens.logprobs, {}


def weighted_likelihood(tokens: Tokens) -> Found:
    """-A log pi: the gradient of any loss of sequence scores, with A = -dL/dscore (`preference.py`)."""
    return -(tokens.advantages * tokens.logprobs), {}


def policy_loss(
    tokens: Tokens,
    *,
    surrogate: Surrogate,
    clip: Clip,
    gap: str,
    gap_low: float | None = None,
    gap_high: float | None = None,
    bypass: bool = False,
    kl: str = "k3-in-loss",
    kl_coef: float = 0.0,
) -> Found:
    """w * surrogate(pi/pi_old, A) + beta * KL term, and metrics, all [N].

    The decoupled form of AReaL (arXiv 2505.24298): rho compares with pi_old, the learner's policy before the batch;
    w = f(pi_old/mu) carries what differs from the engine (`gap`, a row of `correction.py`). With one update per batch
    pi_old is pi itself (`old_logprobs` None): rho is 1 in value and has the gradient of pi, and the clip cannot act.
    `bypass` compares with mu directly; rho then holds the gap already, so `gap` is 'none' (never weigh twice).
    A rule about whole sequences is not for here: `sequence.py` has put it into the samples, and `gap` is 'none'.
    """
    now = tokens.logprobs
    old = tokens.sampling_logprobs if bypass else tokens.old_logprobs
    old = now.detach() if old is None else old
    log_rho = log_gap(old, tokens.sampling_logprobs)
    weight, kept = correction(gap).weights(log_rho, gap_low, gap_high)
    rho = importance_ratio(now, old)
    loss = weight * surrogate(now, rho, tokens.advantages, clip)
    kl_loss = loss.new_zeros(loss.shape)
    if kl_coef and (term := kl_placement(kl, allow_refused=True).loss):
        if tokens.ref_logprobs is None:
            raise ValueError(
                f"kl_coef is {kl_coef} but the samples carry no ref_logprobs; compute them before the update"
            )
        kl_loss = kl_coef * term(now, tokens.ref_logprobs, tokens.sampling_logprobs)
    return loss + kl_loss, {
        "ratio": rho.detach(),
        "clip_fraction": _clipped(rho, tokens.advantages, clip),
        "tis_capped": ~kept,
        "logprob_gap": log_rho.abs(),
        "kl_loss": kl_loss.detach(),
        **({} if gap == "none" or tokens.lengths is None else by_length(kept, tokens.lengths)),
    }


TOKEN_LOSSES: dict[str, Callable[..., Found]] = {
    "sft": sft_loss,
    "policy": policy_loss,
    "weighted_likelihood": weighted_likelihood,
}
"""What a `LossSpec` may name."""


def _clipped(rho: torch.Tensor, advantages: torch.Tensor, clip: Clip) -> torch.Tensor:
    """1 where a bound lies between the policy and where its advantage pushes it."""
    outside: Any = rho != rho
    if clip.high is not None:
        outside = outside | ((advantages > 0) & (rho > 1 + clip.high))
    if clip.low is not None:
        outside = outside | ((advantages < 0) & (rho < 1 - clip.low))
    if clip.dual is not None:
        outside = outside | ((advantages < 0) & (rho > clip.dual))
    found: torch.Tensor = outside.to(rho.dtype)
    return found
