"""The package as syntax trees: what the tests of this folder look at."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Source:
    """One file of the package. `place` is its path below `src/flyball`, `room` the folder or file of the design."""

    path: Path
    place: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.place.split("/")[0].removesuffix(".py")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    package = ROOT / "src" / "flyball"
    found = []
    for path in sorted(package.rglob("*.py")):
        if "skeleton" in path.parts:  # what `flyball init` writes: the user's code, not ours
            continue
        text = path.read_text(encoding="utf-8")
        found.append(Source(path, path.relative_to(package).as_posix(), text, ast.parse(text)))
    return found
