"""What is done about the gap between the engine that sampled (mu) and the learner before the update (pi_old).

rho_t = pi_old(t)/mu(t), no gradient, log rho clamped to +-20. A correction turns it into token weights [N] that multiply
the policy loss. The clip of PPO deals with pi/pi_old; together they are the decoupled PPO of AReaL (arXiv 2505.24298).

    name               weight of token t of sequence i                       low, high     as in
    none               1
    tis                min(max(rho_t, low), high)                            0, 2          verl, TRL, slime
    tis-sequence       min(prod_t rho_t, high)                               0, 2          verl, SkyRL
    icepop             rho_t if low <= rho_t <= high else 0                  0.5, 5        verl, OpenRLHF, NeMo-RL
    sequence-mask      prod_t rho_t if low <= prod_t rho_t <= high else 0    0, 3          TRL
    geometric-mask     rho_t if low <= exp(mean_t log rho_t) <= high else 0  0.999, 1.002  NeMo-RL

The normaliser stays that of all tokens: a rejected token weighs 0 and the step shrinks. Dividing by the accepted tokens
instead is the explicit choice `correction_normalizer: accepted`. Sequence products grow and vanish with length, means
tighten with it; `kept` by length, beside every update, shows what a bound does to long sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flyball.errors import ConfigError, nearest
from flyball.rl.ratio import LOG_RATIO_BOUND, per_row

if TYPE_CHECKING:
    import torch

Weigh = Callable[["torch.Tensor", "torch.Tensor", float, float], "tuple[torch.Tensor, torch.Tensor]"]
"""(log rho [N], row [N], low, high) -> weights [N], and 1 where the weight is the ratio itself, not cut or dropped."""

LENGTHS = (64, 256, 1024, 4096)
"""Upper ends of the classes of sequence length, in trained tokens; the last class is open."""


def no_weight(
    log_rho: torch.Tensor, row: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """1: the engine is taken to be the learner."""
    ones = log_rho.new_ones(log_rho.shape)
    return ones, ones


def truncated(
    log_rho: torch.Tensor, row: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """min(max(rho_t, low), high): token-level truncated importance sampling."""
    rho = log_rho.exp()
    return rho.clamp(low, high), _inside(rho, low, high)


def truncated_sequence(
    log_rho: torch.Tensor, row: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """min(max(prod rho, low), high) on every token of the sequence."""
    product = _product(log_rho, row)
    return product.clamp(low, high), _inside(product, low, high)


def icepop(log_rho: torch.Tensor, row: torch.Tensor, low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    """rho_t inside [low, high], else 0: a token whose probability jumped leaves the gradient."""
    kept = _inside(log_rho.exp(), low, high)
    return kept * log_rho.exp(), kept


def sequence_mask(
    log_rho: torch.Tensor, row: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """prod rho inside [low, high], else 0: kept sequences still carry the product."""
    product = _product(log_rho, row)
    kept = _inside(product, low, high)
    return kept * product, kept


def geometric_mask(
    log_rho: torch.Tensor, row: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """rho_t where the sequence's geometric mean of rho is inside [low, high], else 0."""
    kept = _inside(per_row(log_rho, row, mean=True).exp(), low, high)
    return kept * log_rho.exp(), kept


@dataclass(frozen=True)
class Correction:
    """One row of the table: how tokens are weighed, and the usual bounds (None: it has none to set).

    `rejects`: weights may be 0, so what the loss is divided by is a choice.
    """

    name: str
    weigh: Weigh
    low: float | None
    high: float | None
    rejects: bool = False


CORRECTIONS = {
    row.name: row
    for row in (
        Correction("none", no_weight, None, None),
        Correction("tis", truncated, 0.0, 2.0),
        Correction("tis-sequence", truncated_sequence, 0.0, 2.0),
        Correction("icepop", icepop, 0.5, 5.0, rejects=True),
        Correction("sequence-mask", sequence_mask, 0.0, 3.0, rejects=True),
        Correction("geometric-mask", geometric_mask, 0.999, 1.002, rejects=True),
    )
}


def correction(name: str) -> Correction:
    """The row of that name. Raises ConfigError naming the nearest one."""
    if name not in CORRECTIONS:
        raise ConfigError(f"correction {name!r} is unknown{nearest(name, CORRECTIONS)}")
    return CORRECTIONS[name]


def log_gap(old_logprobs: torch.Tensor, sampling_logprobs: torch.Tensor) -> torch.Tensor:
    """log rho = log pi_old - log mu, clamped, no gradient."""
    return (old_logprobs - sampling_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).detach()


def kept_by_length(kept: torch.Tensor, row: torch.Tensor) -> dict[str, torch.Tensor]:
    """`kept@N` and `tokens@N` [N] for each class of sequence length: sums of the first over sums of the second.

    `kept` [N] is 1 where the weight is the ratio itself, neither cut nor dropped.
    """
    length = per_row(kept.new_ones(kept.shape), row)
    found = {}
    for low, high in zip((0, *LENGTHS), (*LENGTHS, None), strict=True):
        inside = (length > low) if high is None else (length > low) & (length <= high)
        name = f"over_{low}" if high is None else f"upto_{high}"
        if bool(inside.any()):
            found[f"tokens@{name}"] = inside.to(kept.dtype)
            found[f"kept@{name}"] = kept * inside
    return found


def effective_share(weights: torch.Tensor) -> float:
    """(sum w)^2 / (n sum w^2), Kish: how many of the tokens the weights leave, as a share; 0 when all are 0."""
    squares = float((weights**2).sum()) * len(weights)
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def _product(log_rho: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    return per_row(log_rho, row).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def _inside(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return ((values >= low) & (values <= high)).to(values.dtype)
