"""Seeds that depend on what they are for, never on the order in which work happened to run."""

from __future__ import annotations

import hashlib


def derive(seed: int, *parts: str | int) -> int:
    """Return a seed in [0, 2**63) for the piece of work named by `parts`, such as `derive(seed, task_id, 3)`.

    SHA-256 over seed and parts, so it is the same on every machine and in every process (the built-in `hash` is not),
    and parts cannot run into each other: ("a", "bc") and ("ab", "c") differ, as do 1 and "1".
    """
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
