"""What holds for every test: skips fail under CI=true, and slow tests can be run a quarter at a time."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

ASKED_FOR = {"wasm", "podman"}
"""Marks of tests that need what is not installed for the others, and take minutes."""
CI = os.environ.get("CI") == "true"

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quarter", type=int, choices=(1, 2, 3, 4), help="run every fourth slow test, beginning here")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out those of `ASKED_FOR` unless `-m` asks for them, and with `--quarter` all slow ones but a quarter.

    A quarter is every fourth slow one, in order of name: the four quarters together are all of them.
    """
    unasked = ASKED_FOR - {config.option.markexpr}
    others = {item.nodeid for item in items if any(item.get_closest_marker(name) for name in unasked)}
    if quarter := config.getoption("--quarter"):
        slow = sorted(item.nodeid for item in items if item.get_closest_marker("slow"))
        others |= {nodeid for i, nodeid in enumerate(slow) if i % 4 != quarter - 1}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in others])
    items[:] = [item for item in items if item.nodeid not in others]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A quarter may be empty while slow tests are few; that is no failure."""
    if session.config.getoption("--quarter") and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return _refuse_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _refuse_skip(report)


def _refuse_skip(report: Report) -> Report:
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason}\nUnder CI=true a skip is a failure: install what this test needs."
    return report
