"""Losses of preferences: scores of whole sequences -> loss and its derivative with respect to each score.

A score is a sum over a sequence's trained tokens of weight x log pi, so with dL/dscore at hand the gradient of any of
these losses is that of weighted likelihood, and pairs need not go through the network together: score every sequence,
take the derivative here, put -dL/dscore x weight on its tokens, train with the loss `weighted_likelihood`.

Symbols: s(x) = sigmoid, b = beta, c chosen and r rejected, lw = log pi/pi_ref of a sequence. All arrays are [P] pairs.
Compared are answers to the same prompt (or steps after the same prefix); what tools said is never scored.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flyball.errors import TrainError

Floats = npt.NDArray[np.float64]
Pairs = tuple[Floats, Floats, Floats]
"""loss [P], dL/dchosen [P], dL/drejected [P]; of each pair, not divided by P."""


def bradley_terry(chosen: Floats, rejected: Floats, margin: float = 0.0) -> Pairs:
    """-log s(r_c - r_r - margin): a reward model on pairs. Scores are free up to a constant; centre them."""
    return _logistic(chosen - rejected - margin, 1.0)


def soft_labels(scores: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """-q log s(f) - (1-q) log(1 - s(f)) and its derivative s(f) - q; q in [0, 1].  AgentPRM, arXiv 2502.10325.

    With q in {0, 1} it is the loss of an outcome reward model.
    """
    f, q = _finite(scores), np.asarray(labels, np.float64)
    return q * np.logaddexp(0.0, -f) + (1 - q) * np.logaddexp(0.0, f), _sigmoid(f) - q


def dpo(chosen: Floats, rejected: Floats, beta: float = 0.1) -> Pairs:
    """-log s(b (lw_c - lw_r)); scores are log pi/pi_ref.  DPO, arXiv 2305.18290, eq. 7.

    Step-DPO (2406.18629, eq. 2; b 0.4) is this loss on the tokens of the first wrong step and its correction, after the
    same right steps; segment DPO the same on a segment of turns. Both are a choice of which tokens are trained.
    """
    return _logistic(beta * (chosen - rejected), beta)


def simpo(chosen: Floats, rejected: Floats, beta: float = 2.5, gamma: float = 1.375) -> Pairs:
    """-log s(b (mean log pi_c - mean log pi_r) - gamma); scores are means per token.  2405.14734, eq. 6."""
    return _logistic(beta * (chosen - rejected) - gamma, beta)


def kto(
    log_ratios: Floats,
    desirable: npt.NDArray[np.bool_],
    kl: float,
    beta: float = 0.1,
    weights: tuple[float, float] = (1.0, 1.0),
) -> tuple[Floats, Floats]:
    """w_d (1 - s(b (lw - KL))) if desirable, else w_u (1 - s(b (KL - lw))).  KTO, arXiv 2402.01306, eq. 8.

    Loss [P] and dL/dlw [P]. `kl` comes from `mismatched_kl`, without a gradient.
    """
    sign = np.where(desirable, 1.0, -1.0)
    weight = np.where(desirable, *weights)
    accepted = _sigmoid(sign * beta * (log_ratios - max(kl, 0.0)))
    return weight * (1 - accepted), -weight * sign * beta * accepted * (1 - accepted)


def mismatched_kl(log_ratios: Floats) -> float:
    """The KL of KTO: mean log pi/pi_ref of answers paired with other prompts of the batch, at least 0. Needs two."""
    if len(log_ratios) < 2:
        raise TrainError(f"KTO estimates its KL from {len(log_ratios)} mismatched pairs; give a batch of at least 2")
    return max(float(log_ratios.mean()), 0.0)


def turn_weights(num_turns: int, discount: float = 0.7) -> Floats:
    """phi(t, T) = g^t (1 - g^(T-t))/(1 - g^T) for t = 0 .. T-1; (T-t)/T at g = 1.  DMPO, arXiv 2406.14868, eq. 12.

    DMPO is `dpo` on the scores sum_t phi(t, T) log pi/pi_ref(a_t); with one turn it is DPO.
    """
    t = np.arange(num_turns)
    if discount == 1:
        return (num_turns - t) / num_turns
    weights: Floats = discount**t * (1 - discount ** (num_turns - t)) / (1 - discount**num_turns)
    return weights


def _logistic(x: Floats, slope: float) -> Pairs:
    """-log s(x) and its derivatives where x rises with the chosen score by `slope` and falls with the rejected."""
    x = _finite(x)
    push = slope * _sigmoid(-x)
    return np.logaddexp(0.0, -x), -push, push


def _finite(x: Floats) -> Floats:
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all():
        raise TrainError(f"a preference compares scores that are not finite ({x}); look at the logprobs of its tokens")
    return x


def _sigmoid(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -x))
