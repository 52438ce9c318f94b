"""The tables, version by version.

A migration is a name and its statements, in SQLite's SQL; `database.py` applies each in one transaction and notes it in
`migrations`, and `postgres.py` says it in PostgreSQL's.
A migration that has been released is never edited: the next version is a new entry at the end.

Facts are append-only: triggers refuse UPDATE and DELETE, so a later opinion (a second grading, a moved alias, the next
stage of a release) is a new row and the current view is derived. The only thing that changes is the status of a run;
what was served goes when it is old (`expiry.py`).
Bodies are records of `records.py`; the columns beside them are what is searched for. Times are UTC, ISO 8601.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """A trigger: `action` (UPDATE, DELETE, UPDATE OF columns) on a row of `table` is refused.

    `expires`: not for a row whose `at` is before the newest entry of `expirations`.
    """

    name: str
    table: str
    action: str
    expires: bool = False

    @property
    def says(self) -> str:
        return f"{self.table} is append-only: add a new row instead"


@dataclass(frozen=True)
class Lifted:
    """A trigger that is no more."""

    name: str
    table: str


_TABLES = (
    "CREATE TABLE migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, at TEXT NOT NULL)",
    """CREATE TABLE runs (
        run_id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, config TEXT NOT NULL,
        status TEXT NOT NULL, reason TEXT NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL)""",
    """CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL REFERENCES runs, kind TEXT NOT NULL,
        payload TEXT NOT NULL, at TEXT NOT NULL)""",
    "CREATE INDEX events_of_run ON events (run_id, kind)",
    """CREATE TABLE metrics (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL REFERENCES runs, step INTEGER NOT NULL,
        name TEXT NOT NULL, value REAL, at TEXT NOT NULL)""",
    "CREATE INDEX metrics_of_run ON metrics (run_id, name, step)",
    """CREATE TABLE attempts (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL REFERENCES runs, attempt_id TEXT NOT NULL,
        phase TEXT NOT NULL, step INTEGER NOT NULL, task_id TEXT NOT NULL, split TEXT NOT NULL, family TEXT NOT NULL,
        stop TEXT NOT NULL, digest TEXT NOT NULL, body BLOB NOT NULL, at TEXT NOT NULL, UNIQUE (run_id, attempt_id))""",
    "CREATE INDEX attempts_of_run ON attempts (run_id, phase, step)",
    """CREATE TABLE judgements (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, attempt INTEGER NOT NULL REFERENCES attempts (seq),
        grader_version TEXT NOT NULL, success INTEGER, safe INTEGER, reward REAL, body BLOB NOT NULL,
        at TEXT NOT NULL)""",
    "CREATE INDEX judgements_of_attempt ON judgements (attempt, grader_version)",
    """CREATE TABLE evals (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, run_id TEXT NOT NULL,
        version_id TEXT NOT NULL, suite TEXT NOT NULL, suite_digest TEXT NOT NULL, grader_version TEXT NOT NULL,
        body BLOB NOT NULL, at TEXT NOT NULL)""",
    "CREATE INDEX evals_of_version ON evals (version_id, suite)",
    """CREATE TABLE versions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, version_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
        body BLOB NOT NULL, at TEXT NOT NULL)""",
    """CREATE TABLE releases (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, release_id TEXT NOT NULL, stage TEXT NOT NULL, body BLOB NOT NULL,
        at TEXT NOT NULL)""",
    """CREATE TABLE alias_moves (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, alias TEXT NOT NULL, version_id TEXT NOT NULL, previous TEXT,
        actor TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL)""",
    """CREATE TABLE sessions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL REFERENCES runs, session_id TEXT NOT NULL,
        model_version TEXT NOT NULL, policy_version TEXT NOT NULL, reward_model_version TEXT NOT NULL,
        tool_calls_count INTEGER NOT NULL, tool_error_count INTEGER NOT NULL, tokens_in INTEGER NOT NULL,
        tokens_out INTEGER NOT NULL, duration_ms REAL NOT NULL, human_override INTEGER NOT NULL,
        release_channel TEXT NOT NULL, arm TEXT NOT NULL, attempt_id TEXT NOT NULL, cost_usd REAL NOT NULL,
        outcome INTEGER, intent_class TEXT NOT NULL, context TEXT NOT NULL, at TEXT NOT NULL,
        UNIQUE (run_id, session_id))""",
    "CREATE INDEX sessions_of_version ON sessions (policy_version, release_channel)",
)

APPEND_ONLY = (
    "migrations",
    "events",
    "metrics",
    "attempts",
    "judgements",
    "evals",
    "versions",
    "releases",
    "alias_moves",
    "sessions",
)

_ROUTES = (
    """CREATE TABLE routes (
        version INTEGER PRIMARY KEY, release_id TEXT NOT NULL, body TEXT NOT NULL, at TEXT NOT NULL)""",
    "CREATE INDEX routes_of_release ON routes (release_id, version)",
)


def _append_only(*tables: str) -> tuple[Refusal, ...]:
    return tuple(
        Refusal(f"{table}_never_{word}", table, action)
        for word, action in (("change", "UPDATE"), ("go", "DELETE"))
        for table in tables
    )


_TRIGGERS = (
    *_append_only(*APPEND_ONLY),
    Refusal("runs_never_go", "runs", "DELETE"),
    Refusal("runs_change_status_only", "runs", "UPDATE OF run_id, kind, name, config, created_at"),
)

_APPROVALS = (
    """CREATE TABLE approvals (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, approval_id TEXT NOT NULL UNIQUE, session_id TEXT NOT NULL,
        call_id TEXT NOT NULL, tool TEXT NOT NULL, arguments TEXT NOT NULL, expires_at TEXT NOT NULL, at TEXT NOT NULL,
        UNIQUE (session_id, call_id))""",
    """CREATE TABLE approval_answers (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, approval_id TEXT NOT NULL UNIQUE REFERENCES approvals (approval_id),
        decision TEXT NOT NULL, actor TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL)""",
)

# What was served: one table for each kind of frame, and how far each spool was read. Of `ingested`, `spool_places` and
# `bodies` alone rows change or go: counts, places, and what is erased.
_SERVING = (
    """CREATE TABLE served_requests (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, call_id TEXT NOT NULL, kind TEXT NOT NULL,
        session TEXT NOT NULL, arm TEXT NOT NULL, version_id TEXT NOT NULL, release_id TEXT NOT NULL, at REAL NOT NULL,
        facts TEXT NOT NULL, frame TEXT NOT NULL, UNIQUE (project, call_id, kind))""",
    """CREATE TABLE served_calls (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, call_id TEXT NOT NULL, session TEXT NOT NULL,
        agent TEXT NOT NULL, arm TEXT NOT NULL, version_id TEXT NOT NULL, release_id TEXT NOT NULL, at REAL NOT NULL,
        exactness TEXT NOT NULL, parent TEXT, continues TEXT, stands_at TEXT, ends TEXT, status INTEGER NOT NULL,
        problem TEXT, model TEXT NOT NULL, tokens_in INTEGER, tokens_out INTEGER, cost_usd REAL NOT NULL,
        seconds REAL NOT NULL, body TEXT, tools TEXT, facts TEXT NOT NULL, frame TEXT NOT NULL,
        UNIQUE (project, call_id))""",
    "CREATE INDEX calls_of_session ON served_calls (project, session)",
    "CREATE INDEX calls_by_time ON served_calls (at)",
    """CREATE TABLE served_sessions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, session TEXT NOT NULL, first_call TEXT NOT NULL,
        arm TEXT NOT NULL, version_id TEXT NOT NULL, release_id TEXT NOT NULL, release_channel TEXT NOT NULL,
        at REAL NOT NULL, calls INTEGER NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL,
        tool_calls_count INTEGER NOT NULL, tool_error_count INTEGER NOT NULL, duration_ms REAL NOT NULL,
        cost_usd REAL NOT NULL, facts TEXT NOT NULL, frame TEXT NOT NULL, UNIQUE (project, session, first_call))""",
    "CREATE INDEX served_sessions_of_version ON served_sessions (version_id, release_channel)",
    """CREATE TABLE feedback (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, report_id TEXT NOT NULL, session TEXT NOT NULL,
        call_id TEXT NOT NULL, at REAL NOT NULL, outcome INTEGER, score REAL, override TEXT, kpi TEXT,
        context TEXT, facts TEXT NOT NULL, frame TEXT NOT NULL, UNIQUE (project, report_id))""",
    "CREATE INDEX feedback_of_session ON feedback (project, session)",
    """CREATE TABLE bodies (
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, data BLOB NOT NULL, at REAL NOT NULL)""",
    "CREATE INDEX bodies_by_time ON bodies (at)",
    """CREATE TABLE body_holds (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL, retention TEXT NOT NULL, actor TEXT NOT NULL,
        reason TEXT NOT NULL, at TEXT NOT NULL)""",
    "CREATE INDEX holds_of_body ON body_holds (digest)",
    """CREATE TABLE tombstones (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL, actor TEXT NOT NULL, reason TEXT NOT NULL,
        at TEXT NOT NULL)""",
    "CREATE INDEX tombstones_of_body ON tombstones (digest)",
    "CREATE TABLE spool_places (spool TEXT PRIMARY KEY, segment INTEGER NOT NULL, byte INTEGER NOT NULL)",
    """CREATE TABLE ingested (
        spool TEXT NOT NULL, segment INTEGER NOT NULL, kind TEXT NOT NULL, arm TEXT NOT NULL, stored INTEGER NOT NULL,
        repeated INTEGER NOT NULL, quarantined INTEGER NOT NULL, PRIMARY KEY (spool, segment, kind, arm))""",
    """CREATE TABLE quarantine (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, spool TEXT NOT NULL, kind TEXT NOT NULL, arm TEXT NOT NULL,
        reason TEXT NOT NULL, body BLOB NOT NULL, at TEXT NOT NULL)""",
    """CREATE TABLE reconciliations (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, spool TEXT NOT NULL, life INTEGER NOT NULL, kind TEXT NOT NULL,
        arm TEXT NOT NULL, accepted INTEGER NOT NULL, declared INTEGER NOT NULL, found INTEGER NOT NULL,
        at TEXT NOT NULL)""",
)
_SERVING_FACTS = (
    "served_requests",
    "served_calls",
    "served_sessions",
    "feedback",
    "body_holds",
    "tombstones",
    "quarantine",
    "reconciliations",
)

_AUDIT = (
    """CREATE TABLE audit (
        seq INTEGER PRIMARY KEY, action TEXT NOT NULL, subject TEXT NOT NULL, entry TEXT NOT NULL, at TEXT NOT NULL)""",
    "CREATE INDEX audit_of_subject ON audit (subject, action)",
    "CREATE TABLE audit_checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL)",
)

EXPIRING = ("served_requests", "served_calls", "served_sessions", "feedback")
"""Tables whose rows may go when they are old."""

_EXPIRY: tuple[str | Refusal | Lifted, ...] = (
    """CREATE TABLE expirations (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, before REAL NOT NULL, row_count INTEGER NOT NULL, actor TEXT NOT NULL,
        at TEXT NOT NULL)""",
    *(Lifted(f"{table}_never_go", table) for table in EXPIRING),
    *(Refusal(f"{table}_go_when_old", table, "DELETE", expires=True) for table in EXPIRING),
)

MIGRATIONS: tuple[tuple[str, tuple[str | Refusal | Lifted, ...]], ...] = (
    ("first tables", (*_TABLES, *_TRIGGERS)),
    ("routing tables", (*_ROUTES, *_append_only("routes"))),
    ("approvals", (*_APPROVALS, *_append_only("approvals", "approval_answers"))),
    ("what was served", (*_SERVING, *_append_only(*_SERVING_FACTS))),
    ("audit log", (*_AUDIT, *_append_only("audit", "audit_checkpoints"))),
    ("rows expire", (*_EXPIRY, *_append_only("expirations"))),
)
"""Entry i brings the schema to version i + 1."""
