"""Our own form: one trace a line, `messages` and `tools` as every SFT trainer reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import orjson

from flyball.errors import StoreError
from flyball.store.formats.trace import Trace

_FIELDS = {field.name for field in dataclasses.fields(Trace)}


def write(traces: Iterable[Trace]) -> Iterator[bytes]:
    """Yield one line for each trace."""
    for trace in traces:
        yield orjson.dumps(vars(trace), option=orjson.OPT_APPEND_NEWLINE)


def read(data: bytes) -> list[Trace]:
    """Read what `write` wrote. Raises StoreError with the number of a line that cannot be read."""
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = orjson.loads(line)
            messages, tools = tuple(fields.pop("messages")), tuple(fields.pop("tools", ()))
            found.append(
                Trace(**{name: fields[name] for name in fields if name in _FIELDS}, messages=messages, tools=tools)
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"line {number} is no trace: {type(error).__name__} {error}") from error
    return found
