"""Guards in action: what `rl/guards.py` sees becomes something that is told, adjusted, paused for, or the end.

What was decided is kept in the progress, so a resumed run goes on by it: the learning rate stays halved, and a guard
that a person has read is quiet for its window before it speaks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from flyball.rl.guards import GUARDS, Action, Alarm, look
from flyball.train.progress import Progress

ADJUSTMENT = 0.5
"""What an adjustment multiplies the learning rate by."""


@dataclass(frozen=True)
class Watchmen:
    """The guards of one run. `actions`: by name of the guard (see `rl.guards.actions`); `tell` is given every alarm."""

    actions: Mapping[str, Action] = field(default_factory=dict)
    tell: Callable[[Alarm], None] = lambda alarm: None

    def look(self, progress: Progress) -> None:
        """Look at the history and act: note alarms and their metrics, and set `stopped_early` or `paused`."""
        awake = [name for name, action in self.actions.items() if action != "ignore" and not _quiet(progress, name)]
        for name, (value, reason) in look(progress.history, awake).items():
            alarm = Alarm(name, progress.step, value, reason, self.actions[name])
            progress.alarms.append(asdict(alarm))
            progress.history[-1][f"guard/{name}"] = value
            if alarm.action == "stop":
                progress.stopped_early = progress.stopped_early or f"guard {name}: {reason}"
            elif alarm.action == "pause":
                progress.paused = progress.paused or f"guard {name}: {reason}"
            self.tell(alarm)


NO_GUARDS = Watchmen()


def lr_adjustment(progress: Progress) -> float:
    """What the adjustments so far multiply the learning rate by."""
    return float(ADJUSTMENT ** sum(alarm["action"] == "adjust" for alarm in progress.alarms))


def _quiet(progress: Progress, name: str) -> bool:
    """Whether a guard has spoken within its window."""
    spoke = [alarm["step"] for alarm in progress.alarms if alarm["guard"] == name]
    return bool(spoke) and progress.step - spoke[-1] < GUARDS[name].window
