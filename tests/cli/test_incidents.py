"""`flyball incidents` from opening to close."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from flyball.store.store import Store
from tests.store.served import call, report, session, spooled


def test_an_incident_on_the_command_line(flyball: Callable[..., Any], tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "home"))
    Store(tmp_path / "home").close()

    def run(*arguments: str) -> Any:
        return flyball("incidents", *arguments, *home)

    assert run("open", "i1", "--reason", "wrong refunds", "--began", "40", "--by", "bob", "--now", "100").code == 0
    assert run("note", "i1", "set back", "--restored", "--by", "bob", "--now", "130").code == 0
    refused = run("close", "i1", "--by", "bob")
    assert refused.code == 4 and "no cause from ML, Platform, Product" in refused.err
    for role, name in (("ML", "mia"), ("Platform", "pat"), ("Product", "ada")):
        assert flyball("release", "owner", role, name, "ab" * 32, "--by", "root", *home).code == 0
        assert run("cause", "i1", "the tool changed", "--role", role, "--by", name).code == 0
    assert run("close", "i1", "--by", "bob").code == 0
    told = run("show", "i1").out
    assert "detected after 60 s, restored after 30 s" in told and "cause, ML: the tool changed" in told
    (_, row) = run("list").out.splitlines()
    assert row.split()[:3] == ["i1", "closed", "person"]


def test_the_dataset_of_an_incident_and_where_it_failed(flyball: Callable[..., Any], tmp_path: Path) -> None:
    """Sessions 0 to 9 are in the window, each with one call: the odd ones refund and fail, the even ones answer."""
    home = tmp_path / "home"
    refund = {"role": "assistant", "tool_calls": [{"id": "t", "function": {"name": "refund", "arguments": "{}"}}]}
    frames: list[tuple[Any, Any]] = []
    for i in range(12):
        at, name = 1000.0 + i, f"s{i}"
        frames.append(("call", call(f"c{i}", name, at=at, **({"message": refund} if i % 2 else {}))))
        frames.append(("session", session(f"c{i}", name, at=at)))
        if i != 8:  # nobody said how that one ended
            frames.append(("feedback", report(f"r{i}", name, call_id=f"c{i}", outcome=i % 2 == 0)))
    with Store(home) as store:
        assert store.ingest(spooled(tmp_path / "spool", *frames)).quarantined == 0
    at_home = ("--home", str(home))
    opened = ("--reason", "refunds", "--began", "1000", "--by", "bob", "--now", "1005")
    assert flyball("incidents", "open", "i1", *opened, *at_home).code == 0
    assert flyball("incidents", "note", "i1", "ok", "--restored", "--by", "bob", "--now", "1010", *at_home).code == 0
    lines = flyball("incidents", "show", "i1", *at_home).out.splitlines()
    worst, best = (line for line in lines if line.startswith("v2"))
    assert worst.split()[:5] == ["v2", "1", "refund", "100.0", "%"] and worst.endswith("n=5")
    assert best.split()[:5] == ["v2", "1", "(answer)", "0.0", "%"] and best.endswith("n=4"), "one has no label"
    assert flyball("incidents", "export", "i1", str(tmp_path / "out"), *at_home).code == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "sessions.jsonl").read_text().splitlines()]
    assert [row["session_id"] for row in rows] == [f"shop~s{i}" for i in range(10)]
    assert rows[1]["steps"] == [[1, "refund"]] and rows[1]["outcome"] is False and rows[8]["outcome"] is None
    assert {"cost_usd", "duration_ms", "policy_version", "tool_calls_count", "arm"} <= rows[0].keys()
    assert len((tmp_path / "out" / "timeline.jsonl").read_text().splitlines()) == 2
    again = flyball("incidents", "export", "i1", str(tmp_path / "out"), *at_home)
    assert again.code == 4 and "not an empty folder" in again.err
    table = tmp_path / "table"
    assert flyball("incidents", "export", "i1", str(table), "--format", "parquet", *at_home).code == 0
    assert {path.name for path in table.iterdir()} == {"sessions.parquet", "suspects.parquet", "timeline.parquet"}
    told = {path.stem: duckdb.sql(f"SELECT * FROM '{path}'") for path in table.iterdir()}
    columns = told["sessions"].columns
    found = [dict(zip(columns, row, strict=True)) for row in told["sessions"].fetchall()]
    assert [(one["session_id"], one["outcome"], json.loads(one["steps"]), one["at"]) for one in found] == [
        (row["session_id"], row["outcome"], row["steps"], row["at"]) for row in rows
    ]
    assert columns == list(rows[0]) and len(told["timeline"].fetchall()) == 2
    version, step, tool, failed = told["suspects"].fetchall()[0]
    assert (version, step, tool, json.loads(failed)["n"]) == ("v2", 1, "refund", 5)
    unknown = flyball("incidents", "export", "i2", str(tmp_path / "new"), *at_home)
    assert unknown.code == 4 and "no incident 'i2'" in unknown.err and not (tmp_path / "new").exists()
