"""Which rung of the sandbox is in force on this host, and why those before it are not."""

from __future__ import annotations

from flyball.errors import SandboxError
from flyball.evals.readiness import Finding
from flyball.sandbox.sandbox import CHOICE, UNSAFE, find_sandbox

NAME = "sandbox"


def check_sandbox() -> Finding:
    """Warn where nothing holds code in, and where only snippets of Python can be run."""
    try:
        sandbox = find_sandbox()
    except SandboxError as error:
        return _without_programs(str(error.args[0]))
    name, over = sandbox.rung.name, "".join(f"; not {rung}: {why}" for rung, why in sandbox.passed_over.items())
    evidence = {"rung": name, "passed_over": dict(sandbox.passed_over)}
    if name == UNSAFE.name:
        return Finding(
            NAME, "warn", f"none: {CHOICE} is {name!r}, so code that is graded can do what you can", evidence
        )
    return Finding(NAME, "ok", f"{name}{over}", evidence)


def _without_programs(why: str) -> Finding:
    try:
        name = find_sandbox(snippets=True).rung.name
    except SandboxError:
        return Finding(NAME, "warn", f"none, so graders and tools that run code are refused: {why}")
    return Finding(NAME, "warn", f"{name}, for snippets of Python alone: {why}", {"rung": name})
