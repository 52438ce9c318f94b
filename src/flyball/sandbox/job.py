"""What the sandbox is asked and what it answers: files in, a command, bounds; an exit code, output, usage, the rung."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from flyball.errors import SandboxError

MIB = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """What a job may use. All hold at the same time; the defaults are for the tool call of an agent.

    `memory_bytes` bounds each process where it is allocated, and all of them together (by the kernel where the host
    lends a memory cgroup, otherwise looked at ten times a second, as is `disk_bytes` for all files together).
    `cpu_seconds` is per process, `seconds` on the clock for the whole job, `output_bytes` for each of the two streams.
    """

    seconds: float = 60.0
    cpu_seconds: int = 60
    memory_bytes: int = 1024 * MIB
    processes: int = 64
    disk_bytes: int = 64 * MIB
    output_bytes: int = MIB
    open_files: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise SandboxError(f"bound {name} is {value}; it is above 0")


@dataclass(frozen=True)
class Job:
    """One command over files. Raises SandboxError for a path that leaves its folder, or no command.

    `files` are what the command may change, and where it stands; `fixed` lie beside them in `../fixed` and cannot be
    changed. `packages` shows it what is installed beside the interpreter, this package excepted. With `keep_files`
    the result holds the files as the command left them. Modes are not carried, and symbolic links do not come back.
    """

    command: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    fixed: Mapping[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""
    bounds: Bounds = Bounds()
    packages: bool = False
    keep_files: bool = False

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise SandboxError("a job has no command; give a program and its arguments, such as ('sh', '-c', 'ls')")
        for path in (*self.files, *self.fixed):
            pure = PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in path:
                raise SandboxError(f"file {path!r} does not lie inside the folder; write it as 'src/module.py'")


class End(StrEnum):
    """How a job ended."""

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_DISK = "out_of_disk"


@dataclass(frozen=True)
class Usage:
    """Seconds on the clock, processor seconds of all processes together, and the most memory they held at a time.

    Both are read up to ten times a second: None for a job that ended before they could be.
    """

    seconds: float
    cpu_seconds: float | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Result:
    """How a job went. `exit_code` is 128 + n for a command that signal n ended, None for one that we stopped.

    `truncated`: more was printed than is kept. `rung` names what held the command.
    """

    end: End
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool
    usage: Usage
    rung: str
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the command ended by itself and with 0."""
        return self.exit_code == 0


@dataclass(frozen=True)
class Said:
    """What a call gave: `value`, or `error` with its `kind` (see inside/forkserver.py) and the exception's `type`."""

    value: Any
    error: str = ""
    kind: str = ""
    type: str = ""
    cpu_seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether there is no value; None is one."""
        return bool(self.kind)
