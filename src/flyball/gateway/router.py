"""Which version answers a session: the routing table in force, and everything that may only make it more careful.

The table is one immutable object that a poll exchanges. Before it is asked, in this order: the kill switch, a pin of
somebody who may, and what the session was given when it began. The kill switch is a file or a signal and needs no
database; without a fresh look at the table for the time of the lease everybody gets the version in force.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import orjson

from flyball.capture.openai_form import BadRequest
from flyball.errors import FlyballError
from flyball.gateway.log import note
from flyball.gateway.memory import Memory
from flyball.gateway.request import Caller, check_operator
from flyball.gateway.settings import RoutingSettings
from flyball.release.routing import Arm, RoutingTable, bucket

Reason = Literal["no_table", "split", "session", "kill", "lease", "pin", "probe", "no_key", "rolled_back"]
Source = Callable[[], RoutingTable | None]
"""Reads the table in force; None before the first release. May raise FlyballError or OSError; called in a thread."""

MOST_SESSIONS = 100_000
"""Sessions whose arm a worker has at hand; the one that was longest silent is looked up again."""


@dataclass(frozen=True)
class Assignment:
    """Who answers and why. `version` '' = the upstream that the file names as default.

    `in_experiment`: the session counts in the statistics of the release. `unit`: what the arm was drawn by.
    """

    arm: Arm
    version: str
    reason: Reason
    table: int = 0
    release_id: str = ""
    unit: Literal["session", "user", ""] = ""
    in_experiment: bool = False
    in_force: str = ""
    """the version that serves where this one cannot"""


class SessionCut(Exception):
    """The release was taken back with `sessions: cut`: this one must not go on."""


class Router:
    """Assigns requests. `source` None = no releases: the default upstream serves everybody. `clock`: monotonic.

    `memory` is what all workers know; without it a session keeps its arm at this worker only.
    """

    def __init__(
        self,
        settings: RoutingSettings,
        source: Source | None,
        clock: Callable[[], float] = time.monotonic,
        memory: Memory | None = None,
    ) -> None:
        self._clock = clock
        self._memory = memory
        self._settings = settings
        self._source = source
        self._table: RoutingTable | None = None
        self._seen_at = self._clock()
        self._begun: OrderedDict[str, Assignment] = OrderedDict()
        self._was_killed = False
        self.killed_by_signal = False
        self.failures = 0
        """looks at the table that failed, in a row"""

    @property
    def table(self) -> RoutingTable | None:
        return self._table

    @property
    def killed(self) -> bool:
        """Whether the kill switch is on."""
        return self.killed_by_signal or os.path.exists(self._settings.kill_file)  # noqa: PTH110  # on every request

    @property
    def stale(self) -> bool:
        """Whether the lease ran out."""
        return self._source is not None and self._clock() - self._seen_at > self._settings.lease_seconds

    async def follow(self) -> None:
        """Look at the table for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._settings.poll_seconds)

    async def look(self) -> None:
        """Look once; a failure keeps the last table, until the lease ends."""
        if self.killed != self._was_killed:
            self._was_killed = not self._was_killed
            note("kill_switch", state="on" if self._was_killed else "off")
        if self._source is None:
            return
        try:
            found = await asyncio.to_thread(self._source)
        except (FlyballError, OSError) as error:
            self.failures += 1
            if self.failures == 1:
                note("no_table", error=type(error).__name__)
            return
        self.failures = 0
        self._seen_at = self._clock()
        known = self._table.version if self._table else 0
        if found is not None and found.version >= known:
            if found.version > known:
                note("table", logging.INFO, table=found.version, release=found.release_id, stage=found.stage)
            self._table = found

    def assign(self, caller: Caller, session: str, user: str, pin: str) -> Assignment:
        """Who answers this request. `session` is the project's and the session's name together.

        Raises BadRequest for a pin that is not allowed, SessionCut for a session that must end.
        """
        if pin:
            self._check_pin(caller, pin)
        table = self._table
        if table is None:
            return Assignment("stable", "", "no_table")
        in_force = table.candidate if table.stage == "general" else table.stable
        if self.killed or self.stale:
            why: Reason = "kill" if self.killed else "lease"
            return self._assigned("stable", in_force, why, table)
        if pin:
            version = table.candidate if pin == "canary" else in_force
            return self._assigned("canary" if pin == "canary" else "stable", version, "pin", table)
        begun = self._begun.get(session)
        if begun is None or begun.release_id != table.release_id:
            given = self._begin(table, session, user, in_force)
        else:
            given = self._go_on(begun, table, in_force)
        self._begun[session] = given
        self._begun.move_to_end(session)
        if len(self._begun) > MOST_SESSIONS:
            self._begun.popitem(last=False)
        return given

    def probe(self, caller: Caller, key: str) -> Assignment:
        """Who answers a probe of the way back: the candidate as long as the table names this key, else who is in force.

        Not remembered and in no statistics. Raises BadRequest for a caller who is no operator.
        """
        check_operator(caller, "probe the routing", "probe_not_allowed")
        table = self._table
        if table is None:
            return Assignment("stable", "", "no_table")
        in_force = table.candidate if table.stage == "general" else table.stable
        version = in_force if self.killed or self.stale else table.serves(key)
        return self._assigned("stable" if version == in_force else "canary", version, "probe", table)

    def shadowed(self, session: str, share: float) -> str:
        """The version that a session is shadowed by, '' for none."""
        table = self._table
        if table is None or table.stage != "shadow" or self.killed or self.stale:
            return ""
        return table.candidate if bucket(table.salt, session) < share else ""

    def _begin(self, table: RoutingTable, session: str, user: str, in_force: str) -> Assignment:
        """Draw the arm of a session that this worker does not know, unless another one gave it one before."""
        drawn = self._draw(table, session, user, in_force)
        told = self._memory.begin(session, table.release_id, orjson.dumps(drawn)) if self._memory else None
        first = drawn if told is None else Assignment(**orjson.loads(told))
        return drawn if first == drawn else self._go_on(first, table, in_force)

    def _draw(self, table: RoutingTable, session: str, user: str, in_force: str) -> Assignment:
        key = session if table.unit == "session" else user
        if not key:
            return self._assigned("stable", in_force, "no_key", table)
        arm = table.arm(key)
        version = table.candidate if arm == "canary" else in_force
        return self._assigned(arm, version, "split", table, counts=arm != "stable")

    def _go_on(self, begun: Assignment, table: RoutingTable, in_force: str) -> Assignment:
        """A session stays where it began. Only the end of the release can change that."""
        if begun.arm != "canary" or table.stage != "rolled_back" or table.sessions == "finish":
            if begun.arm in ("canary", "holdback"):
                return begun
            return self._assigned("stable", in_force, "session", table)
        if table.sessions == "cut":
            raise SessionCut(f"release {table.release_id[:12]} was taken back: {table.reason}")
        return self._assigned("canary", in_force, "rolled_back", table, counts=True)

    def _assigned(
        self, arm: Arm, version: str, reason: Reason, table: RoutingTable, *, counts: bool = False
    ) -> Assignment:
        in_force = table.candidate if table.stage == "general" else table.stable
        return Assignment(arm, version, reason, table.version, table.release_id, table.unit, counts, in_force)

    def _check_pin(self, caller: Caller, pin: str) -> None:
        check_operator(caller, "pin an arm", "pin_not_allowed")
        if pin not in ("stable", "canary"):
            raise BadRequest(f"pin {pin[:40]!r} is no arm; pin `stable` or `canary`", None, "unknown_arm")
