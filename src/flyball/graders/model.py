"""`score_model` and `label_model`: judges that answer with a number or a label (openai-rft 3.4, 3.5).

The judge's answer is forced to a schema: its reasoning as `steps`, then the `result`. What the policy wrote reaches the
judge as data inside the user's own prompt; how well the prompt holds against instructions in it is for calibration.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from flyball.graders.judge import Judge
from flyball.graders.row import Row
from flyball.graders.spec import InputMessage, LabelModel, SamplingParams, ScoreModel, content_parts
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.template import Template
from flyball.types import Score

M = TypeVar("M", ScoreModel, LabelModel)
MAX_EXPLANATION = 2000
_STEP = {
    "type": "object",
    "properties": {"description": {"type": "string"}, "conclusion": {"type": "string"}},
    "required": ["description", "conclusion"],
    "additionalProperties": False,
}


class ModelGrader(SpecGrader[M], Generic[M]):
    """What the two have in common: the messages, the schema, the question."""

    def __init__(self, spec: M, judge: Judge) -> None:
        super().__init__(spec)  # type: ignore[arg-type]  # mypy tries both members of M against M itself
        judge.check(spec.model)
        self._judge = judge
        self._messages = [
            _Message(message, f"grader {spec.name!r}, input[{i}]") for i, message in enumerate(spec.input)
        ]

    def _made_of(self) -> list[str]:
        return [self._judge.base_url]

    @abstractmethod
    def _result_schema(self) -> dict[str, Any]:
        """JSON schema of the result that the judge is asked for."""

    async def _ask(self, row: Row) -> tuple[Any, str]:
        """Return the result the judge gave and its reasons. Raises NotGraded."""
        body = {
            "model": self.spec.model,
            "messages": [message.render(row) for message in self._messages],
            "response_format": {"type": "json_schema", "json_schema": _grade_schema(self._result_schema())},
            **as_sent(self.spec.sampling_params),
        }
        return await self._judge.complete(body, self._read)

    def _read(self, content: str) -> tuple[Any, str]:
        """Return (result, reasons) of the judge's text. Raises ValueError."""
        try:
            answer = json.loads(_without_fence(content))
        except (ValueError, RecursionError):
            raise ValueError(f"not JSON: {content[:120]!r}") from None
        if not isinstance(answer, dict) or "result" not in answer:
            raise ValueError(f"no `result` in {content[:120]!r}")
        return self._checked(answer["result"]), _reasons(answer.get("steps"))

    @abstractmethod
    def _checked(self, result: Any) -> Any:
        """Return the result as it counts. Raises ValueError for one that the question did not allow."""


class ScoreModelGrader(ModelGrader[ScoreModel]):
    """The judge's number, clipped to the range."""

    def __init__(self, spec: ScoreModel, judge: Judge) -> None:
        super().__init__(spec, judge)
        self.raw_range = spec.range

    def _result_schema(self) -> dict[str, Any]:
        return {"type": "number"}

    def _checked(self, result: Any) -> float:
        if isinstance(result, bool) or not isinstance(result, (int, float)) or not math.isfinite(result):
            raise ValueError(f"result is {str(result)[:40]!r}, not a number")
        return float(result)

    async def judge(self, row: Row) -> Score:
        """Ask for a number. Raises NotGraded."""
        result, reasons = await self._ask(row)
        low, high = self.spec.range
        raw = min(high, max(low, result))
        if raw != result:
            reasons = f"{result:g} is outside {low:g} to {high:g} and was clipped. {reasons}".rstrip()
        return Score((raw - low) / (high - low), raw, self.spec.range, explanation=reasons)


class LabelModelGrader(ModelGrader[LabelModel]):
    """1 when the judge chose a passing label, else 0; the explanation begins with the label."""

    decides = True

    def _result_schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.spec.labels)}

    def _checked(self, result: Any) -> str:
        if result not in self.spec.labels:
            raise ValueError(f"result is {str(result)[:40]!r}, none of the labels {', '.join(self.spec.labels)}")
        return str(result)

    async def judge(self, row: Row) -> Score:
        """Ask for a label. Raises NotGraded."""
        label, reasons = await self._ask(row)
        value = float(label in self.spec.passing_labels)
        return Score(value, value, explanation=f"{label}: {reasons}" if reasons else label)


class _Message:
    """A message with its templates, in the form of chat completions."""

    def __init__(self, message: InputMessage, where: str) -> None:
        self._role = message.role
        parts = content_parts(message.content)
        self._parts = [(part, Template(_text_of(part), where)) for part in parts]
        self._plain = all(part["type"] in ("input_text", "output_text") for part in parts)

    def render(self, row: Row) -> dict[str, Any]:
        if self._plain:
            return {"role": self._role, "content": "".join(text.render(row) for _, text in self._parts)}
        content = [_chat_part(part, text.render(row)) for part, text in self._parts]
        return {"role": self._role, "content": content}


def _text_of(part: Mapping[str, Any]) -> str:
    """What of a part may hold templates."""
    return str(part.get("text") or part.get("image_url") or "")


def _chat_part(part: Mapping[str, Any], text: str) -> dict[str, Any]:
    if part["type"] == "input_image":
        detail = {"detail": part["detail"]} if "detail" in part else {}
        return {"type": "image_url", "image_url": {"url": text, **detail}}
    if part["type"] == "input_audio":
        return {"type": "input_audio", "input_audio": dict(part["input_audio"])}
    return {"type": "text", "text": text}


def _grade_schema(result: Mapping[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"steps": {"type": "array", "items": _STEP}, "result": dict(result)},
        "required": ["steps", "result"],
        "additionalProperties": False,
    }
    return {"name": "grade", "strict": True, "schema": schema}


def as_sent(params: SamplingParams) -> dict[str, Any]:
    """Return what is set, in the spelling of chat completions."""
    sent = params.model_dump(exclude_none=True)
    if "max_completions_tokens" in sent:
        sent["max_completion_tokens"] = sent.pop("max_completions_tokens")
    return sent


def _without_fence(content: str) -> str:
    """Return the JSON of an answer that a server without schemas put into a Markdown fence."""
    text = content.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") : -3]
    return text


def _reasons(steps: Any) -> str:
    if not isinstance(steps, list):
        return ""
    found = [str(step.get("conclusion") or step.get("description") or "") for step in steps if isinstance(step, dict)]
    return " ".join(found)[:MAX_EXPLANATION]
