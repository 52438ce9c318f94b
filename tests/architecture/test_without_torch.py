"""The base install has no torch: what must work in it works, and what must not pull torch in does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Rooms of which every module is imported in a process that could import torch, and must not: those that somebody runs
# alone in a process of their own, and the rest together.
LIGHT_ROOMS = (
    "capture",
    "agent",
    "graders",
    "evals",
    "release",
    "reports",
    "gateway",
    "stats store rl tools tasks rollout",
)

ABSENT = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "gguf",
    "peft",
    "accelerate",
    "huggingface_hub",
    "llguidance",
)

# Runs first in a child process: makes it one in which the extra `train` is not installed.
WITHOUT_TRAIN = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""

IMPORT_ALL = """
import importlib, pkgutil
def import_all(room):
    package = importlib.import_module(f"flyball.{room}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""


def python(code: str, cwd: Path, *arguments: str) -> str:
    """Run code in a fresh interpreter away from the checkout; return what it printed."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_blocker_blocks(tmp_path: Path) -> None:
    code = WITHOUT_TRAIN + "\ntry:\n    import torch\nexcept ModuleNotFoundError:\n    print('absent')"
    assert python(code, tmp_path) == "absent\n"


@pytest.mark.parametrize("rooms", LIGHT_ROOMS)
def test_light_rooms_load_no_torch(rooms: str, tmp_path: Path) -> None:
    loaded = "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    code = IMPORT_ALL + f"import sys\nfor room in {rooms.split()}:\n    import_all(room)\n{loaded}"
    assert python(code, tmp_path) == "[]\n"


def test_light_rooms_import_without_the_train_extra(tmp_path: Path) -> None:
    rooms = " ".join(LIGHT_ROOMS).split()
    code = WITHOUT_TRAIN + IMPORT_ALL + f"for room in {rooms}:\n    import_all(room)\nprint('fine')"
    assert python(code, tmp_path) == "fine\n"


def test_import_flyball_is_light(tmp_path: Path) -> None:
    code = "import sys, flyball\nprint(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert python(code, tmp_path) == "[]\n"


def test_public_names_load_without_torch(tmp_path: Path) -> None:
    code = WITHOUT_TRAIN + "import flyball\nfor name in flyball.__all__:\n    getattr(flyball, name)\nprint('fine')"
    assert python(code, tmp_path) == "fine\n"


def test_help_needs_no_torch(tmp_path: Path) -> None:
    code = WITHOUT_TRAIN + "sys.argv = ['flyball', '--help']\nfrom flyball.cli.main import main\nmain()"
    assert "doctor" in python(code, tmp_path)


def test_statistics_need_no_torch(tmp_path: Path) -> None:
    code = WITHOUT_TRAIN + "from flyball.stats.binomial import wilson\nprint(round(wilson(8, 10).low, 3))"
    assert python(code, tmp_path) == "0.49\n"


REPORT = """
from flyball.reports.run_page import Highlight, RunPage, run_page_html
from flyball.stats.binomial import wilson
page = RunPage("Help desk", "run-1", "2026-01-01", highlights=(Highlight("success", wilson(8, 10)),))
print(run_page_html(page))
"""


def test_reports_need_no_torch(tmp_path: Path) -> None:
    printed = python(WITHOUT_TRAIN + REPORT, tmp_path)
    assert printed.lower().startswith("<!doctype html>") and "Help desk" in printed


@pytest.mark.slow
def test_base_install_in_a_new_environment(root: Path, tmp_path: Path) -> None:
    """A wheel with base dependencies only, in an environment of its own: no torch, help works, examples are there."""
    venv = tmp_path / "venv"
    checkout = tmp_path / "checkout"
    keep = ("src", "examples", "pyproject.toml", "README.md", "LICENSE")
    for name in keep:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, checkout / name)
    environment = {**os.environ, "PIP_CONSTRAINT": (root / "constraints.txt").as_uri()}
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/pip", "install", "-qq", checkout], check=True, env=environment, timeout=600)
    absent = subprocess.run([venv / "bin/python", "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in absent.stderr
    helped = subprocess.run([venv / "bin/flyball", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert helped.returncode == 0 and "doctor" in helped.stdout, helped.stderr
    written = subprocess.run([venv / "bin/flyball", "init", "helpdesk"], cwd=tmp_path, capture_output=True, text=True)
    assert written.returncode == 0 and (tmp_path / "helpdesk" / "workflow.yaml").is_file(), written.stderr
