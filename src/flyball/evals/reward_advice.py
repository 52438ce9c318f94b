"""Which reward the data ask for: the cheapest that can be checked, and more only where the data show the need.

rule         where the end can be checked: it cannot be argued with
shaping      an outcome with shaping, where most tasks pay every attempt the same, so nothing can be learned there;
             only signals that go along with success on real attempts (arXiv 2604.02869), as rates, since long
             attempts have more of everything
process      a light process grader, above ten turns, where one reward at the end says too little about which turn
generative   a model that judges, with labels to hold it against and a budget to ask it: never before
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flyball.errors import EvalError
from flyball.evals.readiness import Finding, share
from flyball.graders.steps import steps_of
from flyball.graders.tool_call import normal
from flyball.stats.agreement import correlation
from flyball.stats.binomial import wilson
from flyball.stats.intervals import mean_interval
from flyball.stats.written import format_estimate
from flyball.types import Attempt, GradedAttempt, Missing, Task

MANY_TURNS = 10
DEAD_LIMIT = 0.5
"""Share of tasks that pay all attempts the same from which shaping is worth its risk."""
CHECKABLE = 0.95
ENOUGH_LABELS = 200
SIGNAL = 0.1
"""Correlation with success below which a signal is noise, whatever its interval."""


@dataclass(frozen=True)
class RewardFacts:
    """What advice is made of. `judged`: a model decides success. `labels`: attempts that two people judged."""

    tasks: Sequence[Task]
    attempts: Sequence[GradedAttempt]
    judged: bool
    shaped: bool
    labels: int = 0
    budget_usd: float = 0.0


def advise(facts: RewardFacts) -> list[Finding]:
    """Return one finding for each kind of reward, and one for each signal. Raises EvalError without tasks."""
    if not facts.tasks:
        raise EvalError("there are no tasks, so there is nothing to advise on")
    found = [_rule(facts)]
    if facts.attempts:
        found += [_shaping(facts), _process(facts), *_signals(facts.attempts)]
    else:
        text = "no stored attempts: give --run, of an evaluation or a training, to see what shaping could rest on"
        found.append(Finding("shaping", "warn", text))
    return [*found, _generative(facts)]


def _rule(facts: RewardFacts) -> Finding:
    checkable = wilson(sum(bool(task.hidden) for task in facts.tasks), len(facts.tasks))
    held = f"{format_estimate(checkable)} of tasks hold what a rule can check against"
    evidence = {"checkable": checkable}
    if not facts.judged:
        return Finding("rule", "ok", f"success is decided by a rule; {held}", evidence)
    if checkable.value >= CHECKABLE:
        keys = sorted({key for task in facts.tasks for key in task.hidden})[:6]
        text = f"a model decides success, and {held} ({', '.join(keys)}): decide it by a rule"
        return Finding("rule", "fail", text, evidence)
    return Finding("rule", "warn", f"a model decides success; {held}: check by a rule where that is possible", evidence)


def _shaping(facts: RewardFacts) -> Finding:
    rewards: dict[str, list[float]] = defaultdict(list)
    for one in facts.attempts:
        if not isinstance(one.reward, Missing):
            rewards[one.attempt.task.task_id].append(one.reward)
    several = [values for values in rewards.values() if len(values) > 1]
    if not several:
        return Finding("shaping", "warn", "no task was attempted twice, so nobody knows where rewards are all the same")
    dead = wilson(sum(max(values) == min(values) for values in several), len(several))
    text = f"{format_estimate(dead)} of tasks pay all their attempts the same"
    if dead.value < DEAD_LIMIT:
        return Finding("shaping", "ok", f"{text}: the outcome is enough to learn from", {"dead": dead})
    if facts.shaped:
        return Finding(
            "shaping", "warn", f"{text} although the reward is shaped: its parts do not tell them apart", {"dead": dead}
        )
    more = "keep the outcome and add a small shaping by the signals below that go along with success"
    return Finding("shaping", "warn", f"{text}: {more}", {"dead": dead})


def _process(facts: RewardFacts) -> Finding:
    turns = [float(len(one.attempt.trajectory.calls)) for one in facts.attempts]
    clusters = [one.attempt.task.cluster for one in facts.attempts]
    mean = mean_interval(turns, clusters=clusters, unit="turns")
    text = f"an attempt takes {format_estimate(mean)}"
    if mean.value > MANY_TURNS:
        advice = f"above {MANY_TURNS}, one reward at the end says little about a turn: add a light `process` grader"
        return Finding("process", "warn", f"{text}; {advice}", {"turns": mean})
    return Finding("process", "ok", f"{text}; no process model is needed up to {MANY_TURNS}", {"turns": mean})


def _generative(facts: RewardFacts) -> Finding:
    has = f"{facts.labels} attempts judged by two people, {facts.budget_usd:g} US dollars"
    ready = facts.labels >= ENOUGH_LABELS and facts.budget_usd > 0
    if ready:
        text = f"{has}: a judge can be held against people; `flyball doctor grader --labels` first"
        return Finding("generative", "ok", text)
    text = f"{has}: not yet, {ENOUGH_LABELS} labels and a budget come first"
    return Finding("generative", "fail" if facts.judged else "ok", text)


# --- signals ---------------------------------------------------------------------------------------------------------


def _repeated(attempt: Attempt) -> float:
    made = [f"{step.name} {sorted(normal(step.arguments).items())!r}" for step in steps_of(attempt)]
    return (len(made) - len(set(made))) / max(1, len(made))


SIGNALS: Mapping[str, Callable[[Attempt], float]] = {
    "tool errors per call": lambda attempt: attempt.num_tool_errors / max(1, attempt.num_tool_calls),
    "repeated calls": _repeated,
    "calls per turn": lambda attempt: attempt.num_tool_calls / max(1, len(attempt.trajectory.calls)),
    "turns": lambda attempt: float(len(attempt.trajectory.calls)),
    "words of the answer": lambda attempt: float(len(attempt.answer.split())),
}


def _signals(attempts: Sequence[GradedAttempt]) -> list[Finding]:
    judged = [one for one in attempts if not isinstance(one.outcome.success, Missing)]
    success = [float(one.outcome.success is True) for one in judged]
    clusters = [one.attempt.task.cluster for one in judged]
    findings = []
    for name, read in SIGNALS.items():
        try:
            r = correlation([read(one.attempt) for one in judged], success, clusters=clusters)
        except EvalError:
            continue  # it never varies, or success does not
        tells = (r.low > 0 or r.high < 0) and abs(r.value) >= SIGNAL
        verdict = f"{'reward' if r.value > 0 else 'charge'} it a little, and look again" if tells else "leave it out"
        text = f"against success: {format_estimate(r)}; {verdict}"
        findings.append(Finding(f"signal {name}", "ok", text, {"correlation": r, "use": tells}))
    return findings


def solved_share(attempts: Sequence[GradedAttempt]) -> Finding:
    """How often the attempts succeeded, for the head of a report."""
    rate = share(attempts, lambda one: one.outcome.success is True)
    return Finding("success", "ok", f"{format_estimate(rate)} of attempts", {"rate": rate})
