"""The routing table: who is served by which version. Immutable, numbered, and a pure function from key to arm.

The bucket of a key is a keyed hash, so nobody can choose an arm and no list of users is kept. The canary grows from 0
upward and the holdback from 1 downward: a larger share adds units to both arms and never moves one. The salt is
drawn once per release, so the same users are not the first ones every time.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Literal

import orjson

from flyball.errors import ReleaseError
from flyball.release.canary.plan import Unit

Arm = Literal["stable", "holdback", "canary"]
Stage = Literal["shadow", "canary", "general", "rolled_back"]
SessionPolicy = Literal["finish", "switch", "cut"]
"""What happens to sessions that run on the canary when it goes back: they end where they are (a quality gate), move at
their next request (safety), or end now (a critical event)."""


@dataclass(frozen=True, kw_only=True)
class RoutingTable:
    """One immutable state of the routing. `stable` and `candidate` are version ids; `share` is the canary's part of the
    units and the holdback's as well; `plan` is the digest of the plan
    it follows; `since` is when this stage and share began, in seconds since 1970. `probe` is a secret key that the
    candidate answers while the way back is rehearsed (`serving.drill_routing`); no user has it."""

    version: int
    release_id: str
    stage: Stage
    stable: str
    candidate: str
    share: float
    salt: str
    unit: Unit
    plan: str
    since: float
    sessions: SessionPolicy = "finish"
    probe: str = ""
    actor: str = "flyball"
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 0.5:
            raise ReleaseError(f"share {self.share:g}: canary and holdback are equal, so each has at most 0.5")
        if self.stage != "canary" and self.share:
            raise ReleaseError(f"stage {self.stage} with share {self.share:g}: only a canary has one")

    def arm(self, key: str) -> Arm:
        """The arm of a unit; without a key there is nothing to stick to, so it is stable."""
        if not key or not self.share:
            return "stable"
        place = bucket(self.salt, key)
        if place < self.share:
            return "canary"
        return "holdback" if place >= 1.0 - self.share else "stable"

    def serves(self, key: str) -> str:
        """The version id that answers this key."""
        if self.stage == "general" or (self.probe and key == self.probe):
            return self.candidate
        return self.candidate if self.arm(key) == "canary" else self.stable

    def to_json(self) -> str:
        """The table as JSON, read back by `from_json`."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> RoutingTable:
        """Raises ReleaseError for anything that is no table; a worker without one serves stable only."""
        try:
            return cls(**orjson.loads(text))
        except (orjson.JSONDecodeError, TypeError) as error:
            raise ReleaseError(
                f"routing table {str(text)[:80]!r} cannot be read ({error}); serve stable only"
            ) from error


def bucket(salt: str, key: str) -> float:
    """Where a key lies in [0, 1): the first 8 bytes of keyed BLAKE2b, over 2^64."""
    found = hashlib.blake2b(key.encode(), digest_size=8, key=salt.encode()).digest()
    return int.from_bytes(found, "big") / 2.0**64
