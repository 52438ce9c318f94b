"""Importance ratios between policies on the tokens that were sampled. All arrays are [N] logs of probabilities.

Four streams are kept apart: mu (engine, at sampling), pi_old (learner, before the update), pi (learner, now), pi_ref.
A sequence is one branch of an attempt with all its turns. What looks at a whole one is numpy, done before the update,
because the learner may see a sequence in pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]

LOG_RATIO_BOUND = 20.0  # keeps exp finite in float32


def importance_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor) -> torch.Tensor:
    """rho_t = pi(t) / pi_old(t)."""
    return (logprobs - old_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def as_sequence_ratio(logprobs: Floats, old_logprobs: Floats) -> Floats:
    """The old logprobs [T] of one whole sequence under which the token ratio is that of the sequence.

    sg[log pi] - mean_t log(pi/pi_old), so that pi/this = sg[s] pi/sg[pi] with s = exp(mean_t log(pi/pi_old)).
    GSPO, arXiv 2507.18071, eq. 7 and 14 (the token form). All [T] of the trained tokens.
    """
    shifted: Floats = logprobs - (logprobs - old_logprobs).mean()
    return shifted
