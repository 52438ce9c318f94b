"""Checks of the policy before training: is there something to reinforce, something to gain, and what will it cost?

A group is several attempts at one task. Every check is a function of what was seen; its limits stand here and are
printed with the finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flyball.evals.readiness import Finding, Level, share, succeeded, why
from flyball.models.hf_chat import HfChat
from flyball.models.template_habits import audit
from flyball.stats.intervals import mean_interval, proportion_interval
from flyball.stats.pass_k import pass_at_k
from flyball.stats.written import format_estimate
from flyball.types import Estimate, GradedAttempt, Missing

Groups = Sequence[Sequence[GradedAttempt]]

FLOOR, CEILING = 0.02, 0.95
VARIED_OK, VARIED_FAIL = 0.30, 0.10
HEADROOM = 0.05
MISSING_OK, MISSING_FAIL = 0.01, 0.05


@dataclass(frozen=True)
class TrainingPlan:
    """How much RL is planned, for the forecast. `max_minutes` None = no limit."""

    num_steps: int
    tasks_per_step: int
    group_size: int
    max_minutes: float | None = None

    @property
    def num_attempts(self) -> int:
        return self.num_steps * self.tasks_per_step * self.group_size


def check_missing(groups: Groups) -> Finding:
    """Outcomes that are missing for the fault of the infrastructure or a grader."""
    attempts = _flat(groups)
    rate = share(attempts, lambda graded: isinstance(graded.outcome.success, Missing))
    level: Level = "ok" if rate.value <= MISSING_OK else "warn" if rate.value <= MISSING_FAIL else "fail"
    text = f"{format_estimate(rate)} of outcomes are missing"
    first = next((graded for graded in attempts if isinstance(graded.outcome.success, Missing)), None)
    return Finding("missing", level, text + (f", first: {why(first)}" if first else ""), {"rate": rate})


def check_template(chat: HfChat) -> Finding:
    """Whether the chat template writes the past the same way whatever is said next."""
    found = audit(chat)
    broken = [(each.name, each.breaks[0]) for each in found.findings if each.breaks]
    if not broken:
        return Finding("template", "ok", "the chat template keeps what was said, turn by turn")
    name, first = broken[0]
    text = (
        f"the chat template changes the past in {len(broken)} of {len(found.findings)} kinds of conversation, first: "
        f"{name}, turn {first.message}: {first.why}; `flyball doctor template` says where attempts fork"
    )
    return Finding("template", "warn", text)


def check_floor(groups: Groups, *, cold_start: bool) -> Finding:
    """Below the floor there is no success to reinforce; a supervised cold start is the way up."""
    rate = base_rate(groups)
    text = f"the policy succeeds in {format_estimate(rate)} of attempts"
    if rate.value >= FLOOR:
        return Finding("floor", "ok", text, {"base_rate": rate})
    if cold_start:
        return Finding(
            "floor", "warn", f"{text}, below {FLOOR:.0%}: RL rests on the SFT cold start", {"base_rate": rate}
        )
    advice = "start from demonstrations (SFT) or from easier tasks"
    return Finding("floor", "fail", f"{text}, below {FLOOR:.0%}: nothing to reinforce; {advice}", {"base_rate": rate})


def check_ceiling(groups: Groups) -> Finding:
    """Above the ceiling there is nothing left to gain on these tasks."""
    rate = base_rate(groups)
    level: Level = "fail" if rate.low > CEILING else "warn" if rate.value > CEILING else "ok"
    text = f"the policy succeeds in {format_estimate(rate)} of attempts"
    if level != "ok":
        text += f", above {CEILING:.0%}: little is left to learn; take harder tasks or leave it as it is"
    return Finding("ceiling", level, text, {"base_rate": rate})


def check_variance(groups: Groups) -> Finding:
    """Group-relative RL learns from groups whose rewards differ; the others cost time and teach nothing."""
    varied = proportion_interval([float(_differs(group)) for group in groups], clusters=_clusters(groups))
    level: Level = "ok" if varied.value >= VARIED_OK else "warn" if varied.value >= VARIED_FAIL else "fail"
    text = f"rewards differ inside {format_estimate(varied)} of groups"
    if level == "fail" and not any(map(_successes, groups)):
        level = "warn"  # `check_floor` judges this; a cold start changes both
        text += ", none of which has a success yet"
    elif level != "ok":
        text += "; raise the temperature or the group size, or choose tasks of middling difficulty"
    return Finding("variance", level, text, {"varied": varied, "group_size": max(map(len, groups))})


def check_headroom(groups: Groups) -> Finding:
    """What choosing the best of n would add: the gain that RL can make cheap."""
    gains = []
    for group in groups:
        n, c = len(group), _successes(group)
        gains.append(pass_at_k(n, c, n) - pass_at_k(n, c, 1))
    gain = proportion_interval(gains, clusters=_clusters(groups))
    n = max(map(len, groups))
    text = f"best of {n} would add {format_estimate(gain)} to success"
    evidence = {"gain": gain, "group_size": n}
    if not any(map(_successes, groups)):
        return Finding("headroom", "warn", f"no success in {n} tries at any task: headroom cannot be seen", evidence)
    level: Level = "fail" if gain.high < HEADROOM else "warn" if gain.value < HEADROOM else "ok"
    if level != "ok":
        text += ": the policy repeats itself or is at its best; more demonstrations or another model would help more"
    return Finding("headroom", level, text, evidence)


def check_forecast(groups: Groups, wall_seconds: float, plan: TrainingPlan) -> Finding:
    """Tokens and rollout time of the planned training, at the speed and lengths just measured."""
    attempts = _flat(groups)
    used = [float(graded.attempt.usage.tokens_in + graded.attempt.usage.tokens_out) for graded in attempts]
    tokens = _scaled(
        mean_interval(used, clusters=[graded.attempt.task.cluster for graded in attempts], unit="tokens"),
        plan.num_attempts,
    )
    minutes = wall_seconds / len(attempts) * plan.num_attempts / 60.0
    text = (
        f"{plan.num_attempts} attempts, about {tokens.value / 1e6:.2g} million tokens "
        f"({tokens.low / 1e6:.2g} to {tokens.high / 1e6:.2g}) and {minutes:.3g} minutes of rollout, without learning"
    )
    evidence = {"tokens": tokens, "rollout_minutes": minutes}
    if plan.max_minutes is not None and minutes > plan.max_minutes:
        return Finding("forecast", "warn", f"{text}: more than the {plan.max_minutes:g} allowed", evidence)
    return Finding("forecast", "ok", text, evidence)


def base_rate(groups: Groups) -> Estimate:
    """Success over all attempts, missing ones counted as failures, clustered as the tasks were sampled."""
    return share(_flat(groups), succeeded)


def _flat(groups: Groups) -> list[GradedAttempt]:
    return [graded for group in groups for graded in group]


def _clusters(groups: Groups) -> list[str]:
    return [group[0].attempt.task.cluster for group in groups]


def _successes(group: Sequence[GradedAttempt]) -> int:
    return sum(map(succeeded, group))


def _differs(group: Sequence[GradedAttempt]) -> bool:
    return len({graded.reward for graded in group if not isinstance(graded.reward, Missing)}) > 1


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return replace(
        estimate, value=estimate.value * factor, low=max(0.0, estimate.low * factor), high=estimate.high * factor
    )
