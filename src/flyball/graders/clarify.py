"""`clarify`: asked back when something needed was missing, and not otherwise."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.steps import occurs
from flyball.graders.value import Value
from flyball.section import Names
from flyball.types import Attempt, Message, Score

_COURTESY = re.compile(
    r"(anything|something) else|further (help|assist)|other questions|is that (ok|okay|all right|alright)|"
    r"how (can|may) i help|autre chose",
    re.IGNORECASE,
)
_ENDS = re.compile(r"(?<=[.!?\n])")


class Clarify(GraderSpec):
    """1 when the policy asked exactly where it had to.

    `needed`: true where the task cannot be done without asking (a template of the row). `about`: words of which a
    question has to name one, so that any question will not do. `acts`: tools that count as having gone ahead; a
    question after one of them comes too late. `max_questions`: more than so many messages that ask are a failure.
    """

    type: Literal["clarify"]
    needed: Any
    about: Any = None
    acts: Names = ()
    max_questions: int = Field(default=2, ge=1, description="1 or more")


class ClarifyGrader(SpecGrader[Clarify]):
    """Reads the assistant's messages without tool calls; offers of more help are no questions."""

    decides = True

    def __init__(self, spec: Clarify) -> None:
        super().__init__(spec)
        self._needed = Value(spec.needed, f"grader {spec.name!r}, needed")
        self._about = None if spec.about is None else Value(spec.about, f"grader {spec.name!r}, about")

    async def judge(self, row: Row) -> Score:
        """Compare whether it asked with whether it had to. Raises NotGraded."""
        needed = self._needed.answer(row, "needed")
        about = self._about.texts(row, "about") if self._about is not None and needed else []
        asked = [text for text in _questions(row.attempt, self.spec.acts) if not about or _names_one(text, about)]
        right = needed == bool(asked) and len(asked) <= self.spec.max_questions
        parts = {"needed": float(needed), "asked": float(len(asked))}
        said = "" if right else f"it {'had' if needed else 'had not'} to ask and asked {len(asked)} times"
        return Score(float(right), float(right), parts=parts, explanation=said)


def _questions(attempt: Attempt, acts: Names) -> list[str]:
    """Return what the policy asked before it acted, one text per message that asks."""
    found = []
    for message in attempt.messages:
        if message["role"] != "assistant":
            continue
        if any(name in acts for name in _called(message)):
            break
        sentences = _ENDS.split(str(message.get("content") or ""))
        asks = [one for one in sentences if one.endswith("?") and not _COURTESY.search(one)]
        if asks and not message.get("tool_calls"):
            found.append(" ".join(asks))
    return found


def _called(message: Message) -> list[str]:
    return [str(call["function"]["name"]) for call in message.get("tool_calls") or ()]


def _names_one(text: str, words: list[str]) -> bool:
    return any(occurs(word, text) for word in words)
