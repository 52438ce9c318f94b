"""Tokens as bytes: what stop strings and grammars need of a tokenizer. Prompts and completions stay tokens."""

from __future__ import annotations

from typing import Any

from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer

from flyball.errors import EngineError


class Vocabulary:
    """The tokens of a fast Hugging Face tokenizer, special ones included as they are written.

    `size` is the number of logits, which may be padded above the number of tokens. Raises EngineError for a slow
    tokenizer.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise EngineError(
                f"{type(tokenizer).__name__} is not a fast tokenizer, so its tokens cannot be read as bytes; convert it "
                "to tokenizer.json, or do without stop strings and grammars"
            )
        self.size = size
        self.tokenizer: LLTokenizer = from_tokenizer(tokenizer)
        self._bytes: dict[int, bytes] = {}

    def bytes_of(self, token_id: int) -> bytes:
        """What a token adds to the text; nothing for ids beyond the tokenizer's."""
        if token_id not in self._bytes:
            known = token_id < self.tokenizer.vocab_size
            self._bytes[token_id] = self.tokenizer.decode_bytes([token_id]) if known else b""
        return self._bytes[token_id]
