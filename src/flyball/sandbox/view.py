"""What sandboxed code may read of the host: the system's programs and the interpreter, and nothing that is ours."""

from __future__ import annotations

import functools
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
)
INTERPRETER = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
"""The interpreter beneath a virtual environment: inside, packages are shown or not, whatever environment this is."""


@dataclass(frozen=True)
class View:
    """`shown` trees without the `hidden` ones inside them, none of which is a symbolic link; `links` of the root."""

    shown: tuple[Path, ...]
    hidden: tuple[Path, ...]
    links: tuple[tuple[Path, str], ...]
    packages: tuple[Path, ...]


@functools.cache
def view(packages: bool) -> View:
    """Return the view with or without the packages installed for this interpreter."""
    places = [Path(path) for path in SYSTEM if Path(path).exists()]
    links = tuple((path, str(path.readlink())) for path in places if path.is_symlink() and path.parent == Path("/"))
    base = Path(sys.base_prefix).resolve()
    trees = [path.resolve() for path in places if not path.is_symlink() or path.parent != Path("/")]
    trees += [base / "bin", base / "lib", base / "lib64"]
    installed = _installed()
    if packages:
        trees += installed
        hidden = [Path(__file__).parents[1].resolve()]  # examples with their answers lie in this package
    else:
        hidden = installed
    shown = _outermost([path for path in trees if path.exists()])
    inside = [path for path in hidden if path.exists() and any(path.is_relative_to(tree) for tree in shown)]
    return View(tuple(shown), tuple(_outermost(inside)), links, tuple(installed) if packages else ())


def reading_rules(seen: View) -> tuple[list[str], list[str]]:
    """Return the view as (paths below which everything may be read, folders that may only be listed)."""
    read: list[str] = []
    listed: list[str] = []
    for tree in seen.shown:
        for path, whole in _around(tree, seen.hidden):
            (read if whole else listed).append(str(path))
    return read, listed


def environment(home: str, temporary: str) -> dict[str, str]:
    """Return the whole environment of sandboxed code: nothing of this process's is in it."""
    return {
        "PATH": f"{INTERPRETER.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": home,
        "TMPDIR": temporary,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _installed() -> list[Path]:
    """Folders of installed packages: of this environment, of the interpreter beneath it, and of the system's."""
    base = str(Path(sys.base_prefix).resolve())
    names = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages([base, sys.prefix])}
    names |= {"/usr/lib/python3/dist-packages", *map(str, Path("/usr/local/lib").glob("python3*/*-packages"))}
    return sorted({Path(name).resolve() for name in names if Path(name).exists()})


def _outermost(paths: list[Path]) -> list[Path]:
    unique = sorted(set(paths))
    return [path for path in unique if not any(path != other and path.is_relative_to(other) for other in unique)]


def _around(path: Path, hidden: tuple[Path, ...]) -> Iterator[tuple[Path, bool]]:
    """Yield the parts of a tree without the hidden ones: (path, True) for a whole one, (path, False) for folders."""
    if path in hidden:
        return
    if not any(place.is_relative_to(path) for place in hidden):
        yield path, True
        return
    yield path, False
    for entry in sorted(path.iterdir()):
        if not entry.is_symlink():
            yield from _around(entry, hidden)
