"""The rung `seatbelt`: macOS's own sandbox, by the program sandbox-exec. Not tested: we have no macOS.

So it is never chosen unless FLYBALL_SANDBOX names it, its probe must hold as every rung's must, and its results are
called `seatbelt (untested)`. Known to be weaker than the rungs of Linux: macOS enforces no bound on memory or on the
number of processes of one job, and Apple calls the program deprecated, though it is what Chromium and Bazel build on.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from flyball.sandbox.confined import Confined, limited
from flyball.sandbox.files import FIXED, TEMPORARY, WORK
from flyball.sandbox.job import Bounds
from flyball.sandbox.view import View, environment, view

LABEL = "seatbelt (untested)"
SYSTEM = ("/System", "/Library/Apple", "/private/etc/localtime", "/private/var/db/timezone", "/dev/urandom")
"""What programs of macOS read when they start, besides what `view` shows."""

ABOVE = ("/", "/private", "/private/tmp", "/private/var")
"""Folders above a job's own: a path through them cannot be opened unless they can be looked up."""


class Seatbelt:
    """Starts commands by sandbox-exec under a profile that denies what it does not name."""

    name = "seatbelt"
    probe = "probe"
    tested = False

    def missing(self) -> str | None:
        """Return what this host lacks, None when it can be tried."""
        if sys.platform != "darwin":
            return "it is a part of macOS"
        return None if shutil.which("sandbox-exec") else "the program sandbox-exec is not there"

    def start(self, command: tuple[str, ...], folder: Path, bounds: Bounds, packages: bool) -> Confined:
        """Prepare a command that stands in `folder/work`."""
        folder = folder.resolve()  # the kernel compares real paths, and /tmp is a link on macOS
        program = shutil.which("sandbox-exec") or "sandbox-exec"
        argv = [program, "-p", profile(view(packages), folder), *limited(command, bounds)]
        work = folder / WORK
        return Confined(argv, folder, bounds, work, environment(str(work), str(folder / TEMPORARY)), LABEL)


def profile(seen: View, folder: Path) -> str:
    """Return the profile, in the sandbox's own language: everything is denied that no later line allows."""
    quoted = [json.dumps(str(path)) for path in (*seen.shown, *SYSTEM, folder / FIXED)]
    hidden = [json.dumps(str(path)) for path in seen.hidden]
    changed = [json.dumps(str(folder / name)) for name in (WORK, TEMPORARY)]
    lines = [
        "(version 1)",
        "(deny default)",
        "(allow process-fork)",
        "(allow signal (target same-sandbox))",
        "(allow sysctl-read)",
        *(
            f'(allow file-read-metadata (literal "{path}"))'
            for path in ("/", "/private", "/private/tmp", "/private/var")
        ),
        *(f"(allow file-read* process-exec (subpath {path}))" for path in quoted),
        *(f"(deny file-read* process-exec (subpath {path}))" for path in hidden),
        *(f"(allow file-read* file-write* process-exec (subpath {path}))" for path in changed),
        *(f'(allow file-read* file-write-data (literal "/dev/{name}"))' for name in ("null", "zero")),
        "(deny network*)",
    ]
    return "\n".join(lines)
