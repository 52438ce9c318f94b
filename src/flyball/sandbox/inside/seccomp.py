"""The system calls that sandboxed code does not get, as a filter for the kernel (seccomp BPF).

Denied is what widens the kernel's surface (namespaces, mounts, bpf, io_uring, keys), what reaches other processes by
their number (ptrace and its kin, limits and priorities of others), and sockets, loopback included. Where no mount
namespace hides the host's files, also what changes files that can only be read: modes, owners, times, attributes.
"""

from __future__ import annotations

import errno
import os
import struct

# call -> number on x86_64, number on aarch64 (None: it does not exist there)
ALWAYS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "get_robust_list": (274, 100),
    "ioprio_set": (251, 30),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "personality": (135, 92),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "iopl": (172, None),
    "ioperm": (173, None),
    "memfd_secret": (447, 447),
    "memfd_create": (319, 279),  # its memory is counted nowhere
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
ON_HOST_FILES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> column of the tables, and how seccomp calls it."""

SELF_ONLY: dict[str, tuple[tuple[int, int], tuple[int, ...]]] = {
    "prlimit64": ((302, 261), (0,)),
    "sched_setparam": ((142, 118), (0,)),
    "sched_setscheduler": ((144, 119), (0,)),
    "sched_setaffinity": ((203, 122), (0,)),
    "sched_setattr": ((314, 274), (0,)),
    "setpriority": ((141, 140), (0, 1)),
}
"""Calls about any process: allowed where the arguments at these places are 0, which means the caller itself."""

CLONE, CLONE3, IOCTL = (56, 220), (435, 435), (16, 29)
NEW_NAMESPACES = 0x7E020000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}; a time namespace needs unshare or clone3."""
TERMINAL = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX type into the terminal."""

ALLOW, KILL = 0x7FFF0000, 0x80000000
DENY, ABSENT = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
LOAD, RETURN, EQUAL, AT_LEAST, ANY_BIT = 0x20, 0x06, 0x15, 0x35, 0x45
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
X32 = 0x40000000

Instruction = tuple[int, int, int, int]


def filter_program(machine: str | None = None, host_files: bool = False) -> bytes:
    """Return the filter as an array of `struct sock_filter`. `host_files`: the host's files can be seen.

    Raises OSError for a machine whose system calls are not known.
    """
    machine = machine or os.uname().machine
    if machine not in MACHINES:
        raise OSError(f"system calls of {machine} are not known; known: {', '.join(MACHINES)}")
    column, audit = MACHINES[machine]
    code: list[Instruction] = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, audit), _end(KILL), (LOAD, 0, 0, NUMBER)]
    if machine == "x86_64":
        code += [(AT_LEAST, 0, 1, X32), _end(KILL)]
    denied = {**ALWAYS, **(ON_HOST_FILES if host_files else {})}
    for numbers in denied.values():
        if (number := numbers[column]) is not None:
            code += [(EQUAL, 0, 1, number), _end(DENY)]
    code += [(EQUAL, 0, 1, CLONE3[column]), _end(ABSENT)]  # its flags lie in memory; the C library falls back to clone
    code += _when(CLONE[column], [_argument(0), (ANY_BIT, 0, 1, NEW_NAMESPACES), _end(DENY), _end(ALLOW)])
    typed = [step for request in TERMINAL for step in ((EQUAL, 0, 1, request), _end(DENY))]
    code += _when(IOCTL[column], [_argument(1), *typed, _end(ALLOW)])
    for pair, places in SELF_ONLY.values():
        checks = [step for place in places for step in (_argument(place), (EQUAL, 1, 0, 0), _end(DENY))]
        code += _when(pair[column], [*checks, _end(ALLOW)])
    code.append(_end(ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _when(number: int, block: list[Instruction]) -> list[Instruction]:
    """Run a block, which returns, for one system call."""
    return [(EQUAL, 0, len(block), number), *block]


def _argument(place: int) -> Instruction:
    """Load the low half of an argument: all of these are 32 bits wide for the kernel, or flags below bit 32."""
    return (LOAD, 0, 0, ARGUMENTS + 8 * place)


def _end(verdict: int) -> Instruction:
    return (RETURN, 0, 0, verdict)
