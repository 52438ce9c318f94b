"""`flyball traces`: what gateways spooled is read, found, followed, taken out and taken in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flyball.store.formats import atif
from flyball.store.store import Store
from tests.store.served import call, report, session, spooled


@pytest.fixture
def home(tmp_path: Path) -> Path:
    spooled(
        tmp_path / "home" / "spool" / "0",
        ("call", call("c1")),
        ("call", call("c2", "s2", message={"role": "assistant", "content": "It is lost, sorry."}, arm="stable")),
        ("call", call("c3", "s3", status=502, problem="status 502", message=None)),
        ("session", session("c1")),
        ("feedback", report("r1", outcome=True)),
    )
    return tmp_path / "home"


@pytest.fixture
def traces(flyball: Callable[..., Any], home: Path) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        return flyball("traces", *arguments, "--home", str(home))

    assert "5 stored, 0 repeated, 0 in quarantine" in run("ingest").out
    return run


def test_calls_are_searched_by_text_and_by_what_they_are(traces: Callable[..., Any]) -> None:
    assert len(traces("search").out.splitlines()) == 4
    (_, found) = traces("search", "LOST").out.splitlines()
    assert "s2" in found and "It is lost, sorry." in found and "12+3" in found
    (_, failed) = traces("search", "--failed").out.splitlines()
    assert "s3" in failed and "502 status 502" in failed
    assert len(traces("search", "--arm", "stable").out.splitlines()) == 2
    assert len(traces("search", "--since", "2000-01-01").out.splitlines()) == 1
    assert len(traces("search", "--limit", "2").out.splitlines()) == 3


def test_the_last_calls_are_shown(traces: Callable[..., Any]) -> None:
    assert [line.split()[2] for line in traces("tail", "--once").out.splitlines()] == ["s1", "s2", "s3"]


def test_traces_go_out_and_come_in(traces: Callable[..., Any], home: Path) -> None:
    out = home / "traces.json"
    assert "2 traces" in traces("export", str(out), "--format", "atif").out
    assert [one.session for one in atif.read(out.read_bytes())] == ["s1", "s2"]
    come_in = ("import", str(out), "--format", "atif", "--project", "old")
    assert traces(*come_in).out == "2 traces, 2 new; 0 without an answer left out\n"
    assert traces(*come_in).out == "2 traces, 0 new; 0 without an answer left out\n"
    with Store(home) as store:
        assert len(list(store.calls(project="old"))) == 2


def test_an_export_makes_its_folder_and_never_takes_another_place(
    flyball: Callable[..., Any], traces: Callable[..., Any], tmp_path: Path
) -> None:
    deep = tmp_path / "new" / "deeper" / "traces.jsonl"
    assert "2 traces" in traces("export", str(deep), "--format", "jsonl").out
    home = str(tmp_path / "home")
    for target, form, wanted in ((deep, "parquet", "a folder"), (deep.parent, "jsonl", "a file")):
        refused = flyball("traces", "export", str(target), "--format", form, "--home", home)
        assert refused.code == 2
        assert f"{form} is written to {wanted}" in refused.err
    assert len(deep.read_text().splitlines()) == 2


def test_an_export_is_queried_with_sql(traces: Callable[..., Any], flyball: Callable[..., Any], home: Path) -> None:
    folder = home / "parquet"
    assert "3 calls, 1 sessions, 1 feedback" in traces("export", str(folder)).out
    traces("export", str(folder))  # again: the same days, whole
    done = flyball("traces", "query", str(folder), "SELECT arm, count(*) AS n FROM calls GROUP BY arm ORDER BY arm")
    assert [line.split() for line in done.out.splitlines()] == [["arm", "n"], ["canary", "2"], ["stable", "1"]]
    sql = "SELECT outcome, tokens_in, CAST(day AS VARCHAR) AS day FROM sessions"
    assert flyball("traces", "query", str(folder), sql).out.splitlines()[1].split() == ["True", "24", "1970-01-01"]
    refused = flyball("traces", "query", str(folder), "SELECT * FROM read_csv('/etc/passwd')")
    assert refused.code != 0 and "DuckDB refused the query" in refused.err


def test_what_was_said_is_erased_by_session_and_by_age(traces: Callable[..., Any]) -> None:
    about = ("--project", "shop", "--session", "s2", "--actor", "ana", "--reason", "asked for")
    assert traces("erase", *about).out == "1 of 1 bodies erased\n"
    assert "(erased or never kept)" in traces("search", "--session", "s2").out
    assert traces("expire", "--row-days", "99999").out == "0 bodies erased, 0 rows expired\n"
    # two answers and the tools of all; rows of 1970
    assert traces("expire", "--body-days", "0").out == "3 bodies erased, 5 rows expired\n"
    assert traces("search").out.splitlines()[1:] == []


def test_a_file_of_something_else_is_refused(traces: Callable[..., Any], home: Path) -> None:
    (home / "x.json").write_text(json.dumps({"hello": 1}))
    done = traces("import", str(home / "x.json"), "--format", "langfuse")
    assert done.code != 0 and "of 1 observations 0 are generations" in done.err


def test_a_command_that_found_nothing_to_work_on_fails(
    traces: Callable[..., Any], flyball: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = flyball("traces", "query", str(tmp_path / "empty"), "SELECT 1")
    assert done.code != 0 and "holds no export" in done.err
    done = traces("ingest", "--spools", str(tmp_path / "empty"))
    assert done.code == 2 and "no gateway has spooled anything" in done.err
    done = traces("erase", "--project", "shop", "--session", "s9", "--actor", "ana", "--reason", "asked for")
    assert done.code == 2 and "has no session 's9'" in done.err
