"""Import the user's Python file, and say on which of the user's lines it went wrong.

The file's folder is on `sys.path` while the file runs, so `from shop import Shop` finds its neighbours, and an import
inside a function still does later: the folder stays on the path until another workflow is loaded. Neighbours of an
earlier workflow with the same module name (`world.py` in two projects) are forgotten first; without that the second
project would silently run the first one's code.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from flyball.errors import ConfigError

_MODULE_NAME = "flyball_workflow_"
_on_path: list[str] = []


def import_file(path: Path) -> ModuleType:
    """Run the file as a module. Raises ConfigError with `file:line` of the user's code for whatever it raises."""
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; `flyball init helpdesk` writes a working example")
    folder = path.parent
    _enter(folder)
    name = _MODULE_NAME + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: Python cannot load this file; a workflow file ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ConfigError as exc:
        raise ConfigError(f"{_users_line(exc, folder) or path}: {exc.args[0]}") from exc
    except (Exception, SystemExit) as exc:
        raise ConfigError(_explain(exc, path, folder)) from exc
    return module


def _enter(folder: Path) -> None:
    for old in _on_path:
        if old in sys.path:
            sys.path.remove(old)
    _on_path[:] = [str(folder)]
    sys.path.insert(0, str(folder))
    neighbours = {
        entry.stem for entry in folder.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").is_file()
    }
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        stale = name.split(".")[0] in neighbours and origin and not Path(origin).is_relative_to(folder)
        if stale and name.split(".")[0] not in sys.stdlib_module_names and "site-packages" not in str(origin):
            del sys.modules[name]


def _explain(exc: BaseException, path: Path, folder: Path) -> str:
    if isinstance(exc, SyntaxError):
        return f"{exc.filename or path}:{exc.lineno or 1}: not Python: {exc.msg}"
    where = _users_line(exc, folder) or str(path)
    if isinstance(exc, ModuleNotFoundError):
        return f"{where}: no module named {exc.name!r}; install it in this environment or put it beside {path.name}"
    return f"{where}: {type(exc).__name__}: {exc}"


def _users_line(exc: BaseException, folder: Path) -> str | None:
    """Return `file:line` of the innermost frame that lies in the user's folder."""
    frames = traceback.extract_tb(exc.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None
