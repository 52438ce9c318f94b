"""Tokens as bytes: what stop strings and grammars need of a tokenizer. Prompts and completions stay tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from flyball.errors import EngineError, GrammarError

GRAMMARS_KEPT = 64
"""Compiled grammars; a job has one for each set of tools."""


class Vocabulary:
    """The tokens of a fast Hugging Face tokenizer, special ones included as they are written.

    `size` is the number of logits, which may be padded above the number of tokens. Raises EngineError for a slow
    tokenizer.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise EngineError(
                f"{type(tokenizer).__name__} is not a fast tokenizer, so its tokens cannot be read as bytes; convert "
                "it to tokenizer.json, or do without stop strings and grammars"
            )
        self.size = size
        self.tokenizer: LLTokenizer = from_tokenizer(tokenizer)
        self._bytes: dict[int, bytes] = {}
        self._matchers: dict[str, LLMatcher] = {}

    def bytes_of(self, token_id: int) -> bytes:
        """What a token adds to the text; nothing for ids beyond the tokenizer's."""
        if token_id not in self._bytes:
            known = token_id < self.tokenizer.vocab_size
            self._bytes[token_id] = self.tokenizer.decode_bytes([token_id]) if known else b""
        return self._bytes[token_id]

    def guide(self, grammar: str, stop_ids: Sequence[int]) -> Guide:
        """Follow a new completion through `grammar`. Raises GrammarError for a grammar that cannot be read."""
        if grammar not in self._matchers:
            matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
            if matcher.is_error():
                raise GrammarError(f"the grammar cannot be read: {matcher.get_error()}")
            if len(self._matchers) >= GRAMMARS_KEPT:
                self._matchers.pop(next(iter(self._matchers)))
            self._matchers[grammar] = matcher
        return Guide(self._matchers[grammar].deep_copy(), self.size, stop_ids, self.tokenizer.eos_tokens)


class Guide:
    """One completion on its way through a grammar. Its stop tokens are allowed where the grammar may end."""

    def __init__(self, matcher: LLMatcher, size: int, stop_ids: Sequence[int], eos_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._size = size
        self._stop_ids = list(stop_ids)
        self._eos_ids = list(eos_ids)

    def allowed(self) -> npt.NDArray[np.bool_]:
        """The tokens [V] that may come next. Raises EngineError when there is none."""
        mask = np.zeros(self._size, np.bool_)
        if not self._matcher.is_stopped():
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            known = np.unpackbits(bits, bitorder="little")[: self._size]
            mask[: len(known)] = known
        # the tokenizer's own end is allowed where the grammar may end, but the request says what ends a turn
        mask[self._eos_ids] = False
        mask[self._stop_ids] = self._matcher.is_accepting()
        if self._matcher.is_error() or not mask.any():
            raise EngineError(f"the grammar leaves no token to sample{self._why()}")
        return mask

    def take(self, token_id: int) -> bool:
        """Go on with a token; whether nothing but a stop token could follow."""
        if token_id not in self._stop_ids and not self._matcher.consume_token(token_id):
            raise EngineError(
                f"token {token_id} is not in the grammar{self._why()}; name special tokens in a grammar by their ids"
            )
        return self._matcher.is_stopped()

    def _why(self) -> str:
        """The matcher's reason without its state."""
        said = self._matcher.get_error()
        return f" ({said.splitlines()[0]})" if said else ""
