"""What is shipped: the package, its typing mark and the examples, and nothing that a run left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path


def test_wheel_ships_the_package_and_the_examples(root: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("src", "examples"):
        shutil.copytree(root / name, checkout / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(root / name, checkout / name)
    (checkout / "examples" / "helpdesk" / "runs" / "1").mkdir(parents=True)
    (checkout / "examples" / "helpdesk" / "runs" / "1" / "flyball.db").write_bytes(b"a run's store")

    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    done = subprocess.run(build, cwd=checkout, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    assert {"flyball/__init__.py", "flyball/py.typed", "flyball/examples/helpdesk/workflow.yaml"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    left_behind = [name for name in names if "/runs/" in name or "__pycache__" in name]
    assert not left_behind, f"left behind by runs, and shipped: {left_behind}"
