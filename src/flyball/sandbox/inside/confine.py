"""Starts a command in a Landlock domain with a seccomp filter, without capabilities, and ends all that it started.

    python -I -S confine.py SPEC

SPEC is a dictionary, marshalled and in hexadecimal: `read`, `write` and `list` (paths below which files may be read
and executed, changed, and folders listed), `filter` (the seccomp program), `command`, `env`, `cwd`, `gate` (a
descriptor: one byte opens it, its end ends everything), `ready` (a descriptor: one byte says that the domain holds) and
`outside` (the number of a process that must be out of reach). Needs Landlock ABI 6 (Linux 6.12): before it, signals to
processes of the same user cannot be held in. Exits with 125 where the host cannot do this. The command runs in a
second, inner domain, so it cannot signal this process, which then kills what is left: whatever group or session it
went to.

It starts before every command, so it imports little: json, signal and typing would double its start.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import select
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

UNABLE = 125
SIGKILL = 9
NEEDED_ABI = 6
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, IOCTL_DEV = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
ALL_FILES = (1 << 16) - 1
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = EXECUTE | READ_FILE | READ_DIR
CHANGE = ALL_FILES & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV)
ALL_TCP = 0b11
SCOPE_SOCKETS_AND_SIGNALS = 0b11
SET_DUMPABLE, SET_SECCOMP, CAPABILITY_DROP, CHILD_SUBREAPER, NO_NEW_PRIVILEGES = 4, 22, 24, 36, 38

libc = ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """Return the version of Landlock, 0 where there is none."""
    return max(0, int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def restrict_files(read: Iterable[str], write: Iterable[str], listed: Iterable[str]) -> None:
    """Enter a domain in which only these paths can be reached, no TCP, and no process or socket outside of it."""
    ruleset = _ruleset(ALL_FILES, ALL_TCP)
    for access, paths in ((READ, read), (CHANGE, write), (READ_DIR, listed)):
        for path in paths:
            _allow(ruleset, path, access)
    _enter(ruleset)


def scope_signals() -> None:
    """Enter a domain that cannot signal or trace what is outside of it, and changes nothing else."""
    _enter(_ruleset(0, 0))


def drop_privileges() -> None:
    """Give up every capability, also for programs started later; the user's number stays."""
    _must(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    capability = 0
    while libc.prctl(CAPABILITY_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _must(libc.capset(header, none), "capset")


def filter_calls(program: bytes) -> None:
    """Put a seccomp filter in force for this process and all it starts."""
    code = ctypes.create_string_buffer(program, len(program))
    filter_of = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _must(libc.prctl(SET_SECCOMP, 2, filter_of, 0, 0), "seccomp")


def not_to_be_traced() -> None:
    """Keep processes of the same user from reading or writing this one's memory."""
    _must(libc.prctl(SET_DUMPABLE, 0, 0, 0, 0), "dumpable")


def kill_all(outside: int) -> None:
    """Kill every process that can be reached, and reap the children.

    Raises PermissionError when `outside`, which must be out of reach, is not: then nothing may be killed.
    """
    if _reaches(outside):
        raise PermissionError(f"process {outside}, outside of the sandbox, can be reached; nothing was killed")
    while True:
        try:
            os.kill(-1, SIGKILL)
        except OSError:
            pass  # nobody is left
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _reaches(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _ruleset(files: int, network: int) -> int:
    attributes = struct.pack("=QQQ", files, network, SCOPE_SOCKETS_AND_SIGNALS)
    ruleset = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    return int(_must(ruleset, "landlock_create_ruleset"))


def _allow(ruleset: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            access &= OF_A_FILE
        rule = struct.pack("=Qi", access, descriptor)
        _must(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0), f"landlock_add_rule {path}")
    finally:
        os.close(descriptor)


def _enter(ruleset: int) -> None:
    _must(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    _must(libc.syscall(RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def _must(result: Any, what: str) -> Any:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _run(spec: dict[str, Any]) -> int:
    gate, ready, outside = spec["gate"], spec["ready"], spec["outside"]
    if not os.read(gate, 1):
        return UNABLE
    drop_privileges()
    restrict_files(spec["read"], spec["write"], spec["list"])
    if _reaches(outside):
        raise PermissionError("a process outside of the domain can be signalled")
    filter_calls(spec["filter"])
    _must(libc.prctl(CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
    os.write(ready, b"1")
    os.close(ready)
    child = os.fork()
    if child == 0:
        _become(spec, gate)
    try:
        return _exit_code(child, gate)
    finally:
        kill_all(outside)


def _become(spec: dict[str, Any], gate: int) -> None:
    try:
        os.close(gate)
        scope_signals()
        os.chdir(spec["cwd"])
        os.execvpe(spec["command"][0], spec["command"], spec["env"])
    except OSError as error:
        os.write(2, f"{spec['command'][0]}: {error}\n".encode())
    finally:
        os._exit(127 if not os.access(spec["command"][0], os.F_OK) else 126)


def _exit_code(child: int, gate: int) -> int:
    """Wait until the command ends or the gate is closed."""
    ended = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(ended, select.POLLIN)
    waiting.register(gate, select.POLLIN | select.POLLHUP)
    if ended not in dict(waiting.poll()):
        return UNABLE
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 128 - status


def main() -> None:
    """Run what the first argument says."""
    try:
        code = UNABLE if landlock_abi() < NEEDED_ABI else None
        if code is not None:
            os.write(2, f"Landlock ABI {landlock_abi()}; signals can be held in from ABI {NEEDED_ABI}\n".encode())
        else:
            code = _run(marshal.loads(bytes.fromhex(sys.argv[1])))
    except OSError as error:
        os.write(2, f"{error}\n".encode())
        code = UNABLE
    os._exit(code)


if __name__ == "__main__":
    main()
