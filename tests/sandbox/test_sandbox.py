"""What a job gets and what it may use, on every rung of this host."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flyball.errors import SandboxError
from flyball.sandbox import sandbox as module
from flyball.sandbox.bubblewrap import Bubblewrap
from flyball.sandbox.cgroup import YOUNG, _remove_leftovers
from flyball.sandbox.container import Container
from flyball.sandbox.inside.confine import kill_all
from flyball.sandbox.inside.seccomp import filter_program
from flyball.sandbox.job import MIB, Bounds, End, Job, Result
from flyball.sandbox.sandbox import Sandbox, find_sandbox


def shell(sandbox: Sandbox, script: str, **fields: object) -> Result:
    return sandbox.run(Job(("sh", "-c", script), **fields))  # type: ignore[arg-type]


def python(sandbox: Sandbox, source: str, **fields: object) -> Result:
    return sandbox.run(Job((*sandbox.python, "-c", source), **fields))  # type: ignore[arg-type]


def test_files_go_in_and_come_back(sandbox: Sandbox) -> None:
    result = shell(
        sandbox,
        "cat > said; cat a/b.txt ../fixed/c; mkdir new; echo 1 > new/file; rm a/b.txt; echo wrong >&2; exit 3",
        files={"a/b.txt": b"one\n", "kept": b"\xff\x00"},
        fixed={"c": b"two\n"},
        stdin=b"hello" * 100_000,
        keep_files=True,
    )
    assert (result.end, result.exit_code, result.stdout, result.stderr) == (End.EXITED, 3, b"one\ntwo\n", b"wrong\n")
    assert result.files == {"kept": b"\xff\x00", "new/file": b"1\n", "said": b"hello" * 100_000}
    assert result.rung == sandbox.rung.name and not result.ok and not result.truncated


def test_each_job_starts_anew(sandbox: Sandbox) -> None:
    shell(sandbox, "echo 1 > here; echo 1 > $TMPDIR/there")
    assert shell(sandbox, "ls; ls $TMPDIR").stdout == b""


def test_what_is_no_job(sandbox: Sandbox) -> None:
    for wrong in ("/etc/passwd", "../up", "a/../../b", ""):
        with pytest.raises(SandboxError, match="does not lie inside"):
            Job(("ls",), files={wrong: b""})
    with pytest.raises(SandboxError, match="no command"):
        Job(())
    with pytest.raises(SandboxError, match="bound seconds is 0"):
        Bounds(seconds=0)


@pytest.mark.parametrize(
    ("script", "code"), [("exit 125", 125), ("kill -9 $$", 137), ("exec /no/such/program", 127), ("true", 0)]
)
def test_exit_codes(sandbox: Sandbox, script: str, code: int) -> None:
    assert shell(sandbox, script).exit_code == code


def test_time_is_bounded_and_what_was_printed_is_kept(sandbox: Sandbox) -> None:
    result = shell(sandbox, "echo started; sleep 60", bounds=Bounds(seconds=0.3))
    assert (result.end, result.exit_code, result.stdout) == (End.TIMED_OUT, None, b"started\n")


def test_processor_time_is_bounded(sandbox: Sandbox) -> None:
    result = python(sandbox, "while True: pass", bounds=Bounds(cpu_seconds=1, seconds=30))
    assert result.exit_code in (137, 128 + 24) and result.usage.cpu_seconds is not None


def test_memory_of_one_process_is_bounded(sandbox: Sandbox) -> None:
    result = python(sandbox, "bytearray(1 << 28)", bounds=Bounds(memory_bytes=128 * MIB))
    assert b"MemoryError" in result.stderr


HUNGRY = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        held = bytearray(b"x" * (40 << 20))
        time.sleep(30)
        os._exit(0)
time.sleep(30)
"""


def test_memory_of_all_processes_together_is_bounded(sandbox: Sandbox) -> None:
    assert python(sandbox, HUNGRY, bounds=Bounds(memory_bytes=128 * MIB, seconds=20)).end is End.OUT_OF_MEMORY


def test_disk_is_bounded_by_size_and_by_number_of_files(sandbox: Sandbox) -> None:
    small = Bounds(disk_bytes=8 * MIB, seconds=20)
    fill = "for i in 1 2 3 4; do head -c 4M /dev/zero > $i; done; sleep 20"
    assert shell(sandbox, fill, bounds=small).end is End.OUT_OF_DISK
    many = "import os, time\nfor i in range(4000): os.mkdir(str(i))\ntime.sleep(20)"
    assert python(sandbox, many, bounds=small).end is End.OUT_OF_DISK


def test_output_is_cut_and_the_command_goes_on(sandbox: Sandbox) -> None:
    source = "import sys; print('x' * 5_000_000); print('y' * 5_000_000, file=sys.stderr); sys.exit(7)"
    result = python(sandbox, source, bounds=Bounds(output_bytes=1000))
    assert (result.stdout, result.stderr, result.truncated, result.exit_code) == (b"x" * 1000, b"y" * 1000, True, 7)


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("flyball-survivor", os.getpid(), flush=True)
        time.sleep(60)
    os._exit(0)
time.sleep(0.3)
"""


def test_nothing_survives_the_job(sandbox: Sandbox) -> None:
    result = sandbox.run(Job((*sandbox.python, "-c", DAEMON + f"# {os.getpid()} survivor")))
    assert result.stdout.startswith(b"flyball-survivor") and result.ok
    time.sleep(0.05)
    assert not [p for p in running() if f"# {os.getpid()} survivor" in p]


def running() -> list[str]:
    commands = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(entry.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return commands


def test_traps_for_the_reader_of_files(sandbox: Sandbox) -> None:
    script = "ln -s /etc/passwd link; ln -s / root; mkfifo pipe; echo 1 > real; "
    script += "mkdir shut; echo 2 > shut/x; chmod 0 shut || true"
    result = shell(sandbox, script, keep_files=True)
    assert set(result.files) - {"shut/x"} == {"real"}


def test_packages_are_shown_when_asked_for_and_ours_never(sandbox: Sandbox) -> None:
    purelib = next(path for path in sys.path if path.endswith("-packages"))
    source = f"import sys; sys.path.append({purelib!r}); import click; print('here')"
    assert python(sandbox, source, packages=True).stdout == b"here\n"
    assert b"ModuleNotFoundError" in python(sandbox, source).stderr
    source = f"open({module.__file__!r}).read()"
    for packages in (True, False):
        assert not python(sandbox, source, packages=packages).ok


def test_usage_is_read(sandbox: Sandbox) -> None:
    usage = python(sandbox, "import time; n = 60 << 20; x = b'x' * n; time.sleep(0.5)").usage
    assert usage.memory_bytes is not None and 60 << 20 < usage.memory_bytes < 100 << 20
    assert usage.seconds > 0.5 and usage.cpu_seconds is not None


def test_no_rung_is_a_refusal_that_names_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        name = "nothing"

        def missing(self) -> str:
            return "the kernel is too old"

    monkeypatch.delenv(module.CHOICE, raising=False)
    monkeypatch.setattr(module, "RUNGS", (Nothing(),))
    module._find.cache_clear()
    try:
        with pytest.raises(SandboxError, match=r"nothing: the kernel is too old.*FLYBALL_SANDBOX=unsafe"):
            find_sandbox()
        monkeypatch.setenv(module.CHOICE, "unsafe")
        assert find_sandbox().run(Job(("echo", "1"))).rung == "unsafe"
        monkeypatch.setenv(module.CHOICE, "nothin")
        with pytest.raises(SandboxError, match="did you mean 'nothing'"):
            find_sandbox()
    finally:
        module._find.cache_clear()


def test_a_rung_whose_probe_gets_through_is_not_taken() -> None:
    why = module.lack(module.UNSAFE)
    assert why is not None and why.startswith("its probe wrote ")


def test_the_filter_knows_its_machines() -> None:
    assert len(filter_program("aarch64")) > 400 and len(filter_program("x86_64")) % 8 == 0
    assert len(filter_program("x86_64", host_files=True)) > len(filter_program("x86_64"))
    with pytest.raises(OSError, match="riscv64"):
        filter_program("riscv64")


def test_outside_of_a_sandbox_nothing_is_killed() -> None:
    with pytest.raises(PermissionError, match="nothing was killed"):
        kill_all(os.getpid())


# --- ends that nobody planned --------------------------------------------------------------------------------

HOST = """
import sys
from flyball.sandbox.job import Bounds, Job
from flyball.sandbox.sandbox import RUNGS, Sandbox
(rung,) = [rung for rung in RUNGS if rung.name == sys.argv[1]]
Sandbox(rung).run(Job(("sh", "-c", "sleep 600 # " + sys.argv[2]), bounds=Bounds(seconds=600)))
"""


def seen(mark: str) -> bool:
    """Whether a process carries the mark in its command line, but for the host."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            try:
                words = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in words and HOST.encode()[:40] not in words:
                return True
    return False


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def test_nothing_survives_a_host_that_is_killed(sandbox: Sandbox) -> None:
    if isinstance(sandbox.rung, Container):
        pytest.skip("a container that was only starting ends at its job's own time")
    mark = f"flyball-mark-{os.getpid()}-{sandbox.rung.name}"
    with subprocess.Popen([sys.executable, "-c", HOST, sandbox.rung.name, mark]) as host:
        try:
            until(lambda: seen(mark) or host.poll() is not None)
            assert host.poll() is None
        finally:
            host.kill()
    until(lambda: not seen(mark))


def test_a_sandbox_outlives_the_thread_that_asked_for_it(sandbox: Sandbox) -> None:
    job = Job((*sandbox.python, "-c", "import sys; print(sys.stdin.readline())"))
    with contextlib.ExitStack() as held, ThreadPoolExecutor(1) as thread:
        process = thread.submit(held.enter_context, sandbox.process(job)).result()
        thread.shutdown(wait=True)
        process.stdin.write(b"still here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"still here\n"


BWRAP = f"""#!{sys.executable} -IS
import json, os, subprocess, sys
gone = subprocess.Popen(["true"])
gone.wait()
if TELLS:
    status = int(sys.argv[sys.argv.index("--json-status-fd") + 1])
    os.write(status, json.dumps({{"child-pid": gone.pid}}).encode() + b"\\n")
sys.exit("bwrap: this kernel lends no namespaces")
"""


@pytest.mark.parametrize("tells", [False, True], ids=["before it told its process", "after it told its process"])
def test_a_bwrap_that_dies_at_its_start_says_why(tells: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = BWRAP.replace("TELLS", str(tells))
    (tmp_path / "bwrap").write_text(script)
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for _ in range(3):
        with pytest.raises(SandboxError, match="this kernel lends no namespaces"):
            shell(Sandbox(Bubblewrap()), "true")


def test_groups_that_killed_hosts_left_are_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    old = time.time() - 2 * YOUNG
    for name, at in (
        (f"flyball-{gone.pid}-0", old), (f"flyball-{gone.pid}-1", time.time()), (f"flyball-{os.getpid()}-0", old),
        ("other-1-1", old),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (at, at))
    _remove_leftovers(tmp_path, os.getpid())
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"flyball-{gone.pid}-1", f"flyball-{os.getpid()}-0", "other-1-1"}
