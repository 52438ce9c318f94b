"""Every metric that Flyball writes, declared once: its unit, its meaning and where it is healthy.

A name that is not declared here is refused where it is written, so a typo cannot become a second metric. A qualifier
may follow a slash to say which part of the whole was measured (`success/ood`, `success/family=refund`); unit and
meaning are those of the name before it. A `k` at the end stands for a number (`pass_hat_4`).

    python -m flyball.metrics > docs/metrics.md
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from flyball.errors import ConfigError, nearest
from flyball.types import Estimate

Where = Literal["training", "evaluation", "monitoring"]


@dataclass(frozen=True)
class Metric:
    """`healthy` is a closed range (None = open end) or, where no range fits every job, what to look for."""

    name: str
    unit: str
    meaning: str
    healthy: tuple[float | None, float | None] | str
    where: tuple[Where, ...]


_T: tuple[Where, ...] = ("training",)
_E: tuple[Where, ...] = ("evaluation",)
_M: tuple[Where, ...] = ("monitoring",)
_TE: tuple[Where, ...] = ("training", "evaluation")
_EM: tuple[Where, ...] = ("evaluation", "monitoring")
_TEM: tuple[Where, ...] = ("training", "evaluation", "monitoring")

_TABLE = (
    # Learning from demonstrations.
    Metric("sft_loss", "nats/token", "cross-entropy of the demonstrated tokens of a step", "falls, then flat", _T),
    Metric("sft_validation_loss", "nats/token", "the same on demonstrations held out", "falls; stop when it rises", _T),
    Metric("sft_token_accuracy", "share", "demonstrated tokens that the policy ranks first", "rises", _T),
    # Learning from preferences. A score is the weighted sum of log pi - log pi_ref over an answer's tokens.
    Metric("preference_loss", "nats", "loss of the pairs of a step", "falls", _T),
    Metric("preference_validation_loss", "nats", "the same on pairs held out", "falls; stop when it rises", _T),
    Metric("preference_accuracy", "share", "held-out pairs whose chosen answer scores higher", "rises above 0.5", _T),
    Metric("chosen_score", "nats", "mean score of the chosen answers", "rises; falling with the other: forgetting", _T),
    Metric("rejected_score", "nats", "mean score of the rejected answers", "falls", _T),
    # Learning a reward.
    Metric("reward_loss", "nats", "loss of the pairs or labels of a step", "falls", _T),
    Metric("reward_validation_loss", "nats", "the same on tasks held out", "falls; stop when it rises", _T),
    Metric("reward_accuracy", "share", "held-out pairs ordered right, or labels told from their opposite", "rises", _T),
    Metric("reward_calibration_error", "share", "expected calibration error on tasks held out", (None, 0.1), _T),
    Metric(
        "reward_model_accuracy",
        "share",
        "successes that the reward model scores above failures at the same task, by version of the policy it judges",
        "steady; a fall is the time to train it anew",
        _T,
    ),
    # What the attempts of a step earned.
    Metric("reward_mean", "reward", "mean reward of the attempts that have one", "rises", _T),
    Metric("reward_std", "reward", "standard deviation of those rewards", "above 0, or there is nothing to learn", _T),
    Metric("success_rate", "share", "attempts whose outcome is success, of those that have one", "rises", _T),
    Metric(
        "validation_success",
        "share",
        "success on the validation split; picks the checkpoint",
        "rises; falling while reward_mean rises is reward hacking or overfitting",
        _T,
    ),
    Metric(
        "confirmed_success",
        "share",
        "success of a stage's result on validation tasks that no stage picked a checkpoint by",
        "rises from stage to stage; below validation_success by what picking flattered",
        _T,
    ),
    Metric("validation_reward", "reward", "mean reward on the validation split", "rises with reward_mean", _T),
    Metric("zero_variance_share", "share", "groups whose attempts all earned the same: no gradient", (None, 0.8), _T),
    Metric(
        "refilled_share",
        "share",
        "groups attempted in place of groups that taught nothing, of all of the step: what refilling cost",
        "low; near its bound, the tasks are too easy or too hard",
        _T,
    ),
    Metric("skipped_share", "share", "tasks that GRESO skipped, of those it looked at", "low", _T),
    Metric("advantage_std", "reward", "standard deviation of the advantages", "above 0", _T),
    Metric("completion_tokens_mean", "tokens", "sampled tokens per attempt", "steady; else length hacking", _T),
    Metric("missing_share", "share", "attempts without a score, no fault of the policy", (None, 0.01), _T),
    Metric("truncated_share", "share", "attempts ended by a limit: turns, calls, tokens, seconds", (None, 0.1), _T),
    Metric("malformed_share", "share", "attempts ended by a call that cannot be parsed", (None, 0.05), _T),
    Metric(
        "realigned_share",
        "share",
        "model calls whose history the agent wrote anew, spacing or call ids, and was put back on the sampled tokens",
        "steady",
        _TE,
    ),
    Metric(
        "forked_share",
        "share",
        "model calls whose history is not what was sampled, changed by the agent or by the chat template "
        "(`flyball doctor template`): a new branch that shares no tokens",
        (None, 0.05),
        _TE,
    ),
    Metric("turns_mean", "model calls", "model calls per attempt", "steady", _T),
    Metric("tool_calls_mean", "calls", "tool calls per attempt", "near what the tasks need", _T),
    Metric("tool_filter_passed", "share", "training tasks that tools help with", "enough tasks to learn from", _T),
    Metric("curriculum_level", "level", "level of the tasks that the step is at, 0 = the first", "rises", _T),
    Metric("curriculum_share", "share", "probability of a family of tasks", "highest where most is learned", _T),
    Metric("curriculum_room", "tokens", "tokens that an attempt may use", "rises as attempts need them", _T),
    # The update.
    Metric("loss", "nats", "what was differentiated: sum of weight x token loss, penalties included", "finite", _T),
    Metric(
        "policy_loss", "nats", "the part of the loss that the advantages weigh", "finite; its trend says little", _T
    ),
    Metric("kl", "nats/token", "KL of the policy from the frozen reference, k3 on sampled tokens", (None, 0.5), _T),
    Metric("kl_expected", "nats/token", "what `kl` should stay below; its guard speaks at twice that", "as set", _T),
    Metric("kl_step", "nats/token", "KL of the policy from the one that sampled, k3", (None, 0.05), _T),
    Metric("entropy", "nats/token", "entropy of the policy on sampled tokens", "falls slowly; 0 ends exploration", _T),
    Metric("ratio_mean", "ratio", "probability ratio of trainer to sampler, mean", (0.95, 1.05), _T),
    Metric("ratio_max", "ratio", "the largest of these ratios", (None, 10.0), _T),
    Metric("clip_fraction", "share", "trained tokens where the clip of the ratio took the gradient", (None, 0.3), _T),
    Metric(
        "tis_capped_share",
        "share",
        "trained tokens whose weight for the engine gap was cut or dropped",
        (None, 0.01),
        _T,
    ),
    Metric(
        "kl_loss",
        "nats/token",
        "KL to the reference as a part of the loss, its coefficient included",
        "below the policy loss",
        _T,
    ),
    Metric(
        "kept_share",
        "share",
        "trained tokens whose weight for the engine gap is the ratio itself, by length of their sequence",
        "alike for all lengths; else a bound punishes or rewards length",
        _T,
    ),
    Metric("kl_coef", "weight", "weight of the KL to the reference in this step", "as scheduled", _T),
    Metric("logprob_gap_mean", "nats", "abs. gap of sampler and trainer logprobs, same weights", (None, 0.01), _T),
    Metric("grad_norm", "norm", "norm of the gradient before clipping", "steady; a tenfold jump is instability", _T),
    Metric(
        "gradient_cosine",
        "cosine",
        "angle between the gradients of the two halves of an update, its groups in the order of their families",
        "above 0; below -0.1 for long, they pull apart",
        _T,
    ),
    Metric("value_loss", "reward^2", "clipped squared error of the critic, before its step", "falls", _T),
    Metric("explained_variance", "share", "variance of the returns that the critic foresees", "rises towards 1", _T),
    Metric("implicit_reward_loss", "nats", "cross-entropy of the implicit reward model with success", "below 0.69", _T),
    Metric("implicit_reward_accuracy", "share", "attempts whose success it tells, before its step", "above 0.5", _T),
    Metric("guard", "of the guard", "what a guard measured when it spoke, named after the slash", "absent", _T),
    Metric("learning_rate", "per step", "learning rate of the step", "as scheduled", _T),
    Metric("staleness", "versions", "mean age of trained tokens: trainer version minus sampler's", (None, 1.0), _T),
    Metric(
        "stale_share", "share", "trained tokens older than max_off_policy_steps allows groups to begin", (None, 0.2), _T
    ),
    Metric("replayed_share", "share", "groups of an update that were learned from before", "as replay_ratio asks", _T),
    Metric("replay_age", "steps", "since the replayed groups were learned from first", "as low as replay_steps", _T),
    Metric(
        "sampler_gap",
        "nats",
        "abs. gap of sampler and trainer logprobs on tokens of one age: 0 is arithmetic alone, the rest staleness",
        "age=0 at most 0.01; grows slowly with age",
        _T,
    ),
    Metric(
        "sequence_accepted",
        "share",
        "attempts of one length whose product of trainer over sampler is at most 3: what a mask by sequence would keep",
        "near 1 at every length",
        _T,
    ),
    Metric("trained_tokens", "tokens", "tokens of the step with a weight other than 0", "steady", _T),
    # What learning costs.
    Metric("tokens_per_second", "tokens/s", "tokens sampled per second of rollout", "steady", _T),
    Metric("rollout_seconds", "s", "wall time of the step in waiting for attempts", "steady", _T),
    Metric("grade_seconds", "s", "wall time of the step in graders", "small beside rollout_seconds", _T),
    Metric("train_seconds", "s", "wall time of the step in the update", "steady", _T),
    Metric("peak_memory", "GiB", "the most memory that the process has held so far", "below what there is", _T),
    Metric("weights_seconds", "s", "wall time of the step in handing weights to engines", "small beside the rest", _T),
    Metric("trainer_idle_share", "share", "share of the step in which nothing was learned", "low under async", _T),
    Metric("engine_idle_share", "share", "share of the step in which no attempt waited for the engine", "low", _T),
    Metric("attempts", "attempts", "fate of all attempts so far by decile of duration, 1 = fastest", "trained", _T),
    Metric(
        "censoring_index",
        "ratio",
        "share of the slowest decile of attempts in trained over admitted: below 1, slow ones are lost",
        (0.95, 1.05),
        _T,
    ),
    Metric("validation_seconds", "s", "wall time of the step in validation", "small beside the rest", _T),
    # What a version is worth.
    Metric("success", "share", "trials whose outcome is success", "above the baseline, interval included", _E),
    Metric("safe", "share", "trials without an effect that the safety grader forbids", "inside the gate's margin", _E),
    Metric("missing_rate", "share", "trials without an outcome, no fault of the policy", (None, 0.01), _EM),
    Metric("pass_hat_k", "share", "tasks that succeed in all of k trials, unbiased", "close to success: reliable", _E),
    Metric(
        "pass_at_k", "share", "tasks that succeed in one or more of k trials, unbiased", "headroom above success", _E
    ),
    Metric("reliability", "share", "success * (1 - override) * (1 - tool_error)", "above the baseline", _E),
    Metric("score", "share", "mean of one of the user's graders, named after the slash", "as its author says", _TE),
    Metric("tool_error_rate", "share", "tool calls answered with a problem", (None, 0.05), _TEM),
    Metric("tool_errors", "calls/attempt", "the same calls, counted", "not above the baseline", _E),
    Metric("tool_calls", "calls/attempt", "tool calls the policy made", "near what the task needs", _E),
    Metric("tool_calls_p95", "calls/attempt", "95th percentile of tool_calls", "at most twice the mean", _E),
    Metric("hallucinated_tools", "calls/attempt", "calls of a tool that the task does not offer", (None, 0.01), _E),
    Metric("hallucinated_parameters", "calls/attempt", "calls with an argument unknown to the tool", (None, 0.01), _E),
    Metric("tokens_in", "tokens/attempt", "prompt tokens, a shared prefix once", "not above the baseline", _E),
    Metric("tokens_out", "tokens/attempt", "sampled tokens", "not above the baseline", _E),
    Metric("tool_seconds", "s/attempt", "seconds in tools", "not above the baseline", _E),
    Metric("wall_seconds", "s/attempt", "wall time; compare interleaved arms only", "not above the baseline", _E),
    Metric(
        "latency_seconds",
        "s/attempt",
        "tokens at a calibrated rate plus the critical path of the tools",
        "at most 15 % above the baseline",
        _EM,
    ),
    Metric("cost_usd", "USD/attempt", "cost by the price table of the file", "not above the baseline", _E),
    Metric("cost_per_success_usd", "USD", "cost of all attempts over their successes", "not above the baseline", _EM),
    # What users meet.
    Metric("human_override_rate", "share", "sessions that a person took over or undid", (None, 0.05), _EM),
    Metric("policy_kl_drift", "nats/token", "k3 of live tokens against the frozen reference", (None, 0.05), _M),
    Metric(
        "task_completion_quality",
        "share",
        "mean score of the success grader over sampled live sessions",
        "not below the version's first week",
        _M,
    ),
    Metric("length_drift", "tokens/session", "sampled tokens of live sessions", "as in the version's first week", _M),
    Metric("tool_mix_drift", "share", "live sessions that call a tool, by tool", "as in the version's first week", _M),
    Metric("refusal_drift", "share", "live sessions that end in a refusal", "as in the version's first week", _M),
    Metric("style_drift", "share", "last answers with a mark of style, by mark", "as in the version's first week", _M),
)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""The declared metrics by name."""


def check(name: str) -> Metric:
    """Return the declaration of `name`, with or without a `/qualifier` or a number for `k`.

    Raises ConfigError naming the nearest declared metric.
    """
    base, slash, qualifier = name.partition("/")
    base = base if base in METRICS else re.sub(r"_\d+$", "_k", base)
    if base not in METRICS:
        raise ConfigError(f"metric {name!r} is not declared in flyball.metrics{nearest(base, METRICS)}")
    if slash and not qualifier:
        raise ConfigError(f"metric {name!r} ends in a slash; write {base!r}, or name the part after the slash")
    return METRICS[base]


def measured(name: str, estimate: Estimate) -> dict[str, float]:
    """Return a number with what it rests on: `name`, `name/low`, `name/high` and `name/n`; an open side is left out."""
    sides = {f"{name}/low": estimate.low, f"{name}/high": estimate.high}
    finite = {key: bound for key, bound in sides.items() if math.isfinite(bound)}
    return {name: estimate.value, **finite, f"{name}/n": float(estimate.n)}


def part(name: str, of: str) -> str:
    """Return the name of a part of a measured metric: `validation_success/sft` and `low` give `.../low/sft`."""
    base, slash, rest = name.partition("/")
    return f"{base}/{of}{slash}{rest}"


def markdown() -> str:
    """Return the table as the page `docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Made by `python -m flyball.metrics > docs/metrics.md`; change `src/flyball/metrics.py` instead.",
        "",
        "A name may be followed by `/` and the part that was measured, as in `success/ood`, or by `/low`, `/high` and",
        "`/n`: its 95 % interval and how many it rests on. A `k` at the end stands for a number, as in `pass_hat_4`.",
        "Leaving the healthy range is a reason to look, not a verdict: verdicts come from gates and comparisons.",
    ]
    for where in _TEM:
        lines += [
            "",
            f"## {where.capitalize()}",
            "",
            "| name | unit | meaning | healthy |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| `{metric.name}` | {metric.unit} | {metric.meaning} | {_range(metric.healthy)} |"
            for metric in _TABLE
            if where in metric.where
        ]
    return "\n".join(lines) + "\n"


def _range(healthy: tuple[float | None, float | None] | str) -> str:
    if isinstance(healthy, str):
        return healthy
    low, high = healthy
    if low is None:
        return f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


if __name__ == "__main__":
    sys.stdout.write(markdown())
