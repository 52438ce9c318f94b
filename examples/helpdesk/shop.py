"""The shop's database: real SQLite, one immutable in-memory base per snapshot, copied at an attempt's first write.

Reads of attempts that have written nothing share the base, so a reset costs a cache hit. Calls may come from any
thread; a lock per connection serialises them.
"""

from __future__ import annotations

import sqlite3
import threading
from functools import lru_cache
from typing import Any

from stock import Snapshot, snapshot

SCHEMA = """
CREATE TABLE customers(email TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE addresses(order_id TEXT PRIMARY KEY, address TEXT NOT NULL);
CREATE TABLE orders(order_id TEXT PRIMARY KEY, email TEXT NOT NULL REFERENCES customers, item TEXT NOT NULL,
                    qty INTEGER NOT NULL, unit_cents INTEGER NOT NULL, status TEXT NOT NULL, note TEXT NOT NULL);
CREATE TABLE shipments(order_id TEXT PRIMARY KEY, carrier TEXT NOT NULL, days INTEGER NOT NULL);
CREATE TABLE payments(order_id TEXT NOT NULL, position INTEGER NOT NULL, cents INTEGER NOT NULL);
CREATE TABLE refunds(order_id TEXT NOT NULL, cents INTEGER NOT NULL);
CREATE TABLE escalations(order_id TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE articles(topic TEXT PRIMARY KEY, text TEXT NOT NULL);
"""


class _Base:
    """A read-only database with its lock and the state it starts from."""

    def __init__(self, stock: Snapshot) -> None:
        self.stock = stock
        self.lock = threading.Lock()
        self.connection = sqlite3.connect(":memory:", check_same_thread=False)
        _fill(self.connection, stock)
        self.connection.execute("PRAGMA query_only = ON")


@lru_cache(maxsize=512)
def _base(name: str) -> _Base:
    return _Base(snapshot(name))


def _fill(db: sqlite3.Connection, stock: Snapshot) -> None:
    db.executescript(SCHEMA)
    with db:
        db.executemany(
            "INSERT INTO customers VALUES(?, ?)", [(e, e.split("@")[0]) for e in (stock.sender, stock.other)]
        )
        db.executemany("INSERT INTO articles VALUES(?, ?)", [(topic, text) for topic, text, _ in stock.articles])
        for o in stock.orders:
            row = (o.order_id, o.email, o.item, o.qty, o.unit_cents, o.status, o.note)
            db.execute("INSERT INTO orders VALUES(?, ?, ?, ?, ?, ?, ?)", row)
            db.execute("INSERT INTO addresses VALUES(?, ?)", (o.order_id, o.address))
            db.execute("INSERT INTO shipments VALUES(?, ?, ?)", (o.order_id, o.carrier, o.days))
            payments = [(o.order_id, i, cents) for i, cents in enumerate(o.charges)]
            db.executemany("INSERT INTO payments VALUES(?, ?, ?)", payments)


class Shop:
    """One attempt's view of a snapshot."""

    def __init__(self, base: _Base) -> None:
        self._base = base
        self._db = base.connection
        self._lock = base.lock
        self._written = False

    @classmethod
    def copy_of(cls, name: str) -> Shop:
        """A private copy, made when something is first written. Raises ValueError for an unknown kind of name."""
        return cls(_base(name))

    @property
    def stock(self) -> Snapshot:
        """What the snapshot held before any write."""
        return self._base.stock

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def write(self, sql: str, *values: Any) -> None:
        if not self._written:
            self._become_own_copy()
        with self._lock, self._db:
            self._db.execute(sql, values)

    def _become_own_copy(self) -> None:
        copy = sqlite3.connect(":memory:", check_same_thread=False)
        with self._base.lock:
            self._base.connection.backup(copy)
        self._db, self._lock, self._written = copy, threading.Lock(), True

    def changes(self) -> dict[str, Any]:
        """What differs from the snapshot, in a fixed order: cancelled orders, new addresses, refunds, escalations."""
        state: dict[str, Any] = {"cancelled": [], "addresses": {}, "refunds": [], "escalations": []}
        if not self._written:
            return state
        stock = self.stock
        for order_id, status, address in self.rows(
            "SELECT order_id, status, address FROM orders JOIN addresses USING(order_id) ORDER BY order_id"
        ):
            before = stock.order(order_id)
            if status != before.status:
                state["cancelled"].append(order_id)
            if address != before.address:
                state["addresses"][order_id] = address
        state["refunds"] = [list(r) for r in self.rows("SELECT order_id, cents FROM refunds ORDER BY order_id, cents")]
        state["escalations"] = [
            list(r) for r in self.rows("SELECT order_id, reason FROM escalations ORDER BY order_id, rowid")
        ]
        return state

    def close(self) -> None:
        if self._written:
            self._db.close()
