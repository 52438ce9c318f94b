"""The reward model that RL learns from, watched while RL learns from it and trained anew when it is worn out.

Every `every` steps its accuracy on the last so many steps (`evals/reward_accuracy.py`) is compared with that on the
first so many that it judged. When it fell by more than noise, RL stops at a step that is saved, a model of the same
name is trained on the success of all that the run did, and RL goes on from there with the new version as its judge.
Attempts keep what the model of their time said of them.

What was decided is an event of the run before anything is done about it: a run that was killed in between goes on with
the training of the model, not with the worn one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flyball.evals.reward_accuracy import REFRESHED, needs_refresh, reward_accuracy
from flyball.rl_settings import RefreshSettings
from flyball.store.store import Store
from flyball.types import GradedAttempt
from flyball.workflow.trainer import Watch

WORN = "reward_model_worn"
"""Kind of event of a run: {step, reason, version}."""


@dataclass(frozen=True)
class Worn:
    """After which step a reward model was found worn out, which version it was, and why."""

    step: int
    version: str
    reason: str


class Lookout:
    """Looks at the reward model `version` in a run; `graders` is the version of the graders that it is part of."""

    def __init__(self, store: Store, run_id: str, settings: RefreshSettings, version: str, graders: str) -> None:
        self._store, self._run_id, self._settings = store, run_id, settings
        self._version, self._graders = version, graders
        self.worn: Worn | None = None

    def watch(self, watch: Watch) -> Watch:
        """The same ear for a trainer, which also looks, and asks to stop once the model is worn out."""

        def step(done: int, total: int, metrics: Mapping[str, float]) -> None:
            watch.step(done, total, metrics)
            if done < total and done % self._settings.every == 0 and (reason := self.look(done)):
                self.worn = Worn(done, self._version, reason)
                self._store.add_event(self._run_id, WORN, dataclasses.asdict(self.worn))

        return dataclasses.replace(watch, step=step, should_stop=lambda: self.worn is not None or watch.should_stop())

    def look(self, done: int) -> str:
        """Why the model should be trained anew after `done` steps, or ''."""
        every, steps = self._settings.every, [self._judged(step) for step in range(1, done + 1)]
        mine = [graded for graded in steps if graded]
        if self._settings.always:
            return f"it judged {len(mine)} steps" if len(mine) >= every else ""
        if len(mine) < 2 * every:
            return ""
        first, now = (reward_accuracy(g for step in some for g in step) for some in (mine[:every], mine[-every:]))
        return "" if first is None or now is None else needs_refresh(first, now, self._settings.fall)

    def _judged(self, step: int) -> Sequence[GradedAttempt]:
        """The attempts of a step that this version of the graders judged."""
        made = self._store.attempts(self._run_id, "rl", step)
        return [graded for graded in made if graded.attempt.versions.get("graders") == self._graders]


def left_to_refresh(store: Store, run_id: str) -> Worn | None:
    """What an earlier process found worn out and did not replace."""
    replaced = {event.payload["step"] for event in store.events(run_id, REFRESHED)}
    left = [event.payload for event in store.events(run_id, WORN) if event.payload["step"] not in replaced]
    return Worn(**left[-1]) if left else None
