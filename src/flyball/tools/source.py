"""Which code is this: digests that make the versions of tools, worlds and graders (invariant 11).

The digest covers the source text of what is given, the functions and plain values that a `functools.partial` or a
closure binds, and what it uses of the user's own modules: functions, classes and assignments, and what those use in
turn. It is the text that counts and no value, so a port or a folder that is looked up at import changes nothing.
Installed packages are not followed, nor are files that are read.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import resolve_name
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

UNREAD = "unread:"
"""Starts a version whose source could not be read: such a version knows the name of the code, not its text."""


def source_digest(*code: Any) -> str:
    """Return sha256 (hex) of the source of functions and classes, marked `unread:` where only the name is known."""
    texts = [text for item in code for text in (_source(item), *_used(item))]
    digest = hashlib.sha256("\x00".join(texts).encode()).hexdigest()
    return f"{UNREAD}{digest}" if any(text.startswith(UNREAD) for text in texts) else digest


def _source(code: Any) -> str:
    if isinstance(code, functools.partial):
        bound = [
            _value(value) for value in (*code.args, *(pair for kv in sorted(code.keywords.items()) for pair in kv))
        ]
        return "\x00".join([_source(code.func), *bound])
    target = _target(code)
    try:
        text = textwrap.dedent(inspect.getsource(target))
    except (OSError, TypeError):  # built interactively, or compiled
        return f"{UNREAD}{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', '?')}"
    return "\x00".join([text, *(_value(value) for value in _closure(target))])


def _target(code: Any) -> Any:
    return code if inspect.isroutine(code) or inspect.isclass(code) else type(code)


def _closure(code: Any) -> list[Any]:
    values = []
    for cell in getattr(inspect.unwrap(code), "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell not filled yet, as `__class__` is during class creation
            values.append(cell.cell_contents)
    return values


def _value(value: Any) -> str:
    """Text of a bound value that is the same in every process: plain values as they are, the rest by type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if inspect.isfunction(value):
        return value.__qualname__
    return type(value).__qualname__


# --- what it uses ----------------------------------------------------------------------------------------------------


def _used(code: Any) -> list[str]:
    """The statements that `code` uses of the user's own modules, each once, in the order of their names."""
    while isinstance(code, functools.partial):
        code = code.func
    target = _target(code)
    module = sys.modules.get(getattr(target, "__module__", None) or "")
    if module is None or (home := _home(module)) is None:
        return []
    try:
        written = ast.parse(textwrap.dedent(inspect.getsource(target)))
    except (OSError, TypeError, SyntaxError):  # a lambda inside an expression: what it names is known all the same
        names = getattr(getattr(target, "__code__", None), "co_names", ())
        pairs = [ast.Attribute(ast.Name(one), other) for one, other in pairwise(names)]
        written = ast.Module([ast.Expr(node) for node in (*map(ast.Name, names), *pairs)], [])
    reader = _Reader(home)
    reader.follow(module, written)
    return [f"{module}.{name}: {text}" for (module, name), text in sorted(reader.texts.items())]


def _home(module: ModuleType) -> Path | None:
    """The folder above the top package of a module; None for our own package and for what has no file."""
    file, name = getattr(module, "__file__", None), module.__name__
    if file is None or name.partition(".")[0] == __name__.partition(".")[0]:
        return None
    depth = name.count(".") + Path(file).name.startswith("__init__.")
    return Path(file).resolve().parents[depth]


class _Reader:
    """Collects statements of the modules in one folder. `texts`: by module and name."""

    def __init__(self, home: Path) -> None:
        self.texts: dict[tuple[str, str], str] = {}
        self._home = home
        self._top: dict[str, dict[str, ast.stmt]] = {}

    def follow(self, module: ModuleType, written: ast.AST) -> None:
        """Take in what a piece of a module's code names."""
        for node in ast.walk(written):
            if isinstance(node, ast.Name):
                self._take(module, node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                self._take(module, node.value.id, node.attr)

    def _take(self, module: ModuleType, name: str, attribute: str = "") -> None:
        found = self._statements(module).get(name)
        if isinstance(found, (ast.Import, ast.ImportFrom)):
            for other, wanted in _imported(module, found, name):
                if other is not None and _home(other) == self._home and (wanted or attribute):
                    self._take(other, wanted or attribute, attribute if wanted else "")
        elif found is not None and (module.__name__, name) not in self.texts:
            self.texts[module.__name__, name] = ast.unparse(found)
            self.follow(module, found)

    def _statements(self, module: ModuleType) -> dict[str, ast.stmt]:
        """The top-level statements of a module, by the names that they bind."""
        if module.__name__ not in self._top:
            try:
                body = ast.parse(inspect.getsource(module)).body
            except (OSError, TypeError, SyntaxError):  # run from a string or a notebook
                body = []
            self._top[module.__name__] = {name: each for each in body for name in _bound(each)}
        return self._top[module.__name__]


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
    else:
        yield from (n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _imported(
    module: ModuleType, statement: ast.Import | ast.ImportFrom, name: str
) -> Iterator[tuple[ModuleType | None, str]]:
    """(module, name in it) that an import binds to `name`; name "" where the module itself is bound."""
    for alias in statement.names:
        if (alias.asname or alias.name.partition(".")[0]) != name:
            continue
        if isinstance(statement, ast.Import):
            yield sys.modules.get(alias.name if alias.asname else name), ""
            continue
        dotted = "." * statement.level + (statement.module or "")
        source = resolve_name(dotted, module.__package__) if statement.level else dotted
        yield sys.modules.get(source), alias.name
        yield sys.modules.get(f"{source}.{alias.name}"), ""
