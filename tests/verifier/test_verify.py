"""The verifier finds every kind of tampering, nothing in an honest log, and imports nothing of ours."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from benchmarks.audit import TAMPERINGS, Log, honest_log

VERIFIER = Path(__file__).parents[2] / "verifier" / "flyball_verify.py"

SAYS = {
    "drop": "does not follow|calls itself|end was cut",
    "drop_and_rechain": "signs other entries",
    "reorder": "calls itself",
    "reorder_and_rechain": "signs other entries",
    "edit": "does not follow",
    "edit_and_rechain": "signs other entries",
    "wrong_key": "not signed by this key",
    "stale_checkpoint": "stale: .* entries after it are not signed",
    "old_checkpoint": "are allowed",
    "cut_end": "anchor 0 signs .* its end was cut",
    "fork": "anchor 0 signs other entries",
    "fork_in_one_log": "signs other entries",
    "forged_approval": "not signed by the approver's key",
    "longer_approval": "not signed by the approver's key",
    "approval_by_the_log": "proves no second person",
    "expired_approval": "had expired",
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return honest_log(tmp_path_factory.mktemp("honest"), Random(7))


def test_an_honest_log_verifies(log: Log, tmp_path: Path) -> None:
    report = log.check(tmp_path)
    assert report.problems == [] and report.approvals == 1
    assert report.entries == report.checkpoints == len(log.lines)


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found(log: Log, tmp_path: Path, kind: str) -> None:
    found = "\n".join(TAMPERINGS[kind](log, Random(3)).check(tmp_path).problems)
    assert found, f"{kind} was not found"
    assert re.search(SAYS[kind], found), found


def test_an_anchor_of_this_log_holds(log: Log, tmp_path: Path) -> None:
    assert replace(log, anchors=log.notes[:2]).check(tmp_path).problems == []


def test_it_imports_the_standard_library_and_cryptography_only() -> None:
    tree = ast.parse(VERIFIER.read_text(encoding="utf-8"))
    rooms = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }
    assert rooms - {"cryptography"} <= sys.stdlib_module_names


@pytest.mark.parametrize(("kind", "code"), [(None, 0), ("edit", 1)])
def test_the_command_line(log: Log, tmp_path: Path, kind: str | None, code: int) -> None:
    (log if kind is None else TAMPERINGS[kind](log, Random(1))).check(tmp_path)
    command = [sys.executable, str(VERIFIER), str(tmp_path), "--key", log.key.public]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert "A pass does not prove:" in done.stdout


def test_a_log_that_is_not_there(tmp_path: Path, log: Log) -> None:
    command = [sys.executable, str(VERIFIER), str(tmp_path / "no"), "--key", log.key.public]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "cannot verify" in done.stderr
