"""Which rung of the sandbox is in force on this host, and what each of the others lacks."""

from __future__ import annotations

from collections.abc import Iterator

from flyball.errors import SandboxError
from flyball.evals.readiness import Finding
from flyball.sandbox.sandbox import CHOICE, NAMED, RUNGS, SNIPPETS, UNSAFE, Rung, find_sandbox, lack
from flyball.sandbox.wasm import Wasm

NAME = "sandbox"


def check_sandbox() -> Finding:
    """Warn where nothing holds code in, and where only snippets of Python can be run."""
    try:
        sandbox = find_sandbox()
    except SandboxError as error:
        return _without_programs(str(error.args[0]))
    name, over = sandbox.rung.name, "".join(f"; not {rung}: {why}" for rung, why in sandbox.passed_over.items())
    evidence = {"rung": name, "passed_over": dict(sandbox.passed_over)}
    if not sandbox.rung.tested:
        return Finding(NAME, "warn", f"{name}, which {CHOICE} asks for: our tests of escapes never ran on it", evidence)
    if name == Wasm.name:
        return Finding(NAME, "warn", f"{name}, which {CHOICE} asks for: it runs programs of Python alone", evidence)
    if name == UNSAFE.name:
        return Finding(
            NAME, "warn", f"none: {CHOICE} is {name!r}, so code that is graded can do what you can", evidence
        )
    return Finding(NAME, "ok", f"{name}{over}", evidence)


def check_rungs() -> Iterator[Finding]:
    """Try every rung of this host, and then say which is in force. Yields as each is tried."""
    for rung in (*RUNGS, SNIPPETS, *NAMED):
        why = lack(rung)
        evidence = {"rung": rung.name, "tested": rung.tested, "lacks": why}
        yield Finding(f"rung {rung.name}", "ok", f"not here: {why}" if why else _of_use(rung), evidence)
    yield check_sandbox()


def _of_use(rung: Rung) -> str:
    if rung in NAMED and rung.tested:
        return f"holds: used only with {CHOICE}={rung.name}"
    if rung.tested:
        return "holds, for snippets of Python alone" if rung is SNIPPETS else "holds"
    return f"its probe holds, but it is untested: used only with {CHOICE}={rung.name}"


def _without_programs(why: str) -> Finding:
    try:
        name = find_sandbox(snippets=True).rung.name
    except SandboxError:
        return Finding(NAME, "warn", f"none, so graders and tools that run code are refused: {why}")
    return Finding(NAME, "warn", f"{name}, for snippets of Python alone: {why}", {"rung": name})
