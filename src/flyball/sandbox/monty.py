"""The rung `monty`: an interpreter of a part of Python, in a wheel (`pydantic-monty`), for small snippets.

It runs one file of Python and nothing else: no program, no socket, no module but its own, and of files those of the
job. What holds the code is the interpreter (Rust, in a process of its own), not the kernel, so it needs nothing of the
host. What it has not is refused by a RungError that names the next rung.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.errors import RungError, SandboxError
from flyball.sandbox.files import FIXED, TEMPORARY, WORK, exceeds
from flyball.sandbox.job import MIB, Bounds, End, Result, Said, Usage
from flyball.sandbox.view import INTERPRETER

if TYPE_CHECKING:
    from pydantic_monty import Monty as Pool
    from pydantic_monty import MontyError, MontySession, MountDir

ROOM = "/sandbox"
OWN_MEMORY_BYTES = 8 * MIB
"""Of a mount's answers, beside the memory of the code."""
CRASHED = 134
"""Exit code of a program that its abort ended; so does an interpreter that the code has crashed."""
UNKNOWN = "The monty syntax parser does not yet support"


class Monty:
    """Runs `python FILE` and `python -c SOURCE` on Monty, which must be installed: the extra `monty`."""

    name = "monty"
    probe = "snippet_probe"
    tested = True

    def missing(self) -> str | None:
        """Return what this host lacks, None when it can be tried."""
        if importlib.util.find_spec("pydantic_monty") is None:
            return "the package pydantic-monty is not installed (pip install 'flyball[monty]')"
        return None

    @property
    def version(self) -> str:
        """Which interpreter this is; another one may judge otherwise."""
        return f"{self.name} {importlib.metadata.version('pydantic-monty')}"

    def start(self, command: tuple[str, ...], folder: Path, bounds: Bounds, packages: bool) -> Snippet:
        """Prepare a snippet that stands in `folder/work`. Raises RungError for any other command."""
        if command[:3] != (str(INTERPRETER), "-I", "-S") or len(command) != 4 + (command[3:4] == ("-c",)):
            raise beyond(f"it runs one file of Python without arguments, not {' '.join(command)[:80]!r}")
        if command[3] == "-c":
            return Snippet(command[4], folder, bounds)
        path = (folder / WORK / command[3]).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise SandboxError(f"the job brings no file {command[3]!r} to run")
        return Snippet(path.read_text(encoding="utf-8"), folder, bounds)

    def function(self, source: str, function: str, bounds: Bounds) -> SnippetFunction:
        """Return a function of the source that answers with a number. Raises RungError where it cannot be loaded."""
        return SnippetFunction(source, function, bounds)


class Snippet:
    """One run of a source over the folders of a job."""

    def __init__(self, source: str, folder: Path, bounds: Bounds) -> None:
        self._source, self._folder, self._bounds = source, folder, bounds

    def run(self, stdin: bytes) -> Result:
        """Run it to its end or to a bound. Raises RungError for what Monty has not."""
        if stdin:
            raise beyond("it has no standard input; bring the text as a file")
        printed = _Printed(self._bounds.output_bytes)
        started, end, code = time.monotonic(), End.EXITED, 0
        with ExitStack() as held:
            session = held.enter_context(_session(held.enter_context(_pool()), self._bounds))
            mounts = [held.enter_context(mount) for mount in self._mounts()]
            try:
                session.feed_run(self._source, print_callback=printed, mount=mounts, cwd=f"{ROOM}/{WORK}")
            except _monty().MontyError as error:
                _refuse_unknown(error)
                end = _bound_of(error, time.monotonic() - started, self._bounds)
                code = CRASHED if isinstance(error, _monty().MontyCrashedError) else 1
                printed("stderr", f"{_traceback(error).rstrip()}\n")
        if end is End.EXITED and exceeds(self._folder, self._bounds.disk_bytes):
            end = End.OUT_OF_DISK
        return Result(
            end,
            code if end is End.EXITED else None,
            bytes(printed.kept["stdout"]),
            bytes(printed.kept["stderr"]),
            printed.truncated,
            Usage(time.monotonic() - started, None, None),
            Monty.name,
        )

    def close(self) -> None:
        """Nothing outlives `run`."""

    def _mounts(self) -> Iterator[MountDir]:
        for name in (WORK, TEMPORARY, FIXED):
            yield _monty().MountDir(
                host_path=self._folder / name,
                virtual_path=f"{ROOM}/{name}",
                mode="read-only" if name == FIXED else "read-write",
                write_bytes_limit=self._bounds.disk_bytes,
                memory_usage_limit=OWN_MEMORY_BYTES + self._bounds.disk_bytes,
            )


class SnippetFunction:
    """A function of a source, called many times; every call loads the source anew, so nothing is left of the last."""

    def __init__(self, source: str, function: str, bounds: Bounds) -> None:
        self._source, self._function, self._bounds = source, function, bounds
        self._held = ExitStack()
        self._open_pool: Pool | None = None
        refusal = self._said("None")
        if refusal.kind == "raised" and refusal.type in ("ModuleNotFoundError", "NotImplementedError"):
            self.close()
            raise beyond(f"the source {refusal.error}")

    def call(self, arguments: Sequence[Any]) -> Said:
        """Call the function with JSON values; anything but a finite number is an error of its own."""
        inputs = {f"_argument_{i}": value for i, value in enumerate(arguments)}
        said = self._said(f"{self._function}({', '.join(inputs)})", inputs)
        if said.failed:
            absent = said.type == "KeyError" and any(
                f"KeyError: {name!r}" in said.error and name not in arguments[0]
                for name in ("output_json", "output_tools")
            )
            return Said(None, said.error, "absent", said.type) if absent else said
        return number_of(said.value)

    def close(self) -> None:
        """End the interpreter; the next call starts one."""
        self._open_pool = None
        self._held.close()

    def _said(self, expression: str, inputs: dict[str, Any] | None = None) -> Said:
        if self._open_pool is None:
            self._open_pool = self._held.enter_context(_pool())
        started = time.monotonic()
        try:
            with _session(self._open_pool, self._bounds) as session:
                session.feed_run(self._source, print_callback=_silent)
                return Said(session.feed_run(expression, inputs=inputs, print_callback=_silent))
        except _monty().MontyCrashedError:
            return Said(None, "ended its interpreter", "ended")
        except _monty().MontyError as error:
            if _bound_of(error, time.monotonic() - started, self._bounds) is End.TIMED_OUT:
                return Said(None, f"did not return within {self._bounds.seconds:g} s", "timed_out")
            inner = error.exception()
            what = f"{type(inner).__name__}: {str(inner)[:500]}"
            return Said(None, f"raised {what}{_line(error)}", "raised", type(inner).__name__)


class _Printed:
    """What the code prints, up to a limit for each stream; the rest is dropped."""

    def __init__(self, limit: int) -> None:
        self.kept = {"stdout": bytearray(), "stderr": bytearray()}
        self.truncated = False
        self._limit = limit

    def __call__(self, stream: str, text: str) -> None:
        kept, data = self.kept[stream], text.encode(errors="replace")
        room = self._limit - len(kept)
        kept += data[:room]
        self.truncated |= len(data) > room


def number_of(value: Any) -> Said:
    """Return a finite number as it is, and what else a function returned as its mistake."""
    if not isinstance(value, Real):
        return Said(None, f"returned {type(value).__name__} {str(value)[:80]!r}; return a number", "returned")
    if not math.isfinite(number := float(value)):
        return Said(None, f"returned {number}; a score is a finite number", "returned")
    return Said(number)


def beyond(what: str, name: str = Monty.name) -> RungError:
    """Return the refusal of what Monty, or the rung of that name, cannot do."""
    return RungError(
        f"the rung {name} cannot run this: {what}; the rungs that run any program, bubblewrap and landlock, can: "
        f"install bubblewrap, and do not choose {name} by FLYBALL_SANDBOX"
    )


def _monty() -> Any:
    import pydantic_monty

    return pydantic_monty


def _pool() -> Pool:
    return _monty().Monty(max_processes=1)  # type: ignore[no-any-return]


@contextmanager
def _session(pool: Pool, bounds: Bounds) -> Iterator[MontySession]:
    """A session with the bounds of a job. Raises SandboxError when its interpreter does not start."""
    limits = {"max_feed_duration_secs": min(bounds.seconds, bounds.cpu_seconds), "max_memory": bounds.memory_bytes}
    with ExitStack() as held:
        try:
            # a sleep takes no time: it would not count as any of the code's
            session = held.enter_context(pool.checkout(limits=limits, os_policy={"sleep": "zero"}))  # type: ignore[arg-type]
        except OSError as error:
            raise SandboxError(f"monty did not start: {error}") from error
        yield session


def _bound_of(error: MontyError, seconds: float, bounds: Bounds) -> End:
    """Which bound ended the code. Time by the clock as well: the code may raise such an error itself."""
    inner = error.exception()
    if seconds >= min(bounds.seconds, bounds.cpu_seconds) and isinstance(inner, (TimeoutError, RuntimeError)):
        return End.TIMED_OUT
    return End.OUT_OF_MEMORY if isinstance(inner, MemoryError) else End.EXITED


def _refuse_unknown(error: MontyError) -> None:
    inner = error.exception()
    if isinstance(inner, ModuleNotFoundError) or (isinstance(inner, NotImplementedError) and UNKNOWN in str(inner)):
        raise beyond(f"{type(inner).__name__}: {inner}") from None


def _traceback(error: MontyError) -> str:
    """The error as Python tells it; one of a crashed interpreter has no traceback."""
    with suppress(AttributeError):
        return str(error.display(format="traceback"))  # type: ignore[attr-defined]
    return str(error)


def _line(error: MontyError) -> str:
    with suppress(AttributeError, IndexError):
        return f" (line {error.traceback()[-1].line})"  # type: ignore[attr-defined]
    return ""


def _silent(stream: str, text: str) -> None:
    """What a grader prints goes nowhere."""
