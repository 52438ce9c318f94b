"""What a schedule decided, on disk: one JSON line for each event, there before anything is done about it.

    {"version":0,"admitted":3}
    {"version":0,"taken":[0,1,2,3]}

A run resumes from its own log; given the log of another run, it makes the same decisions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from flyball.errors import StoreError
from flyball.rollout.schedule import Admitted, Event, Taken


class ScheduleLog:
    """The log at `path`. A last line that a kill cut short is removed: nothing was done about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = read_events(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(_whole(path))
        self._known = set(self.events)

    def append(self, events: Sequence[Event]) -> None:
        """Write events; they are on disk when this returns. One that is there, as it was followed, stays as it is."""
        new = [event for event in events if event not in self._known]
        if not new:
            return
        self._file.write(b"".join(map(_line, new)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.events += new
        self._known.update(new)

    def close(self) -> None:
        self._file.close()


def read_events(path: Path) -> list[Event]:
    """Return the events of a log, none where there is no file. Raises StoreError for a line that is no event."""
    if not path.is_file():
        return []
    events = []
    for number, line in enumerate(path.read_bytes()[: _whole(path)].splitlines(), start=1):
        try:
            events.append(_event(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path}:{number}: {line[:80]!r} is no event of a schedule; restore the log, or start a new run"
            ) from error
    return events


def _line(event: Event) -> bytes:
    what = {"admitted": event.group} if isinstance(event, Admitted) else {"taken": event.groups}
    return json.dumps({"version": event.version, **what}, separators=(",", ":")).encode() + b"\n"


def _event(fields: dict[str, object]) -> Event:
    version, admitted, taken = fields["version"], fields.get("admitted"), fields.get("taken")
    if isinstance(version, int) and isinstance(admitted, int):
        return Admitted(admitted, version)
    if isinstance(version, int) and isinstance(taken, list):
        return Taken(tuple(map(int, taken)), version)
    raise ValueError("neither admitted nor taken")


def _whole(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    return path.read_bytes().rfind(b"\n") + 1 if path.is_file() else 0
