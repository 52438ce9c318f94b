"""Every metric is declared once: its unit, its meaning and the range in which nobody needs to look.

`docs/metrics.md` is this table: `python -m flyball.metrics > docs/metrics.md`. A name that is logged, shown or
monitored and not declared here is refused by `check`, so a typo cannot become a second metric.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from flyball.errors import ConfigError, nearest

Group = Literal["evaluation", "training", "monitoring"]


@dataclass(frozen=True)
class Metric:
    """`healthy` is None at an end that has no bound; `better` says which way is good, None where neither is."""

    name: str
    group: Group
    unit: str
    meaning: str
    healthy: tuple[float | None, float | None] = (None, None)
    better: Literal["higher", "lower"] | None = None

    def is_healthy(self, value: float) -> bool:
        """True inside the healthy range, ends included; NaN never is."""
        low, high = self.healthy
        return value == value and (low is None or value >= low) and (high is None or value <= high)


_TABLE = (
    # --- evaluation: per attempt, estimated over tasks ---
    Metric(
        "success",
        "evaluation",
        "share",
        "attempts whose end state and answer satisfy the success grader",
        (0.5, None),
        "higher",
    ),
    Metric(
        "safe", "evaluation", "share", "attempts without a deed that the safety grader forbids", (0.99, None), "higher"
    ),
    Metric(
        "missing_rate",
        "evaluation",
        "share",
        "attempts without an outcome for a fault that is not the policy's",
        (None, 0.01),
        "lower",
    ),
    Metric("pass_hat_k", "evaluation", "share", "tasks solved in all of k trials", (None, None), "higher"),
    Metric(
        "reliability",
        "evaluation",
        "share",
        "success * (1 - human_override_rate) * (1 - tool_error_rate)",
        (0.5, None),
        "higher",
    ),
    Metric(
        "hallucinated_tools",
        "evaluation",
        "calls/attempt",
        "calls of a tool that the task does not offer",
        (None, 0.01),
        "lower",
    ),
    Metric(
        "hallucinated_parameters",
        "evaluation",
        "calls/attempt",
        "calls with an argument that the tool does not have",
        (None, 0.01),
        "lower",
    ),
    Metric("tool_calls", "evaluation", "calls/attempt", "tool calls the policy made", (None, None), "lower"),
    Metric("tokens_in", "evaluation", "tokens/attempt", "prompt tokens, each once per branch", (None, None), "lower"),
    Metric("tokens_out", "evaluation", "tokens/attempt", "sampled tokens", (None, None), "lower"),
    Metric(
        "latency_seconds",
        "evaluation",
        "s",
        "sampled tokens at the calibrated rate plus the critical path of tools",
        (None, None),
        "lower",
    ),
    Metric(
        "cost_per_success_usd",
        "evaluation",
        "USD",
        "cost of all attempts over the number that succeeded",
        (None, None),
        "lower",
    ),
    # --- training: one value per step ---
    Metric("train/success", "training", "share", "attempts of this step that succeeded", (None, None), "higher"),
    Metric("train/reward", "training", "reward", "mean reward of the attempts of this step", (None, None), "higher"),
    Metric("train/loss", "training", "nat", "loss of this step, summed over weighted tokens"),
    Metric("train/grad_norm", "training", "norm", "gradient norm before clipping", (None, 10.0)),
    Metric(
        "train/kl", "training", "nat/token", "k3 estimate of KL(policy || reference) on sampled tokens", (None, 0.5)
    ),
    Metric("train/entropy", "training", "nat/token", "minus the mean log-probability of sampled tokens", (0.01, None)),
    Metric("train/clip_fraction", "training", "share", "trained tokens whose ratio the clip cut", (None, 0.3)),
    Metric(
        "train/ratio_drift",
        "training",
        "nat/token",
        "mean absolute log-ratio of learner to sampler before the update",
        (None, 0.05),
    ),
    Metric(
        "train/zero_variance_share", "training", "share", "groups whose attempts all got the same reward", (None, 0.8)
    ),
    Metric(
        "train/missing_share",
        "training",
        "share",
        "attempts without a reward for a fault that is not the policy's",
        (None, 0.02),
        "lower",
    ),
    Metric("train/tokens", "training", "tokens", "sampled tokens of this step"),
    Metric("train/seconds", "training", "s", "wall time of this step", (None, None), "lower"),
    Metric("train/learning_rate", "training", "1", "learning rate of this step"),
    Metric(
        "validation/success",
        "training",
        "share",
        "greedy attempts at validation tasks that succeeded",
        (None, None),
        "higher",
    ),
    Metric(
        "validation/reward",
        "training",
        "reward",
        "mean reward of greedy attempts at validation tasks",
        (None, None),
        "higher",
    ),
    Metric("sft/loss", "training", "nat/token", "cross-entropy of the demonstrated tokens", (None, None), "lower"),
    Metric(
        "sft/validation_loss",
        "training",
        "nat/token",
        "cross-entropy on held-out demonstrations",
        (None, None),
        "lower",
    ),
    # --- monitoring: over served sessions ---
    Metric(
        "human_override_rate",
        "monitoring",
        "share",
        "sessions in which a person corrected or took over",
        (None, 0.05),
        "lower",
    ),
    Metric(
        "tool_error_rate",
        "monitoring",
        "share",
        "tool calls that were refused, failed or timed out",
        (None, 0.05),
        "lower",
    ),
    Metric(
        "policy_kl_drift",
        "monitoring",
        "nat/token",
        "k3 divergence of sampled tokens from the frozen reference",
        (None, 0.5),
        "lower",
    ),
    Metric(
        "task_completion_quality",
        "monitoring",
        "share",
        "mean graded score of the sessions that were graded",
        (0.5, None),
        "higher",
    ),
)

METRICS: dict[str, Metric] = {entry.name: entry for entry in _TABLE}
"""The declared metrics by name."""


def check(name: str) -> Metric:
    """Return the declaration. Raises ConfigError with the nearest name for one that is not declared."""
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}{nearest(name, METRICS)}")
    return METRICS[name]


def markdown() -> str:
    """Return the table as the page `docs/metrics.md`."""
    lines = ["# Metrics", "", "Made from `src/flyball/metrics.py` by `make docs`.", ""]
    for group in ("evaluation", "training", "monitoring"):
        lines += [
            f"## {group.capitalize()}",
            "",
            "| name | unit | meaning | healthy | better |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| `{m.name}` | {m.unit} | {_cell(m.meaning)} | {_range(m.healthy)} | {m.better or ''} |"
            for m in _TABLE
            if m.group == group
        ]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A bar would end the cell."""
    return text.replace("|", "\\|")


def _range(healthy: tuple[float | None, float | None]) -> str:
    low, high = healthy
    if low is None and high is None:
        return ""
    if low is None:
        return f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


if __name__ == "__main__":
    sys.stdout.write(markdown())
