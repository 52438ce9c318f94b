"""Finds near-duplicates of a text among earlier texts of other splits: Jaccard similarity of three-word shingles."""

from __future__ import annotations

import math
import re
from collections import defaultdict


class Nearness:
    """An index of texts by shingle. Nothing is masked: numbers, names and items count as they stand."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[tuple[str, frozenset[str]]] = []
        self._holders: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, text: str, split: str) -> None:
        pieces = shingles(text)
        for piece in pieces:
            self._holders[piece].append(len(self._texts))
        self._texts.append((split, pieces))

    def near(self, text: str, split: str) -> bool:
        """Whether a text of another split is as similar as the threshold or more.

        A text that similar shares at least `threshold` of our shingles, so it holds one of the rarest few of them;
        only holders of those are compared.
        """
        pieces = shingles(text)
        rarest = sorted(pieces, key=lambda piece: (len(self._holders.get(piece, ())), piece))
        few = rarest[: len(pieces) - math.ceil(self._threshold * len(pieces)) + 1]
        candidates = {i for piece in few for i in self._holders.get(piece, ())}
        return any(
            other != split and similarity(pieces, theirs) >= self._threshold
            for other, theirs in (self._texts[i] for i in candidates)
        )


def shingles(text: str, words: int = 3) -> frozenset[str]:
    """Runs of three words of the lower-cased text; a shorter text is one shingle."""
    tokens = re.findall(r"\w+", text.lower())
    return frozenset(" ".join(tokens[i : i + words]) for i in range(max(1, len(tokens) - words + 1)))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard similarity, in [0, 1]."""
    return len(a & b) / len(a | b)
