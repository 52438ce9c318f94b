"""What was served, read back: calls, sessions with what became known of them later, calls that never ended.

Sessions are derived: the parts that gateways saw add up, and facts that came late (an outcome, an override, a KPI) are
rows of `feedback` that point at the session. The newest outcome holds; every row stays.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from flyball.errors import StoreError
from flyball.store.approvals import ApprovalTables
from flyball.store.bodies import BodyTables
from flyball.store.database import Row
from flyball.store.expiry import ExpiryTables
from flyball.store.ingest import write_feedback
from flyball.store.registry import RegistryTables
from flyball.store.serving_frames import FeedbackFrame
from flyball.types import Channel, PolicyVersion, SessionRecord

_PAGE = 256


@dataclass(frozen=True)
class ServedCall:
    """One model call as it was served. `at`: seconds since 1970, `seconds`: how long it took; None = not known.

    `body` and `tools` are digests (see `ServedTables.said`), None where bodies are not kept. `facts`: what else the
    gateway told.
    """

    seq: int
    project: str
    call_id: str
    session: str
    agent: str
    arm: str
    version_id: str
    release_id: str
    at: float
    exactness: str
    parent: str | None
    continues: str | None
    stands_at: str | None
    ends: str | None
    status: int
    problem: str | None
    model: str
    tokens_in: int | None
    tokens_out: int | None
    cost_usd: float
    seconds: float
    body: str | None
    tools: str | None
    facts: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the agent got an answer."""
        return 200 <= self.status < 300 and not self.problem


@dataclass(frozen=True)
class Said:
    """What was said in a call: the messages since its parent, the answer, the tools, the exact tokens if any."""

    messages: tuple[Mapping[str, Any], ...]
    message: Mapping[str, Any] | None
    tools: tuple[Mapping[str, Any], ...]
    tokens: Mapping[str, Any] | None


@dataclass(frozen=True)
class Fact:
    """A fact about a session that came late. `override`, `kpi` and `context` as in `serving_frames.py`; `facts`: what
    else was reported with it."""

    report_id: str
    project: str
    session: str
    call_id: str
    at: float
    outcome: bool | None
    score: float | None
    override: Mapping[str, Any] | None
    kpi: Mapping[str, Any] | None
    context: Mapping[str, Any] | None
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class AskedCall:
    """A call as it was assigned before the upstream was asked, and what came of it: `seconds` and `cost_usd` are 0 as
    long as no end of it is known. `table`: the number of the routing table it was assigned by. `unit`, `user` (a
    pseudonym, "" = not drawn by user) and `reason`: how it was drawn. `refused_tools`: how many of the tool calls that
    it asked for were refused."""

    project: str
    call_id: str
    session: str
    arm: str
    at: float
    table: int
    unit: str
    user: str
    reason: str
    in_experiment: bool
    seconds: float
    cost_usd: float
    refused_tools: int


class ServedTables(RegistryTables, ApprovalTables, BodyTables, ExpiryTables):
    """The part of `Store` that reads what was served."""

    def calls(
        self,
        *,
        project: str | None = None,
        session: str | None = None,
        arm: str | None = None,
        version_id: str | None = None,
        since: float = 0.0,
        until: float = math.inf,
        after: int = 0,
    ) -> Iterator[ServedCall]:
        """Yield calls (None = any) in the order they were stored, those stored while iterating too.

        `since`, `until`: begun then or later, and before then, in seconds since 1970; `after`: the `seq` of a call that
        was read already.
        """
        # `+at`: with both bounds SQLite would go by the index of times, and sort all of them again for every page
        sql = f"""SELECT * FROM served_calls WHERE seq > :after AND +at >= :since AND +at < :until
            AND (:project IS NULL OR project = :project) AND (:session IS NULL OR session = :session)
            AND (:arm IS NULL OR arm = :arm) AND (:version IS NULL OR version_id = :version)
            ORDER BY seq LIMIT {_PAGE}"""
        given = {"project": project, "session": session, "arm": arm, "version": version_id}
        while rows := self._db.rows(sql, {**given, "since": since, "until": until, "after": after}):
            yield from map(_call, rows)
            after = rows[-1]["seq"]

    def said(self, call: ServedCall) -> Said:
        """Return what was said in a call. Raises StoreError where it was erased, or never kept."""
        if call.body is None:
            raise StoreError(f"call {call.call_id} was stored without its body; see `bodies` of the capture settings")
        body = orjson.loads(self.body(call.body))
        tools = orjson.loads(self.body(call.tools)) if call.tools else []
        return Said(tuple(body["messages"] or ()), body["message"], tuple(tools), body["tokens"])

    def unfinished_calls(self, *, before: float) -> list[tuple[str, str]]:
        """Return (project, call id) of calls begun before a time of which no end came: their gateway died."""
        sql = """SELECT r.project, r.call_id FROM served_requests r WHERE r.kind = 'request' AND r.at < ?
            AND NOT EXISTS (SELECT 1 FROM served_calls c WHERE c.project = r.project AND c.call_id = r.call_id)
            AND NOT EXISTS (SELECT 1 FROM served_requests e WHERE e.project = r.project AND e.call_id = r.call_id
                AND e.kind = 'response') ORDER BY r.seq"""
        return [(row["project"], row["call_id"]) for row in self._db.rows(sql, (before,))]

    def asked_calls(self, release_id: str) -> Iterator[AskedCall]:
        """Yield every call that was assigned under a release, shadow left out, in the order they were stored."""
        sql = f"""SELECT r.seq, r.project, r.call_id, r.session, r.arm, r.at, r.facts, c.seconds, c.cost_usd,
            c.facts AS call_facts FROM served_requests r
            LEFT JOIN served_calls c ON c.project = r.project AND c.call_id = r.call_id
            WHERE r.seq > ? AND r.kind = 'request' AND r.release_id = ? AND r.arm != 'shadow'
            ORDER BY r.seq LIMIT {_PAGE}"""
        after = 0
        while rows := self._db.rows(sql, (after, release_id)):
            yield from map(_asked, rows)
            after = rows[-1]["seq"]

    def silent_since(self) -> dict[tuple[str, str], float]:
        """Return until when (seconds since 1970) each session (project, name) was served that a gateway saw ended."""
        sql = "SELECT project, session, max(at + duration_ms / 1000.0) FROM served_sessions GROUP BY project, session"
        return {(row[0], row[1]): float(row[2]) for row in self._db.rows(sql)}

    def add_feedback(self, fact: FeedbackFrame) -> bool:
        """Write a fact that came late; False when this very report is there already.

        Raises StoreError when another report has its id: facts are added, never changed.
        """
        with self._db.write() as db:
            return write_feedback(db, fact)

    def feedback(self, project: str | None = None, session: str | None = None, *, since: float = 0.0) -> list[Fact]:
        """Return the late facts about a session, a project or everything, the oldest first."""
        sql = """SELECT * FROM feedback WHERE (?1 IS NULL OR project = ?1) AND (?2 IS NULL OR session = ?2)
            AND at >= ?3 ORDER BY seq"""
        return [_fact(row) for row in self._db.rows(sql, (project, session, since))]

    def served_sessions(
        self,
        *,
        project: str | None = None,
        version_id: str | None = None,
        channel: Channel | None = None,
        since: float = 0.0,
    ) -> list[SessionRecord]:
        """Return the minimum schema of every served session, one record for each version that served it.

        `session_id` is `project~session`. `context` holds the snapshot, retries, approvals, KPIs and the user's
        pseudonym ("" = not known). Shadow has no outcome: what people said is about the answer they got.
        """
        sums = ("calls", "tokens_in", "tokens_out", "tool_calls_count", "tool_error_count", "duration_ms", "cost_usd")
        sql = f"""SELECT s.project, s.session, s.arm, s.version_id, s.release_id, s.release_channel,
            min(s.at) AS at, min(c.model) AS model, min(s.facts) AS facts,
            {", ".join(f"sum(s.{name}) AS {name}" for name in sums)}
            FROM served_sessions s LEFT JOIN served_calls c ON c.project = s.project AND c.call_id = s.first_call
            WHERE (?1 IS NULL OR s.project = ?1) AND (?2 IS NULL OR s.version_id = ?2)
            AND (?3 IS NULL OR s.release_channel = ?3) AND s.at >= ?4
            GROUP BY s.project, s.session, s.arm, s.version_id, s.release_id, s.release_channel ORDER BY min(s.seq)"""
        rows = self._db.rows(sql, (project, version_id, channel, since))
        facts, retries, approvals = self._facts(project), self._retries(project), self._approvals()
        versions = {version.version_id: version for version in self.versions()}
        records = []
        for row in rows:
            key = (row["project"], row["session"])
            told = [] if row["arm"] == "shadow" else facts.get(key, [])
            context = {
                **_snapshot(told),
                "retries": retries.get((*key, row["arm"]), 0),
                "approvals": approvals.get("~".join(key), []),
                "calls": int(row["calls"]),
                "release_id": row["release_id"],
                "user": orjson.loads(row["facts"]).get("user") or "",
                "at": row["at"],
            }
            records.append(_session(row, told, context, versions.get(row["version_id"])))
        return records

    def _facts(self, project: str | None) -> dict[tuple[str, str], list[Fact]]:
        found: defaultdict[tuple[str, str], list[Fact]] = defaultdict(list)
        for fact in self.feedback(project):
            found[fact.project, fact.session].append(fact)
        return found

    def _retries(self, project: str | None) -> dict[tuple[str, str, str], int]:
        """How many calls of a session asked again what an earlier one of the same agent had asked."""
        sql = """SELECT project, session, arm, count(*) - count(DISTINCT agent || '/' || coalesce(stands_at, call_id))
            FROM served_calls WHERE ?1 IS NULL OR project = ?1 GROUP BY project, session, arm"""
        return {(row[0], row[1], row[2]): int(row[3]) for row in self._db.rows(sql, (project,))}

    def _approvals(self) -> dict[str, list[dict[str, str]]]:
        found: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
        for one in self.approvals():
            answer = {"tool": one.tool, "state": one.state, "actor": one.actor, "reason": one.reason}
            found[one.session_id].append({"call_id": one.call_id, **answer})
        return found


def _call(row: Row) -> ServedCall:
    values = {name: row[name] for name in ServedCall.__dataclass_fields__}
    return ServedCall(**{**values, "facts": orjson.loads(row["facts"])})


def _asked(row: Row) -> AskedCall:
    told = orjson.loads(row["facts"])
    unit = told.get("unit") or {}
    checks = orjson.loads(row["call_facts"] or "{}").get("checks") or ()
    return AskedCall(
        **{name: row[name] for name in ("project", "call_id", "session", "arm", "at")},
        table=int(told.get("table") or 0),
        unit=unit.get("level") or "",
        user=unit.get("key") or "",
        reason=told.get("reason", ""),
        in_experiment=bool(told.get("in_experiment")),
        seconds=float(row["seconds"] or 0.0),
        cost_usd=float(row["cost_usd"] or 0.0),
        refused_tools=sum(check["kind"] == "tool" for check in checks),
    )


def _fact(row: Row) -> Fact:
    read = {name: row[name] and orjson.loads(row[name]) for name in ("override", "kpi", "context", "facts")}
    outcome = None if row["outcome"] is None else bool(row["outcome"])
    names = ("report_id", "project", "session", "call_id", "at", "score")
    return Fact(**{name: row[name] for name in names}, outcome=outcome, **read)


def _snapshot(told: Iterable[Fact]) -> dict[str, Any]:
    """The newest context snapshot, and every KPI by name, the newest of each."""
    context: Mapping[str, Any] = {}
    kpis: dict[str, Mapping[str, Any]] = {}
    for fact in told:
        context = fact.context or context
        if fact.kpi:
            kpis[fact.kpi["name"]] = fact.kpi
    return {**context, "kpis": list(kpis.values())}


def _session(row: Row, told: list[Fact], context: Mapping[str, Any], version: PolicyVersion | None) -> SessionRecord:
    outcomes = [fact.outcome for fact in told if fact.outcome is not None]
    graders = sorted(version.graders.items()) if version else []
    grader_digest = hashlib.sha256(orjson.dumps(graders)).hexdigest() if graders else ""
    return SessionRecord(
        session_id=f"{row['project']}~{row['session']}",
        model_version=version.base if version else row["model"] or "",
        policy_version=row["version_id"],
        reward_model_version=(version.reward_model if version else None) or grader_digest,
        tool_calls_count=int(row["tool_calls_count"]),
        tool_error_count=int(row["tool_error_count"]),
        tokens_in=int(row["tokens_in"]),
        tokens_out=int(row["tokens_out"]),
        duration_ms=float(row["duration_ms"]),
        human_override=any(fact.override and fact.override["kind"] != "approve" for fact in told),
        release_channel=row["release_channel"],
        arm=row["arm"],
        cost_usd=float(row["cost_usd"]),
        outcome=outcomes[-1] if outcomes else None,
        intent_class=context.get("intent", ""),
        context=context,
    )
