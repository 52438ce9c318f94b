"""The database is opened safely, or refused with the path and the way out."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from flyball.errors import StoreError
from flyball.store import database
from flyball.store.audit import Act
from flyball.store.schema import MIGRATIONS
from flyball.store.sqlite import SqliteDatabase
from flyball.store.store import Store
from flyball.types import GradedAttempt

Graded = Callable[..., GradedAttempt]


@pytest.fixture
def closed(tmp_path: Path, graded: Graded) -> Path:
    """The database file of a closed store with one run of 60 attempts."""
    with Store(tmp_path) as store:
        run_id = store.new_run("train", {})
        store.add_attempts(run_id, "rl", 0, [graded(f"a{i}") for i in range(60)])
    return tmp_path / "flyball.db"


def test_every_commit_waits_for_the_disk(sqlite: Store, postgres: str, tmp_path: Path) -> None:
    assert sqlite._db.rows("PRAGMA journal_mode")[0][0] == "wal"
    assert sqlite._db.rows("PRAGMA synchronous")[0][0] == 2  # FULL
    with Store(tmp_path / "other", database=postgres) as other:
        assert [other._db.rows(f"SHOW {name}")[0][0] for name in ("synchronous_commit", "fsync")] == ["on", "on"]


def test_the_schema_has_the_version_of_its_migrations(store: Store) -> None:
    assert [row["name"] for row in store._db.rows("SELECT * FROM migrations")] == [name for name, _ in MIGRATIONS]


def test_a_store_can_be_opened_again(closed: Path) -> None:
    with Store(closed.parent) as store:
        assert store.count_attempts(store.runs()[0].run_id) == 60


def test_an_older_schema_is_migrated_with_its_rows(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = ("notes", ("CREATE TABLE notes (text TEXT)", "INSERT INTO notes VALUES ('from v1')"))
    monkeypatch.setattr(database, "MIGRATIONS", (*MIGRATIONS, second))
    for _ in range(2):
        with Store(closed.parent) as store:
            assert [row["text"] for row in store._db.rows("SELECT text FROM notes")] == ["from v1"]
            assert store.count_attempts(store.runs()[0].run_id) == 60


def test_migrations_are_added_never_edited(sqlite: Store) -> None:
    """Their digests as they were when they were written: a change of the schema is another entry at the end of both."""
    statements = [[sql for one in part for sql in sqlite._db._ddl(one)] for _, part in MIGRATIONS]
    digests = [hashlib.sha256("\n".join(part).encode()).hexdigest()[:12] for part in statements]
    assert digests == ["2e2db6e9f723", "35a0f95e594f", "b5adff602e4e", "4ea8798b4887", "c8e3f4701c1d", "2dc99dad9bd9"]


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_every_schema_there_was_is_brought_up_to_date(
    tmp_path: Path,
    graded: Graded,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    version: int,
    database_kind: str,
) -> None:
    address = request.getfixturevalue("postgres") if database_kind == "postgresql" else None
    with monkeypatch.context() as earlier:
        earlier.setattr(database, "MIGRATIONS", MIGRATIONS[:version])
        with Store(tmp_path, database=address) as store:
            run_id = store.new_run("train", {})
            store.add_attempts(run_id, "rl", 0, [graded(f"a{i}") for i in range(3)])
    with Store(tmp_path, database=address) as store:
        assert [row["name"] for row in store._db.rows("SELECT * FROM migrations")] == [name for name, _ in MIGRATIONS]
        assert [one.attempt.attempt_id for one in store.attempts(run_id)] == ["a0", "a1", "a2"]
        store.add_route(1, "r1", "{}", Act(action="route", actor="flyball", at=2.0, subject="r1"))
        store.request_approval("s", "c", "refund", "{}", "2999-01-01T00:00:00+00:00")
        assert store.served_sessions() == []


def test_a_migration_that_fails_changes_nothing(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = ("broken", ("CREATE TABLE notes (text TEXT)", "INSERT INTO nowhere VALUES (1)"))
    monkeypatch.setattr(database, "MIGRATIONS", (*MIGRATIONS, second))
    with pytest.raises(StoreError, match="nowhere"):
        Store(closed.parent)
    monkeypatch.undo()
    with Store(closed.parent) as store:
        assert not store._db.rows("SELECT 1 FROM sqlite_master WHERE name = 'notes'")


def test_a_newer_schema_is_refused(closed: Path) -> None:
    with contextlib.closing(sqlite3.connect(closed)) as other, other:
        other.execute("INSERT INTO migrations (name, at) VALUES ('from the future', '')")
    newest = len(MIGRATIONS)
    says = rf"flyball\.db has schema version {newest + 1}, this flyball knows {newest}.*Upgrade flyball"
    with pytest.raises(StoreError, match=says):
        Store(closed.parent)


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "flyball.db"
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="of another program; choose another store folder"):
        Store(tmp_path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(closed: Path) -> None:
    closed.write_bytes(b"this is not a database, " * 1000)
    with pytest.raises(StoreError, match=r"flyball\.db is damaged\. Restore .*flyball\.db \.recover"):
        Store(closed.parent)


def test_damaged_pages_are_told_not_read(closed: Path) -> None:
    """Whatever page is overwritten, reading ends in an error or in exactly what was written."""
    sound = closed.read_bytes()
    page = 4096
    told = 0
    for start in range(page, len(sound), page):
        closed.write_bytes(sound[:start] + b"\xa5" * page + sound[start + page :])
        try:
            with Store(closed.parent) as store:
                (run,) = store.runs()
                assert len(list(store.attempts(run.run_id))) == 60
        except StoreError as error:
            told += 1
            assert "flyball.db" in str(error)
    assert told > 0


def test_a_damaged_record_names_the_attempt(closed: Path) -> None:
    with Store(closed.parent) as store:
        (row,) = store._db.rows("SELECT body FROM attempts WHERE attempt_id = 'a7'")
        run_id = store.runs()[0].run_id
    content = closed.read_bytes()
    at = content.find(row["body"][:-8])
    assert at > 0
    position = at + 40
    closed.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
    with Store(closed.parent) as store, pytest.raises(StoreError, match=r"flyball\.db, attempt a\d+: .* damaged"):
        list(store.attempts(run_id))


def test_a_database_held_by_another_is_told(tmp_path: Path) -> None:
    path = tmp_path / "flyball.db"
    mine, theirs = SqliteDatabase(path), SqliteDatabase(path, busy_seconds=0.05)
    with (
        mine.write(),
        pytest.raises(StoreError, match=r"held by another process.*a store folder of its own"),
        theirs.write(),
    ):
        pass
    with theirs.write():
        pass
    mine.close()
    theirs.close()


def test_a_server_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"postgresql://127\.0\.0\.1:1/desk cannot be used (?s:.*)check that the server"
    ) as told:
        Store(tmp_path, database="postgresql://ana:secret@127.0.0.1:1/desk?connect_timeout=2")
    assert "secret" not in str(told.value)
    with pytest.raises(StoreError, match="is no address of PostgreSQL"):
        Store(tmp_path, database="mysql://somewhere/desk")


def test_a_connection_that_broke_is_opened_again(tmp_path: Path, postgres: str) -> None:
    with Store(tmp_path, database=postgres) as store:
        run_id = store.new_run("train", {})
        (mine,) = store._db.rows("SELECT pg_backend_pid()")
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", tuple(mine))
        with pytest.raises(StoreError, match="cannot be used"):
            store.runs()
        assert [run.run_id for run in store.runs()] == [run_id]


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.runs()
