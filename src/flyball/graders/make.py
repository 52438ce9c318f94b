"""From a grader object to a Grader: the table of types, and what a workflow may write where a grader belongs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flyball.errors import ConfigError, nearest
from flyball.graders import spec as specs
from flyball.graders.clarify import Clarify, ClarifyGrader
from flyball.graders.code import SpeedupGrader, UnitTestsGrader
from flyball.graders.efficiency import Efficiency, EfficiencyGrader
from flyball.graders.endpoint import EndpointGrader
from flyball.graders.form import Format, FormatGrader
from flyball.graders.gate import Gate, GateGrader
from flyball.graders.grader import FunctionGrader, Grader
from flyball.graders.group_judge import GroupJudge, GroupJudgeGrader
from flyball.graders.json_schema import JsonSchema, JsonSchemaGrader
from flyball.graders.judge import Judge, judge_from_environment
from flyball.graders.model import LabelModelGrader, ScoreModelGrader
from flyball.graders.multi import MultiGrader
from flyball.graders.no_hacks import HackJudge, HackJudgeGrader, NoHacks, NoHacksGrader
from flyball.graders.process import Process, ProcessGrader
from flyball.graders.python import PythonGrader
from flyball.graders.reward_model import RewardModelGrader, RewardModelSpec
from flyball.graders.safety import Safety, SafetyGrader
from flyball.graders.self_check import SelfCheck, SelfCheckGrader
from flyball.graders.sets import SetOverlap, SetOverlapGrader
from flyball.graders.spec_grader import Decision, SpecGrader
from flyball.graders.sql_state import SqlState, SqlStateGrader
from flyball.graders.stopping import Stop, StopGrader
from flyball.graders.text import StringCheckGrader, TextSimilarityGrader
from flyball.graders.tone import Tone, ToneGrader
from flyball.graders.tool_call import ToolCallGrader, ToolCallSpec
from flyball.settings_file import Marks, parse

Make = Callable[[Any, Judge | None], SpecGrader[Any]]


def grader_from(spec: Mapping[str, Any], *, judge: Judge | None = None) -> SpecGrader[Any]:
    """Return the grader that a grader object describes: OpenAI's types with their fields, and ours.

    `judge` answers for `score_model`, `label_model` and `cosine`; without one the first two ask the server of
    OPENAI_BASE_URL and OPENAI_API_KEY. Raises ConfigError for a type or field that does not exist, a template or
    formula that cannot be read, and whatever else could not be honoured.
    """
    kind = spec.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise ConfigError(f"grader type {kind!r} does not exist{nearest(str(kind), TYPES)}")
    section, make = TYPES[kind]
    where = f"grader {spec['name']!r}" if isinstance(spec.get("name"), str) else f"{kind} grader"
    return make(parse(section, dict(spec), Marks(where)), judge)


def is_grader(value: Any) -> bool:
    """Whether the value can stand where a workflow wants a grader: a function, a grader object, or a Grader."""
    return isinstance(value, Mapping) or callable(value) or callable(getattr(value, "grade", None))


def as_grader(value: Any, role: str, *, decides: bool = False) -> Grader:
    """Return what a workflow wrote for a role as a Grader. A grader object without a name takes the role's.

    `decides`: the role answers yes or no, so degrees need a `pass_threshold`. Raises ConfigError.
    """
    if isinstance(value, Mapping):
        value = grader_from({"name": role, **value})
    if isinstance(value, SpecGrader) and decides:
        return _deciding(value, role)
    if callable(getattr(value, "grade", None)):
        return value  # type: ignore[no-any-return]
    return FunctionGrader(value, role)


def _deciding(grader: SpecGrader[Any], role: str) -> Grader:
    if grader.spec.pass_threshold is not None:
        return Decision(grader)
    if grader.decides:
        return grader
    raise ConfigError(
        f"{role} decides yes or no and grader {grader.name!r} ({grader.spec.type}) answers with degrees; "
        "give it a pass_threshold"
    )


def _multi(spec: specs.Multi, judge: Judge | None) -> SpecGrader[Any]:
    parts = {name: grader_from({"name": name, **part}, judge=judge) for name, part in spec.graders.items()}
    return MultiGrader(spec, parts)


def _gate(spec: Gate, judge: Judge | None) -> SpecGrader[Any]:
    require = {name: grader_from({"name": name, **part}, judge=judge) for name, part in spec.require.items()}
    return GateGrader(spec, require, grader_from({"name": spec.name, **spec.then}, judge=judge))


def _asked(spec: specs.GraderSpec, judge: Judge | None) -> Judge:
    return judge if judge is not None else judge_from_environment(f"grader {spec.name!r}")


TYPES: Mapping[str, tuple[type[specs.GraderSpec], Make]] = {
    "string_check": (specs.StringCheck, lambda spec, judge: StringCheckGrader(spec)),
    "text_similarity": (specs.TextSimilarity, TextSimilarityGrader),
    "score_model": (specs.ScoreModel, lambda spec, judge: ScoreModelGrader(spec, _asked(spec, judge))),
    "label_model": (specs.LabelModel, lambda spec, judge: LabelModelGrader(spec, _asked(spec, judge))),
    "python": (specs.Python, lambda spec, judge: PythonGrader(spec)),
    "unit_tests": (specs.UnitTests, lambda spec, judge: UnitTestsGrader(spec)),
    "speedup": (specs.Speedup, lambda spec, judge: SpeedupGrader(spec)),
    "endpoint": (specs.Endpoint, lambda spec, judge: EndpointGrader(spec)),
    "multi": (specs.Multi, _multi),
    "gate": (Gate, _gate),
    "json_schema": (JsonSchema, lambda spec, judge: JsonSchemaGrader(spec)),
    "sql_state": (SqlState, lambda spec, judge: SqlStateGrader(spec)),
    "f1": (SetOverlap, lambda spec, judge: SetOverlapGrader(spec)),
    "process": (Process, lambda spec, judge: ProcessGrader(spec)),
    "safety": (Safety, lambda spec, judge: SafetyGrader(spec)),
    "format": (Format, lambda spec, judge: FormatGrader(spec)),
    "tool_call": (ToolCallSpec, lambda spec, judge: ToolCallGrader(spec)),
    "stop": (Stop, lambda spec, judge: StopGrader(spec)),
    "clarify": (Clarify, lambda spec, judge: ClarifyGrader(spec)),
    "self_check": (SelfCheck, lambda spec, judge: SelfCheckGrader(spec)),
    "no_hacks": (NoHacks, lambda spec, judge: NoHacksGrader(spec)),
    "hack_judge": (HackJudge, lambda spec, judge: HackJudgeGrader(spec, _asked(spec, judge))),
    "efficiency": (Efficiency, lambda spec, judge: EfficiencyGrader(spec)),
    "tone": (Tone, lambda spec, judge: ToneGrader(spec, _asked(spec, judge))),
    "reward_model": (RewardModelSpec, lambda spec, judge: RewardModelGrader(spec)),
    "group_judge": (GroupJudge, lambda spec, judge: GroupJudgeGrader(spec, _asked(spec, judge))),
}
"""Type -> the model of its fields, and how a grader is made of it."""
