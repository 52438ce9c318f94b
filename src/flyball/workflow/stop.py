"""Ctrl-C as a request: the step under way is finished and saved, then the run ends as `stopped`.

A second Ctrl-C is not a request any more: it interrupts at once, and the store keeps what it had acknowledged.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopped(Exception):
    """The run ends here because somebody asked; everything up to here is saved."""


class StopRequest:
    """Whether somebody pressed Ctrl-C. A context manager that listens while it is open (main thread only)."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.reason = "asked to stop"
        self._before: Any = None
        self._listening = False

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self, reason: str = "") -> None:
        """Ask the run to stop at its next step. `reason`: where nobody did, why it should."""
        self.reason = reason or self.reason
        self._asked.set()

    def check(self) -> None:
        """Raise Stopped if somebody asked. Called where everything is saved."""
        if self.asked:
            raise Stopped

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
            self._listening = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._listening:
            signal.signal(signal.SIGINT, self._before)
            self._listening = False

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.ask()
