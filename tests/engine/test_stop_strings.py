"""A completion ends with the token that completes a stop string, wherever the string lies over its tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from flyball.engine.fake import FakeEngine
from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.engine.stop_strings import StopStrings
from flyball.errors import ConfigError, EngineError
from flyball.models.tiny import train_tokenizer
from tests.engine.test_local import ROOT, SHAPE, llama

TOKENIZER = train_tokenizer(["desk refund order"], 300)


def first_end(pieces: list[bytes], strings: list[str]) -> int | None:
    """The plain way: index of the first piece after which the text so far holds a string."""
    for i in range(len(pieces)):
        if any(s.encode() in b"".join(pieces[: i + 1]) for s in strings):
            return i
    return None


def watched(pieces: list[bytes], strings: list[str]) -> int | None:
    watch = StopStrings(strings)
    return next((i for i, piece in enumerate(pieces) if watch.ends(piece)), None)


@given(st.lists(st.text("abü", max_size=4), max_size=12), st.lists(st.text("abü", min_size=1, max_size=7), min_size=1))
def test_watching_is_searching_the_whole_text(pieces: list[str], strings: list[str]) -> None:
    raw = [p.encode() for p in pieces]
    assert watched(raw, strings) == first_end(raw, strings)
    single = [bytes([b]) for b in b"".join(raw)]  # tokens that are halves of characters
    assert watched(single, strings) == first_end(single, strings)


@pytest.mark.parametrize(
    ("pieces", "strings", "end"),
    [
        (["ab", "ab", "ac"], ["abac"], 2),  # a failed beginning is the beginning of a match
        (["aa", "a", "ab"], ["aaab"], 2),
        (["a", "b", "a", "b", "a"], ["baba"], 4),
        (["x", "END and more", "y"], ["END"], 1),  # ends inside a token
        (["E", "N", "", "D"], ["END"], 3),
        (["x", "y"], ["xyx"], None),
        (["one ", "two"], ["two", "one"], 0),
    ],
)
def test_cyclic_and_cross_token_strings(pieces: list[str], strings: list[str], end: int | None) -> None:
    assert watched([p.encode() for p in pieces], strings) == end


def speaking_model() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": len(TOKENIZER) + 4}, tie_word_embeddings=True))


def complete(engine: LocalEngine, *stop: str, seed: int = 0) -> Completion:
    return asyncio.run(engine.generate(Request(ROOT, SamplingParams(1.0, 40, seed, stop=stop), ())))


def test_a_completion_ends_with_the_token_that_completes_the_string() -> None:
    engine = LocalEngine(speaking_model(), tokenizer=TOKENIZER)
    free = complete(engine)
    pieces = [engine._text.bytes_of(t) for t in free.token_ids]
    assert free.finish_reason == "length" and sum(len(p) > 1 for p in pieces) > 0
    whole = b"".join(pieces)
    tried = 0
    for start in range(0, len(whole) - 5, 3):
        try:
            string = whole[start : start + 5].decode()
        except UnicodeDecodeError:
            continue
        tried += 1
        done = complete(engine, string, "never\u2603seen")
        end = first_end(pieces, [string])
        assert end is not None and done.token_ids == free.token_ids[: end + 1]
        # Where keys lie depends on what was computed before, and so does the last rounding.
        assert done.logprobs == pytest.approx(free.logprobs[: end + 1], abs=1e-5) and done.finish_reason == "stop"
    assert tried > 3


def test_ids_behind_the_tokenizer_add_nothing() -> None:
    engine = LocalEngine(speaking_model(), tokenizer=TOKENIZER)
    assert [engine._text.bytes_of(t) for t in (len(TOKENIZER), len(TOKENIZER) + 3)] == [b"", b""]
    assert b"".join(engine._text.bytes_of(t) for t in TOKENIZER("grüß <|end|>")["input_ids"]) == "grüß <|end|>".encode()


def test_without_a_tokenizer_stop_strings_are_refused() -> None:
    with pytest.raises(EngineError, match="stop strings and grammars need the tokenizer"):
        complete(LocalEngine(llama()), "x")


@pytest.mark.parametrize("stop", ["END", ("",), ["END"], (3,)])
def test_what_is_not_a_tuple_of_texts_is_refused(stop: Any) -> None:
    with pytest.raises(ConfigError, match="is not a tuple of texts"):
        SamplingParams(stop=stop)


def test_the_fake_stops_as_engines_do() -> None:
    engine = FakeEngine(["say grüße and go"])
    ask = Request(tuple(engine.chat.render([], [])), SamplingParams(stop=("üß",)), engine.chat.stop_ids)
    done = asyncio.run(engine.generate(ask))
    assert (engine.chat.decode(done.token_ids), done.finish_reason) == ("say grüß", "stop")
