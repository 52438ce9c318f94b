"""Reference vectors of OpenAI's grader rules, each worked out by hand from the rule it cites.

A vector is a grader object, an output (`sample`), a row (`item`), and what OpenAI answers: the reward, and which error
flags are up. Where OpenAI pays 0 for a failure that is not the policy's, Flyball answers Missing with the same flag;
the vector holds OpenAI's 0 and the comparison reads Missing as that (`reward_of`). `says` is what the judge's server
answers. The rules are those of OpenAI's grader guide and API reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flyball.types import Score

OUT = "{{sample.output_text}}"


@dataclass(frozen=True)
class Vector:
    """One rule, one case. `flags`: names of the error flags that are up."""

    rule: str
    grader: Mapping[str, Any]
    sample: str
    item: Mapping[str, Any]
    reward: float
    flags: tuple[str, ...] = ()
    says: Any = None


@dataclass(frozen=True)
class Refused:
    """A grader object that OpenAI answers with 400."""

    rule: str
    grader: Mapping[str, Any]
    sample: str = ""
    item: Mapping[str, Any] = field(default_factory=dict)


def reward_of(score: Score) -> float:
    """Return the reward in OpenAI's terms: what is missing there is 0."""
    return 0.0 if score.missing or score.raw is None else score.raw


def check(operation: str, sample: str, reference: str, reward: float) -> Vector:
    grader = {"type": "string_check", "name": "g", "input": OUT, "reference": "{{ item.ref }}", "operation": operation}
    return Vector(f"string_check {operation}", grader, sample, {"ref": reference}, reward)


STRING_CHECK = [
    check("eq", "Paris", "Paris", 1), check("eq", "paris", "Paris", 0), check("eq", "Paris ", "Paris", 0),
    check("ne", "Paris", "Paris", 0), check("ne", "Rome", "Paris", 1), check("neq", "Rome", "Paris", 1),
    check("like", "It is Paris.", "Paris", 1), check("like", "It is paris.", "Paris", 0),
    check("like", "Par", "Paris", 0),
    check("ilike", "It is PARIS.", "Paris", 1), check("ilike", "Rome", "Paris", 0), check("like", "anything", "", 1),
]  # fmt: skip


def alike(metric: str, sample: str, reference: str, reward: float) -> Vector:
    grader = {
        "type": "text_similarity",
        "name": "g",
        "input": OUT,
        "reference": "{{item.ref}}",
        "evaluation_metric": metric,
    }
    return Vector(f"text_similarity {metric}", grader, sample, {"ref": reference}, reward)


TEXT_SIMILARITY = [
    alike("fuzzy_match", "blue sky", "blue sky", 1.0), alike("fuzzy_match", "BLUE sky!", "blue sky", 1.0),
    alike("fuzzy_match", "abcd", "abce", 0.75),  # 2 x 3 common of 8 letters
    alike("bleu", "the cat sat on it", "the cat sat on it", 1.0), alike("bleu", "", "the cat", 0.0),
    alike("gleu", "the cat sat", "the cat sat on", 0.6),  # 6 of 6 n-grams right, 6 of 10 found
    alike("gleu", "a b", "c d", 0.0),
    alike("meteor", "the cat sat", "the cat sat", 1 - 0.5 * (1 / 3) ** 3),  # one chunk of three words
    alike("rouge_1", "sky blue", "blue", 2 / 3),  # precision 1/2, recall 1
    alike("rouge_1", "the cat", "the cat sat on the mat", 0.5),  # precision 1, recall 2/6
    alike("rouge_2", "the cat sat", "the cat ran", 0.5), alike("rouge_3", "a b c d", "a b c e", 0.5),
    alike("rouge_4", "a b c d e", "a b c d f", 0.5), alike("rouge_5", "a b c d e f", "a b c d e g", 0.5),
    alike("rouge_2", "one", "one", 0.0),  # one word has no pair
    alike("rouge_l", "a b c d", "a c d e", 0.75), alike("rouge_l", "d c b a", "a b c d", 0.25),
]  # fmt: skip


def template(text: str, sample: str, item: Mapping[str, Any], expected: str, *flags: str) -> Vector:
    grader = {"type": "string_check", "name": "g", "input": text, "reference": expected, "operation": "eq"}
    return Vector("templates", grader, sample, item, float(not flags), flags)


TEMPLATES = [
    template("{{item.a}}{{ item.a }}", "", {"a": "x"}, "xx"), template("{{ item.n }}", "", {"n": 3}, "3"),
    template("{{ item.list[1] }}", "", {"list": ["p", "q"]}, "q"),
    template("{{ item.a.b }}", "", {"a": {"b": "c"}}, "c"),
    template("{{ item.a }}", "", {"a": {"b": [1]}}, '{"b": [1]}'), template(OUT, "hi", {}, "hi"),
    template("{{ sample.choices[0].message.content }}", "hi", {}, "hi"),
    template("{{ sample.output_json.name }}", '{"name": "Ada"}', {}, "Ada"),
    template("{{ sample.output_json.rows[0] }}", '{"rows": [7]}', {}, "7"),
    template("{{ item.b }}", "", {"a": "x"}, "", "invalid_variable_error"),
    template("{{ item.a.b }}", "", {"a": "x"}, "", "invalid_variable_error"),
    template("{{ sample.output_json.name }}", "no JSON", {}, "", "sample_parse_error"),
    template("{{ sample.output_json.name }}", '{"other": 1}', {}, "", "sample_parse_error"),
    template("{{ sample.output_tools[0].function.name }}", "hi", {}, "", "sample_parse_error"),
]  # fmt: skip
# what was filled in is no template: the output stays as it was written, and is not the "x" that it names
TEMPLATES.append(replace(check("eq", "{{item.ref}}", "x", 0), rule="templates"))


def multi(formula: str, reward: float, *flags: str, sample: str = "blue", **more: Any) -> Vector:
    """exact = 1 for "blue", near = rouge_1 with "blue sky": 2/3 for "blue"."""
    exact = {"type": "string_check", "name": "e", "input": OUT, "reference": "{{item.word}}", "operation": "eq"}
    near = {
        "type": "text_similarity", "name": "n", "input": OUT, "reference": "blue sky", "evaluation_metric": "rouge_1",
    }  # fmt: skip
    graders = {"exact": exact, "near": near, **more.pop("graders", {})}
    grader = {"type": "multi", "name": "g", "graders": graders, "calculate_output": formula, **more}
    return Vector("multi", grader, sample, {"word": "blue"}, reward, flags)


LOST = {"lost": {"type": "string_check", "name": "l", "input": "{{item.gone}}", "reference": "", "operation": "eq"}}
MULTI = [
    multi("exact", 1.0), multi("0.5 * exact + 0.5 * near", 0.5 + 1 / 3), multi("exact - 2 * near", 1 - 4 / 3),
    multi("(exact + near) / 2", 5 / 6), multi("2 ^ 3 ^ 2 * exact", 512.0), multi("-2 ^ 2", -4.0),
    multi("1e-1 + .5", 0.6),
    multi("min(exact, near)", 2 / 3), multi("max(exact, near, 0.9)", 1.0), multi("abs(near - exact)", 1 / 3),
    multi("floor(near)", 0.0), multi("ceil(near)", 1.0), multi("sqrt(4 * exact)", 2.0), multi("log(exp(exact))", 1.0),
    multi("exact / (exact - 1)", 0.0, "formula_parse_error"), multi("log(exact - 1)", 0.0, "formula_parse_error"),
    multi("exact + lost", 0.0, "invalid_variable_error", graders=LOST),
    multi("exact + lost", 0.25 + 1, "invalid_variable_error", graders=LOST, invalid_grade=0.25),
    multi("exact", 0.0, sample="red"),
]  # fmt: skip


def judged(result: Any, reward: float, *flags: str, **more: Any) -> Vector:
    asks = [{"role": "user", "content": f"Grade {OUT} against {{{{item.ref}}}}."}]
    grader = {"type": "score_model", "name": "g", "model": "m", "input": asks, **more}
    return Vector("score_model", grader, "blue", {"ref": "blue"}, reward, flags, {"steps": [], "result": result})


def labelled(label: str, reward: float, *flags: str) -> Vector:
    asks = [{"role": "user", "content": OUT}]
    grader = {
        "type": "label_model", "name": "g", "model": "m", "input": asks, "labels": ["good", "fair", "bad"],
        "passing_labels": ["good", "fair"],
    }  # fmt: skip
    return Vector("label_model", grader, "blue", {}, reward, flags, {"steps": [], "result": label})


JUDGES = [
    judged(0.25, 0.25), judged(7, 1.0), judged(-3, 0.0), judged(4, 4.0, range=[1, 5]), judged(9, 5.0, range=[1, 5]),
    judged(0, 1.0, range=[1, 5]), judged("high", 0.0, "model_grader_parse_error"),
    judged(True, 0.0, "model_grader_parse_error"), judged(None, 0.0, "model_grader_parse_error"),
    labelled("good", 1.0), labelled("fair", 1.0), labelled("bad", 0.0),
    labelled("great", 0.0, "model_grader_parse_error"),
]  # fmt: skip


def python(body: str, sample: str, reward: float, *flags: str) -> Vector:
    source = f"def grade(sample, item):\n    {body}\n"
    return Vector("python", {"type": "python", "name": "g", "source": source}, sample, {"ref": "blue"}, reward, flags)


PYTHON = (
    python("return 0.5", "", 0.5), python("return 2", "", 2.0), python("return -1.5", "", -1.5),
    python("return float(sample['output_text'] == item['ref'])", "blue", 1.0),
    python("return float(sample['output_text'] == item['ref'])", "red", 0.0),
    python("return sample['output_json']['a']", '{"a": 0.25}', 0.25),
    python("return float('output_json' in sample)", "no JSON", 0.0),
    python("return float(sample['choices'][0]['message']['content'] == 'blue')", "blue", 1.0),
    python("return 1 / 0", "", 0.0, "python_grader_runtime_error"),
    python("return 'high'", "", 0.0, "python_grader_runtime_error"),
    python("return float('nan')", "", 0.0, "python_grader_runtime_error"),
    python("return None", "", 0.0, "python_grader_runtime_error"),
)  # fmt: skip
"""They run where there is a sandbox."""

VECTORS = (*STRING_CHECK, *TEXT_SIMILARITY, *TEMPLATES, *MULTI, *JUDGES)

_CHECK: dict[str, Any] = {"type": "string_check", "name": "g", "input": OUT, "reference": "x", "operation": "eq"}
_ASKS: dict[str, Any] = {"type": "score_model", "name": "g", "model": "m", "input": [{"role": "user", "content": "hi"}]}
REFUSED = (
    Refused("no such type", {**_CHECK, "type": "string_chek"}),
    Refused("no such operation", {**_CHECK, "operation": "gt"}),
    Refused("a field is missing", {key: value for key, value in _CHECK.items() if key != "input"}),
    Refused("no such field", {**_CHECK, "weight": 1}), Refused("no such namespace", {**_CHECK, "input": "{{row.a}}"}),
    Refused("no such metric", {**TEXT_SIMILARITY[0].grader, "evaluation_metric": "rouge_6"}),
    Refused("input of a judge is a list", {**_ASKS, "input": "Grade it."}),
    Refused("no such role", {**_ASKS, "input": [{"role": "tool", "content": "hi"}]}),
    Refused("a range that falls", {**_ASKS, "range": [1, 0]}),
    Refused("a passing label is no label", {**JUDGES[-1].grader, "passing_labels": ["best"]}),
    Refused("a multi inside a multi", {**MULTI[0].grader, "graders": {"inner": MULTI[0].grader}}),
    Refused("an unknown variable", {**MULTI[0].grader, "calculate_output": "exact + nothing"}),
    Refused("a formula is no code", {**MULTI[0].grader, "calculate_output": "__import__('os')"}),
    Refused("no item in a formula", {**MULTI[0].grader, "calculate_output": "item.a + exact"}),
)  # fmt: skip


def agrees(vector: Vector, score: Score, flags: Mapping[str, bool]) -> bool:
    """Whether a score is OpenAI's: the reward to six places, and exactly these flags up."""
    up = tuple(sorted(flag for flag, is_up in flags.items() if is_up))
    return math.isclose(reward_of(score), vector.reward, abs_tol=1e-6) and up == tuple(sorted(vector.flags))
