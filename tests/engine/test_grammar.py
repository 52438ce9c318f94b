"""Constrained decoding: whatever the weights, what comes out is what the grammar says, and the learner can score it."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from flyball.engine.grammar import json_schema_grammar, no_tool_call_grammar, tool_call_grammar
from flyball.engine.local import LocalEngine
from flyball.engine.local_vocabulary import Vocabulary
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.errors import ConfigError, EngineError, GrammarError
from flyball.models.chat import CallForm
from flyball.models.tool_formats import HERMES, TOOL_FORMATS, ToolFormat
from flyball.rl.support import kept_mask
from flyball.types import ToolCall
from tests.engine.test_local import ROOT, llama, plain_logprobs
from tests.engine.test_stop_strings import TOKENIZER, speaking_model

END = TOKENIZER.eos_token_id
BEGIN, CLOSE = TOKENIZER.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])  # special in this tokenizer
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "grün"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["color", "n"],
    "additionalProperties": False,
}
SPECIAL = replace(HERMES, tokens={"<tool_call>": BEGIN, "</tool_call>": CLOSE})
PLAIN = CallForm("[call]", "[/call]")
TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {**SCHEMA, "required": ["n"]}}},
    {"type": "function", "function": {"name": "stop"}},
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def generate(engine: LocalEngine, *requests: Request) -> list[Completion]:
    async def main() -> list[Completion]:
        return await asyncio.gather(*map(engine.generate, requests))

    return asyncio.run(main())


def text(token_ids: tuple[int, ...]) -> str:
    return TOKENIZER.decode([t for t in token_ids if t != END])


def ask(grammar: str, seed: int, **rules: Any) -> Request:
    rules = {"temperature": 1.5, "max_new_tokens": 60, **rules}
    return Request((*ROOT, seed), SamplingParams(seed=seed, grammar=grammar, **rules), (END,))


def test_untrained_weights_write_json_of_the_schema() -> None:
    engine = LocalEngine(speaking_model(), tokenizer=TOKENIZER)
    grammar = json_schema_grammar(SCHEMA)
    rules = [{}, {"top_p": 0.8}, {"top_k": 3}, {"temperature": 0.0}, {"min_p": 0.3}]
    done = generate(engine, *(ask(grammar, i, **rules[i % 5]) for i in range(10)), ask("", 77))
    for one in done[:-1]:
        value = json.loads(text(one.token_ids))
        assert set(value) == {"color", "n"} and value["color"] in ("red", "grün") and 0 <= value["n"] <= 99
        assert text(one.token_ids) == json.dumps(value, ensure_ascii=False)
        assert one.finish_reason == "stop" and one.token_ids[-1] == END and one.logprobs[-1] == 0.0
    assert len({one.token_ids for one in done}) > 3
    free = generate(engine, ask("", 77))[0]
    assert done[-1].token_ids == free.token_ids and done[-1].support is None


def test_logprobs_are_over_what_the_grammar_left() -> None:
    """The plain pass over the whole sequence, renormalised over the stored support, and wrong without it."""
    model = speaking_model()
    engine = LocalEngine(model, tokenizer=TOKENIZER)
    (done,) = generate(engine, ask(json_schema_grammar(SCHEMA), 3, temperature=1.0))
    n = len(done.token_ids)
    assert done.support is not None
    mask = torch.from_numpy(kept_mask([(done.support, np.arange(n))], len(TOKENIZER) + 4))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(torch.tensor([[*ROOT, 3, *done.token_ids]])).logits[0, len(ROOT) : -1].float()
    expected = logits.masked_fill(~mask, -torch.inf).log_softmax(-1)[range(n), done.token_ids]
    torch.testing.assert_close(torch.tensor(done.logprobs), expected, rtol=0, atol=1e-4)
    assert float((expected - plain_logprobs(model, (*ROOT, 3), done, 1.0)).mean()) > 0.5


@pytest.mark.parametrize("required", [True, False])
def test_tool_calls_are_of_the_tools_that_are_offered(required: bool) -> None:
    engine = LocalEngine(speaking_model(), tokenizer=TOKENIZER)
    grammar = tool_call_grammar(TOOLS, SPECIAL, required=required)
    done = generate(engine, *(ask(grammar, i, max_new_tokens=110) for i in range(12)))
    ended = [text(one.token_ids) for one in done if one.finish_reason == "stop"]
    assert len(ended) > 2
    for said in ended:
        bodies = re.findall(r"<tool_call>(.*?)</tool_call>", said, re.DOTALL)
        assert len(bodies) == said.count("<tool_call>") and (bodies or not required)
        for call in map(json.loads, bodies):
            assert call["name"] in ("look", "stop") and set(call) == {"name", "arguments"}
            assert call["name"] == "stop" or 0 <= call["arguments"]["n"] <= 99


@pytest.mark.parametrize("form", [SPECIAL, PLAIN], ids=["special", "plain"])
@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ("just text, no call", True),
        ('so <tool_call>{"name": "look", "arguments": {"n": 7}}</tool_call> done', True),
        (
            '<tool_call>{"name": "stop", "arguments": {}}</tool_call>'
            '<tool_call>{"name": "look", "arguments": {"n": 0}}',
            True,
        ),
        ('<tool_call>{"name": "fly"', False),
        ('text <tool_call>{"name": "look", "arguments": {"m"', False),
        ("text <tool_call>nonsense", False),
    ],
)
def test_free_text_becomes_strict_where_a_call_begins(said: str, allowed: bool, form: CallForm) -> None:
    """Marks that are special tokens, and marks that are plain text."""
    guide = Vocabulary(TOKENIZER, len(TOKENIZER)).guide(tool_call_grammar(TOOLS, form), (END,))
    if form is PLAIN:
        said = said.replace("<tool_call>", "[call]").replace("</tool_call>", "[/call]")
    followed = True
    for token in TOKENIZER(said)["input_ids"]:
        followed = followed and bool(guide.allowed()[token])
        if followed:
            guide.take(token)
    assert followed == allowed


def follows(grammar: str, said: str) -> bool:
    """Whether the grammar lets a turn be `said`, and end there."""
    guide = Vocabulary(TOKENIZER, len(TOKENIZER)).guide(grammar, (END,))
    for token in TOKENIZER(said)["input_ids"]:
        if not guide.allowed()[token]:
            return False
        guide.take(token)
    return bool(guide.allowed()[END])


WRITTEN = [row for row in TOOL_FORMATS.values() if row.form is not None]


@pytest.mark.parametrize("row", WRITTEN, ids=lambda row: row.name)
def test_every_form_of_the_table_is_held_by_its_grammar(row: ToolFormat) -> None:
    """What the table renders is in the grammar, up to its stop token; what it does not offer is not."""
    assert row.form is not None
    form = replace(row.form, tokens=SPECIAL.tokens if row.form == HERMES else {})
    look, stop = ToolCall("", "look", '{"n": 7}'), ToolCall("", "stop", "{}")

    def said(*calls: ToolCall, content: str = "") -> str:
        written = row.render(content, calls)
        return written.removesuffix(form.after) if form.ends_turn else written

    required = tool_call_grammar(TOOLS, form, required=True)
    assert follows(required, said(look)) and follows(required, said(stop))
    assert follows(required, said(look, stop)) is not form.ends_turn
    assert not follows(required, said(ToolCall("", "fly", "{}")))
    assert not follows(required, said(ToolCall("", "look", '{"m": 1}')))
    assert not follows(required, "Let me see.")
    assert not follows(tool_call_grammar(TOOLS, form, required=True, at_most_one=True), said(look, look))
    either = tool_call_grammar(TOOLS, form, or_json=SCHEMA)
    assert follows(either, said(look)) and follows(either, '{"color": "red", "n": 1}') and not follows(either, "text")
    if form.opening or (form.before and not form.ends_turn):
        free, one = tool_call_grammar(TOOLS, form), tool_call_grammar(TOOLS, form, at_most_one=True)
        for grammar in (free, one):
            assert follows(grammar, "Let me see.") and follows(grammar, said(look, content="Let me see. "))
            assert not follows(grammar, said(ToolCall("", "fly", "{}"), content="Let me see. "))
        assert follows(free, said(look, stop)) and not follows(one, said(look, stop))
        none = no_tool_call_grammar(form)
        assert follows(none, "Let me see.") and not follows(none, said(look))
    else:
        for build in (lambda: tool_call_grammar(TOOLS, form), lambda: no_tool_call_grammar(form)):
            with pytest.raises(ConfigError, match="free text could"):
                build()


def test_a_turn_may_end_only_where_the_grammar_may() -> None:
    guide = Vocabulary(TOKENIZER, len(TOKENIZER) + 4).guide('start: "ab" | "abc"', (END, 3))
    seen = []
    for token in TOKENIZER("abc")["input_ids"]:
        seen.append(guide.allowed()[[END, 3]].tolist())
        done = guide.take(token)
    assert seen == [[False, False], [False, False], [True, True]] and done
    assert np.flatnonzero(guide.allowed()).tolist() == sorted([END, 3])


def test_without_a_stop_token_a_complete_grammar_ends_the_turn() -> None:
    engine = LocalEngine(speaking_model(), tokenizer=TOKENIZER)
    (done,) = generate(engine, replace(ask('start: "ab"', 0), stop_ids=()))
    assert (text(done.token_ids), done.finish_reason) == ("ab", "stop")


def test_bad_grammars_are_refused_before_they_run() -> None:
    engine = LocalEngine(speaking_model(), tokenizer=TOKENIZER)
    with pytest.raises(GrammarError, match='the grammar cannot be read: at 1\\(8\\): unknown name: "foo"'):
        generate(engine, ask("start: foo", 0))
    with pytest.raises(EngineError, match="need the tokenizer"):
        generate(LocalEngine(llama()), ask('start: "a"', 0))
    with pytest.raises(ConfigError, match="at least one tool"):
        tool_call_grammar([])


def test_a_grammar_that_leads_nowhere_costs_only_its_own_request() -> None:
    """`<tool_call>` as text, in a tokenizer that has it as a special token."""
    engine = LocalEngine(speaking_model(), tokenizer=TOKENIZER)
    bad, good = ask(tool_call_grammar(TOOLS, required=True), 1), ask("", 2)

    async def main() -> list[Any]:
        return await asyncio.gather(engine.generate(bad), engine.generate(good), return_exceptions=True)

    failed, done = asyncio.run(main())
    assert isinstance(failed, EngineError) and "name special tokens in a grammar by their ids" in str(failed)
    assert "\n" not in str(failed)
    assert done.token_ids == generate(LocalEngine(speaking_model(), tokenizer=TOKENIZER), good)[0].token_ids
