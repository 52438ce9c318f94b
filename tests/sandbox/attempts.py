"""Attempts to get out of a sandbox, run inside it: each returns what it got, and returns nothing when it was held.

    python -I -S attempts.py SPEC       prints {attempt: what it got, or null}

It imports the standard library alone. Each attempt runs in a child of its own, so one that is killed is one that failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

WASI = sys.platform == "wasi"
"""WebAssembly: no processes, and not every module."""
libc = fcntl = resource = None
with contextlib.suppress(ImportError):
    import fcntl
    import resource
with contextlib.suppress(*([OSError, TypeError] if WASI else [])):
    libc = ctypes.CDLL(None, use_errno=True)
Spec = dict[str, object]
ATTEMPTS: dict[str, Callable] = {}
SECONDS = 3
X86 = os.uname().machine == "x86_64"


def attempt(function):
    ATTEMPTS[function.__name__] = function
    return function


def call(number: int, *arguments) -> int:
    return libc.syscall(number, *arguments)


# --- network -----------------------------------------------------------------------------------------------------------


@attempt
def tcp_to_loopback(spec):
    with socket.create_connection(("127.0.0.1", spec["tcp_port"]), timeout=1):
        return "connected"


@attempt
def tcp6_to_loopback(spec):
    with socket.create_connection(("::1", spec["tcp_port"]), timeout=1):
        return "connected"


@attempt
def tcp_to_the_network(spec):
    with socket.create_connection((spec["address"], spec["tcp_port"]), timeout=1):
        return "connected"


@attempt
def udp_to_loopback(spec):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        return udp.sendto(b"hello", ("127.0.0.1", spec["udp_port"]))


@attempt
def unix_socket_of_the_host(spec):
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(spec["unix_path"])
        return "connected"


@attempt
def abstract_socket_of_the_host(spec):
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect("\0" + spec["unix_name"])
        return "connected"


@attempt
def kinds_of_sockets(spec):
    kinds = [(socket.AF_NETLINK, socket.SOCK_RAW), (socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_VSOCK, 1), (38, 5)]
    return [kind for kind in kinds if _gets(lambda kind=kind: socket.socket(*kind).close())]


@attempt
def listening(spec):
    with socket.create_server(("0.0.0.0", 0)) as server:
        return server.getsockname()[1]


@attempt
def io_uring(spec):
    return call(425, 8, ctypes.create_string_buffer(256)) >= 0


# --- files ---------------------------------------------------------------------------------------------------------


@attempt
def reading_a_secret(spec):
    return Path(spec["secret"]).read_text()


@attempt
def reading_the_answers(spec):
    return [path for path in spec["answers"] if _gets(lambda path=path: Path(path).read_bytes())]


@attempt
def secret_through_a_symbolic_link(spec):
    os.symlink(spec["secret"], "link")
    return Path("link").read_text()


@attempt
def secret_through_a_linked_folder(spec):
    os.symlink(os.path.dirname(spec["secret"]), "folder")
    return Path("folder/secret").read_text()


@attempt
def secret_through_a_hard_link(spec):
    os.link(spec["secret"], "hard")
    return Path("hard").read_text()


@attempt
def secret_through_proc(spec):
    roots = ["/proc/1/root", "/proc/self/root", f"/proc/{spec['outside']}/root", f"/proc/{os.getppid()}/root"]
    return [root for root in roots if _gets(lambda root=root: Path(root + spec["secret"]).read_text())]


@attempt
def secret_through_dots(spec):
    return Path("../" * 40 + spec["secret"].lstrip("/")).read_text()


@attempt
def secret_through_a_handle(spec):
    handle = ctypes.create_string_buffer(b"\x80\0\0\0" + bytes(132))
    mount = ctypes.c_int()
    if call(303 if X86 else 264, -100, spec["secret"].encode(), handle, ctypes.byref(mount), 0) == 0:
        return "a handle of it"
    return call(304 if X86 else 265, os.open("/", os.O_RDONLY), handle, os.O_RDONLY) >= 0


@attempt
def moving_a_secret(spec):
    os.rename(spec["secret"], "moved")
    return "moved"


@attempt
def writing_anywhere_else(spec):
    """Make a file in every folder that can be found, but for those that are given."""
    own = {os.path.realpath(path) for path in (".", os.environ["TMPDIR"])}
    own.add("/dev/shm")
    if WASI:  # the root is the job's folder, and the runtime makes these in it
        own |= {"/usr", "/usr/local", "/tmp", os.environ["HOME"]}
    found = []
    for top in ("/", "..", *spec["folders"]):
        for depth, folder in _folders(top):
            if os.path.realpath(folder) in own or depth > 3:
                continue
            name = os.path.join(folder, f"flyball-escape-{os.getpid()}")
            if _gets(lambda name=name: open(name, "xb").close()):
                found.append(name)
                os.unlink(name)
    return found


@attempt
def changing_what_is_fixed(spec):
    changes = {
        "append": lambda: open("../fixed/attempts.py", "ab").close(),
        "truncate": lambda: os.truncate("../fixed/attempts.py", 0),
        "unlink": lambda: os.unlink("../fixed/attempts.py"),
        "rename": lambda: os.rename("../fixed", "../other"),
        "chmod": lambda: os.chmod("../fixed/attempts.py", 0o777) or (WASI and _must(-1)),  # there it does nothing
        "append by its whole path": lambda: open("/sandbox/fixed/attempts.py", "ab").close(),
        "unlink by its whole path": lambda: os.unlink("/sandbox/fixed/attempts.py"),
    }
    return [name for name, change in changes.items() if _gets(change)]


@attempt
def changing_files_of_the_host(spec):
    path = spec["secret"]
    changes = {
        "chmod": lambda: os.chmod(path, 0o777),
        "chown": lambda: os.chown(path, os.getuid(), os.getgid()),
        "utime": lambda: os.utime(path, (0, 0)),
        "truncate": lambda: os.truncate(path, 0),
        "unlink": lambda: os.unlink(path),
        "xattr": lambda: os.setxattr(path, "user.flyball", b"1"),
        "folder": lambda: os.chmod(os.path.dirname(path), 0o777),
        "interpreter": lambda: os.chmod(sys.executable, 0o777),
        "interpreter's time": lambda: os.utime(sys.executable),
        "interpreter's bytes": lambda: open(sys.executable, "r+b").close(),
    }
    return [name for name, change in changes.items() if _gets(change)]


@attempt
def watching_files_of_the_host(spec):
    watcher = libc.inotify_init()
    return watcher >= 0 and libc.inotify_add_watch(watcher, os.path.dirname(spec["secret"]).encode(), 0xFFF) >= 0


@attempt
def devices(spec):
    names = ("mem", "kmem", "port", "kvm", "fuse", "kmsg", "sda", "vda", "loop0", "loop-control", "vsock", "tty")
    return [name for name in names if _gets(lambda name=name: os.close(os.open(f"/dev/{name}", os.O_RDWR)))]


@attempt
def making_devices(spec):
    os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 1))
    return "a device"


@attempt
def kernel_settings(spec):
    places = (
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/proc/self/oom_score_adj",
    )
    return [place for place in places[:3] if _gets(lambda place=place: open(place, "r+b").close())]


@attempt
def control_groups(spec):
    for folder, _, _ in os.walk("/sys/fs/cgroup"):
        if _gets(lambda folder=folder: open(os.path.join(folder, "cgroup.procs"), "r+b").close()):
            return folder


# --- descriptors, environment, memory of others --------------------------------------------------------------------------


@attempt
def inherited_descriptors(spec):
    found = [fd for fd in range(3, 200) if fd != spec["result"] and _gets(lambda fd=fd: os.fstat(fd))]
    return [fd for fd in found if not (WASI and stat.S_ISDIR(os.fstat(fd).st_mode))]  # there, what is given


@attempt
def environment_of_the_host(spec):
    mine = set(os.environ) - {"PATH", "HOME", "TMPDIR", "LANG", "PYTHONDONTWRITEBYTECODE", "PWD", "LC_CTYPE"}
    return sorted(mine - {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONTZPATH"})


@attempt
def environment_of_other_processes(spec):
    found = []
    for process in ("1", str(spec["outside"]), str(os.getppid())):
        with contextlib.suppress(OSError):
            if b"FLYBALL_TEST_SECRET" in Path(f"/proc/{process}/environ").read_bytes():
                found.append(process)
    return found


@attempt
def memory_of_the_host(spec):
    with open(f"/proc/{spec['outside']}/mem", "rb") as memory:
        return memory.fileno()


@attempt
def memory_by_system_call(spec):
    buffer = ctypes.create_string_buffer(8)
    here = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_uint64 * 2)(spec["address_of_secret"], 8)
    return libc.process_vm_readv(spec["outside"], here, 1, there, 1, 0) > 0


@attempt
def tracing(spec):
    return [request for request in (16, 0x4206) if libc.ptrace(request, spec["outside"], None, None) == 0]


@attempt
def tracing_the_launcher(spec):
    return [pid for pid in (1, 2, os.getppid()) if libc.ptrace(16, pid, None, None) == 0]


@attempt
def descriptors_of_other_processes(spec):
    process = os.pidfd_open(spec["outside"])
    return call(438, process, 1, 0) >= 0


# --- processes outside -------------------------------------------------------------------------------------------------


@attempt
def signals_to_the_outside(spec):
    outside, there = spec["outside"], Path(f"/proc/{spec['outside']}/comm")
    ways = {
        "kill": lambda: os.kill(outside, 0),
        "group": lambda: os.killpg(spec["outside_group"], 0),
        "parent": lambda: os.kill(spec["host"], 0),
        "pidfd": lambda: signal.pidfd_send_signal(os.pidfd_open(outside), 0),
        "thread": lambda: _must(call(234 if X86 else 131, outside, outside, 0)),
    }
    went = [name for name, way in ways.items() if _gets(way)]
    return went if not there.parent.exists() or there.exists() else []


@attempt
def signals_by_files(spec):
    reading, writing = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETOWN, spec["outside"])
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(writing, b"x")
    time.sleep(0.2)  # whether the signal came is looked at outside


@attempt
def limits_and_priorities_of_the_outside(spec):
    outside = spec["outside"]
    ways = {
        "limit": lambda: resource.prlimit(outside, resource.RLIMIT_NOFILE, (8, 8)),
        "nice": lambda: os.setpriority(os.PRIO_PROCESS, outside, 19),
        "nice of the user": lambda: os.setpriority(os.PRIO_USER, 0, 19),
        "affinity": lambda: os.sched_setaffinity(outside, {0}),
        "scheduler": lambda: os.sched_setscheduler(outside, os.SCHED_BATCH, os.sched_param(0)),
        "io": lambda: _must(call(251 if X86 else 30, 1, outside, 3 << 13)),
        "kcmp": lambda: _must(call(312 if X86 else 272, outside, os.getpid(), 0, 0, 0)),
        "out of memory first": lambda: Path(f"/proc/{outside}/oom_score_adj").write_text("1000"),
    }
    return [name for name, way in ways.items() if _gets(way)]


@attempt
def shared_memory_of_the_host(spec):
    return libc.shmget(spec["shm_key"], 4096, 0) >= 0


# --- power ----------------------------------------------------------------------------------------------------------------


@attempt
def nested_namespaces(spec):
    flags = {
        "user": 0x10000000,
        "mount": 0x20000,
        "pid": 0x20000000,
        "net": 0x40000000,
        "time": 0x80,
        "cgroup": 0x2000000,
    }
    return [name for name, flag in flags.items() if libc.unshare(flag) == 0]


@attempt
def namespaces_by_clone(spec):
    child = call(56 if X86 else 220, 0x10000000 | signal.SIGCHLD, None, None, None, None)
    if child == 0:
        os._exit(0)
    return child > 0


@attempt
def namespaces_by_clone3(spec):
    arguments = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    child = call(435, arguments, 64)
    if child == 0:
        os._exit(0)
    return child > 0


@attempt
def namespaces_of_the_host(spec):
    kinds = ("mnt", "net", "pid", "user", "ipc", "uts")
    places = [f"/proc/{process}/ns/{kind}" for process in (1, spec["outside"]) for kind in kinds]
    return [place for place in places if _gets(lambda place=place: _must(libc.setns(os.open(place, os.O_RDONLY), 0)))]


@attempt
def mounting(spec):
    os.makedirs("mnt", exist_ok=True)
    ways = {
        "proc": libc.mount(b"proc", b"mnt", b"proc", 0, None),
        "tmpfs": libc.mount(b"none", b"mnt", b"tmpfs", 0, None),
        "bind": libc.mount(b"/usr", b"mnt", None, 4096, None),
        "remount": libc.mount(None, b"/", None, 32, None),
        "umount": libc.umount2(b"/proc", 2),
        "fsopen": min(call(430, b"tmpfs", 0), 0),
        "open_tree": min(call(428, -100, b"/", 1), 0),
    }
    return [name for name, result in ways.items() if result == 0]


@attempt
def another_root(spec):
    return [way for way in ("chroot", "pivot_root") if getattr(libc, way, libc.chroot)(b".", b".") == 0]


@attempt
def another_user(spec):
    other = 1000 if os.getuid() != 1000 else 1001
    ways = {"uid": lambda: os.setuid(other), "gid": lambda: os.setgid(other), "groups": lambda: os.setgroups([other])}
    return [name for name, way in ways.items() if _gets(way)]


@attempt
def capabilities(spec):
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    # others than root cannot give up the bounding set, and cannot use it: see privileges_of_programs
    bounding = [number for number in range(41) if os.getuid() == 0 and libc.prctl(23, number, 0, 0, 0) == 1]
    return [*filter(None, data), *bounding]


@attempt
def privileges_of_programs(spec):
    return libc.prctl(39, 0, 0, 0, 0) != 1  # no_new_privs is off


@attempt
def higher_limits(spec):
    limits = ("NPROC", "AS", "CPU", "FSIZE", "NOFILE")
    infinite = resource.RLIM_INFINITY
    raised = []
    for name in limits:
        limit = getattr(resource, f"RLIMIT_{name}")
        if resource.getrlimit(limit)[1] == infinite or _gets(
            lambda limit=limit: resource.setrlimit(limit, (infinite, infinite)), ValueError
        ):
            raised.append(name)
    return raised


@attempt
def doors_of_the_kernel(spec):
    numbers = {"bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "add_key": 248, "keyctl": 250, "kexec_load": 246}
    numbers |= {"init_module": 175, "reboot": 169, "swapon": 167, "open_by_handle_at": 304}
    if not X86:
        numbers = {"bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "add_key": 217, "keyctl": 219}
    return [name for name, number in numbers.items() if call(number, 0, b"", 0, 0, 0) >= 0]


@attempt
def system_calls_of_another_kind(spec):
    """getpid by the 32-bit gate, which a filter by number alone would not see."""
    if not X86:
        return None
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))() > 0


@attempt
def system_calls_of_x32(spec):
    return X86 and call(0x40000000 | 39) > 0


@attempt
def typing_into_the_terminal(spec):
    return [fd for fd in (0, 1, 2) if _gets(lambda fd=fd: fcntl.ioctl(fd, 0x5412, b"x"))]


@attempt
def a_terminal(spec):
    return os.close(os.open("/dev/tty", os.O_RDWR)) is None


# --- too much of everything -------------------------------------------------------------------------------------------------


@attempt
def fork_bomb(spec):
    return _bomb(spec["processes"] + 16, lambda: time.sleep(60))


@attempt
def threads_without_bound(spec):
    import threading

    ready = threading.Event()
    for number in range(spec["processes"] + 16):
        try:
            threading.Thread(target=ready.wait, daemon=True).start()
        except RuntimeError:
            return None
    return number


@attempt
def too_much_memory(spec):
    return len(bytearray(spec["memory"] + (64 << 20)))


@attempt
def memory_that_is_counted_nowhere(spec):
    return os.close(os.memfd_create("memory")) is None


@attempt
def too_large_a_file(spec):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("large", "wb") as file:
        file.truncate(spec["disk"] + 1)
    return os.stat("large").st_size


@attempt
def memory_as_a_file(spec):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    chunk, written = bytes(1 << 20), 0
    for number in range(8):
        with open(f"/dev/shm/{number}", "wb") as file:
            while written <= spec["disk"] + (1 << 20) and file.write(chunk):
                written += len(chunk)
    return written


# --- how attempts are run ---------------------------------------------------------------------------------------------------


def _gets(way: Callable[[], object], *others: type[Exception]) -> bool:
    try:
        way()
    except (OSError, *others):
        return False
    return True


def _must(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "held")
    return result


def _folders(top: str):
    stack = [(0, top)]
    while stack:
        depth, folder = stack.pop()
        yield depth, folder
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            if depth < 3 and os.path.realpath(folder) not in ("/proc", "/sys"):
                stack += [(depth + 1, e.path) for e in entries if e.is_dir(follow_symlinks=False)][:200]


def _bomb(number: int, do: Callable[[], object]) -> int | None:
    children = []
    try:
        for _ in range(number):
            child = os.fork()
            if child == 0:
                do()
                os._exit(0)
            children.append(child)
        return len(children)
    except OSError:
        return None
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def run(function: Callable, spec: Spec) -> object:
    if WASI:
        with contextlib.suppress(OSError, MemoryError, AttributeError, TypeError):
            return function({**spec, "result": -1}) or None
        return None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(SECONDS)
        got: object = None
        with contextlib.suppress(OSError, MemoryError, AttributeError):
            got = function({**spec, "result": writing})
        os.write(writing, json.dumps(got or None).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return json.loads(said or b"null")


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    chosen = told["only"] or ATTEMPTS
    print(json.dumps({name: run(ATTEMPTS[name], told) for name in chosen}))
