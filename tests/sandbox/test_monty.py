"""The rung for snippets: what it runs, what it refuses, what bounds it, and that nothing gets out of it."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import RungError, SandboxError
from flyball.sandbox.calls import number_function
from flyball.sandbox.files import sandbox_folder
from flyball.sandbox.job import MIB, Bounds, End, Job, Result
from flyball.sandbox.monty import Monty
from flyball.sandbox.sandbox import CHOICE, RUNGS, SNIPPETS, Sandbox, find_sandbox, lack

pytest.importorskip("pydantic_monty", reason="the extra monty is not installed")

monty = Sandbox(SNIPPETS)
ATTEMPTS = Path(__file__).with_name("attempts.py")


def python(source: str, **fields: object) -> Result:
    return monty.run(Job((*monty.python, "-c", source), **fields))  # type: ignore[arg-type]


def test_it_holds_here() -> None:
    assert lack(SNIPPETS) is None


def test_files_go_in_and_come_back() -> None:
    source = b"print(open('a/b.txt').read() + open('../fixed/c').read()); open('said', 'w').write('yes')"
    job = Job(
        (*monty.python, "main.py"),
        files={"main.py": source, "a/b.txt": b"one "},
        fixed={"c": b"two"},
        keep_files=True,
    )
    result = monty.run(job)
    assert result.ok and result.stdout == b"one two\n" and result.rung == "monty"
    assert result.files == {"main.py": source, "a/b.txt": b"one ", "said": b"yes"}


@pytest.mark.parametrize("source", ["raise ValueError('wrong')", "x = 5 +"])
def test_an_error_of_the_code_is_its_own(source: str) -> None:
    result = python(source)
    assert (result.end, result.exit_code) == (End.EXITED, 1)
    assert b"Error: " in result.stderr and b"line 1" in result.stderr


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("import numpy", "No module named 'numpy'"),
        ("import subprocess", "No module named 'subprocess'"),
        ("def numbers():\n    yield 1", "yield"),
        ("class Mine(ValueError):\n    pass", "inheritance"),
    ],
)
def test_what_it_has_not_is_refused_by_naming_the_next_rung(source: str, named: str) -> None:
    with pytest.raises(RungError, match=f"{named}.*bubblewrap and landlock") as refused:
        python(source)
    assert isinstance(refused.value, SandboxError)


def test_it_runs_one_file_of_python_and_nothing_else() -> None:
    for command in (
        ("sh", "-c", "ls"),
        (*monty.python, "main.py", "argument"),
        (*monty.python, "-m", "json.tool", "x"),
    ):
        with pytest.raises(RungError, match="one file of Python"):
            monty.run(Job(command, files={"main.py": b"1"}))
    with pytest.raises(RungError, match="no standard input"):
        python("1", stdin=b"1")
    with pytest.raises(RungError, match="talked to"), monty.process(Job((*monty.python, "-c", "1"))):
        pass
    with pytest.raises(SandboxError, match="no file 'absent"):
        monty.run(Job((*monty.python, "absent.py")))
    with pytest.raises(SandboxError, match="no file"):
        monty.run(Job((*monty.python, str(ATTEMPTS))))


@pytest.mark.parametrize(
    ("source", "bounds", "end"),
    [
        ("while True: pass", Bounds(seconds=0.2), End.TIMED_OUT),
        ("while True: pass", Bounds(cpu_seconds=1), End.TIMED_OUT),
        ("while True: print('x' * 1000)", Bounds(seconds=0.2), End.TIMED_OUT),
        ("import re\nre.match('(a|aa)+$', 'a' * 60 + 'b')\nwhile True: pass", Bounds(seconds=0.2), End.TIMED_OUT),
        ("while True:\n  try:\n    while True: pass\n  except BaseException: pass", Bounds(seconds=0.2), End.TIMED_OUT),
        ("'x' * 10**10", Bounds(), End.OUT_OF_MEMORY),
        ("9**9**9", Bounds(memory_bytes=64 * MIB), End.OUT_OF_MEMORY),
        ("x = []\nwhile True: x.append('y' * 1000)", Bounds(memory_bytes=64 * MIB), End.OUT_OF_MEMORY),
        ("import time\ntime.sleep(3600)", Bounds(seconds=1), End.EXITED),
    ],
)  # fmt: skip
def test_bounds_hold(source: str, bounds: Bounds, end: End) -> None:
    result = python(source, bounds=bounds)
    assert result.end is end and (result.exit_code is None) == (end is not End.EXITED)


def test_output_and_disk_are_bounded() -> None:
    loud = python("print('x' * 5000)", bounds=Bounds(output_bytes=1000))
    assert loud.ok and loud.truncated and loud.stdout == b"x" * 1000
    full = python("for i in range(9): open(str(i), 'w').write('x' * 1000000)", bounds=Bounds(disk_bytes=MIB))
    assert full.exit_code == 1 and b"disk write limit" in full.stderr
    many = python("for i in range(400): open(str(i), 'w').write('x')", bounds=Bounds(disk_bytes=MIB))
    assert many.end is End.OUT_OF_DISK


def test_an_error_that_looks_like_a_bound_is_none() -> None:
    assert python("raise TimeoutError('feed time limit exceeded: 60s > 60s')").end is End.EXITED


# --- functions ----------------------------------------------------------------------------------------------


def test_a_function_leaves_nothing_for_the_next_call() -> None:
    source = "seen = []\ndef grade(sample, item):\n    seen.append(1)\n    return len(seen)"
    grade = number_function(monty, source, "grade")
    assert [grade.call([{}, {}]).value for _ in range(3)] == [1.0, 1.0, 1.0]
    grade.close()
    assert grade.call([{}, {}]).value == 1.0, "closed, it starts again"
    grade.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def same() -> Iterator[object]:
    source = "import json\ndef same(value, text):\n    return json.loads(text) == value and value == json.loads(text)"
    function = number_function(monty, source, "same")
    yield function
    function.close()


@settings(max_examples=60, deadline=None)
@given(value=JSON)
def test_arguments_arrive_as_they_were(same, value: object) -> None:
    assert same.call([value, json.dumps(value)]).value == 1.0


def test_a_chosen_rung_and_what_it_is_chosen_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "monty")
    assert isinstance(find_sandbox(snippets=True).rung, Monty)
    with pytest.raises(RungError, match="a program is to be run"):
        find_sandbox()


def test_it_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    from flyball.sandbox import sandbox as module

    monkeypatch.delenv(CHOICE, raising=False)
    module._find.cache_clear()
    monkeypatch.setattr(module, "lack", lambda rung: None if rung is SNIPPETS else f"no {rung.name} here")
    found = find_sandbox(snippets=True)
    with pytest.raises(SandboxError, match="bubblewrap: no bubblewrap here; landlock: no landlock here"):
        find_sandbox()
    module._find.cache_clear()
    assert found.rung is SNIPPETS
    assert found.passed_over == {rung.name: f"no {rung.name} here" for rung in RUNGS}


# --- attempts to get out ------------------------------------------------------------------------------------

PRELUDE = """
import json
import os
import sys
import time
from pathlib import Path

X86 = True
def _gets(way, *others):
    try:
        way()
    except Exception:
        return False
    return True
"""
"""What an attempt of attempts.py finds; the modules that it has no name for are those that Monty has not."""


def test_every_attempt_of_the_other_rungs_is_held(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    spec = {
        "secret": str(tmp_path / "secret"), "answers": [__file__], "folders": [str(tmp_path), "/tmp"],
        "outside": os.getppid(), "outside_group": os.getpgid(0), "host": os.getpid(), "result": 1, "tcp_port": 1,
        "udp_port": 1, "unix_path": "/x", "unix_name": "x", "address": "127.0.0.1", "address_of_secret": 1,
        "shm_key": 1, "processes": 16, "memory": 64 * MIB, "disk": 8 * MIB,
    }  # fmt: skip
    functions = [node for node in ast.parse(ATTEMPTS.read_text()).body if isinstance(node, ast.FunctionDef)]
    attempts = [node for node in functions if any(ast.unparse(d) == "attempt" for d in node.decorator_list)]
    assert len(attempts) > 50
    got = {}
    for node in attempts:
        node.decorator_list = []
        source = (
            f"{PRELUDE}\n{ast.unparse(node)}\ntry:\n    got = {node.name}(json.loads({json.dumps(spec)!r}))\n"
            "except Exception:\n    got = None\nprint(json.dumps(got or None))"
        )
        try:
            result = python(source, bounds=Bounds(seconds=5, memory_bytes=64 * MIB, disk_bytes=8 * MIB))
        except RungError:
            continue
        if result.end is End.EXITED:
            got[node.name] = json.loads(result.stdout)
    assert {name: what for name, what in got.items() if what is not None} == {}
    assert {"reading_a_secret", "secret_through_dots", "changing_what_is_fixed", "memory_as_a_file"} <= set(got)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]


OWN = {
    "classes": "().__class__.__base__.__subclasses__()",
    "globals of a function": "(lambda: 0).__globals__",
    "frames": "import sys\nsys._getframe()",
    "builtins": "__builtins__['__import__']('os').system('id')",
    "importing by name": "__import__('subprocess')",
    "a format string": "'{0.__class__.__init__.__globals__}'.format(0)",
    "code objects": "compile('1', 'x', 'exec')",
    "eval": "eval('open(\"/etc/passwd\").read()')",
    "exec": "exec('import ctypes')",
    "an absolute path": "open('/etc/hostname').read()",
    "dots": "open('../../../../../../etc/hostname').read()",
    "dots in the middle": "open('/sandbox/work/../../etc/hostname').read()",
    "a link of the job": "open('link').read()",
    "a linked folder": "open('folder/hostname').read()",
    "a new link": "import os\nos.symlink('/etc/hostname', 'mine')",
    "a listing": "import os\nos.listdir('/')",
    "itself": "open('/proc/self/environ').read()",
    "a device": "open('/dev/zero').read(1)",
    "what is fixed": "open('../fixed/spec.json', 'w')",
    "renaming what is fixed": "import os\nos.rename('../fixed', 'mine')",
    "a path object": "from pathlib import Path\nPath('/etc/hostname').read_text()",
    "its environment": "import os\nos.environ['PATH']",
    "an endless recursion": "def deep(n):\n    return deep(n + 1)\ndeep(0)",
    "an endless nesting": "eval('(' * 100000 + ')' * 100000)",
    "an endless value": "x = []\nx.append(x)\nopen('out', 'w').write(str(x))\nraise ValueError",
}


@pytest.mark.parametrize("name", OWN)
def test_its_own_ways_out_are_shut(name: str) -> None:
    bounds = Bounds(seconds=5, memory_bytes=64 * MIB)
    with sandbox_folder({}, {"spec.json": b"{}"}) as folder:
        (folder / "work" / "link").symlink_to("/etc/hostname")
        (folder / "work" / "folder").symlink_to("/etc")
        try:
            result = SNIPPETS.start((*monty.python, "-c", OWN[name]), folder, bounds, False).run(b"")
        except RungError:
            return
    assert result.end is End.OUT_OF_MEMORY or result.exit_code not in (0, None), result
