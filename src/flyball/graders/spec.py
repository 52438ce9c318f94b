"""OpenAI's grader objects, one model per type with exactly their fields (openai-rft 3.2 to 3.8).

`pass_threshold` is accepted everywhere: it adds whether it was reached, and makes a grader of degrees one that decides.
"""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, field_validator, model_validator

from flyball.section import Names, Section

METRICS = Literal[
    "cosine",
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
]
MAX_SOURCE_BYTES = 256_000


class GraderSpec(Section):
    """What every grader object has."""

    type: str
    name: str = Field(min_length=1, description="what scores of this grader are called")
    pass_threshold: float | None = Field(default=None, description="a score from here on passes")

    @property
    def digest(self) -> str:
        """Sha256 of the canonical JSON of what is set, whatever the order it was written in."""
        return hashlib.sha256(orjson.dumps(self._judged_by(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def _judged_by(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)


class StringCheck(GraderSpec):
    """1 when input and reference stand in the relation, else 0; `neq` is read as `ne`."""

    type: Literal["string_check"]
    input: str
    reference: str
    operation: Literal["eq", "ne", "like", "ilike"] = Field(
        description="eq, ne, like (input contains reference) or ilike (the same without case)"
    )

    @field_validator("operation", mode="before")
    @classmethod
    def _as_emitted(cls, value: Any) -> Any:
        return "ne" if value == "neq" else value


class TextSimilarity(GraderSpec):
    """How alike input and reference are, in [0, 1]."""

    type: Literal["text_similarity"]
    input: str
    reference: str
    evaluation_metric: METRICS


class SamplingParams(Section):
    """How the judge is sampled. What is not set is not sent: reasoning models refuse a temperature."""

    seed: int | None = None
    temperature: float | None = Field(default=None, ge=0, description="0 or more")
    top_p: float | None = Field(default=None, gt=0, le=1, description="above 0, at most 1")
    max_completions_tokens: int | None = Field(default=None, ge=1, description="1 or more; OpenAI spells it so")
    reasoning_effort: str | None = None


class InputMessage(Section):
    """One message to the judge. `content`: text, one part, or a list of parts."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Any
    type: Literal["message"] = "message"

    @field_validator("content")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        content_parts(value)
        return value


_PART_FIELDS: Mapping[str, tuple[str, ...]] = {
    "input_text": ("text",),
    "output_text": ("text",),
    "input_image": ("image_url", "detail"),
    "input_audio": ("input_audio",),
}


def content_parts(content: Any) -> list[dict[str, Any]]:
    """Return the content of a message as parts. Raises ValueError for what is none."""
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    parts = [content] if isinstance(content, Mapping) else content
    if not isinstance(parts, (list, tuple)) or not parts:
        raise ValueError("content is text, one part or a list of parts such as {type: input_text, text: ...}")
    for part in parts:
        fields = _PART_FIELDS.get(part.get("type", "")) if isinstance(part, Mapping) else None
        if fields is None:
            raise ValueError(f"{str(part)[:80]!r} is no part; its type is one of {', '.join(_PART_FIELDS)}")
        if extra := set(part) - {"type", *fields}:
            raise ValueError(f"part {part['type']} has no field {sorted(extra)[0]!r}; it has {', '.join(fields)}")
        if not isinstance(part.get(fields[0]), Mapping if fields[0] == "input_audio" else str):
            raise ValueError(f"part {part['type']} needs {fields[0]}")
    return [dict(part) for part in parts]


Messages = Annotated[
    tuple[InputMessage, ...], Field(strict=False, description="a list of messages {role, content}, at least one")
]


class ModelSpec(GraderSpec):
    """What a judge is asked."""

    model: str = Field(min_length=1, description="the name of a model that the judge's server knows")
    input: Messages
    sampling_params: SamplingParams = SamplingParams()

    @field_validator("input")
    @classmethod
    def _asks(cls, value: tuple[InputMessage, ...]) -> tuple[InputMessage, ...]:
        if not value:
            raise ValueError("a judge needs at least one message")
        return value


class ScoreModel(ModelSpec):
    """A judge answers with a number, clipped to `range`."""

    type: Literal["score_model"]
    range: Annotated[tuple[float, float], Field(strict=False)] = (0.0, 1.0)

    @field_validator("range")
    @classmethod
    def _rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("range is [lowest, highest], the first below the second")
        return value


class LabelModel(ModelSpec):
    """A judge chooses one of the labels; 1 when it is a passing one."""

    type: Literal["label_model"]
    labels: Names = Field(min_length=1)
    passing_labels: Names = Field(min_length=1)

    @model_validator(mode="after")
    def _are_labels(self) -> LabelModel:
        if strangers := [label for label in self.passing_labels if label not in self.labels]:
            raise ValueError(f"passing label {strangers[0]!r} is not among the labels {', '.join(self.labels)}")
        return self


class Python(GraderSpec):
    """Source that defines `grade(sample, item)`, under 256 kB."""

    type: Literal["python"]
    source: str
    image_tag: str | None = None

    @field_validator("source")
    @classmethod
    def _defines_grade(cls, value: str) -> str:
        if len(value.encode()) > MAX_SOURCE_BYTES:
            raise ValueError(f"the source has {len(value.encode())} bytes; at most {MAX_SOURCE_BYTES}")
        try:
            body = ast.parse(value).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"the source is not Python: {error}") from None
        defined = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "grade"]
        if not defined or len(defined[-1].args.posonlyargs + defined[-1].args.args) != 2:
            raise ValueError("the source defines no `def grade(sample, item)`")
        return value


class CodeSpec(GraderSpec):
    """Whose code is judged: `files` of path -> template, or the field `state` of the world's exported state."""

    files: Mapping[str, str] = Field(default_factory=dict, description="path -> template of its text")
    state: str | None = Field(default=None, description="the key of the exported state that holds path -> text")

    @model_validator(mode="after")
    def _one_of_them(self) -> CodeSpec:
        if bool(self.files) == (self.state is not None):
            raise ValueError("give either files (path -> template) or state (a key of the exported state)")
        return self


class UnitTests(CodeSpec):
    """Share of hidden tests that pass. `tests`: path -> template of a file of functions `test_*(call)`."""

    type: Literal["unit_tests"]
    tests: Mapping[str, str] = Field(
        min_length=1, description="path -> template, such as {test_it.py: '{{item.tests}}'}"
    )
    seconds: float = Field(default=60.0, gt=0, description="for all tests, above 0")


class Speedup(CodeSpec):
    """How much faster a function is than in the baseline: 0 where it is wrong or no faster, 1 from `goal` times on."""

    type: Literal["speedup"]
    function: str = Field(pattern=r"^[\w.]+\.\w+$", description="a template-free dotted name, module.function")
    baseline: Mapping[str, str] = Field(min_length=1, description="path -> template")
    cases: str = Field(description="a template of a JSON list of lists of arguments")
    repeats: int = Field(default=5, ge=3, description="timed runs of each, 3 or more")
    goal: float = Field(default=2.0, gt=1, description="times as fast that is worth 1, above 1")


class Endpoint(GraderSpec):
    """Somebody's server answers {"score": number}. `rate_limit`: requests per second at most."""

    type: Literal["endpoint"]
    name: str = Field(default="endpoint", min_length=1)
    url: str = Field(pattern=r"^https?://", description="starts with http:// or https://")
    headers: Mapping[str, str] = Field(default_factory=dict, repr=False)
    rate_limit: float | None = Field(default=None, gt=0, description="requests per second, above 0")

    def _judged_by(self) -> dict[str, Any]:
        """Without the values of the headers: a new key is not a new grader."""
        return {**super()._judged_by(), "headers": sorted(self.headers)}


class Multi(GraderSpec):
    """Several graders by variable name, and a formula over their scores."""

    type: Literal["multi"]
    graders: Mapping[str, Mapping[str, Any]] = Field(min_length=1, description="a map of a variable to a grader")
    calculate_output: str = Field(min_length=1, description="a formula over the variables")
    invalid_grade: float | None = None

    @field_validator("graders")
    @classmethod
    def _not_nested(cls, value: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        for variable, spec in value.items():
            if not variable.isidentifier():
                raise ValueError(f"{variable!r} is no variable; use letters, digits and _")
            if spec.get("type") == "multi":
                raise ValueError(f"{variable} is a multi inside a multi; write its formula into this one")
        return value

    @field_validator("invalid_grade")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("invalid_grade is a finite number")
        return value
