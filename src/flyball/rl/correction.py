"""What is done about the gap between the engine that sampled (mu) and the learner before the update (pi_old).

rho_t = pi_old(t)/mu(t), no gradient, log rho clamped to +-20. A correction turns it into token weights that multiply
the policy loss. The clip of PPO deals with pi/pi_old; together they are the decoupled PPO of AReaL (arXiv 2505.24298).

    name               weight of token t of sequence i                       low, high     as in
    none               1
    tis                min(max(rho_t, low), high)                            0, 2          verl, TRL, slime
    tis-sequence       min(max(prod_t rho_t, low), high)                     0, 2          verl, SkyRL
    icepop             rho_t if low <= rho_t <= high else 0                  0.5, 5        verl, OpenRLHF, NeMo-RL
    sequence-mask      prod_t rho_t if low <= prod_t rho_t <= high else 0    0, 3          TRL
    geometric-mask     rho_t if low <= exp(mean_t log rho_t) <= high else 0  0.999, 1.002  NeMo-RL

The normaliser stays that of all tokens: a rejected token weighs 0 and the step shrinks. Dividing by the accepted tokens
instead is the explicit choice `correction_normalizer: accepted`. Sequence products grow and vanish with length, means
tighten with it; the kept share by length, beside every update, shows what a bound does to long sequences.

The functions take numpy arrays as well as tensors: [N] tokens for a rule about tokens, the trained tokens of one whole
sequence for a rule about sequences (`whole`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flyball.errors import ConfigError, nearest
from flyball.rl.ratio import LOG_RATIO_BOUND

Array = Any
"""numpy array or tensor."""
Weigh = Callable[[Array, float, float], tuple[Array, Array]]
"""(log rho, low, high) -> weights, and True where the weight is the ratio itself, neither cut nor dropped."""

LENGTHS = (64, 256, 1024, 4096)
"""Upper ends of the classes of sequence length, in trained tokens; the last class is open."""


def no_weight(log_rho: Array, low: float, high: float) -> tuple[Array, Array]:
    """1: the engine is taken to be the learner."""
    return log_rho * 0 + 1, log_rho == log_rho


def truncated(log_rho: Array, low: float, high: float) -> tuple[Array, Array]:
    """min(max(rho_t, low), high): token-level truncated importance sampling."""
    rho = math.e**log_rho
    return rho.clip(low, high), _inside(rho, low, high)


def truncated_sequence(log_rho: Array, low: float, high: float) -> tuple[Array, Array]:
    """min(max(prod rho, low), high) on every token of the sequence."""
    product = _product(log_rho)
    return product.clip(low, high), _inside(product, low, high)


def icepop(log_rho: Array, low: float, high: float) -> tuple[Array, Array]:
    """rho_t inside [low, high], else 0: a token whose probability jumped leaves the gradient."""
    rho = math.e**log_rho
    kept = _inside(rho, low, high)
    return kept * rho, kept


def sequence_mask(log_rho: Array, low: float, high: float) -> tuple[Array, Array]:
    """prod rho inside [low, high], else 0: kept sequences still carry the product."""
    product = _product(log_rho)
    kept = _inside(product, low, high)
    return kept * product, kept


def geometric_mask(log_rho: Array, low: float, high: float) -> tuple[Array, Array]:
    """rho_t where the sequence's geometric mean of rho is inside [low, high], else 0."""
    kept = _inside(math.e ** (log_rho * 0 + log_rho.mean()), low, high)
    return kept * math.e**log_rho, kept


@dataclass(frozen=True)
class Correction:
    """One row of the table: how tokens are weighed, and the usual bounds (None: it has none to set).

    `rejects`: weights may be 0, so what the loss is divided by is a choice. `whole`: the rule is about sequences.
    """

    name: str
    weigh: Weigh
    low: float | None
    high: float | None
    rejects: bool = False
    whole: bool = False

    def weights(self, log_rho: Array, low: float | None, high: float | None) -> tuple[Array, Array]:
        """Weights and what was kept, with the usual bounds where None is given."""
        low, high = (self.low if low is None else low), (self.high if high is None else high)
        return self.weigh(log_rho, low or 0.0, math.inf if high is None else high)


CORRECTIONS = {
    row.name: row
    for row in (
        Correction("none", no_weight, None, None),
        Correction("tis", truncated, 0.0, 2.0),
        Correction("tis-sequence", truncated_sequence, 0.0, 2.0, whole=True),
        Correction("icepop", icepop, 0.5, 5.0, rejects=True),
        Correction("sequence-mask", sequence_mask, 0.0, 3.0, rejects=True, whole=True),
        Correction("geometric-mask", geometric_mask, 0.999, 1.002, rejects=True, whole=True),
    )
}


def correction(name: str) -> Correction:
    """The row of that name. Raises ConfigError naming the nearest one."""
    if name not in CORRECTIONS:
        raise ConfigError(f"correction {name!r} is unknown{nearest(name, CORRECTIONS)}")
    return CORRECTIONS[name]


def log_gap(old_logprobs: Array, sampling_logprobs: Array) -> Array:
    """log rho = log pi_old - log mu, clamped. The caller sees to it that no gradient flows."""
    return (old_logprobs - sampling_logprobs).clip(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def by_length(kept: Array, lengths: Array) -> dict[str, Array]:
    """`tokens@CLASS` and `kept@CLASS` for each class of sequence length that occurs, to be summed.

    `kept` and `lengths` are of tokens; a length is the number of trained tokens of the token's sequence.
    """
    found: dict[str, Array] = {}
    for low, high in zip((0, *LENGTHS), (*LENGTHS, math.inf), strict=True):
        inside = (lengths > low) & (lengths <= high)
        if bool(inside.any()):
            name = f"upto_{high}" if math.isfinite(high) else f"over_{low}"
            found |= {f"tokens@{name}": inside, f"kept@{name}": inside & kept}
    return found


def acceptance_by_length(sums: dict[str, float]) -> dict[str, float]:
    """`kept_share/CLASS` from summed `tokens@CLASS` and `kept@CLASS`."""
    classes = [name.partition("@")[2] for name in sums if name.startswith("tokens@")]
    return {f"kept_share/{c}": sums[f"kept@{c}"] / sums[f"tokens@{c}"] for c in classes}


def effective_share(weights: Array) -> float:
    """(sum w)^2 / (n sum w^2), Kish: how many of the tokens the weights leave, as a share; 0 when all are 0."""
    squares = float(np.sum(np.square(weights))) * len(weights)
    return float(np.sum(weights)) ** 2 / squares if squares else 0.0


def _product(log_rho: Array) -> Array:
    total = (log_rho * 0 + log_rho.sum()).clip(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return math.e**total


def _inside(values: Array, low: float, high: float) -> Array:
    return (values >= low) & (values <= high)
