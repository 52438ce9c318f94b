"""`format`: the answer has the tags it should have, in order and filled, and keeps to one language."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from flyball.errors import nearest
from flyball.graders.flags import NotGraded
from flyball.graders.language import LANGUAGES, language_of, share_in
from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.steps import told
from flyball.graders.value import Value
from flyball.section import Names
from flyball.types import Score

SAME_AS_USER = "same_as_user"
ENOUGH = 0.7
"""Share of a text from which it counts as being in the language: names and quotations are foreign."""


class Format(GraderSpec):
    """1 when everything asked for holds, else 0.

    `tags`: each exactly once, in this order, with something inside (`["think", "answer"]`). `only_tags`: nothing but
    space outside of them. `max_chars`: of the final answer. `language`: a code such as `fr`, a template of one, or
    `same_as_user`; a text too short to tell passes.
    """

    type: Literal["format"]
    tags: Names = ()
    only_tags: bool = False
    language: Any = None
    max_chars: int | None = Field(default=None, ge=1, description="1 or more")

    @model_validator(mode="after")
    def _asks(self) -> Format:
        if not self.tags and self.language is None and self.max_chars is None:
            raise ValueError("it asks for nothing; give `tags`, `language` or `max_chars`")
        if self.only_tags and not self.tags:
            raise ValueError("`only_tags` would be ignored without `tags`")
        if self.language is not None and not isinstance(self.language, str):
            raise ValueError(f"language is {self.language!r}; write a code such as 'fr'")
        fixed = self.language is not None and "{{" not in self.language and self.language != SAME_AS_USER
        if fixed and self.language not in LANGUAGES:
            raise ValueError(f"language {self.language!r} is not known{nearest(str(self.language), LANGUAGES)}")
        return self


class FormatGrader(SpecGrader[Format]):
    """Parts: `tags`, `only_tags`, `language`, `max_chars`, each 1 when it holds. An empty answer has no form: 0."""

    decides = True

    def __init__(self, spec: Format) -> None:
        super().__init__(spec)
        self._language = None if spec.language is None else Value(spec.language, f"grader {spec.name!r}, language")

    async def judge(self, row: Row) -> Score:
        """Look at the final answer; the language is that of everything said. Raises NotGraded."""
        text, parts = row.output_text, {}
        if not text.strip():
            return Score(0.0, 0.0, explanation="the answer is empty")
        if self.spec.tags:
            rest = _without_tags(text, self.spec.tags)
            parts["tags"] = float(rest is not None)
            if self.spec.only_tags:
                parts["only_tags"] = float(rest == "")
        if self.spec.max_chars is not None:
            parts["max_chars"] = float(len(text) <= self.spec.max_chars)
        if self._language is not None:
            parts["language"] = self._in_language(row)
        wrong = [name for name, holds in parts.items() if not holds]
        value = float(not wrong)
        return Score(value, value, parts=parts, explanation=f"not as asked: {', '.join(wrong)}" if wrong else "")

    def _in_language(self, row: Row) -> float:
        assert self._language is not None
        language = self._language.of(row)
        if language == SAME_AS_USER:
            language = language_of(told(row.attempt))
        if language is None:
            return 1.0
        if language not in LANGUAGES:
            raise NotGraded("invalid_variable_error", f"language {str(language)[:40]!r} is none of {LANGUAGES}")
        share = share_in(row.attempt.said or row.output_text, language)
        return float(share is None or share >= ENOUGH)


def _without_tags(text: str, tags: Names) -> str | None:
    """Return what stands outside the tags, None when they are not each there once, in order and filled."""
    rest, at = [], 0
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.count(opening) != 1 or text.count(closing) != 1:
            return None
        start, end = text.index(opening), text.index(closing)
        if start < at or end < start or not re.search(r"\w", text[start + len(opening) : end]):
            return None
        rest.append(text[at:start])
        at = end + len(closing)
    return "".join([*rest, text[at:]]).strip()
