"""Four families, each judged by what can be checked: paths, facts, hidden tests, measured speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from changes import CASES, CHANGES
from repository import checkout

import flyball as fb
from flyball.sandbox.examine import Raced, examine, race
from flyball.sandbox.job import Bounds
from flyball.sandbox.sandbox import find_sandbox

GOAL, REPEATS = 2.0, 3


def score(attempt: fb.Attempt, hidden: Mapping[str, Any]) -> float:
    """How well the attempt did, in [0, 1]: F1 of paths, recall of facts, share of hidden tests, speed gained."""
    return FAMILIES[hidden["family"]](attempt, hidden)


def success(attempt: fb.Attempt, hidden: Mapping[str, Any]) -> bool:
    """Whether everything that was asked for is there."""
    return score(attempt, hidden) == 1.0


def located(attempt: fb.Attempt, hidden: Mapping[str, Any]) -> float:
    """F1 of the paths that the answer ends with; a repository listed whole is mostly wrong."""
    named, wanted = names_in(attempt.answer), set(hidden["paths"])
    return 2 * len(named & wanted) / (len(named) + len(wanted))


def recalled(attempt: fb.Attempt, hidden: Mapping[str, Any]) -> float:
    """Share of the facts that the answer ends with; more names than were asked for are guesses, and state nothing."""
    named, facts = names_in(attempt.answer), hidden["facts"]
    if len(named) > len(facts):
        return 0.0
    return sum(any(name == fact or name.endswith(f"/{fact}") for name in named) for fact in facts) / len(facts)


def names_in(answer: str) -> set[str]:
    """The words of the last line, without commas, full stops and backticks around them. Every word there counts."""
    lines = answer.strip().splitlines()
    return {word.strip("`,.") for word in lines[-1].split()} - {""} if lines else set()


def repaired(attempt: fb.Attempt, hidden: Mapping[str, Any]) -> float:
    """Share of the hidden tests that pass."""
    tests = {"test_hidden.py": CHANGES[hidden["change"]].tests.encode()}
    return examine(find_sandbox(), code_of(attempt, hidden), tests, Bounds(seconds=60)).share


def hastened(attempt: fb.Attempt, hidden: Mapping[str, Any]) -> float:
    """0 for wrong or no faster than it was, 1 from twice as fast on."""
    return min(1.0, max(0.0, (raced(attempt, hidden).speedup - 1) / (GOAL - 1)))


def raced(attempt: fb.Attempt, hidden: Mapping[str, Any]) -> Raced:
    """The race of the attempt's code against the code as it was."""
    function, cases = CASES[hidden["change"]]
    before = encoded(checkout(hidden["repository"], hidden["change"]))
    return race(find_sandbox(), code_of(attempt, hidden), before, function, cases, REPEATS)


def code_of(attempt: fb.Attempt, hidden: Mapping[str, Any]) -> dict[str, bytes]:
    """The repository as the attempt left it."""
    files = checkout(hidden["repository"], hidden["change"])
    for path in attempt.state["deleted"]:
        files.pop(path, None)
    return encoded({**files, **attempt.state["changed"]})


def encoded(files: Mapping[str, str]) -> dict[str, bytes]:
    """Files as bytes."""
    return {path: text.encode() for path, text in files.items()}


FAMILIES = {"locate": located, "question": recalled, "repair": repaired, "faster": hastened}
