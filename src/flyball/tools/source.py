"""Which code is this: digests that make the versions of tools, worlds and graders (invariant 11).

The digest covers the source text of what is given, and of the functions and plain values that a `functools.partial`
or a closure binds. It does not follow calls into helpers: what must change the version belongs in the function or is
named by the user's own package version.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import textwrap
from typing import Any

UNREAD = "unread:"
"""Starts a version whose source could not be read: such a version knows the name of the code, not its text."""


def source_digest(*code: Any) -> str:
    """Return sha256 (hex) of the source of functions and classes, marked `unread:` where only the name is known."""
    texts = [_source(item) for item in code]
    digest = hashlib.sha256("\x00".join(texts).encode()).hexdigest()
    return f"{UNREAD}{digest}" if any(text.startswith(UNREAD) for text in texts) else digest


def _source(code: Any) -> str:
    if isinstance(code, functools.partial):
        bound = [
            _value(value) for value in (*code.args, *(pair for kv in sorted(code.keywords.items()) for pair in kv))
        ]
        return "\x00".join([_source(code.func), *bound])
    target = code if inspect.isroutine(code) or inspect.isclass(code) else type(code)
    try:
        text = textwrap.dedent(inspect.getsource(target))
    except (OSError, TypeError):  # built interactively, or compiled
        return f"{UNREAD}{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', '?')}"
    return "\x00".join([text, *(_value(value) for value in _closure(target))])


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
