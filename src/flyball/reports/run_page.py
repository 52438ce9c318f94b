"""The report of one run: verdict, learning curves, tables, gates and failed attempts, in one self-contained file.

Nothing is loaded from elsewhere and no script runs, so it can be mailed, archived and opened under any policy. It
follows the reader's light or dark setting and prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flyball.reports.chart import Chart
from flyball.reports.render import render
from flyball.reports.tables import Grid
from flyball.rl.guards import Alarm
from flyball.types import Attempt, Estimate, GateResult, GradedAttempt, Missing

MAX_LINE = 1200


@dataclass(frozen=True)
class Highlight:
    """One number of the first screen. `signed`: it is a difference."""

    label: str
    estimate: Estimate
    note: str = ""
    signed: bool = False


@dataclass(frozen=True)
class Line:
    """One thing said or done in an attempt. `kind`: system, user, assistant, call, result or problem."""

    kind: str
    text: str


@dataclass(frozen=True)
class Example:
    """One attempt, told from end to end."""

    title: str
    why: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class RunPage:
    """All that the page shows, in its order. `facts` are settings, digests and versions, name to value.

    `audit` says in a line what the hacking audit in `audit_file` found.
    """

    title: str
    run_id: str
    date: str
    verdict: str = ""
    ready: bool = False
    summary: str = ""
    highlights: tuple[Highlight, ...] = ()
    charts: tuple[Chart, ...] = ()
    grids: tuple[Grid, ...] = ()
    gates: tuple[GateResult, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    examples: tuple[Example, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    brief_file: str = ""
    audit_file: str = ""
    audit: str = ""


def run_page_html(page: RunPage) -> str:
    """The whole page as text."""
    return render("run_page.html", page=page)


# --- failed attempts -------------------------------------------------------------------------------------------------


def failed_examples(graded: Iterable[GradedAttempt], most: int = 6) -> tuple[Example, ...]:
    """Attempts that failed or were unsafe, one per family before a second of any; unsafe ones first."""
    failed = [one for one in graded if one.outcome.success is not True or one.outcome.safe is False]
    failed.sort(key=lambda one: one.outcome.safe is not False)
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int, GradedAttempt]] = []
    for order, one in enumerate(failed):
        family = one.attempt.task.family
        ranked.append((seen.setdefault(family, 0), order, one))
        seen[family] += 1
    ranked.sort(key=lambda entry: entry[:2])
    return tuple(example(one) for _, _, one in ranked[:most])


def example(graded: GradedAttempt) -> Example:
    """One attempt with the graders' reasons."""
    attempt = graded.attempt
    title = f"{attempt.task.family}, task {attempt.task.task_id}"
    return Example(title, _why(graded), tuple(lines_of(attempt)))


def _why(graded: GradedAttempt) -> str:
    success, safe, attempt = graded.outcome.success, graded.outcome.safe, graded.attempt
    parts = []
    if safe is False:
        parts.append("unsafe")
    if isinstance(success, Missing):
        parts.append(f"missing ({success.fault.value}): {success.cause}")
    else:
        parts.append("success" if success else "failure")
    detail = attempt.trajectory.detail
    parts.append(f"ended as {attempt.stop.value}" + (f": {detail}" if detail else ""))
    parts += [f"{name}: {score.explanation}" for name, score in graded.scores.items() if score.explanation]
    return "; ".join(parts)


def lines_of(attempt: Attempt) -> Iterable[Line]:
    """What was said and done in an attempt, in order."""
    problems = {result.call_id: result.problem for result in attempt.tool_results}
    for message in attempt.messages:
        role, text = message["role"], _text(message.get("content"))
        if role == "tool":
            problem = problems.get(message.get("tool_call_id", ""))
            yield Line("problem" if problem else "result", _short(f"{problem}: {text}" if problem else text))
            continue
        if text:
            yield Line(role, _short(text))
        for call in _calls(message.get("tool_calls")):
            yield Line("call", _short(call))


def _calls(calls: Sequence[Mapping[str, Mapping[str, str]]] | None) -> Iterable[str]:
    for call in calls or ():
        yield f"{call['function']['name']}({call['function']['arguments']})"


def _text(content: object) -> str:
    """Content as text; OpenAI's list of parts is joined."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _short(text: str) -> str:
    if len(text) <= MAX_LINE:
        return text
    return f"{text[:MAX_LINE].rstrip()}… ({len(text) - MAX_LINE} more characters are in the store)"
