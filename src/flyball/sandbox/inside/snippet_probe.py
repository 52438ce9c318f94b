"""What `probe.py` tries, in the part of Python that an embedded interpreter has; prints what went through.

The job brings `spec.json` (see probe.py) beside this file.
"""

import json
import os
from pathlib import Path

spec = json.loads(Path("../fixed/spec.json").read_text())
MODULES = ("socket", "subprocess", "ctypes", "signal", "multiprocessing")


def reads_secret() -> bool:
    """Whether a file of the host can be read."""
    return bool(open(spec["secret"]).read(1))


def reads_outside() -> bool:
    """Whether what lies above the job's folders can be listed or read."""
    return bool(os.listdir("/")) or bool(open("../../" + spec["secret"]).read(1))


def writes_outside() -> bool:
    """Whether a file can be made outside of the job's folders."""
    for folder in [*spec["folders"], "/", "/usr", "/etc", "/var/tmp", "../fixed"]:
        try:
            Path(folder + "/" + spec["mark"]).write_text("x")
        except OSError:
            continue
        return True
    return False


def reads_proc() -> bool:
    """Whether the interpreter's own process can be looked into."""
    return bool(open("/proc/self/environ").read(1))


def sees_environment() -> bool:
    """Whether a variable of the caller's environment came along."""
    return "FLYBALL_PROBE_SECRET" in os.environ


def signals_outside() -> bool:
    """Whether a process outside can be signalled."""
    os.kill(spec["outside"], 0)
    return True


def starts_processes() -> bool:
    """Whether a process can be started."""
    return os.fork() >= 0


def imports_doors() -> bool:
    """Whether a module that leads to the system can be had."""
    for name in MODULES:
        try:
            exec("import " + name)
        except ImportError:
            continue
        return True
    return False


def climbs_to_classes() -> bool:
    """Whether the classes of the interpreter can be reached from a value."""
    return len(().__class__.__base__.__subclasses__()) > 0  # type: ignore[union-attr]


through = []
for probe in [
    reads_secret,
    reads_outside,
    writes_outside,
    reads_proc,
    sees_environment,
    signals_outside,
    starts_processes,
    imports_doors,
    climbs_to_classes,
]:
    try:
        if probe():
            through.append(probe.__name__)
    except (OSError, AttributeError, NameError, RuntimeError):
        continue
print(json.dumps(through))
