"""Rungs of other hosts: what they tell the programs that hold code in, and that none is used unasked."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

from flyball.errors import SandboxError
from flyball.sandbox import sandbox as module
from flyball.sandbox.confined import limited
from flyball.sandbox.container import Container, arguments, call_filter, skeleton
from flyball.sandbox.files import sandbox_folder
from flyball.sandbox.inside.seccomp import ALWAYS, NEW_NAMESPACES
from flyball.sandbox.job import MIB, Bounds, End, Job
from flyball.sandbox.sandbox import CHOICE, NAMED, RUNGS, Rung, Sandbox, find_sandbox, lack
from flyball.sandbox.seatbelt import Seatbelt, profile
from flyball.sandbox.view import View

SEEN = View((Path("/usr"),), (Path("/usr/lib/hidden"),), ((Path("/bin"), "usr/bin"),), ())
BOUNDS = Bounds(seconds=2.5, cpu_seconds=7, memory_bytes=256 * MIB, processes=9, disk_bytes=8 * MIB)


def values(argv: list[str], option: str) -> list[str]:
    return [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == option]


@pytest.mark.parametrize("program", ["docker", "podman"])
def test_a_container_gets_nothing_that_is_not_named(program: str) -> None:
    argv = arguments(program, "one", "image", SEEN, Path("/job"), BOUNDS, (65534, 65534))
    assert values(argv, "--network") == ["none"] and values(argv, "--cap-drop") == ["ALL"] and "--read-only" in argv
    assert values(argv, "--security-opt") == ["no-new-privileges", "seccomp=/job/calls.json"]
    assert values(argv, "--user") == ["65534:65534"]
    assert values(argv, "--pids-limit") == ["10"], "nine, and the one that watches the time"
    assert values(argv, "--memory") == values(argv, "--memory-swap") == [str(256 * MIB)]
    assert {"cpu=7:7", f"fsize={8 * MIB}:{8 * MIB}", "nofile=256:256", "core=0:0"} <= set(values(argv, "--ulimit"))
    written = [mount for mount in values(argv, "--volume") if not mount.endswith(":ro")]
    assert written == ["/job/work:/sandbox/work:rw", "/job/tmp:/sandbox/tmp:rw"]
    assert values(argv, "--tmpfs")[0].startswith("/usr/lib/hidden:ro,")
    inside = argv[argv.index("image") + 1 :]
    assert inside[:2] == ["env", "-i"], "nothing of the program's own environment"
    assert inside[inside.index("timeout") :][:4] == ["timeout", "--signal", "KILL", "4"]
    assert f"ulimit -v {256 * 1024}" in inside[-2]


def test_the_image_holds_links_and_empty_folders_alone() -> None:
    with tarfile.open(fileobj=io.BytesIO(skeleton(SEEN))) as archive:
        entries = {entry.name: entry for entry in archive}
    assert entries["bin"].linkname == "usr/bin" and entries["tmp"].linkname == "sandbox/tmp"
    assert not any(entry.isfile() for entry in entries.values())


def test_a_container_is_denied_the_calls_of_the_other_rungs() -> None:
    calls = json.loads(call_filter())
    whole = {name for rule in calls["syscalls"] if "args" not in rule for name in rule["names"]}
    assert whole == {*ALWAYS, "clone3"}
    flags = [rule["args"][0]["value"] for rule in calls["syscalls"] if rule["names"] == ["clone"]]
    assert sum(flags) == NEW_NAMESPACES and all(flag & (flag - 1) == 0 for flag in flags), "any one of them is enough"


def test_a_profile_of_macos_denies_what_it_does_not_name() -> None:
    lines = profile(SEEN, Path('/jobs/a "quoted" one')).splitlines()
    assert lines[:2] == ["(version 1)", "(deny default)"] and lines[-1] == "(deny network*)"
    written = [line for line in lines if "file-write*" in line]
    assert [line.partition("subpath ")[2] for line in written] == [
        r'"/jobs/a \"quoted\" one/work"))', r'"/jobs/a \"quoted\" one/tmp"))'
    ]  # fmt: skip
    read = lines.index('(allow file-read* process-exec (subpath "/usr"))')
    hidden = lines.index('(deny file-read* process-exec (subpath "/usr/lib/hidden"))')
    assert read < hidden, "of two rules the later one holds"


def test_limits_of_macos_are_those_of_a_shell() -> None:
    assert limited(("ls", "-l"), BOUNDS)[2:] == [
        'ulimit -t 7 && ulimit -n 256 && ulimit -c 0 && ulimit -f 16384 && exec "$@"', "sh", "ls", "-l"
    ]  # fmt: skip


SANDBOX_EXEC = f"""#!{sys.executable} -IS
import os, sys
assert sys.argv[1] == "-p" and sys.argv[2].startswith("(version 1)")
os.execvp(sys.argv[3], sys.argv[3:])
"""


@pytest.fixture
def seatbelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The rung over a program that takes what sandbox-exec takes and holds nothing in."""
    (tmp_path / "sandbox-exec").write_text(SANDBOX_EXEC)
    (tmp_path / "sandbox-exec").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Sandbox(Seatbelt())


def test_a_run_under_seatbelt_is_fed_bounded_and_called_untested(seatbelt: Sandbox) -> None:
    script = "cat; cat kept; echo 1 > made; echo wrong >&2; exit 3"
    result = seatbelt.run(Job(("sh", "-c", script), files={"kept": b"two"}, stdin=b"one ", keep_files=True))
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"one two", b"wrong\n")
    assert result.files["made"] == b"1\n" and result.rung == "seatbelt (untested)"
    slow = seatbelt.run(Job(("sh", "-c", "echo begun; sleep 60 & wait"), bounds=Bounds(seconds=0.5)))
    assert (slow.end, slow.exit_code, slow.stdout) == (End.TIMED_OUT, None, b"begun\n")
    loud = seatbelt.run(Job(("sh", "-c", "head -c 5000 /dev/zero"), bounds=Bounds(output_bytes=1000)))
    assert loud.truncated and len(loud.stdout) == 1000
    fill = "for i in 1 2 3; do head -c 3M /dev/zero > $i; done; sleep 60"
    full = seatbelt.run(Job(("sh", "-c", fill), bounds=Bounds(disk_bytes=8 * MIB)))
    assert full.end is End.OUT_OF_DISK


@pytest.mark.parametrize("named", NAMED, ids=lambda rung: rung.name)
def test_these_rungs_are_used_only_when_they_are_named(named: Rung, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def lack_of(rung: Rung) -> str | None:
        asked.append(rung)
        return None if rung is named else "not here"

    monkeypatch.setattr(module, "lack", lack_of)
    module._find.cache_clear()
    try:
        monkeypatch.delenv(CHOICE, raising=False)
        with pytest.raises(SandboxError, match=r"FLYBALL_SANDBOX=wasm or docker \(untested\) or seatbelt \(untested\)"):
            find_sandbox()
        assert asked == list(RUNGS)
        monkeypatch.setenv(CHOICE, named.name)
        assert find_sandbox().rung is named
    finally:
        module._find.cache_clear()


def test_which_rungs_are_called_tested() -> None:
    assert all(rung.tested for rung in RUNGS) and [rung.name for rung in NAMED if rung.tested] == ["wasm"]


def test_a_program_that_does_not_answer_is_no_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho the daemon is not running >&2; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert lack(Container("docker", tested=False)) == "docker does not answer: the daemon is not running"
    with sandbox_folder({}, {}) as folder, pytest.raises(SandboxError, match="empty image: the daemon is not running"):
        Container("docker", tested=False).start(("ls",), folder, BOUNDS, packages=False)


def test_a_program_that_starts_no_container_is_no_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\n[ "$1" != run ] || exit 126\n')
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    why = "docker did not start the sandbox's container; it ended with 126"
    assert lack(Container("docker", tested=False)) == why
