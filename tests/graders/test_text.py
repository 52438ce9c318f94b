"""`string_check`, `text_similarity` and their templates: OpenAI's rules, and whose fault it is when they fail."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from flyball.errors import ConfigError, Fault
from flyball.graders import similarity
from flyball.graders.flags import ERROR_FLAGS, error_flags
from flyball.graders.make import grader_from
from flyball.graders.row import Row
from flyball.graders.template import Template
from flyball.types import Missing, Score, StopReason
from tests.graders.rows import attempt, judge, score, score_of, tool_call

CHECK = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.answer}}", "operation": "eq"}


def render(text: str, output: str = "", **item: Any) -> str:
    return Template(text, "g").render(Row(attempt(output), item))


def flags_up(found: Score) -> list[str]:
    return [flag for flag, up in error_flags(found).items() if up]


# --- templates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{item.a}}{{ item.a }}{{  item.a}}", "xxx"),
        ("{{ item.list[1] }} {{ item.list.1 }}", "two two"),
        ("{{ item.deep.rows[0].k }}", "v"),
        ("{{ item['a key'] }}", "spaced"),
        ('{{ item["a key"] }}', "spaced"),
        ("{{ item.case-id }}", "17"),
        ("{{ item.deep }}", '{"rows": [{"k": "v"}]}'),
        ("{{ item.yes }} {{ item.none }} {{ item.number }}", "true null 94.0"),
        ("no { braces } at all {{", "no { braces } at all {{"),
        ("{{ sample.output_text }}", '{"n": 3, "s": ["é"]}'),
        ("{{ sample.output_json.n }} {{ sample.output_json }}", '3 {"n": 3, "s": ["é"]}'),
        ("{{ sample.choices[0].message.content }}", '{"n": 3, "s": ["é"]}'),
    ],
)
def test_templates(template: str, text: str) -> None:
    item = {
        "a": "x", "list": ["one", "two"], "deep": {"rows": [{"k": "v"}]}, "a key": "spaced", "case-id": 17,
        "yes": True, "none": None, "number": 94.0,
    }  # fmt: skip
    assert render(template, '{"n": 3, "s": ["é"]}', **item) == text


def test_what_is_filled_in_is_no_template() -> None:
    assert render("{{sample.output_text}}", "{{item.answer}}", answer="secret") == "{{item.answer}}"


def test_output_tools_are_the_calls_of_the_final_message() -> None:
    called = attempt(("looking", [(tool_call("c1", "find", order="A1"), "found")]))
    template = Template("{{ sample.output_tools[0].function.name }} {{ sample.output_text }}", "g")
    assert template.render(Row(called, {})) == "find looking"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ itm.a }}", "names 'itm'; only item and sample exist"),
        ("{{ a }}", "names 'a'"),
        ("{{}}", "names ''"),
        ("{{ sample.output_txt }}", "sample has no 'output_txt'; did you mean 'output_text'?"),
        ("{{ sample.choices[1].message }}", "a sample has one choice"),
        ("{{ item.a | upper }}", "cannot be read from ' | upper' on"),
        ("{{ item.a() }}", "cannot be read from '()' on"),
        ("{{ item[-1] }}", "cannot be read from '[-1]' on"),
    ],
)
def test_a_template_nobody_can_fill_in_is_refused_when_it_is_made(template: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grader_from({**CHECK, "name": "exact", "reference": template})
    assert said in str(caught.value) and "grader 'exact', reference" in str(caught.value)


@pytest.mark.parametrize(
    ("template", "output", "flag", "fault", "said"),
    [
        ("{{item.b}}", "x", "invalid_variable_error", Fault.GRADER, "item.b: no 'b' in the row; it has answer"),
        ("{{item.answer.b}}", "x", "invalid_variable_error", Fault.GRADER, "there is str 'yes'"),
        ("{{item.list[2]}}", "x", "invalid_variable_error", Fault.GRADER, "no 'list'"),
        ("{{sample.output_json}}", "no", "sample_parse_error", Fault.POLICY, "the output is not JSON"),
        ("{{sample.output_json}}", "[NaN]", "sample_parse_error", Fault.POLICY, "NaN is not JSON"),
        ("{{sample.output_json}}", "[" * 99_999, "sample_parse_error", Fault.POLICY, "the output is not JSON"),
        ("{{sample.output_json.a}}", '{"b": 1}', "sample_parse_error", Fault.POLICY, "no 'a'; it has b"),
        ("{{sample.output_tools}}", "x", "sample_parse_error", Fault.POLICY, "calls no tool"),
    ],
)
def test_what_is_missing_is_the_graders_fault_in_the_row_and_the_policys_in_the_output(
    template: str, output: str, flag: str, fault: Fault, said: str
) -> None:
    found = score({**CHECK, "input": template}, output, {"answer": "yes"})
    assert flags_up(found) == [flag]
    if fault is Fault.POLICY:
        assert found.value == found.raw == 0.0 and said in found.explanation
    else:
        assert isinstance(found.value, Missing) and found.value.fault is fault and said in found.value.cause


def test_the_row_is_public_and_hidden_fields_and_a_clash_is_told() -> None:
    spec = {**CHECK, "reference": "{{item.ticket}} {{item.answer}}"}
    assert score_of(spec, attempt("a b", public={"ticket": "a"}), {"answer": "b"}).value == 1.0
    clash = score_of(spec, attempt("a b", public={"ticket": "a"}), {"ticket": "c", "answer": "b"}).value
    assert isinstance(clash, Missing) and "both public and hidden" in clash.cause


def test_a_sample_cut_by_length_is_graded_and_flagged() -> None:
    for cut in (attempt("yes", finish="length"), attempt("yes", stop=StopReason.MAX_TOKENS)):
        found = score_of(CHECK, cut, {"answer": "yes"})
        assert found.value == 1.0 and flags_up(found) == ["truncated_observation_error"]
    assert set(error_flags(score(CHECK, "yes", {"answer": "yes"}))) == set(ERROR_FLAGS)


# --- string_check ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "text", "reference", "value"),
    [
        ("eq", "Yes", "Yes", 1), ("eq", "Yes", "yes", 0), ("eq", "", "", 1),
        ("ne", "Yes", "Yes", 0), ("ne", "Yes", "yes", 1), ("neq", "a", "b", 1),
        ("like", "I say Yes", "Yes", 1), ("like", "Yes", "I say Yes", 0), ("like", "I say yes", "Yes", 0),
        ("ilike", "I say yes", "YES", 1), ("ilike", "no", "YES", 0), ("ilike", "Straße", "STRASSE", 1),
    ],
)  # fmt: skip
def test_string_check(operation: str, text: str, reference: str, value: float) -> None:
    spec = {**CHECK, "operation": operation}
    found = score(spec, text, {"answer": reference})
    assert (found.value, found.raw, found.raw_range, found.grader) == (value, value, (0.0, 1.0), "g")
    assert grader_from({**spec, "name": "g"}).spec.operation == operation.replace("neq", "ne")


# --- text_similarity -------------------------------------------------------------------------------------------------

CAT = ("The cat sat on the mat, and then the dog came in. It was late.",
       "The cat was sitting on the mat when a dog came in late.")  # fmt: skip
REVENUE = ("net revenue rose by 94 million dollars in 2015", "In 2015 net revenue rose by 94.0 million dollars")
BLUE = ("blue", "The sky is blue")
STRANGE = ("completely different words here now", "nothing shared between these two texts")

# ROUGE as rouge_score 0.1.2 and BLEU as sacrebleu 2.6.0 print them; the rest by hand, below.
PRINTED = [
    (CAT, {"rouge_1": 0.714286, "rouge_2": 0.384615, "rouge_3": 0.166667, "rouge_4": 0, "rouge_5": 0,
           "rouge_l": 0.642857, "bleu": 0.173142}),
    (REVENUE, {"rouge_1": 0.947368, "rouge_2": 0.705882, "rouge_3": 0.4, "rouge_4": 0.307692, "rouge_5": 0.181818,
               "rouge_l": 0.736842, "bleu": 0.368894}),
    (BLUE, {"rouge_1": 0.4, "rouge_2": 0, "rouge_l": 0.4, "bleu": 0.049787}),
    (STRANGE, {"rouge_1": 0, "rouge_l": 0, "bleu": 0}),
]  # fmt: skip


def similar(metric: str, text: str, reference: str) -> Score:
    spec = {"type": "text_similarity", "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
    return score({**spec, "evaluation_metric": metric}, text, {"answer": reference})


@pytest.mark.parametrize(("texts", "metrics"), PRINTED)
def test_rouge_and_bleu_are_those_of_their_reference_packages(
    texts: tuple[str, str], metrics: dict[str, float]
) -> None:
    for metric, value in metrics.items():
        assert similar(metric, *texts).value == pytest.approx(value, abs=1e-6), metric


def test_metrics_by_hand() -> None:
    # 4 words of 10 in 1- to 4-grams of the reference, 1 of the text: 1 match over the larger count, 10
    assert similar("gleu", *BLUE).value == pytest.approx(1 / 10)
    # precision 1, recall 1/4: F = 10 P R / (R + 9 P) = 2.5 / 9.25; one chunk for one match halves it
    assert similar("meteor", *BLUE).value == pytest.approx(2.5 / 9.25 / 2)
    assert similar("fuzzy_match", *BLUE).value == pytest.approx(0.9)  # a part that matches whole, times 0.9
    assert similar("fuzzy_match", "ANSWER 42!", "answer 42").value == 1.0  # case and punctuation do not count
    assert similar("meteor", "refunds", "refunded").value == 0.5  # the stem matches


@pytest.mark.parametrize("metric", similarity.METRICS)
def test_the_ends_of_every_metric(metric: str) -> None:
    same = "the refund of order A1 was issued today"
    assert similar(metric, same, same).value == pytest.approx(1.0, abs=1e-3)
    for empty in (("", same), (same, ""), ("", "")):
        assert similar(metric, *empty).value == 0.0


def test_meteor_without_wordnet_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"type": "text_similarity", "name": "m", "input": "a", "reference": "a", "evaluation_metric": "meteor"}
    versions = []
    for has in (False, True):
        monkeypatch.setattr(similarity, "has_wordnet", lambda has=has: has)
        monkeypatch.setattr("flyball.graders.text.has_wordnet", lambda has=has: has)
        grader = grader_from(spec)
        versions.append(grader.version)
        if not has:
            assert "without WordNet" in score(grader).explanation
    assert versions[0] != versions[1]


def test_cosine_needs_a_server_of_embeddings_and_asks_it() -> None:
    spec = {"type": "text_similarity", "input": "{{sample.output_text}}", "reference": "right",
            "evaluation_metric": "cosine"}  # fmt: skip
    with pytest.raises(ConfigError, match="embedding_model"):
        score(spec)

    def embed(request: httpx.Request) -> httpx.Response:
        vectors = {
            "up": [0.0, 2.0],
            "right": [3.0, 0.0],
            "left": [-1.0, 0.0],
            "between": [1.0, 1.0],
            "none": [0.0, 0.0],
        }
        texts = json.loads(request.content)["input"]
        data = [{"index": i, "embedding": vectors[text]} for i, text in enumerate(texts)]
        return httpx.Response(200, json={"data": data[::-1], "usage": {"prompt_tokens": 2}})

    server = judge(embed, embedding_model="e")
    for text, value in {"right": 1.0, "up": 0.0, "left": 0.0, "between": 0.5**0.5, "none": 0.0}.items():
        assert score(spec, text, judge=server).value == pytest.approx(value)


# --- what every spec obeys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "strng_check"}, "did you mean 'string_check'?"),
        ({}, "grader type None does not exist"),
        ({**CHECK, "referense": "x"}, "unknown key 'referense'; did you mean 'reference'?"),
        ({**CHECK, "operation": "equals"}, "operation is 'equals'"),
        ({**CHECK, "input": 3}, "input is 3"),
        ({**CHECK, "pass_threshold": "0.5"}, "pass_threshold is '0.5'"),
        ({"type": "python", "source": "def grade(sample): return 1"}, "defines no `def grade(sample, item)`"),
        ({"type": "python", "source": "def grade(sample, item:"}, "not Python"),
        ({"type": "python", "source": "def grade(s, i): return 1\n" + "#" * 256_000}, "at most 256000"),
    ],
)
def test_specs_are_read_strictly(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grader_from({"name": "g", **spec})
    assert said in str(caught.value)


def test_the_version_follows_content_and_nothing_else() -> None:
    def version(**changed: Any) -> str:
        return grader_from({"name": "g", **CHECK, **changed}).version

    assert version() == version() == version(pass_threshold=None)
    assert version() == grader_from(dict(reversed(list({"name": "g", **CHECK}.items())))).version
    assert len({version(), version(reference="x"), version(operation="like"), version(pass_threshold=1.0)}) == 4
