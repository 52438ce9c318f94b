"""A Merkle tree over the entries of a log: one hash of 32 bytes that fixes all of them and their order.

    leaf = SHA-256(0x00 || entry)        node = SHA-256(0x01 || left || right)

The left part of a tree of n leaves is the largest power of two below n. The two prefixes keep an entry from passing for
a node. Source: RFC 6962, section 2.1 (unchanged in RFC 9162).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry as a leaf."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two neighbours."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows by one leaf at a time and remembers only the roots of its full subtrees, log2(n) of them."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        self._full: list[tuple[int, bytes]] = []
        for leaf in leaves:
            self.append(leaf)

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash at the right."""
        leaves, found = 1, leaf
        while self._full and self._full[-1][0] == leaves:
            found = node_hash(self._full.pop()[1], found)
            leaves *= 2
        self._full.append((leaves, found))
        self.size += 1

    def root(self) -> bytes:
        """The hash of everything so far; of an empty log SHA-256 of nothing."""
        if not self._full:
            return hashlib.sha256(b"").digest()
        found = self._full[-1][1]
        for _, left in reversed(self._full[:-1]):
            found = node_hash(left, found)
        return found
