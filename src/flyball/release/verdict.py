"""From gate results to a verdict, and to a release at its first stage. Pure: the same results, the same words.

Offline evidence can say no, or "ready for shadow". It can never say released: what live sessions would show is still
unknown, and the online gates say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flyball.release.evidence import Evidence
from flyball.release.gates import DEFAULT_GATES, evaluate_gates, gate, gates
from flyball.release.safety import SAFETY_GATE
from flyball.store.records import pack
from flyball.types import GateResult, Release

READY = "ready for shadow"

_WORDS = {"fail": "fails", "inconclusive": "is inconclusive", "not_evaluable": "is not evaluable"}


def verdict(results: Sequence[GateResult]) -> str:
    """READY when the safety gate was asked and every offline gate passes; else "not ready: " and what is against it."""
    against = [f"{r.name} {_WORDS[r.state]}" for r in results if r.state != "pass" and gate(r.name).phase == "offline"]
    if all(r.name != SAFETY_GATE for r in results):
        against.insert(0, f"{SAFETY_GATE} was not asked")
    return f"not ready: {', '.join(against)}" if against else READY


def is_ready(words: str) -> bool:
    """Whether a verdict lets the candidate go on to shadow; what `--require-pass` asks."""
    return words == READY


def content_id(baseline: str, candidate: str, results: tuple[GateResult, ...]) -> str:
    """The id of a release: the digest of its versions and of what its gates said, numbers and all."""
    release_id, _ = pack((baseline, candidate, results))
    return release_id


def judge_release(evidence: Evidence, names: Iterable[str | Mapping[str, Any]] = DEFAULT_GATES) -> Release:
    """Ask the named gates (and show the online ones) and open a release at stage `offline`.

    Its id is the digest of versions and gate results, so judging the same evidence again gives the same release.
    """
    results = evaluate_gates(gates(names), evidence)
    release_id = content_id(evidence.baseline, evidence.candidate, results)
    return Release(release_id, evidence.baseline, evidence.candidate, "offline", results, verdict(results))
