"""Which versions answered users lately, as one worker saw it: a rollback is confirmed by this, and not by its table."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

from flyball.capture.openai_form import BadRequest
from flyball.gateway.served import Served

KEPT_SECONDS = 60.0


class Answered:
    """Answers of the last minute by version. An answer counts when it is over; `clock` is in seconds since 1970.

    Answers to probes and to an operator's pin are not counted: no user got them.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lately: deque[tuple[float, str]] = deque()

    def note(self, served: Served) -> None:
        """Count an answer that is over."""
        now = self._clock()
        while self._lately and self._lately[0][0] < now - KEPT_SECONDS:
            self._lately.popleft()
        if 200 <= served.status < 300 and served.assigned.reason != "pin":
            self._lately.append((now, served.version))

    def since(self, at: float) -> dict[str, int]:
        """Answers from `at` until now, by version. Raises BadRequest for a time that is not kept any more."""
        if at < self._clock() - KEPT_SECONDS:
            raise BadRequest(f"answers are counted for {KEPT_SECONDS:g} s; ask for a later `since`", "since")
        return dict(Counter(version for when, version in self._lately if when >= at))
