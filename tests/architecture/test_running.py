"""How the tests themselves are run: a skip fails under CI=true, and four quarters of the slow tests make the whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPING = """
import pytest
def test_runs(): pass
@pytest.mark.skipif(True, reason="no chromium here")
def test_skips(): pass
@pytest.mark.xfail(reason="known", strict=True)
def test_known(): assert False
"""
SKIPPED_FILE = "import pytest\npytest.importorskip('no_such_package')\n"
SLOW = "import pytest\ndef test_fast(): pass\n" + "".join(
    f"@pytest.mark.slow\ndef test_slow_{i}(): pass\n" for i in range(3)
)


@pytest.fixture
def run_pytest(root: Path, tmp_path: Path):
    shutil.copy(root / "tests" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: slow\n")

    def run(ci: bool, *arguments: str) -> tuple[int, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment["CI"] = "true" if ci else ""
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout

    return run


def test_a_skip_is_a_failure_under_ci_only(run_pytest, tmp_path: Path) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    code, printed = run_pytest(False)
    assert code == 0 and "1 passed, 1 skipped, 1 xfailed" in printed
    code, printed = run_pytest(True)
    assert code == 1 and "1 passed, 1 xfailed, 1 error" in printed
    assert "no chromium here" in printed and "Under CI=true a skip is a failure" in printed


def test_a_skipped_file_is_an_error_under_ci_only(run_pytest, tmp_path: Path) -> None:
    (tmp_path / "test_skipped.py").write_text(SKIPPED_FILE)
    code, printed = run_pytest(False)
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED and "1 skipped" in printed
    code, printed = run_pytest(True)
    assert code not in (0, pytest.ExitCode.NO_TESTS_COLLECTED) and "no_such_package" in printed


def test_quarters_share_out_the_slow_tests(run_pytest, tmp_path: Path) -> None:
    """Three slow tests: a quarter is empty, which is no failure, under pytest-xdist neither."""
    (tmp_path / "test_slow.py").write_text(SLOW)
    ran = []
    for quarter in "123":
        code, printed = run_pytest(True, "-m", "slow", "--quarter", quarter)
        assert code == 0
        ran += re.findall(r"::(test_\w+) PASSED", printed)
    assert sorted(ran) == ["test_slow_0", "test_slow_1", "test_slow_2"]
    code, printed = run_pytest(True, "-m", "slow", "--quarter", "4", "-n", "1")
    assert code == 0 and "PASSED" not in printed
