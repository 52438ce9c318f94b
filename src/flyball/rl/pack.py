"""Packs: samples that go through the network together, as a tree of the beginnings they share.

system prompt ─┬─ ticket 1 ─┬─ attempt 1        Each piece is computed once, whoever shares it, and nothing is
               │            └─ attempt 2        padded: a pack costs the tokens of its tree. Trained tokens may
               └─ ticket 2 ─── attempt 3        be shared too; every sample still counts its own loss on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import numpy.typing as npt

from flyball.types import TrainingSample

MIN_SHARED = 8
"""Shorter shared stretches are computed for each sample: a piece of its own would cost more than it saves."""

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """A stretch of tokens [L] that follows the pieces of `path` (indices into the pack, from the beginning on)."""

    tokens: Tokens
    path: tuple[int, ...]


@dataclass(frozen=True)
class Pack:
    """`rows` are indices into the batch; `places[r]` [T] says where in the pack each token of row r lies.

    The pack itself is the tokens of its pieces in order, N together.
    """

    rows: tuple[int, ...]
    pieces: tuple[Piece, ...]
    places: tuple[Tokens, ...]


def packs(samples: Sequence[TrainingSample], max_tokens: int) -> list[Pack]:
    """Cut a batch into packs of about `max_tokens` tokens at most (a longer sample is a pack of its own).

    Samples are taken in the order of their tokens, so those with a common beginning come together.
    """
    order = sorted(range(len(samples)), key=lambda i: samples[i].token_ids.tobytes())
    made: list[Pack] = []
    current: list[int] = []
    filled = 0
    for i in order:
        tokens = samples[i].token_ids
        new = len(tokens) - (_common(samples[current[-1]].token_ids, tokens) if current else 0)
        if current and filled + new > max_tokens:
            made.append(_pack(samples, current))
            current, filled, new = [], 0, len(tokens)
        current.append(i)
        filled += new
    return [*made, _pack(samples, current)] if current else made


def _pack(samples: Sequence[TrainingSample], rows: Sequence[int]) -> Pack:
    pieces: list[Piece] = []
    paths = dict(_grow([(i, samples[i].token_ids) for i in rows], 0, (), pieces))
    starts = accumulate((len(p.tokens) for p in pieces[:-1]), initial=0)
    spans = [np.arange(start, start + len(p.tokens)) for start, p in zip(starts, pieces, strict=True)]
    return Pack(tuple(rows), tuple(pieces), tuple(np.concatenate([spans[piece] for piece in paths[i]]) for i in rows))


def _grow(
    rows: Sequence[tuple[int, Tokens]], depth: int, path: tuple[int, ...], pieces: list[Piece]
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Add the pieces of sorted rows that are alike up to `depth`, which `path` holds; yield each row's whole path."""
    common = len(rows[0][1]) if len(rows) == 1 else _common(rows[0][1], rows[-1][1])
    if common > depth and (len(rows) == 1 or common - depth >= MIN_SHARED):
        pieces.append(Piece(rows[0][1][depth:common], path))
        path, depth = (*path, len(pieces) - 1), common
    if len(rows) == 1:
        yield rows[0][0], path
        return
    for ahead, alike in groupby(rows, key=lambda row: row[1][depth : depth + MIN_SHARED].tobytes()):
        branch = list(alike)
        shares = len(ahead) == MIN_SHARED * branch[0][1].itemsize
        for part in [branch] if shares else [[row] for row in branch]:
            yield from _grow(part, depth, path, pieces)


def _common(a: Tokens, b: Tokens) -> int:
    """Length of the common beginning."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n
