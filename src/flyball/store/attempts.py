"""Attempts and what graders said about them.

An attempt is written once and never changes. A judgement is a row of its own that points at the attempt, so grading
again adds rows: both opinions stay, each with the version of its graders (invariant 11).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flyball.errors import StoreError, UnknownIdError, nearest
from flyball.store import records
from flyball.store.database import Database, Row, Transaction, now
from flyball.store.runs import RunTables
from flyball.types import GradedAttempt, Missing, Outcome, RewardEvent, Score

_PAGE = 64
"""Attempts decoded at a time, so that reading a large run keeps memory flat and never holds the lock for long."""

_GRADED = """
    SELECT a.seq, a.attempt_id, a.body, j.body AS judgement FROM attempts a JOIN judgements j ON j.seq = (
        SELECT max(seq) FROM judgements WHERE attempt = a.seq AND (:grader IS NULL OR grader_version = :grader))
"""


@dataclass(frozen=True)
class Judgement:
    """One grading of one attempt: `GradedAttempt` without the attempt."""

    outcome: Outcome
    scores: Mapping[str, Score]
    events: tuple[RewardEvent, ...]
    reward: float | Missing
    at: str


class AttemptTables(RunTables):
    """The part of `Store` that knows attempts and judgements."""

    _db: Database

    def add_attempt(self, run_id: str, phase: str, step: int, graded: GradedAttempt) -> None:
        """Write one attempt with its judgement; on disk when this returns. See `add_attempts`."""
        self.add_attempts(run_id, phase, step, (graded,))

    def add_attempts(self, run_id: str, phase: str, step: int, graded: Iterable[GradedAttempt]) -> None:
        """Write attempts with their judgements in one transaction: all of them or none (a commit costs about 4 ms).

        `phase` says what they were for (`rl`, `validation`, `eval`, ...), `step` the training step. Writing the same
        attempt again changes nothing, so a resumed run may repeat itself. Raises StoreError when the run is
        unknown, when another attempt of the run has the same `attempt_id`, or when the disk refuses.
        """
        packed = [(one, *records.pack(one.attempt), _pack_judgement(one)) for one in graded]
        with self._db.write() as db:
            self._require_run(run_id)
            for one, digest, body, judgement in packed:
                seq = self._insert_attempt(db, run_id, phase, step, one, digest, body)
                _insert_judgement(db, seq, one, judgement)

    def add_scores(self, run_id: str, graded: GradedAttempt) -> None:
        """Write another judgement of an attempt that the run already has; the attempt itself is not written again.

        A judgement equal to the latest one changes nothing. Raises StoreError when the run does not have the attempt.
        """
        body = _pack_judgement(graded)
        with self._db.write() as db:
            _insert_judgement(db, self._attempt_row(run_id, graded.attempt.attempt_id), graded, body)

    def attempts(
        self,
        run_id: str,
        phase: str | None = None,
        step: int | None = None,
        *,
        grader_version: str | None = None,
    ) -> Iterator[GradedAttempt]:
        """Yield attempts in the order they were written, each with its latest judgement.

        With `grader_version` (of the outcome), the latest judgement by those graders; attempts they never judged are
        left out. Attempts written while iterating are yielded too. Raises StoreError for a damaged record.
        """
        sql = f"""{_GRADED} WHERE a.run_id = :run AND a.seq > :after AND (:phase IS NULL OR a.phase = :phase)
            AND (:step IS NULL OR a.step = :step) ORDER BY a.seq LIMIT {_PAGE}"""
        after = 0
        while rows := self._db.rows(
            sql, {"run": run_id, "after": after, "phase": phase, "step": step, "grader": grader_version}
        ):
            for row in rows:
                yield self._graded(row)
            after = rows[-1]["seq"]

    def attempt(self, run_id: str, attempt_id: str) -> GradedAttempt:
        """Return one attempt with its latest judgement. Raises StoreError."""
        seq = self._attempt_row(run_id, attempt_id)
        return self._graded(self._db.rows(f"{_GRADED} WHERE a.seq = :seq", {"seq": seq, "grader": None})[0])

    def steps(self, run_id: str, phase: str) -> list[int]:
        """Return the steps that have attempts made for a phase, in order."""
        sql = "SELECT DISTINCT step FROM attempts WHERE run_id = ? AND phase = ? ORDER BY step"
        return [row["step"] for row in self._db.rows(sql, (run_id, phase))]

    def require_phase(self, run_id: str, phase: str | None) -> None:
        """Raise UnknownIdError, with the phases there are, for a phase that none of the run's attempts was made for.

        None and a run without attempts pass: nothing is named wrongly there.
        """
        rows = self._db.rows("SELECT DISTINCT phase FROM attempts WHERE run_id = ?", (run_id,))
        known = [row["phase"] for row in rows]
        if phase is not None and known and phase not in known:
            raise UnknownIdError(f"run {run_id} has no attempts of phase {phase!r}{nearest(phase, known)}")

    def count_attempts(self, run_id: str, phase: str | None = None, step: int | None = None) -> int:
        """Return how many attempts `attempts` would yield, without reading them."""
        sql = """SELECT count(*) FROM attempts
            WHERE run_id = ?1 AND (?2 IS NULL OR phase = ?2) AND (?3 IS NULL OR step = ?3)"""
        return int(self._db.rows(sql, (run_id, phase, step))[0][0])

    def judgements(self, run_id: str, attempt_id: str) -> list[Judgement]:
        """Return every judgement of one attempt, the oldest first. Raises StoreError."""
        seq = self._attempt_row(run_id, attempt_id)
        rows = self._db.rows("SELECT * FROM judgements WHERE attempt = ? ORDER BY seq", (seq,))
        return [Judgement(**self._db.record(row["body"], f"judgement {row['seq']}"), at=row["at"]) for row in rows]

    def _insert_attempt(
        self,
        db: Transaction,
        run_id: str,
        phase: str,
        step: int,
        graded: GradedAttempt,
        digest: str,
        body: bytes,
    ) -> int:
        attempt, task = graded.attempt, graded.attempt.task
        sql = "SELECT seq, digest, phase, step FROM attempts WHERE run_id = ? AND attempt_id = ?"
        if known := db.execute(sql, (run_id, attempt.attempt_id)).fetchone():
            if known["digest"] != digest or (known["phase"], known["step"]) != (phase, step):
                raise StoreError(
                    f"attempt {attempt.attempt_id} of run {run_id} is already written (phase {known['phase']}, step "
                    f"{known['step']}) and this one differs; attempts never change. Give every attempt of a run its "
                    "own id, and use add_scores to grade one again"
                )
            return int(known["seq"])
        row = (run_id, attempt.attempt_id, phase, step, task.task_id, task.split, task.family, attempt.stop.value)
        inserted = db.execute(
            """INSERT INTO attempts (run_id, attempt_id, phase, step, task_id, split, family, stop, digest, body, at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING seq""",
            (*row, digest, body, now()),
        )
        return int(inserted.fetchone()["seq"])

    def _attempt_row(self, run_id: str, attempt_id: str) -> int:
        sql = "SELECT seq FROM attempts WHERE run_id = ? AND attempt_id = ?"
        rows = self._db.rows(sql, (run_id, attempt_id))
        if not rows:
            raise UnknownIdError(f"{self._db.name} has no attempt {attempt_id!r} in run {run_id!r}; see `flyball show`")
        return int(rows[0]["seq"])

    def _graded(self, row: Row) -> GradedAttempt:
        what = f"attempt {row['attempt_id']}"
        return GradedAttempt(self._db.record(row["body"], what), **self._db.record(row["judgement"], what))


def _pack_judgement(graded: GradedAttempt) -> bytes:
    body: dict[str, Any] = {
        "outcome": graded.outcome,
        "scores": graded.scores,
        "events": graded.events,
        "reward": graded.reward,
    }
    return records.pack(body)[1]


def _insert_judgement(db: Transaction, attempt: int, graded: GradedAttempt, body: bytes) -> None:
    latest = db.execute(
        "SELECT body FROM judgements WHERE attempt = ? ORDER BY seq DESC LIMIT 1", (attempt,)
    ).fetchone()
    if latest and latest["body"] == body:
        return
    outcome = graded.outcome
    db.execute(
        """INSERT INTO judgements (attempt, grader_version, success, safe, reward, body, at)
        VALUES (?, ?, ?, ?, ?, ?, ?)""",
        (
            attempt,
            outcome.grader_version,
            _column(outcome.success),
            _column(outcome.safe),
            _column(graded.reward),
            body,
            now(),
        ),
    )


def _column(value: float | Missing | None) -> float | None:
    """What can be searched for: NULL for a missing value, whose cause is in the body."""
    return None if value is None or isinstance(value, Missing) else float(value)
