"""Graders against people: agreement, calibration, bias and drift, each a finding with n and interval.

Experts come first: where two of them do not agree on a rubric, no grader can be right about it, and training on it
would teach the noise. `KAPPA_FLOOR` is the usual border to substantial agreement (Landis and Koch 1977).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from flyball.errors import EvalError
from flyball.evals.readiness import Finding, Level
from flyball.graders.labels import Label
from flyball.stats.agreement import cohen_kappa, correlation
from flyball.stats.binomial import wilson
from flyball.stats.calibration import brier_score, expected_calibration_error
from flyball.stats.intervals import mean_interval, proportion_interval
from flyball.stats.paired import paired_difference
from flyball.stats.written import format_estimate
from flyball.types import Missing, Score

KAPPA_FLOOR = 0.6
FEWEST = 20
"""Units below which agreement is shown and decides nothing."""
MISSING_LIMIT = 0.05
BIAS = 0.2
"""Correlation from which a bias is worth a word, once its interval excludes 0."""


@dataclass(frozen=True)
class Judged:
    """One attempt by one rubric: what people settled on, and what the grader said. `at` is of the latest label."""

    attempt_id: str
    cluster: str
    people: float
    score: Score
    length: int
    at: str = ""


def check_raters(labels: Sequence[Label]) -> list[Finding]:
    """Agreement of every two raters, rubric by rubric."""
    by_rubric: dict[str, dict[str, dict[str, Label]]] = defaultdict(lambda: defaultdict(dict))
    for label in labels:
        by_rubric[label.rubric][label.rater][label.attempt.attempt_id] = label
    findings = []
    for rubric, raters in by_rubric.items():
        pairs = [(a, b, sorted(raters[a].keys() & raters[b].keys())) for a, b in combinations(sorted(raters), 2)]
        pairs = [pair for pair in pairs if pair[2]]
        if not pairs:
            text = "no two people judged the same attempt, so nobody knows whether the rubric can be agreed on"
            findings.append(Finding(f"raters of {rubric}", "warn", text))
        for a, b, common in pairs:
            first, second = ([raters[who][unit].value >= 0.5 for unit in common] for who in (a, b))
            clusters = [raters[a][unit].attempt.task.cluster for unit in common]
            findings.append(_agreement(f"raters of {rubric}", f"{a} and {b}", first, second, clusters))
    return findings


def settled(labels: Sequence[Label], rubric: str) -> tuple[dict[str, tuple[Label, float]], int]:
    """Return what most people said by attempt, with one of its labels (the latest), and how many were undecided."""
    votes: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        if label.rubric == rubric:
            votes[label.attempt.attempt_id].append(label)
    means = {unit: sum(label.value for label in said) / len(said) for unit, said in votes.items()}
    decided = {
        unit: (max(said, key=lambda label: label.at), means[unit]) for unit, said in votes.items() if means[unit] != 0.5
    }
    return decided, len(votes) - len(decided)


def check_grader(rubric: str, judged: Sequence[Judged], undecided: int = 0) -> list[Finding]:
    """Everything about one grader against people. Raises EvalError without a judged attempt."""
    if not judged:
        raise EvalError(f"no label of {rubric!r} is decided; label more attempts, or let a third person decide")
    scored = [one for one in judged if not one.score.missing]
    findings = [_missing(rubric, judged)]
    if undecided:
        text = f"{undecided} attempts on which people are split were left out"
        findings.append(Finding(f"{rubric}: undecided", "warn", text))
    if not scored:
        return findings
    values, clusters = [_value(one) for one in scored], [one.cluster for one in scored]
    truth = [one.people >= 0.5 for one in scored]
    findings += [
        _agreement(f"{rubric}: agreement", "grader and people", [v >= 0.5 for v in values], truth, clusters),
        _calibration(rubric, values, truth, clusters),
        _bias(f"{rubric}: length bias", "how long an answer is", scored, [math.log1p(one.length) for one in scored]),
    ]
    if any("order_gap" in one.score.parts for one in scored):
        findings.append(_position(rubric, scored))
    if len({one.at for one in scored}) > 1:
        findings.append(_drift(rubric, scored))
    return findings


def compare_graders(judged: Mapping[str, Sequence[Judged]]) -> list[Finding]:
    """Graders of one rubric on the same attempts: accuracy and kappa of each, and what the others have over the first.

    Such as a generative reward model and a plain judge against a rule. Attempts that one of them could not grade are
    left out for all, and counted. Raises EvalError when none is left.
    """
    by_all = set.intersection(*({o.attempt_id for o in some if not o.score.missing} for some in judged.values()))
    kept = {name: [one for one in some if one.attempt_id in by_all] for name, some in judged.items()}
    all_of_them, (first, *others) = len(next(iter(judged.values()))), kept
    if not kept[first]:
        raise EvalError(f"none of the {all_of_them} labelled attempts was graded by all of {', '.join(judged)}")
    right = {name: [float((_value(o) >= 0.5) == (o.people >= 0.5)) for o in some] for name, some in kept.items()}
    clusters = [one.cluster for one in kept[first]]
    findings = [_beside_people(name, kept[name], right[name], clusters) for name in kept]
    for name in others:
        more = paired_difference(right[name], right[first], clusters=clusters, unit="share")
        level: Level = "ok" if more.low > 0 else "fail" if more.high < 0 else "warn"
        told = {"ok": f"better than {first}", "fail": f"worse than {first}", "warn": "no difference that so many show"}
        text = f"right in {format_estimate(more, signed=True)} more: {told[level]}"
        findings.append(Finding(f"{name} against {first}", level, text, {"more": more}))
    if left_out := all_of_them - len(clusters):
        findings.append(Finding("graded by all", "warn", f"{left_out} of {all_of_them} attempts were left out"))
    return findings


def _beside_people(name: str, judged: Sequence[Judged], right: Sequence[float], clusters: Sequence[str]) -> Finding:
    accuracy = proportion_interval(right, clusters=clusters)
    said, truth = [_value(one) >= 0.5 for one in judged], [one.people >= 0.5 for one in judged]
    try:
        kappa = cohen_kappa(said, truth, clusters=clusters)
    except EvalError as error:
        return Finding(name, "warn", f"right in {format_estimate(accuracy)}; {error.args[0]}", {"accuracy": accuracy})
    text = f"right in {format_estimate(accuracy)}, {format_estimate(kappa)}"
    return Finding(name, "ok", text, {"accuracy": accuracy, "kappa": kappa})


def _agreement(name: str, who: str, first: Sequence[bool], second: Sequence[bool], clusters: Sequence[str]) -> Finding:
    same = wilson(sum(a == b for a, b in zip(first, second, strict=True)), len(first))
    try:
        kappa = cohen_kappa(first, second, clusters=clusters)
    except EvalError as error:
        return Finding(name, "warn", f"{who} agree in {format_estimate(same)}; {error.args[0]}", {"same": same})
    text = f"{who}: {format_estimate(kappa)}, the same in {format_estimate(same)}"
    evidence = {"kappa": kappa, "same": same, "floor": KAPPA_FLOOR}
    if kappa.n < FEWEST:
        return Finding(name, "warn", f"{text}; {FEWEST} are needed to judge", evidence)
    level: Level = "ok" if kappa.low >= KAPPA_FLOOR else "warn" if kappa.value >= KAPPA_FLOOR else "fail"
    why = {"ok": "", "warn": f"; the floor of {KAPPA_FLOOR} is inside the interval"}
    return Finding(name, level, text + why.get(level, f"; below the floor of {KAPPA_FLOOR}: mend the rubric"), evidence)


def _missing(rubric: str, judged: Sequence[Judged]) -> Finding:
    missing = [one.score for one in judged if one.score.missing]
    flags: dict[str, int] = defaultdict(int)
    for score in missing:
        for flag in [name for name, up in score.parts.items() if name.endswith("_error") and up] or ["other_error"]:
            flags[flag] += 1
    rate = wilson(len(missing), len(judged))
    level: Level = "ok" if not missing else "warn" if rate.value <= MISSING_LIMIT else "fail"
    told = ", ".join(f"{flag} {count}" for flag, count in sorted(flags.items()))
    text = f"no grade in {format_estimate(rate)}" + (f": {told}" if told else "")
    return Finding(f"{rubric}: parse failures", level, text, {"rate": rate, **flags})


def _calibration(rubric: str, values: Sequence[float], truth: Sequence[bool], clusters: Sequence[str]) -> Finding:
    came_true = [float(t) for t in truth]
    ece = expected_calibration_error(values, came_true, clusters=clusters)
    brier = brier_score(values, came_true, clusters=clusters)
    text = f"ECE {format_estimate(ece)}, Brier {format_estimate(brier)}"
    level: Level = "warn" if ece.low > 0.1 and ece.n >= FEWEST else "ok"
    return Finding(f"{rubric}: calibration", level, text, {"ece": ece, "brier": brier})


def _bias(name: str, what: str, scored: Sequence[Judged], measure: Sequence[float]) -> Finding:
    """Whether the grader is kinder than people are where something is larger that should not matter."""
    excess = [_value(one) - one.people for one in scored]
    try:
        found = correlation(measure, excess, clusters=[one.cluster for one in scored])
    except EvalError:
        return Finding(name, "ok", f"{what} does not go along with how kind the grader is (n={len(scored)})")
    biased = abs(found.value) >= BIAS and (found.low > 0 or found.high < 0) and found.n >= FEWEST
    text = f"{what} against kindness: {format_estimate(found)}"
    return Finding(name, "warn" if biased else "ok", text, {"correlation": found})


def _position(rubric: str, scored: Sequence[Judged]) -> Finding:
    gaps = [one.score.parts["order_gap"] for one in scored if "order_gap" in one.score.parts]
    gap = mean_interval(gaps, unit="ranks")
    text = f"an answer moves {format_estimate(gap)} when the order is turned round"
    return Finding(f"{rubric}: position bias", "warn" if gap.low > 1.0 else "ok", text, {"gap": gap})


def _drift(rubric: str, scored: Sequence[Judged]) -> Finding:
    """Whether agreement falls with time."""
    in_time = sorted(scored, key=lambda one: one.at)
    agree = [float((_value(one) >= 0.5) == (one.people >= 0.5)) for one in in_time]
    name = f"{rubric}: drift"
    try:
        found = correlation(range(len(agree)), agree, clusters=[one.cluster for one in in_time])
    except EvalError:
        return Finding(name, "ok", f"agreement did not change with time (n={len(agree)})")
    text = f"agreement against time: {format_estimate(found)}"
    falls = found.high < 0 and found.n >= FEWEST
    return Finding(name, "fail" if falls else "ok", text + ("; it falls" if falls else ""), {"correlation": found})


def _value(one: Judged) -> float:
    assert not isinstance(one.score.value, Missing)  # the missing ones were left out and counted
    return one.score.value
