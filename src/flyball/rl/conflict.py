"""Conflict tokens of GTPO (arXiv 2508.03772): what good and bad attempts of a group both say at the same place.

Scanning from the start (and, right-aligned, from the end) a token is in conflict when the same token stands at the same
place in an attempt with a positive and in one with a negative advantage. Only the first run of such tokens counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Tokens = npt.NDArray[np.int64]


def conflict_masks(completions: Sequence[Tokens], advantages: Sequence[float]) -> list[Mask]:
    """True [T_i] on the conflict tokens at the beginning of each completion."""
    out = []
    for tokens, own in zip(completions, advantages, strict=True):
        mask = np.zeros(len(tokens), np.bool_)
        for t, token in enumerate(tokens):
            signs = {np.sign(a) for c, a in zip(completions, advantages, strict=True) if len(c) > t and c[t] == token}
            if own == 0 or not {1.0, -1.0} <= signs:
                break
            mask[t] = True
        out.append(mask)
    return out


def conflict_weights(
    completions: Sequence[Tokens], advantages: Sequence[float], positive: float = 2.0
) -> list[npt.NDArray[np.float64]]:
    """lambda [T_i]: 0 on a conflict token of a negative attempt, `positive` on one of a positive, 1 elsewhere.

    A token in conflict from both ends counts once in each direction: the two masks multiply.
    """
    forward = conflict_masks(completions, advantages)
    backward = [m[::-1] for m in conflict_masks([c[::-1] for c in completions], advantages)]
    factors = [positive if a > 0 else 0.0 for a in advantages]
    return [
        np.where(f, factor, 1.0) * np.where(b, factor, 1.0)
        for f, b, factor in zip(forward, backward, factors, strict=True)
    ]
