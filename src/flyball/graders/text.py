"""`string_check` and `text_similarity`: graders of what the policy wrote (openai-rft 3.2, 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from flyball.errors import ConfigError
from flyball.graders.judge import Judge
from flyball.graders.row import Row
from flyball.graders.similarity import METRICS, WITHOUT_WORDNET, has_wordnet, libraries
from flyball.graders.spec import StringCheck, TextSimilarity
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.template import Template
from flyball.types import Score

OPERATIONS: Mapping[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


class StringCheckGrader(SpecGrader[StringCheck]):
    """1 when the operation holds, else 0."""

    decides = True

    def __init__(self, spec: StringCheck) -> None:
        super().__init__(spec)
        self._input = Template(spec.input, f"grader {spec.name!r}, input")
        self._reference = Template(spec.reference, f"grader {spec.name!r}, reference")
        self._holds = OPERATIONS[spec.operation]

    async def judge(self, row: Row) -> Score:
        """Compare the two texts. Raises NotGraded."""
        value = float(self._holds(self._input.render(row), self._reference.render(row)))
        return Score(value, value)


class TextSimilarityGrader(SpecGrader[TextSimilarity]):
    """The metric's number; `cosine` asks a judge for embeddings."""

    def __init__(self, spec: TextSimilarity, judge: Judge | None) -> None:
        super().__init__(spec)
        self._input = Template(spec.input, f"grader {spec.name!r}, input")
        self._reference = Template(spec.reference, f"grader {spec.name!r}, reference")
        self._judge = judge
        self._remark = ""
        if spec.evaluation_metric == "meteor" and not has_wordnet():
            self._remark = WITHOUT_WORDNET
        if spec.evaluation_metric == "cosine":
            self._check_judge()

    def _check_judge(self) -> None:
        if self._judge is None or self._judge.embedding_model is None:
            raise ConfigError(
                f"grader {self.name!r} compares embeddings, and no server of them is named; pass "
                "judge=fb.Judge('http://...', embedding_model='text-embedding-3-large'), or use another metric"
            )
        self._judge.check(self._judge.embedding_model)

    def _made_of(self) -> list[str]:
        if self.spec.evaluation_metric == "cosine" and self._judge is not None:
            return [self._judge.base_url, str(self._judge.embedding_model)]
        return libraries(self.spec.evaluation_metric)

    async def judge(self, row: Row) -> Score:
        """Measure the two texts. Raises NotGraded."""
        text, reference = self._input.render(row), self._reference.render(row)
        if self.spec.evaluation_metric == "cosine":
            value = await self._cosine(text, reference)
        else:
            value = METRICS[self.spec.evaluation_metric](text, reference)
        return Score(value, value, explanation=self._remark)

    async def _cosine(self, text: str, reference: str) -> float:
        """Cosine of the embeddings; opposite directions count as 0, as the range of the metric is 0 to 1."""
        assert self._judge is not None and self._judge.embedding_model is not None  # checked when it was made
        a, b = await self._judge.embed(self._judge.embedding_model, (text, reference))
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        return min(1.0, max(0.0, float(np.dot(a, b)) / norm)) if norm else 0.0
