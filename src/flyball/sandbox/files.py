"""Files on their way into a sandbox and back: what comes out was made by code that may have set traps."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORK, FIXED, TEMPORARY = "work", "fixed", "tmp"
SMALLEST = 4096
"""An empty file still costs the disk; so much is counted for it."""


@contextmanager
def sandbox_folder(files: Mapping[str, bytes], fixed: Mapping[str, bytes]) -> Iterator[Path]:
    """Yield a new folder with `work` (the files), `fixed` and `tmp`; it is gone afterwards, whatever lies in it."""
    folder = Path(tempfile.mkdtemp(prefix="flyball-sandbox-"))
    try:
        (folder / TEMPORARY).mkdir()
        for name, content in ((WORK, files), (FIXED, fixed)):
            (folder / name).mkdir()
            _write(folder / name, content)
        yield folder
    finally:
        shutil.rmtree(folder, onerror=_open_up)


def read_files(folder: Path, most_bytes: int) -> dict[str, bytes]:
    """Return the regular files below a folder by relative path; links, pipes and what cannot be read are left out.

    Nothing outside of the folder is ever opened. At most `most_bytes` are read in all.
    """
    found: dict[str, bytes] = {}
    left = most_bytes
    for path, _, names, descriptor in os.fwalk(folder):
        for name in sorted(names):
            content = _read(name, descriptor, left)
            if content is not None:
                found[os.path.relpath(os.path.join(path, name), folder)] = content  # noqa: PTH118
                left -= len(content)
    return dict(sorted(found.items()))


def exceeds(folder: Path, most_bytes: int) -> bool:
    """Return whether what lies below a folder takes more of the disk; stops counting where it does.

    Code that makes files faster than they are counted is told too, which is why nothing is counted to its end.
    """
    used, folders = 0, [str(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    used += max(entry.stat(follow_symlinks=False).st_blocks * 512, SMALLEST)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                if used > most_bytes:
                    return True
    return False


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _read(name: str, folder: int, most: int) -> bytes | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor has no path
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_size > most:
            return None
        return file.read(most)


def _open_up(remove: Callable[[str], Any], path: str, _: Any) -> None:
    """Sandboxed code may leave folders that cannot be entered: give them back their rights and try again."""
    with contextlib.suppress(OSError):
        os.chmod(Path(path).parent, 0o700)  # noqa: PTH101
        if not Path(path).is_symlink():
            os.chmod(path, 0o700)  # noqa: PTH101
        if Path(path).is_dir() and not Path(path).is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove(path)
