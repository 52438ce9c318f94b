"""Records: every type of `types.py` to JSON and back, exactly.

The form describes itself: a value JSON has no word for is an object whose key `$` says what it is (a dataclass by
name, `tuple`, `array`, `enum`, `map`, `float`). So fields annotated `Any` (a world's state, a tool's arguments) come
back as they were, and grading again compares the same values the first grading saw.

Reading is strict. A field that this version does not know, or a newer `RECORD_VERSION`, is refused, never dropped; a
field that is absent takes its default, so records written before the field existed stay readable.
`RECORD_VERSION` rises when the meaning of what is written changes.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np

from flyball import types
from flyball.errors import Fault, StoreError, nearest

RECORD_VERSION = 1
TAG = "$"

DATACLASSES: Mapping[str, type[Any]] = {
    name: kind for name, kind in vars(types).items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}
FIELDS: Mapping[str, tuple[str, ...]] = {
    name: tuple(field.name for field in dataclasses.fields(kind)) for name, kind in DATACLASSES.items()
}
ENUMS: Mapping[str, type[Enum]] = {kind.__name__: kind for kind in (types.StopReason, Fault)}

_ATOMS = frozenset({str, int, bool, type(None)})


class _Stray(Exception):
    """A value without a form in JSON; `path` grows on the way out so that the message can say where it is."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value
        self.path: list[str] = []


# --- text and bytes --------------------------------------------------------------------------------------------------


def to_json(value: Any) -> str:
    """Return the record as JSON text. Objects keep the order of their keys, as chat templates see it.

    Raises StoreError naming the place of a value that has no form (a set, an open file, a user's class).
    """
    try:
        body = _encode(value)
    except RecursionError as error:
        raise StoreError(f"{type(value).__name__} is nested too deeply, or contains itself; flatten it") from error
    except _Stray as stray:
        raise StoreError(
            f"{type(value).__name__}{''.join(stray.path)} is {_short(stray.value)} of type "
            f"{type(stray.value).__name__}; a record holds JSON values, tuples, arrays and the types of "
            "flyball.types. Return one of these from export_state, tools and graders"
        ) from None
    return json.dumps({"record": RECORD_VERSION, "body": body}, separators=(",", ":"))


def from_json(text: str | bytes) -> Any:
    """Read a record written by `to_json`. Raises StoreError for damage, an unknown field or a newer version."""
    try:
        envelope = json.loads(text, object_hook=_revive)
        version, body = envelope["record"], envelope["body"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"record {_short(text)} cannot be read: {error}") from error
    if version != RECORD_VERSION:
        raise StoreError(
            f"record version {version!r} was written by a newer flyball; this one reads version {RECORD_VERSION}. "
            "Upgrade flyball"
        )
    return body


def pack(value: Any) -> tuple[str, bytes]:
    """Return the sha256 of the record in hex, and the record compressed for a row.

    The checksum inside makes a flipped bit on disk an error instead of a wrong number.
    """
    text = to_json(value).encode("ascii")
    return hashlib.sha256(text).hexdigest(), zlib.compress(text, level=1)


def digest(value: Any) -> str:
    """Return the sha256 of the record in hex; the order of the keys of an object does not matter."""
    text = json.dumps(json.loads(to_json(value)), separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def unpack(data: bytes) -> Any:
    """Read a record written by `pack`. Raises StoreError."""
    try:
        text = zlib.decompress(data)
    except zlib.error as error:
        raise StoreError(
            f"a record of {len(data)} bytes is damaged ({error}); restore the store from a copy"
        ) from error
    return from_json(text)


# --- writing ---------------------------------------------------------------------------------------------------------


def _encode(value: Any) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}
    if kind is tuple:
        return {TAG: "tuple", "items": _encode_items(value)}
    if kind is list:
        return _encode_items(value)
    if isinstance(value, Mapping):
        return _encode_mapping(value)
    if isinstance(value, Enum):
        return _encode_enum(value)
    if DATACLASSES.get(kind.__name__) is kind:
        return _encode_dataclass(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return _encode_array(value)
    if isinstance(value, np.generic) and type(item := value.item()) in (*_ATOMS, float):
        return _encode(item)
    raise _Stray(value)


def _child(value: Any, where: str) -> Any:
    try:
        return _encode(value)
    except _Stray as stray:
        stray.path.insert(0, where)
        raise


def _encode_items(items: Iterable[Any]) -> list[Any]:
    """Long rows of token ids and logprobs are plain already; only mixed rows are walked."""
    row = list(items)
    kinds = set(map(type, row))
    if kinds <= _ATOMS or (kinds == {float} and all(map(math.isfinite, row))):
        return row
    return [_child(item, f"[{i}]") for i, item in enumerate(row)]


def _encode_mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    """An object, or a list of pairs where a key is not text (JSON would turn 1 into "1") or is the tag."""
    if all(type(key) is str for key in value) and TAG not in value:
        return {key: _child(item, f"[{key!r}]") for key, item in value.items()}
    pairs = [[_child(key, " key"), _child(item, f"[{key!r}]")] for key, item in value.items()]
    return {TAG: "map", "items": pairs}


def _encode_dataclass(value: Any) -> dict[str, Any]:
    name = type(value).__name__
    return {TAG: name} | {field: _child(getattr(value, field), f".{field}") for field in FIELDS[name]}


def _encode_enum(value: Enum) -> dict[str, Any]:
    name = type(value).__name__
    if ENUMS.get(name) is not type(value):
        raise _Stray(value)
    return {TAG: "enum", "type": name, "value": value.value}


def _encode_array(value: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Bytes in row-major order; `dtype` carries the byte order."""
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
    return {TAG: "array", "dtype": value.dtype.str, "shape": list(value.shape), "data": data}


# --- reading ---------------------------------------------------------------------------------------------------------


def _revive(obj: dict[str, Any]) -> Any:
    """Called by `json.loads` for every object, innermost first."""
    tag = obj.pop(TAG, None)
    if tag is None:
        return obj
    if tag in _REVIVERS:
        return _REVIVERS[tag](obj)
    if tag in DATACLASSES:
        return _revive_dataclass(DATACLASSES[tag], obj)
    raise StoreError(
        f"record type {tag!r} is unknown to this version{nearest(str(tag), DATACLASSES)}. Upgrade flyball if a newer "
        "one wrote it"
    )


def _revive_dataclass(kind: type[Any], fields: dict[str, Any]) -> Any:
    names = FIELDS[kind.__name__]
    if unknown := [name for name in fields if name not in names]:
        raise StoreError(
            f"{kind.__name__} record has a field {unknown[0]!r} that this version does not know"
            f"{nearest(unknown[0], names)}. Upgrade flyball if a newer one wrote it"
        )
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{kind.__name__} record is not valid: {error}") from error


def _revive_array(obj: dict[str, Any]) -> np.ndarray[Any, Any]:
    flat = np.frombuffer(base64.b64decode(obj["data"], validate=True), dtype=np.dtype(obj["dtype"]))
    return flat.reshape(obj["shape"]).copy()


_REVIVERS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "tuple": lambda obj: tuple(obj["items"]),
    "map": lambda obj: dict(obj["items"]),
    "float": lambda obj: float(obj["value"]),
    "enum": lambda obj: ENUMS[obj["type"]](obj["value"]),
    "array": _revive_array,
}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
