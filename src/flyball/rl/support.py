"""The vocabulary that a draw could choose from, stored so that the learner renormalises over exactly it.

A sampler that cuts its distribution (top-p, top-k, min-p, a grammar) draws from pi / pi(S) on the kept set S. Ratios
with a trainer that scores the whole vocabulary are then wrong by pi(S), token by token, and no importance weight of the
rest mends it. With S stored, mu, pi_old, pi and pi_ref are all taken over S, and equal weights give a ratio of 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flyball.types import UNKNOWN, WHOLE, Call, Support

Mask = npt.NDArray[np.bool_]


class SupportWriter:
    """Collects the draws of one completion whose distribution is cut."""

    def __init__(self) -> None:
        self._index: list[int] = []
        self._known: dict[tuple[bool, bytes], int] = {}

    def whole(self) -> None:
        """A draw from the whole vocabulary."""
        self._index.append(WHOLE)

    def unknown(self) -> None:
        """A draw of which it is not known what it was among."""
        self._index.append(UNKNOWN)

    def kept_ids(self, ids: Sequence[int]) -> None:
        """A draw among these few tokens."""
        self._add(False, np.sort(np.asarray(ids, np.int32)))

    def kept(self, mask: Mask) -> None:
        """A draw among the tokens where `mask` [V] is True."""
        cut = 2 * int(np.count_nonzero(mask)) > len(mask)
        ids = np.flatnonzero(~mask if cut else mask).astype(np.int32)
        if len(ids):
            self._add(cut, ids)
        else:
            self.whole()

    def _add(self, cut: bool, ids: npt.NDArray[np.int32]) -> None:
        self._index.append(self._known.setdefault((cut, ids.tobytes()), len(self._known)))

    def support(self) -> Support:
        """What was collected."""
        return _support(self._index, self._known)


def unknown_support(num_draws: int) -> Support:
    """Something was cut and nobody can say what: the learner refuses these draws."""
    return _support([UNKNOWN] * num_draws, {})


def is_truncated(sampling: Mapping[str, Any]) -> bool:
    """Whether sampling parameters (as a `Call` records them) cut the distribution."""
    return (
        sampling.get("top_p", 1.0) < 1
        or sampling.get("top_k", 0) > 0
        or sampling.get("min_p", 0.0) > 0
        or bool(sampling.get("grammar"))
    )


def branch_support(calls: Sequence[Call]) -> Support | None:
    """Support of all tokens [T] of a branch, given ones WHOLE; None when nothing in it was cut.

    The draws of a call that declares a cut and stores no support are UNKNOWN.
    """
    known: dict[tuple[bool, bytes], int] = {}
    index: list[int] = []
    for call in calls:
        index += [WHOLE] * len(call.prompt_ids)
        n, support = len(call.completion_ids), call.support
        if support is None:
            index += [UNKNOWN if is_truncated(call.sampling) else WHOLE] * n
            continue
        moved = [known.setdefault(each, len(known)) for each in _sets(support)]
        index += [moved[i] if i >= 0 else i for i in support.index.tolist()]
    return _support(index, known) if any(i != WHOLE for i in index) else None


def kept_mask(draws: Sequence[tuple[Support | None, npt.NDArray[np.int64]]], vocab_size: int) -> Mask:
    """Masks [N, V] of the draws at `positions` of each support, one after another. True = the token could be drawn."""
    mask = np.ones((sum(len(positions) for _, positions in draws), vocab_size), np.bool_)
    row = 0
    for support, positions in draws:
        if support is not None:
            for i, which in enumerate(support.index[positions].tolist(), row):
                if which >= 0:
                    if not support.cut[which]:
                        mask[i] = False
                    mask[i, _ids(support, which)] = not support.cut[which]
        row += len(positions)
    return mask


def outside_support(support: Support, token_ids: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> list[int]:
    """Those of `positions` whose token could not have been drawn from its stored set."""
    found = []
    for position in positions.tolist():
        which = int(support.index[position])
        if which >= 0 and bool(support.cut[which]) == bool((_ids(support, which) == token_ids[position]).any()):
            found.append(position)
    return found


def _ids(support: Support, which: int) -> npt.NDArray[np.int32]:
    start = int(support.ends[which - 1]) if which else 0
    return support.ids[start : int(support.ends[which])]


def _sets(support: Support) -> Iterable[tuple[bool, bytes]]:
    for which, cut in enumerate(support.cut.tolist()):
        yield cut, _ids(support, which).tobytes()


def _support(index: Sequence[int], sets: Iterable[tuple[bool, bytes]]) -> Support:
    known = list(sets)
    ids = [np.frombuffer(raw, np.int32) for _, raw in known]
    return Support(
        np.asarray(index, np.int32),
        np.concatenate(ids) if ids else np.zeros(0, np.int32),
        np.cumsum([len(each) for each in ids], dtype=np.int64),
        np.array([cut for cut, _ in known], np.bool_),
    )
