"""The table of tool-call forms: what is written reads back, and nothing a model may write raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import ModelError
from flyball.models.tool_formats import TOOL_FORMATS, ToolFormat, known_formats
from flyball.types import ToolCall

ROWS = list(TOOL_FORMATS.values())
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)

MARKS = (
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "<|python_start|>",
    "<|python_end|>",
    "[TOOL_CALLS]",
    "[CALL_ID]",
    "[ARGS]",
    "<|channel|>",
    "commentary",
    "analysis",
    "final",
    " to=functions.look",
    "<|constrain|>json",
    "<|message|>",
    "<|call|>",
    "<|end|>",
    "<|start|>assistant",
    "<think>",
    "</think>",
    '{"name": "look", "arguments": {"n": 1}}',
    '{"name": "look", "parameters": {}}',
    "[look(n=1)",
    "]",
    "[",
    ";",
    '{"name"',
    "NaN",
    "\\ud800",
    "**{",
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
content = text.filter(lambda t: not t.lstrip().startswith("<think>"))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.sampled_from(MARKS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,12}x", fullmatch=True)  # no keyword of Python ends in x
calls = st.lists(
    st.tuples(names, st.dictionaries(text | names | st.just("class"), values, max_size=3)), min_size=1, max_size=3
)


def test_a_mark_inside_an_argument_is_part_of_it() -> None:
    for row in TOOL_FORMATS.values():
        for mark in ("<|python_tag|>", "<|python_start|>", "</tool_call>", "[ARGS]", "<|call|>"):
            wanted = [("look", {"text": mark})]
            parsed = row.parse(row.render("", written(wanted)))
            assert [(c.name, json.loads(c.arguments)) for c in parsed.tool_calls] == wanted, (row.name, mark)


def written(found: list[tuple[str, Any]]) -> list[ToolCall]:
    return [ToolCall("", name, json.dumps(arguments)) for name, arguments in found]


@rows
@settings(max_examples=60, deadline=None)
@given(said=content, wanted=calls)
def test_what_is_written_reads_back(row: ToolFormat, said: str, wanted: list[tuple[str, Any]]) -> None:
    parsed = row.parse(row.render(said, written(wanted)))
    assert parsed.malformed is None
    assert parsed.content == said
    assert [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls] == wanted
    assert [call.call_id for call in parsed.tool_calls] == [f"call_{i}" for i in range(len(wanted))]


@rows
@settings(max_examples=120, deadline=None)
@given(pieces=st.lists(st.sampled_from(MARKS) | st.text(max_size=6), max_size=10))
def test_no_text_raises_and_what_is_refused_says_how_to_call(row: ToolFormat, pieces: list[str]) -> None:
    said = "".join(pieces)
    parsed = row.parse(said)
    if parsed.malformed is not None:
        assert (parsed.content, parsed.tool_calls) == (said, ())
        assert row.example in parsed.malformed
    for call in parsed.tool_calls:
        assert call.name
        json.loads(call.arguments)
        call.arguments.encode()


@rows
@pytest.mark.parametrize(
    "deep", ["[" * 50_000, "{" * 50_000, '{"a":' * 50_000, "-" * 50_000 + "1", "(" * 50_000, "9" * 9_000]
)
def test_depth_and_length_are_the_models_fault_and_not_ours(row: ToolFormat, deep: str) -> None:
    for turn in (
        f"<tool_call>{deep}",
        f'{{"name": {deep}',
        f"[look(n={deep})]",
        f"[TOOL_CALLS]{deep}",
        f"[TOOL_CALLS]look[ARGS]{deep}",
        f"<|channel|>commentary to=functions.look<|message|>{deep}",
    ):
        parsed = row.parse(turn)
        assert parsed.malformed or parsed.content == turn or parsed.tool_calls  # nothing that was said is lost


SAYS = [
    ("hermes", "<tool_call>{broken</tool_call>", "not JSON"),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>', 'needs a "name"'),
    ("hermes", '<tool_call>{"name": "a"} and more</tool_call>', "follows it"),
    ("hermes", '<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>', "NaN is not a JSON number"),
    ("llama_json", '{"name": "look", "parameters": {"n": ', "not JSON"),
    ("llama_json", '{"name": "look", "parameters": {}} then', "follows it"),
    ("llama_json", '<|python_tag|>brave_search.call(query="x")', "not JSON"),
    ("llama_pythonic", "[look(1)]", "names its arguments"),
    ("llama_pythonic", "[look(n=other)]", "plain values"),
    ("llama_pythonic", "[look(n=1), 2]", "list of calls"),
    ("llama_pythonic", "[look(n={1, 2})]", "plain values"),
    ("llama_pythonic", "[look(n=1e999)]", "plain values"),
    ("llama_pythonic", "[look(n=", "plain values"),
    ("mistral", '[TOOL_CALLS]{"name": "look"}', "one JSON list"),
    ("mistral", '[TOOL_CALLS][{"name": "look"}] done', "nothing else"),
    ("mistral_args", "[TOOL_CALLS]look{}", "a name, [ARGS] and JSON"),
    ("mistral_args", "[TOOL_CALLS]look[ARGS]{", "not JSON"),
    ("harmony", "<|channel|>commentary to=functions.look", "cut off"),
    ("harmony", '<|channel|>commentary to=functions.look<|message|>{"n": 1', "not JSON"),
    ("harmony", "<|channel|>commentary to=functions.look<|message|>{}, thanks<|call|>", "<|call|> must"),
]


@pytest.mark.parametrize(("form", "turn", "said"), SAYS)
def test_a_malformed_call_is_told_what_is_wrong_and_how_to_call(form: str, turn: str, said: str) -> None:
    row = TOOL_FORMATS[form]
    parsed = row.parse(turn)
    assert (parsed.content, parsed.tool_calls) == (turn, ())
    assert parsed.malformed is not None and said in parsed.malformed
    assert parsed.malformed.endswith(f"to call a tool write {row.example}")


READS = [
    ("hermes", '<think>a <tool_call></think>go<tool_call>{"name": "a"}', "<think>a <tool_call></think>go", {}),
    ("hermes", '<tool_call>\n{"name": "a", "arguments": {"n": 1}}\n</tool_call>', "", {"n": 1}),
    ("llama_json", '{"type": "function", "name": "a", "parameters": {"n": 1}}', "", {"n": 1}),
    ("llama_json", '<|python_tag|>{"name": "a", "arguments": {"n": 1}}', "", {"n": 1}),
    ("llama_pythonic", "[a(n=(1, 2), **{'x-y': None})]", "", {"n": [1, 2], "x-y": None}),
    ("llama_pythonic", "<|python_start|>[a(n=-1)]<|python_end|>", "", {"n": -1}),
    ("mistral", 'So: [TOOL_CALLS] [{"name": "a", "arguments": {"n": 1}, "id": "abcdefghi"}]', "So: ", {"n": 1}),
    ("mistral_args", 'So: [TOOL_CALLS]a[CALL_ID]abcdefghi[ARGS]{"n": 1}', "So: ", {"n": 1}),
    ("harmony", '<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.a '
     '<|constrain|>json<|message|>{"n": 1}<|call|>', "", {"n": 1}),
    ("harmony", ' to=functions.a<|channel|>commentary json<|message|>{"n": 1}<|call|>', "", {"n": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "turn", "said", "arguments"), READS)
def test_spellings_that_models_and_templates_use_are_read(form: str, turn: str, said: str, arguments: Any) -> None:
    parsed = TOOL_FORMATS[form].parse(turn)
    assert (parsed.malformed, parsed.content) == (None, said)
    assert [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls] == [("a", arguments)]


PLAIN = [
    ("hermes", "no call"),
    ("llama_json", '{"answer": 42}'),
    ("llama_json", '{"name": "Bob", "age": 3}'),
    ("llama_pythonic", "[1, 2]"),
    ("llama_pythonic", "[see the list]"),
    ("mistral", "[1]"),
    ("mistral_args", "a[0]"),
    ("harmony", "plain"),
]


@pytest.mark.parametrize(("form", "turn"), PLAIN)
def test_an_answer_is_not_taken_for_a_call(form: str, turn: str) -> None:
    parsed = TOOL_FORMATS[form].parse(turn)
    assert (parsed.content, parsed.tool_calls, parsed.malformed) == (turn, (), None)


def test_what_harmony_thinks_is_not_what_it_says() -> None:
    turn = "<|channel|>analysis<|message|>secret<|end|><|start|>assistant<|channel|>final<|message|>Hello"
    assert TOOL_FORMATS["harmony"].parse(turn).content == "Hello"


def test_a_name_that_python_cannot_say_is_refused() -> None:
    for name in ("get-order", "class", "größe"):
        with pytest.raises(ModelError, match="rename it"):
            TOOL_FORMATS["llama_pythonic"].render("", [ToolCall("", name, "{}")])


def test_arguments_that_are_no_json_are_written_as_they_are() -> None:
    for row in ROWS:
        (call,) = row.parse(row.render("", [ToolCall("", "a", "{oops")])).tool_calls
        assert json.loads(call.arguments) == {"malformed": "{oops"}


def test_the_list_names_every_family() -> None:
    assert all(f"{row.name} ({row.families})" in known_formats() for row in ROWS)
