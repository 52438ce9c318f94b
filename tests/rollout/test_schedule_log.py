"""The log of a schedule: what was written is read back, what was cut short never happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyball.errors import StoreError
from flyball.rollout.schedule import Admitted, in_step
from flyball.rollout.schedule_log import ScheduleLog, read_events

EVENTS = list(in_step(3, 2, 1))


def write(path: Path) -> None:
    log = ScheduleLog(path)
    for event in EVENTS:
        log.append([event])
    log.close()


def test_what_was_written_is_read_back_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "rl" / "schedule.jsonl"
    assert read_events(path) == []
    write(path)
    assert read_events(path) == EVENTS
    again = ScheduleLog(path)
    assert again.events == EVENTS
    again.append([EVENTS[0], new := Admitted(99, 3)])
    again.close()
    assert read_events(path) == [*EVENTS, new], "what was followed is not written twice"


def test_a_line_that_was_cut_short_at_any_byte_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    write(path)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        log = ScheduleLog(path)
        assert log.events == EVENTS[:-1]
        log.append(EVENTS[-1:])
        log.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["{", '{"version":0}', '{"version":"0","admitted":1}', "[]"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "schedule.jsonl"
    write(path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(StoreError, match=rf"schedule.jsonl:{len(EVENTS) + 1}: .* is no event of a schedule"):
        ScheduleLog(path)
