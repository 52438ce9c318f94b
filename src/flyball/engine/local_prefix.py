"""What prompts begin with in common, with each other and with what slots hold: it is computed once.

Attempts of a group say the same up to their first sampled token, and arrive together. The first of them computes it;
the others wait for its pass and copy its keys and values (prefix sharing as in SGLang's RadixAttention, arXiv
2312.07104, with copies in place of a tree of pages).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flyball.engine.local_request import Running, Slot

MIN_SHARED = 16
"""Tokens in common that are worth a copy, or a pass of their own."""


def num_common(a: list[int], b: list[int]) -> int:
    """How many tokens `a` and `b` begin with in common; lists, whose slices are compared in C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_prefix(rows: Sequence[list[int]]) -> list[int]:
    """What all `rows` begin with."""
    first, last = min(rows), max(rows)  # in alphabetical order: what these share, all do
    return first[: num_common(first, last)]


def longer_prefix(tokens: list[int], held: list[int], cached: int) -> int:
    """How many of `tokens` are in `held`, where that is at least MIN_SHARED more than `cached`; else `cached`."""
    near = cached + MIN_SHARED
    if len(held) < near or len(tokens) < near or tokens[cached:near] != held[cached:near]:
        return cached  # most are told apart here
    return found if (found := num_common(tokens, held)) >= near else cached


def source_of(running: Running, slots: Iterable[Slot], cached: int) -> tuple[Slot | None, int]:
    """The slot that holds most of the request's tokens, and how many: (None, cached) when no other is worth a copy."""
    best = None
    for slot in slots:
        if slot.tokens and not slot.stale and slot.adapter == running.request.adapter and slot is not running.slot:
            found = longer_prefix(running.tokens, slot.tokens, cached)
            if found > cached:
                best, cached = slot, found
    return best, cached


def first_of_each(coming: Sequence[tuple[Running, int]]) -> tuple[list[Running], list[Running]]:
    """Divide requests, each with the number of its tokens that are cached: (compute now, wait for one of those)."""
    now: list[Running] = []
    later: list[Running] = []
    for running, cached in coming:
        waits = any(
            running.computes_the_same_as(other)
            or (
                running.request.adapter == other.request.adapter
                and longer_prefix(running.tokens, other.tokens, cached) > cached
            )
            for other in now
        )
        (later if waits else now).append(running)
    return now, later
