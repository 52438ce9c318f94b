"""Settings files, read strictly: YAML in, typed sections out, `file:line` for what cannot be honoured.

A setting that would be ignored is an error (invariant 9), so every section forbids unknown keys and every scalar is
read strictly: `num_steps: "40"` or `group_size: true` is refused, not converted. Two departures from plain PyYAML:
`3e-4` is a number (YAML 1.1 needs `3.0e-4`) and a repeated key is an error (PyYAML keeps the last one silently).

Sections are pydantic models because they stand at the border to a file; a field's description is its rule in plain
words and ends the error message about it.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from flyball.errors import ConfigError, nearest
from flyball.section import Section

Location = tuple[str | int, ...]
S = TypeVar("S", bound=Section)

IN_FILE = "secret_in_file"
"""Type of the error whose message must not show what was written."""


# --- where a key was written -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marks:
    """`file:line` of every key and list entry; a location that was not written answers with its parent's line."""

    source: str
    lines: Mapping[Location, int] = field(default_factory=dict)

    def at(self, location: Location) -> str:
        for end in range(len(location), -1, -1):
            if (line := self.lines.get(location[:end])) is not None:
                return f"{self.source}:{line}"
        return self.source


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `3e-4` as a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> tuple[dict[str, Any], Marks]:
    """Read a mapping with the line of each key. Raises ConfigError for what is missing, unreadable or not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; `flyball init helpdesk` writes a workflow, `flyball init api_agent` a gateway"
        ) from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {exc}") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}; name a YAML file") from exc
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        lines: dict[Location, int] = {(): 1}
        if root is not None:
            _mark(root, (), lines, path)
        data = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {exc.problem or exc.context}") from exc
    finally:
        loader.dispose()
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        found = "empty" if data is None else f"a {type(data).__name__}"
        rule = "settings are a mapping such as `python: workflow.py`, or `port: 8080` of a gateway"
        raise ConfigError(f"{path}:1: the file is {found}; {rule}")
    return data, Marks(str(path), lines)


def _mark(node: yaml.Node, at: Location, lines: dict[Location, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, key.value)
            line = key.start_mark.line + 1
            if here in lines:
                raise ConfigError(f"{path}:{line}: key {key.value!r} was already set on line {lines[here]}; keep one")
            lines[here] = line
            _mark(value, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*at, i)] = value.start_mark.line + 1
            _mark(value, (*at, i), lines, path)


# --- typed reading ---------------------------------------------------------------------------------------------------


def parse(section: type[S], data: Any, marks: Marks, at: Location = ()) -> S:
    """Validate `data` as `section`. Raises one ConfigError with a line for every key that cannot be honoured.

    `at` is where `data` lies inside the file that `marks` describes.
    """
    try:
        return section.model_validate(data)
    except ValidationError as exc:
        problems = [_explain(section, dict(error), marks, at) for error in exc.errors()]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def _explain(section: type[Section], error: dict[str, Any], marks: Marks, at: Location) -> str:
    location: Location = tuple(error["loc"])
    where, dotted = marks.at((*at, *location)), ".".join(str(part) for part in (*at, *location))
    if error["type"] == "extra_forbidden":
        parent = _section_at(section, location[:-1])
        known = list(parent.model_fields) if parent else []
        inside = f" in {'.'.join(str(p) for p in (*at, *location[:-1]))!r}" if len(location) + len(at) > 1 else ""
        return f"{where}: unknown key {str(location[-1])!r}{inside}{nearest(str(location[-1]), known)}"
    if error["type"] == "missing":
        return f"{where}: {dotted} is missing{_rule(section, location)}"
    rule = error["msg"][0].lower() + error["msg"][1:]
    if error["type"] == IN_FILE:
        return f"{where}: {dotted}: {rule}"
    return f"{where}: {dotted or 'the file'} is {error['input']!r}: {rule}{_rule(section, location)}"


def _rule(section: type[Section], location: Location) -> str:
    """Return the field's own words, ready to end a message."""
    names = [part for part in location if isinstance(part, str)]
    parent = _section_at(section, tuple(names[:-1])) if names else None
    info = parent.model_fields.get(names[-1]) if parent else None
    return f"; {names[-1]}: {info.description}" if info and info.description else ""


def _section_at(section: type[Section], location: Sequence[str | int]) -> type[Section] | None:
    """Return the section that lies at `location`, None where there is no section."""
    here: type[Section] | None = section
    named = False
    for part in location:
        if isinstance(part, int) or named:
            named = False
            continue  # an entry of a list, or of sections by name, lies where the list's section does
        info = here.model_fields.get(part) if here else None
        here = section_of(info.annotation) if info else None
        named = info is not None and here is not None and typing.get_origin(info.annotation) is dict
    return here


def section_of(annotation: Any) -> type[Section] | None:
    """Return the Section inside an annotation such as `SFTSettings | None` or `tuple[Part, ...]`, None without one."""
    options = typing.get_args(annotation) or (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)


def merge(base: S, over: S) -> S:
    """Return `base` with every value that was written in `over`, key by key; unset keys of `over` change nothing."""
    return type(base).model_validate(_merge(_written(base), _written(over)))


def _written(section: Section) -> dict[str, Any]:
    return section.model_dump(exclude_unset=True)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
