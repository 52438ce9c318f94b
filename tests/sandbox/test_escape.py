"""Nothing gets out, on any rung that this host has, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import flyball

PACKAGE = Path(flyball.__file__).parent
HERE = Path(__file__).parent
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
SYSTEM_PYTHON = "/usr/bin/python3"
"""The interpreter of an ordinary user: ours may lie in a folder of root's."""


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """The sandbox and the attempts in a folder that everybody may read."""
    with tempfile.TemporaryDirectory(prefix="flyball-escape-") as made:
        folder = Path(made)
        (folder / "flyball").mkdir()
        for name in ("__init__.py", "errors.py"):
            shutil.copy(PACKAGE / name, folder / "flyball")
        shutil.copytree(PACKAGE / "sandbox", folder / "flyball" / "sandbox")
        for name in ("attempts.py", "escape.py"):
            shutil.copy(HERE / name, folder)
        (folder / "home").mkdir()
        (folder / "home").chmod(0o777)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
        yield folder


def escapes(rung: str, folder: Path, start: list[str]) -> dict[str, object]:
    answers = [str(PACKAGE / "errors.py"), str(Path(__file__))]
    env = {"PYTHONPATH": str(folder), "HOME": str(folder / "home"), "PATH": os.environ["PATH"], "TMPDIR": "/tmp"}
    ran = subprocess.run(
        [*start, str(folder / "escape.py"), rung, *answers],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("user", ["this user", "ordinary user"])
@pytest.mark.parametrize("rung", ["bubblewrap", "landlock", pytest.param("podman", marks=pytest.mark.podman)])
def test_every_attempt_is_held(rung: str, user: str, readable: Path) -> None:
    if user == "ordinary user" and os.getuid() != 0:
        start = [sys.executable]  # the same as this user: run again, which harms nothing
    else:
        start = [sys.executable] if user == "this user" else [*NOBODY, SYSTEM_PYTHON]
    report = escapes(rung, readable, start)
    if "lacks" in report:
        pytest.skip(f"{rung} as {user}: {report['lacks']}")
    assert report == {"findings": {}}


REAL = (
    *("tcp_to_loopback", "udp_to_loopback", "unix_socket_of_the_host", "abstract_socket_of_the_host", "listening"),
    *("reading_a_secret", "reading_the_answers", "secret_through_a_symbolic_link", "secret_through_a_hard_link"),
    *("secret_through_proc", "secret_through_dots", "changing_what_is_fixed", "memory_of_the_host"),
    *(
        "signals_to_the_outside",
        "environment_of_other_processes",
        "privileges_of_programs",
        "memory_that_is_counted_nowhere",
    ),
    *("shared_memory_of_the_host", "descriptors_of_other_processes", "nested_namespaces", "a_terminal"),
)
"""Attempts that need no more than an ordinary user's rights, and leave the host as it was."""
NOT_EVERYWHERE = {"nested_namespaces", "a_terminal", "descriptors_of_other_processes", "memory_of_the_host"}
"""What a host may refuse by itself."""


def test_without_a_sandbox_the_attempts_get_out(readable: Path) -> None:
    """The attempts are real: what the rungs hold goes through where nothing holds it."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1].rpartition('/')[0]);"
        "import escape, flyball.sandbox.sandbox as s;"
        "escape.RUNGS = (s.UNSAFE,); escape.lack = lambda r: None;"
        f"print(json.dumps(escape.main('unsafe', sys.argv[3:], {REAL})))"
    )
    start = [sys.executable] if os.getuid() != 0 else [*NOBODY, SYSTEM_PYTHON]
    report = escapes("unsafe", readable, [*start, "-c", program])
    findings = report["findings"]
    assert isinstance(findings, dict) and set(REAL) - set(findings) <= NOT_EVERYWHERE, findings
