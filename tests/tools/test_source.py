"""Digests of code."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flyball.tools.source import UNREAD, source_digest


def above(limit: float) -> Callable[[float], bool]:
    def judge(value: float) -> bool:
        return value > limit

    return judge


def test_same_code_same_digest() -> None:
    assert source_digest(above) == source_digest(above)
    assert len(source_digest(above)) == 64


def test_bound_values_are_part_of_the_code() -> None:
    assert source_digest(above(1.0)) != source_digest(above(2.0))
    assert source_digest(functools.partial(above, 1.0)) != source_digest(functools.partial(above, 2.0))
    assert source_digest(functools.partial(above, limit=1.0)) != source_digest(functools.partial(above, limit=2.0))


def test_objects_with_addresses_do_not_change_the_digest() -> None:
    def make(thing: object) -> Callable[[], object]:
        return lambda: thing

    assert source_digest(make(object())) == source_digest(make(object()))


def test_a_source_that_cannot_be_read_is_marked() -> None:
    scope: dict[str, Callable[[], int]] = {}
    exec("def built(): return 1", scope)
    assert source_digest(scope["built"]).startswith(UNREAD)
    assert source_digest(len).startswith(UNREAD) and source_digest(len) != source_digest(max)


HELPERS = """
import os

GOAL = 0.5
PORT = os.environ.get("PORT")


def inner(x):
    return x > GOAL
"""
JUDGE = """
import helpers_of_judge as h
from helpers_of_judge import inner


def success(x):
    return inner(x) and h.PORT


class World:
    def look(self):
        return h.inner(1)


RULES = {
    "cut off": lambda x: h.inner(x),
}
"""


def digests(folder: Path, helpers: str) -> list[str]:
    """Of a function, a class and a lambda inside an expression, in a process that imports the helpers."""
    (folder / "helpers_of_judge.py").write_text(helpers)
    (folder / "judge.py").write_text(JUDGE)
    code = "import judge; from flyball.tools.source import source_digest as d\n"
    code += "print(*map(d, (judge.success, judge.World, *judge.RULES.values())))"
    paths = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_a_changed_helper_or_constant_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(tmp_path, HELPERS)
    for changed in (HELPERS.replace("0.5", "0.6"), HELPERS.replace("x > GOAL", "x >= GOAL")):
        assert all(map(str.__ne__, digests(tmp_path, changed), before))
    unused = HELPERS + "\n\ndef unused():\n    return 1\n"
    assert digests(tmp_path, unused) == before == digests(tmp_path, HELPERS.replace("return x", "# why\n    return x"))
    monkeypatch.setenv("PORT", "1234")
    assert digests(tmp_path, HELPERS) == before
