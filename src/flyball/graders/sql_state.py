"""`sql_state`: the database that an attempt left behind is the one it should be.

The exported state of the world holds tables (`{"orders": [{"id": 1, ...}, ...]}`) or is an SQL dump as text; it is
loaded into SQLite in memory. Tables are compared as sets of rows with repeats, queries by what they return, in order.
A query only reads, and is cut off when it does not end.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from flyball.graders.flags import NotGraded
from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.value import Value
from flyball.section import Names, Section
from flyball.types import Score

MAX_STEPS = 5_000_000
"""Instructions of SQLite that a dump or a query may take: about a second."""
_READS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)


class Query(Section):
    """A question to the end state. `expect` is a list of rows, each a list of values; templates are filled in."""

    sql: str = Field(min_length=1)
    expect: Any


class SqlState(GraderSpec):
    """1 when every named table and query is as expected, else 0.

    `key`: the field of the exported state that holds the database; unset = the state itself. `tables`: table to its
    rows, each a mapping. `ignore`: columns that are not compared, such as times and ids given by the database.
    """

    type: Literal["sql_state"]
    key: str | None = None
    tables: Mapping[str, Any] = Field(default_factory=dict)
    ignore: Names = ()
    queries: Annotated[tuple[Query, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _asks(self) -> SqlState:
        if not self.tables and not self.queries:
            raise ValueError("it expects nothing; give `tables` or `queries`")
        if self.ignore and not self.tables:
            raise ValueError("`ignore` would be ignored: no `tables` are compared")
        return self


class SqlStateGrader(SpecGrader[SqlState]):
    """Loads, asks, compares; the parts say which table or query was wrong."""

    decides = True

    def __init__(self, spec: SqlState) -> None:
        super().__init__(spec)
        where = f"grader {spec.name!r}"
        self._tables = {table: Value(rows, f"{where}, tables.{table}") for table, rows in spec.tables.items()}
        self._queries = [(query.sql, Value(query.expect, f"{where}, queries")) for query in spec.queries]

    async def judge(self, row: Row) -> Score:
        """Compare the end state. Raises NotGraded."""
        with closing(sqlite3.connect(":memory:")) as database:
            _load(database, self._state(row.attempt.state))
            database.set_authorizer(
                lambda action, *rest: sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY
            )
            wrong = {name: said for name, said in self._compared(database, row) if said}
            names = [*self.spec.tables, *(f"query {i}" for i in range(len(self._queries)))]
        value = float(not wrong)
        parts = {name: float(name not in wrong) for name in names}
        return Score(value, value, parts=parts, explanation="; ".join(f"{name}: {why}" for name, why in wrong.items()))

    def _state(self, state: Any) -> Any:
        if self.spec.key is None:
            return state
        if not isinstance(state, Mapping) or self.spec.key not in state:
            raise NotGraded("invalid_variable_error", f"the exported state has no {self.spec.key!r}; see export_state")
        return state[self.spec.key]

    def _compared(self, database: sqlite3.Connection, row: Row) -> list[tuple[str, str]]:
        found = [(table, self._table(database, table, rows.of(row))) for table, rows in self._tables.items()]
        for i, (sql, expect) in enumerate(self._queries):
            rows, wanted = _asked(database, sql), expect.of(row)
            if not isinstance(wanted, list) or not all(isinstance(one, list) for one in wanted):
                raise NotGraded("invalid_variable_error", f"query {i} expects {str(wanted)[:60]!r}, not a list of rows")
            same = [list(one) for one in rows] == [[_cell(cell) for cell in one] for one in wanted]
            found.append((f"query {i}", "" if same else f"{sql} gave {str(rows)[:120]}"))
        return found

    def _table(self, database: sqlite3.Connection, table: str, wanted: Any) -> str:
        """Say what is wrong with a table, nothing when it is right."""
        if not isinstance(wanted, list) or not all(isinstance(one, Mapping) for one in wanted):
            raise NotGraded("invalid_variable_error", f"tables.{table} is {str(wanted)[:60]!r}, not a list of rows")
        known = [name for (name,) in _asked(database, "SELECT name FROM sqlite_master WHERE type = 'table'")]
        if table not in known:
            return "" if not wanted else f"no such table; there are {', '.join(known) or 'none'}"
        cursor = database.execute(f"SELECT * FROM {_quoted(table)}")
        columns = [column[0] for column in cursor.description]
        has = Counter(self._key(dict(zip(columns, one, strict=True))) for one in cursor)
        should = Counter(self._key({name: _cell(cell) for name, cell in one.items()}) for one in wanted)
        lacks, extra = (should - has).total(), (has - should).total()
        return f"{lacks} rows missing, {extra} too many" if lacks or extra else ""

    def _key(self, row: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
        """A row as something to count: an empty cell is the same as none."""
        return frozenset(
            (name, cell) for name, cell in row.items() if name not in self.spec.ignore and cell is not None
        )


def _load(database: sqlite3.Connection, state: Any) -> None:
    """Fill the database. Raises NotGraded for a state that is neither tables nor a dump."""
    _bound(database)
    if isinstance(state, str):
        outside = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)
        database.set_authorizer(lambda action, *rest: sqlite3.SQLITE_DENY if action in outside else sqlite3.SQLITE_OK)
        try:
            database.executescript(state)
        except sqlite3.Error as error:
            raise NotGraded("invalid_variable_error", f"the exported state is no SQL dump: {error}") from None
    elif isinstance(state, Mapping) and all(_is_table(rows) for rows in state.values()):
        for table, rows in state.items():
            _fill(database, str(table), rows)
    else:
        what = f"the exported state is {type(state).__name__}, not tables of rows and no SQL dump"
        raise NotGraded("invalid_variable_error", f"{what}; see export_state, or name the field with `key`")


def _is_table(rows: Any) -> bool:
    return isinstance(rows, (list, tuple)) and all(isinstance(row, Mapping) for row in rows)


def _fill(database: sqlite3.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(str(name) for row in rows for name in row)) or ["empty"]
    names = ", ".join(_quoted(name) for name in columns)
    database.execute(f"CREATE TABLE {_quoted(table)} ({names})")
    holes = ", ".join("?" * len(columns))
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    database.executemany(f"INSERT INTO {_quoted(table)} VALUES ({holes})", cells)


def _asked(database: sqlite3.Connection, sql: str) -> list[tuple[Any, ...]]:
    _bound(database)
    try:
        return database.execute(sql).fetchall()
    except sqlite3.Error as error:
        raise NotGraded("other_error", f"{sql[:80]!r} cannot be asked: {error}; a query reads, and ends") from None


def _bound(database: sqlite3.Connection) -> None:
    """Count anew: the handler runs every 1000 instructions and its count is of one statement."""
    left = [MAX_STEPS // 1000]

    def spend() -> bool:
        left[0] -= 1
        return left[0] < 0

    database.set_progress_handler(spend, 1000)


def _cell(value: Any) -> Any:
    """A value as SQLite holds it: yes and no are 1 and 0, lists and mappings are JSON."""
    if isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, (int, float, str)):
        return value
    return json.dumps(value, sort_keys=True, default=str)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
