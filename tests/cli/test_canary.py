"""`flyball canary`: the table, the verdict with its exit code, and files that are refused with their line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import orjson
import pytest

from flyball.cli.main import invoke
from tests.release.canary.conftest import traffic

PLAN = "owner: ada\nlabel_deadline: 3600\ncost_cap: 0.15\n"


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def write(path: Path, sessions) -> Path:
    path.write_bytes(b"\n".join(orjson.dumps(dataclasses.asdict(s)) for s in sessions))
    return path


def test_the_table_is_printed_with_the_split(plan_file: Path, capsys) -> None:
    assert invoke(["canary", "plan", str(plan_file), "--base", "0.8", "--per-day", "2000"]) == 0
    said = capsys.readouterr().out
    assert "5 % canary and 5 % holdback show a drop of 10 points within 28 days" in said
    assert "sessions per arm (median)" in said and len(said.splitlines()) == 8


@pytest.mark.parametrize(
    ("n", "harm", "code", "word"), [(8000, 0.0, 0, "ready"), (100, 0.0, 3, "not_yet"), (3000, 0.3, 1, "rolling_back")]
)
def test_sessions_are_judged(plan_file: Path, tmp_path: Path, capsys, n, harm, code, word) -> None:
    sessions = write(tmp_path / "sessions.jsonl", traffic(n, drop=harm))
    assert invoke(["canary", "judge", str(plan_file), str(sessions), "--now", "1e9"]) == code
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"verdict: {word}" and "success (Product)" in said and f"n={n // 6}" not in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"session_id": "a"', "sessions.jsonl:1: the line: Invalid JSON"),
        ('{"session_id": "a"}', "sessions.jsonl:1: key: "),
        ('{"session_id": "a", "key": "a", "arm": "stable", "assigned_at": 0}', "sessions.jsonl:1: arm: "),
        (
            '{"session_id": "a", "key": "a", "arm": "canary", "assigned_at": 0, "cost": 1}',
            "unknown field 'cost'; did you mean 'cost_usd'?",
        ),
        (
            '{"session_id": "a", "key": "a", "arm": "canary", "assigned_at": 0}\n' * 2,
            "sessions.jsonl:2: session 'a' is there already",
        ),
        ("\n", "holds no session"),
    ],
)
def test_a_bad_line_is_named(plan_file: Path, tmp_path: Path, capsys, line, says) -> None:
    path = tmp_path / "sessions.jsonl"
    path.write_text(line)
    assert invoke(["canary", "judge", str(plan_file), str(path), "--now", "0"]) == 4
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("owner: ada\nstage: [0.1]", "unknown field 'stage'; did you mean 'stages'?"),
        ("label_deadline: 1", "owner: "),
        ("owner: ada\nhorizon: soon", "horizon: "),
        ("- owner", "a plan is a mapping such as `owner: ada`, this is a list"),
        ("", "this is an empty file"),
        ("owner: [", "is no YAML"),
        ("owner: ada\nharm: 0.01", "within what is tolerated"),
        ("owner: ada\nharm: 0.9", "more than all the success there is (0.8)"),
        ("owner: ada\nharm: .nan", "harm nan is a drop of success in points of 1"),
        ("owner: ada\nharm: 10", "harm 10 is a drop of success in points of 1"),
        ("owner: ada\nhorizon: .nan", "horizon nan must be a finite number above 0"),
        ("owner: ada\ncost_cap: .inf", "cost_cap inf must be a finite number above 0"),
        ("owner: ada\nstage_seconds: -1", "stage_seconds -1 must be a finite number"),
        ("owner: ada\nstages: [0.1, .nan]", "0.5 is the most"),
        ("owner: ada\nlatency: {tolerated: 0.1, excluded: .inf}", "margin 0.1 to inf"),
    ],
)
def test_a_bad_plan_is_named(tmp_path: Path, capsys, text, says) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    assert invoke(["canary", "plan", str(path), "--base", "0.8", "--per-day", "2000"]) == 4
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "per_day"), [("nan", "2000"), ("1", "2000"), ("0.8", "nan"), ("0.8", "inf"), ("0.8", "0")]
)
def test_traffic_that_is_none_is_refused(plan_file: Path, capsys, base: str, per_day: str) -> None:
    assert invoke(["canary", "plan", str(plan_file), "--base", base, "--per-day", per_day]) == 4
    said = capsys.readouterr().err
    assert "traffic is finite and above 0" in said and "fault: what was given" in said


@pytest.mark.parametrize("now", ["nan", "inf"])
def test_a_look_at_no_time_is_refused(plan_file: Path, tmp_path: Path, capsys, now: str) -> None:
    sessions = write(tmp_path / "sessions.jsonl", traffic(4))
    assert invoke(["canary", "judge", str(plan_file), str(sessions), "--now", now]) == 4
    assert "the clock of the sessions" in capsys.readouterr().err
