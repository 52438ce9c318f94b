"""What an incident looks like in the record, one dataset for ML, Platform and Product.

Its sessions are those that users were answered in from the beginning of the harm (where nobody said it: a week before
the opening) until users were served well again. A cause is looked for by version x step x tool call: of the labelled
sessions of a version in which a step called a tool, the share that failed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from flyball.errors import ReleaseError
from flyball.gateway.captured import captured_sessions
from flyball.release.incidents import Incident
from flyball.stats.intervals import rate_interval
from flyball.store import failures
from flyball.store.audit import Entry
from flyball.store.store import Store
from flyball.types import Estimate, SessionRecord

WEEK = 7 * 24 * 3600.0
NO_TOOL = "(answer)"
"""A step that called no tool."""


@dataclass(frozen=True)
class IncidentSession:
    """One session of an incident. `calls`: (step, tool) of the version that served it, a step is a model call, from 1;
    empty where bodies are not kept."""

    record: SessionRecord
    calls: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Suspect:
    """Share of failed sessions among those in which this step of this version called this tool."""

    version: str
    step: int
    tool: str
    failed: Estimate


def incident_sessions(store: Store, found: Incident) -> list[IncidentSession]:
    """The sessions of an incident, in the order they began; shadow is left out."""
    since = found.opened_at - WEEK if found.began_at is None else found.began_at
    records = [
        one
        for one in store.served_sessions(since=since)
        if one.arm != "shadow" and (found.restored_at is None or one.context["at"] < found.restored_at)
    ]
    steps: defaultdict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for (project, name), calls in captured_sessions(store, since=since).items():
        for step, each in enumerate(calls, 1):
            tools = [called["function"]["name"] for called in each.message.get("tool_calls") or ()] or [NO_TOOL]
            steps[f"{project}~{name}", each.call.version_id] += [(step, tool) for tool in tools]
    return [IncidentSession(one, tuple(steps.get((one.session_id, one.policy_version), ()))) for one in records]


def suspects(sessions: Iterable[IncidentSession]) -> list[Suspect]:
    """Every version x step x tool that a labelled session has, the highest lower bound of failure first."""
    found: defaultdict[tuple[str, int, str], dict[str, float]] = defaultdict(dict)
    for one in sessions:
        if one.record.outcome is not None:
            for step, tool in one.calls:
                found[one.record.policy_version, step, tool][one.record.session_id] = float(not one.record.outcome)
    rows = [Suspect(*where, rate_interval(list(failed.values()))) for where, failed in found.items()]
    return sorted(rows, key=lambda row: (-row.failed.low, row.version, row.step, row.tool))


Form = Literal["jsonl", "parquet"]


def export_incident(store: Store, found: Incident, folder: Path, form: Form = "jsonl") -> int:
    """Write a file each of `sessions`, `suspects` and `timeline` and return the number of sessions.

    Raises ReleaseError for a folder that holds something, StoreError when the disk refuses, or for Parquet without its
    extra.
    """
    write = _parquet() if form == "parquet" else _jsonl
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ReleaseError(f"{folder} is there already and is not an empty folder; name another one for the dataset")
    sessions = incident_sessions(store, found)
    write(folder / f"sessions.{form}", SessionRecord, [_row(one) for one in sessions], {"at": "float", "steps": "list"})
    write(folder / f"suspects.{form}", Suspect, [asdict(one) for one in suspects(sessions)], {})
    write(folder / f"timeline.{form}", Entry, [asdict(one) for one in found.timeline], {})
    return len(sessions)


Writer = Callable[[Path, type[Any], Sequence[Mapping[str, Any]], Mapping[str, str]], None]
"""Writes rows to a file: those of a dataclass, with more columns by name and type."""


def _parquet() -> Writer:
    from flyball.store.analysis import write_rows  # an extra

    return write_rows


def _jsonl(path: Path, kind: type[Any], rows: Sequence[Mapping[str, Any]], more: Mapping[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
    except OSError as error:
        raise failures.from_os(path.parent, error) from error


def _row(one: IncidentSession) -> dict[str, Any]:
    """The minimum schema, when it began, and what was called at which step."""
    return {**vars(one.record), "at": one.record.context["at"], "steps": [*map(list, one.calls)]}
