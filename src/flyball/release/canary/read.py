"""Sessions and plans from files: the border at which what others wrote is checked, field by field."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from flyball.errors import ReleaseError, nearest, unreadable
from flyball.release.canary.plan import CanaryPlan
from flyball.release.canary.units import ServedSession

_SESSION = TypeAdapter(ServedSession)
_PLAN = TypeAdapter(CanaryPlan)


def read_sessions(path: Path) -> list[ServedSession]:
    """One JSON object a line, with the fields of `ServedSession`. Raises ReleaseError naming the line and the field.

    A session id that comes twice is refused: which of the two lines would count?
    """
    return sessions_from_lines(_text(path), str(path))


def sessions_from_lines(text: str, name: str) -> list[ServedSession]:
    """What `read_sessions` does, for the text of a file called `name`."""
    found: dict[str, ServedSession] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            session = _SESSION.validate_json(line, extra="forbid")
        except ValidationError as error:
            raise ReleaseError(f"{name}:{number}: {_first(error, ServedSession)}") from error
        if session.session_id in found:
            raise ReleaseError(
                f"{name}:{number}: session {session.session_id!r} is there already; one line per session, with all its "
                "labels in `labels`"
            )
        found[session.session_id] = session
    if not found:
        raise ReleaseError(f"{name} holds no session; write one JSON object a line")
    return list(found.values())


def read_plan(path: Path) -> CanaryPlan:
    """A plan in YAML: `owner`, and what differs from the defaults. Raises ReleaseError naming the field."""
    try:
        written = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise ReleaseError(f"{path} is no YAML: {error}") from error
    if not isinstance(written, dict):
        found = "an empty file" if written is None else f"a {type(written).__name__}"
        raise ReleaseError(f"{path}: a plan is a mapping such as `owner: ada`, this is {found}")
    try:
        return _PLAN.validate_python(written, extra="forbid")
    except ValidationError as error:
        raise ReleaseError(f"{path}: {_first(error, CanaryPlan)}") from error


def plan_from_json(text: bytes) -> CanaryPlan:
    """A plan written by `CanaryPlan.to_json`. Raises ReleaseError for anything else."""
    try:
        return _PLAN.validate_json(text, extra="forbid")
    except ValidationError as error:
        raise ReleaseError(f"a stored plan cannot be read: {_first(error, CanaryPlan)}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path} cannot be read: {unreadable(error)}") from error


def _first(error: ValidationError, kind: type[ServedSession] | type[CanaryPlan]) -> str:
    """The first complaint of pydantic in our words."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown field {place!r}{nearest(place, [field.name for field in fields(kind)])}"
    return f"{place or 'the line'}: {problem['msg']}"
