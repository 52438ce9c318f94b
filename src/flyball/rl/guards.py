"""Signs that a run is breaking, read from its metrics. Pure: a history in, a reason to stop out.

Thresholds are stated with the metric in `metrics.py`; a guard needs a sign to last, because single steps are noisy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LASTING = 3
MAX_KL = 1.0
MIN_ENTROPY = 1e-3
COLLAPSE = 0.5


def instability(history: Sequence[Mapping[str, float]]) -> str | None:
    """Why training should stop, or None. `history` holds the metrics of the steps so far, oldest first."""
    recent = history[-LASTING:]
    if len(recent) < LASTING:
        return None
    if all(step.get("kl", 0.0) > MAX_KL for step in recent):
        return (
            f"kl {recent[-1]['kl']:.3g} nats/token is above {MAX_KL} for {LASTING} steps: the policy left its reference"
        )
    if all(step.get("entropy", 1.0) < MIN_ENTROPY for step in recent):
        return f"entropy {recent[-1]['entropy']:.2g} nats/token is below {MIN_ENTROPY}: the policy explores nothing now"
    rates = [step["success_rate"] for step in history if "success_rate" in step]
    if len(rates) >= 3 * LASTING:
        means = [sum(rates[i : i + LASTING]) / LASTING for i in range(len(rates) - LASTING + 1)]
        if max(means) > 0.2 and means[-1] < COLLAPSE * max(means):
            return f"success fell to {means[-1]:.1%} from {max(means):.1%} (means of {LASTING} steps)"
    return None
