"""Parquet files by day, and SQL over them with DuckDB. Extra `analysis`.

    FOLDER/calls/day=2026-11-26/calls.parquet         one row a call: the facts, and the digest of what was said
    FOLDER/sessions/day=.../sessions.parquet          the minimum schema, with what came late
    FOLDER/feedback/day=.../feedback.parquet          late facts

Days are of UTC and of the gateway's clock. A day is written whole, beside its place and then renamed, so exporting
again gives the newest state and a reader never sees half a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from flyball.errors import StoreError
from flyball.store import failures
from flyball.store.served import Fact, ServedCall
from flyball.store.store import Store
from flyball.types import SessionRecord

try:
    import duckdb
    import pyarrow
    from pyarrow import parquet
except ModuleNotFoundError as error:
    raise StoreError(
        f"{error.name} is not installed; analysis needs the extra: pip install 'flyball[analysis]'"
    ) from error

_TYPES = {
    "int": pyarrow.int64(),
    "float": pyarrow.float64(),
    "bool": pyarrow.bool_(),
}
SUBJECTS: Mapping[str, type[Any]] = {"calls": ServedCall, "sessions": SessionRecord, "feedback": Fact}
_MORE = {"sessions": {"at": "float"}}
"""A session began at a time that is not of the minimum schema."""


def export_parquet(store: Store, folder: Path, *, project: str | None = None, since: float = 0.0) -> dict[str, int]:
    """Write the days since `since` (seconds since 1970) and return how many rows of each subject. Raises StoreError.

    A day that `since` cuts is written from there on: begin at midnight, UTC.
    """
    rows: dict[str, Iterable[Mapping[str, Any]]] = {
        "calls": (vars(call) for call in store.calls(project=project, since=since)),
        "sessions": (
            {**vars(one), "at": one.context["at"]} for one in store.served_sessions(project=project, since=since)
        ),
        "feedback": (vars(fact) for fact in store.feedback(project, since=since)),
    }
    return {subject: _write(folder / subject, subject, found) for subject, found in rows.items()}


def query(folder: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run SQL over an export and return the names of the columns and the rows. Raises StoreError.

    The tables are `calls`, `sessions` and `feedback`, each with a column `day`; one of which nothing was exported is
    not there.
    """
    if not any(any((folder / subject).glob("*/*.parquet")) for subject in SUBJECTS):
        raise StoreError(f"{folder} holds no export; write one with `flyball traces export {folder}`")
    with duckdb.connect() as connection:
        try:
            for subject in SUBJECTS:
                if any((folder / subject).glob("*/*.parquet")):
                    files = str(folder.resolve() / subject / "*" / "*.parquet")
                    connection.from_parquet(files, hive_partitioning=True, union_by_name=True).create_view(subject)
            # a query reads the export and nothing else
            connection.execute(f"SET allowed_directories = ['{str(folder.resolve()).replace(chr(39), chr(39) * 2)}']")
            connection.execute("SET enable_external_access = false")
            found = connection.execute(sql)
            return [column[0] for column in found.description or ()], found.fetchall()
        except duckdb.Error as error:
            raise StoreError(f"DuckDB refused the query over {folder}: {error}") from error


def _write(folder: Path, subject: str, rows: Iterable[Mapping[str, Any]]) -> int:
    days: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        days.setdefault(f"{datetime.fromtimestamp(row['at'], UTC):%Y-%m-%d}", []).append(row)
    for day, found in days.items():
        write_rows(folder / f"day={day}" / f"{subject}.parquet", SUBJECTS[subject], found, _MORE.get(subject, {}))
    return sum(map(len, days.values()))


def write_rows(path: Path, kind: type[Any], rows: Iterable[Mapping[str, Any]], more: Mapping[str, str]) -> None:
    """Write a file of rows: the fields of a dataclass and `more` columns, name -> type. Raises StoreError.

    Numbers and truth values are as they are, everything else is text; whatever may be unknown may be null.
    """
    types = {field.name: str(field.type).removesuffix(" | None") for field in dataclasses.fields(kind)} | dict(more)
    schema = pyarrow.schema([pyarrow.field(name, _TYPES.get(of, pyarrow.string())) for name, of in types.items()])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.Table.from_pylist([_flat(row) for row in rows], schema=schema)
        parquet.write_table(table, path.with_suffix(".partial"), compression="zstd")
        path.with_suffix(".partial").replace(path)
    except OSError as error:
        raise failures.from_os(path.parent, error) from error


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values as JSON text."""
    nested = (Mapping, list, tuple)
    return {name: orjson.dumps(value).decode() if isinstance(value, nested) else value for name, value in row.items()}
