"""pass@k and pass^k of one task, unbiased. Average over tasks with `intervals.proportion_interval`.

The plug-in forms 1 - (1 - c/n)^k and (c/n)^k are biased and not offered. Source: Chen et al. 2107.03374; tau-bench
2406.12045.
"""

from __future__ import annotations

from math import comb

from flyball.errors import EvalError


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k trials succeeds, from c successes in n trials."""
    _check(n, c, k)
    return 1.0 - comb(n - c, k) / comb(n, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Chance that all of k trials succeed (pass^k), from c successes in n trials."""
    _check(n, c, k)
    return comb(c, k) / comb(n, k)


def _check(n: int, c: int, k: int) -> None:
    if not 0 <= c <= n or not 1 <= k <= n:
        raise EvalError(f"n={n} trials, c={c} successes, k={k}: needs 0 <= c <= n and 1 <= k <= n; run more trials")
