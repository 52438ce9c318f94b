"""`flyball init`: a shipped example or a minimal working skeleton, copied into a new folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from flyball.errors import ConfigError, nearest

_PACKAGE = Path(__file__).resolve().parent.parent
SKELETON = _PACKAGE / "workflow" / "skeleton"
_LEFT_OUT = ("__pycache__", "*.pyc", ".flyball", "runs")


def examples_folder() -> Path:
    """Return the folder of examples: inside the wheel, or beside `src` in a checkout. Raises ConfigError."""
    for folder in (_PACKAGE / "examples", _PACKAGE.parent.parent / "examples"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"no examples beside {_PACKAGE}; install flyball from its wheel or a full checkout")


def examples() -> dict[str, Path]:
    """Return the shipped examples by name: those with a workflow to run, and programs that their README starts."""
    return {p.name: p for p in sorted(examples_folder().iterdir()) if (p / "README.md").is_file()}


def create(name: str, target: Path | None = None) -> Path:
    """Copy the example called `name`, or the skeleton, to `target` (default: a folder of that name here).

    Raises ConfigError when something already lies there, or when `name` is no example and no folder name.
    """
    found = examples()
    if name not in found and not name.replace("-", "_").isidentifier():
        raise ConfigError(f"{name!r} is neither an example nor a name for a folder{nearest(name, found)}")
    target = target or Path(name)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} already exists; name another folder: `flyball init {name} --to FOLDER`")
    try:
        shutil.copytree(
            found.get(name, SKELETON), target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_LEFT_OUT)
        )
    except OSError as exc:
        raise ConfigError(f"{target}: cannot be written: {exc}") from exc
    return target
