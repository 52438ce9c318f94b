"""`process`: how the work was done: steps in order, nothing invented, no call in vain.

order        every call of a tool in `before` comes after the tools named there did their work
hygiene      the arguments in `sourced` occurred before in what people said or tools returned: they were not assumed
necessity    tools in `needed` were called, and no call was repeated word for word with nothing done in between
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.steps import Step, leaves, occurs, steps_of, told
from flyball.graders.tool_call import normal
from flyball.graders.value import Value
from flyball.section import Names
from flyball.types import Score


class Process(GraderSpec):
    """The mean of the parts that were asked for; 0 for an attempt that calls no tool, which has no process.

    `before`: tool -> tools that have to succeed before it. `sourced`: tool -> arguments that must not be invented.
    `needed`: a list of tools, or a template of one. `writes`: tools that change something, after which a repeated call
    is not in vain.
    """

    type: Literal["process"]
    before: Mapping[str, Names] = Field(default_factory=dict)
    sourced: Mapping[str, Names] = Field(default_factory=dict)
    needed: Any = None
    writes: Names = ()

    @model_validator(mode="after")
    def _asks(self) -> Process:
        if not self.before and not self.sourced and self.needed is None:
            raise ValueError("it asks for nothing; give `before`, `sourced` or `needed`")
        if self.writes and self.needed is None:
            raise ValueError("`writes` would be ignored: repeated calls are judged only with `needed`")
        return self


class ProcessGrader(SpecGrader[Process]):
    """Parts: `order`, `hygiene`, `necessity`, each the share of the calls it judges that are right."""

    def __init__(self, spec: Process) -> None:
        super().__init__(spec)
        self._needed = None if spec.needed is None else Value(spec.needed, f"grader {spec.name!r}, needed")

    async def judge(self, row: Row) -> Score:
        """Judge the calls. Raises NotGraded."""
        steps = steps_of(row.attempt)
        if not steps:
            return Score(0.0, 0.0, explanation="no tool was called, so there is no process to credit")
        found: dict[str, list[tuple[str, bool]]] = {}
        if self.spec.before:
            found["order"] = [
                (_said(step), self._in_order(i, steps)) for i, step in enumerate(steps) if self._has(step)
            ]
        if self.spec.sourced:
            found["hygiene"] = self._hygiene(row, steps)
        if self._needed is not None:
            found["necessity"] = self._necessity(self._needed.texts(row, "needed"), steps)
        parts = {
            name: sum(good for _, good in judged) / len(judged) if judged else 1.0 for name, judged in found.items()
        }
        wrong = [f"{name}: {what}" for name, judged in found.items() for what, good in judged if not good]
        value = sum(parts.values()) / len(parts)
        return Score(value, value, parts=parts, explanation="; ".join(wrong[:5]))

    def _has(self, step: Step) -> bool:
        return step.name in self.spec.before

    def _in_order(self, i: int, steps: list[Step]) -> bool:
        # the calls of one turn were written before any of them had answered
        earlier = {step.name for step in steps[:i] if step.done and step.turn < steps[i].turn}
        return set(self.spec.before[steps[i].name]) <= earlier

    def _hygiene(self, row: Row, steps: list[Step]) -> list[tuple[str, bool]]:
        known, judged = told(row.attempt), []
        for step in steps:
            seen = "\n".join([known, *(other.shown for other in steps if other.turn < step.turn)])
            for name in self.spec.sourced.get(step.name, ()):
                for leaf in leaves(step.arguments.get(name)):
                    judged.append((f"{step.name}.{name} {leaf[:40]!r} came from nowhere", occurs(leaf, seen)))
        return judged

    def _necessity(self, needed: list[str], steps: list[Step]) -> list[tuple[str, bool]]:
        done = {step.name for step in steps if step.done}
        judged = [(f"{tool} was needed", tool in done) for tool in needed]
        made: set[str] = set()
        for step in steps:
            key = f"{step.name} {sorted(normal(step.arguments).items())!r}"
            judged.append((f"{_said(step)} again", key not in made))
            made.add(key)
            if step.name in self.spec.writes and step.done:
                made = {key}
        return judged


def _said(step: Step) -> str:
    return f"{step.name}({step.call.arguments[:60]})"
