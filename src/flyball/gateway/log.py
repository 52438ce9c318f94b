"""The log of a worker: JSON, one object a line, on standard error.

    {"time": "...", "level": "info", "event": "call", "worker": 4711, "request_id": "...", "session": "...",
     "arm": "canary", "version": "v2", "status": 200, "error": null, "seconds": 0.41, ...}

Only what is named here gets in, and nothing of it is a key, a header, a body or the text of an error, which may quote
any of them: a failure is told by its kind and by the line of code that raised it. Users are not named at all.

A thread writes, so a log that nobody reads holds up nobody: lines beyond MOST_WAITING are dropped and counted.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

LOG = logging.getLogger("flyball.gateway")
MOST_WAITING = 10_000
"""Lines that wait for whoever reads the log."""

LEVELS = {"calls": logging.INFO, "problems": logging.WARNING, "nothing": logging.CRITICAL + 1}
"""of the setting `log`"""


def note(event: str, level: int = logging.WARNING, **fields: Any) -> None:
    """Write one line about something that happened."""
    if LOG.isEnabledFor(level):
        LOG.log(level, event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        ours = record.name == LOG.name
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.msg if ours else record.name,
            "worker": os.getpid(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            told |= _where(record.exc_info[1])
        elif not ours:
            told["message"] = record.getMessage()
        return orjson.dumps(told, default=str).decode()


class Queued(logging.handlers.QueueHandler):
    """Hands lines to a thread and never waits. `dropped` counts those that nobody took in time; the next line that
    gets through tells it."""

    def __init__(self, waiting: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(waiting)
        self._waiting = waiting
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record as it is: it stays in this process."""
        if self.dropped and not self._waiting.full():
            vars(record).setdefault("fields", {})["dropped_before"] = self.dropped
            self.dropped = 0
        return record

    def handleError(self, record: logging.LogRecord) -> None:
        """The queue is full."""
        self.dropped += 1


def start_log(detail: str, stream: TextIO = sys.stderr) -> logging.handlers.QueueListener:
    """Write this process's log to `stream` from now on; stop the listener to write what is waiting."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(MOST_WAITING)
    handler, writer = Queued(waiting), logging.StreamHandler(stream)
    writer.setFormatter(JsonLines())
    listener = logging.handlers.QueueListener(waiting, writer)
    others = [(logging.getLogger(name), logging.WARNING) for name in ("uvicorn", "opentelemetry")]
    for logger, level in ((LOG, LEVELS[detail]), *others):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    listener.start()
    return listener


def _where(error: BaseException) -> dict[str, str]:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return {"error": type(error).__name__, "where": place}
