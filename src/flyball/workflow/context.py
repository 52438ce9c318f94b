"""What every stage of a run gets: inputs, store, the run's folder, the display, and what earlier stages left."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from flyball.errors import ConfigError
from flyball.evals.suite import Suite
from flyball.release.registry import Registry, new_version, weights_digest
from flyball.rl.guards import Alarm
from flyball.store.store import Store
from flyball.tasks.dataset import dataset_digest
from flyball.types import GradedAttempt, PolicyVersion
from flyball.workflow.inputs import TRAIN, Inputs
from flyball.workflow.progress import Progress
from flyball.workflow.record import GUARD_SPOKE
from flyball.workflow.stop import StopRequest
from flyball.workflow.tracking import TRACKERS, Tracking, missing_package, place_of
from flyball.workflow.trainer import Trainer, Watch

Result = dict[str, Any]
"""What a stage leaves, as JSON values; `note` is its one line for people."""


@dataclass
class Context:
    """One run under way. `results` holds what finished stages left, by the name of the stage."""

    inputs: Inputs
    store: Store
    run_id: str
    trainer: Trainer
    progress: Progress
    stop: StopRequest
    policy: str
    results: dict[str, Result] = field(default_factory=dict)
    tracking: Tracking | None = None

    @cached_property
    def suites(self) -> list[Suite]:
        """What versions are judged on: the frozen suites, then the tasks that are drawn for this run alone."""
        return [*self.inputs.suites, *self.inputs.fresh(self.run_id)]

    @property
    def folder(self) -> Path:
        """Where this run keeps its files."""
        return self.store.root / "runs" / self.run_id

    def folder_of(self, stage: str) -> Path:
        path = self.folder / stage
        path.mkdir(parents=True, exist_ok=True)
        return path

    def open_tracking(self) -> None:
        """Begin to copy metrics to the tracker that the workflow names, if any. Raises ConfigError without its package.

        Another place than before gets the run from its first step.
        """
        workflow = self.inputs.workflow
        if (settings := workflow.settings.tracking) is None:
            return
        if why := missing_package(settings.kind):
            raise ConfigError(f"{workflow.marks.at(('tracking', 'kind'))}: tracking.kind is {settings.kind!r}: {why}")
        place = place_of(settings, self.run_id, workflow.title, workflow.folder)
        marks = (
            self.folder_of("tracking") / f"{settings.kind}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}.json"
        )
        curves = self.store.metrics(self.run_id)
        self.tracking = Tracking(lambda: TRACKERS[settings.kind](place), marks, curves, self.progress.say)

    def close_tracking(self, complete: bool) -> None:
        """Send what is left; steps that did not arrive are an event of the run."""
        if self.tracking is not None:
            self.tracking.close(complete)
            if self.tracking.failed:
                self.store.add_event(self.run_id, "tracking", {"failed": self.tracking.failed})

    def add_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep metrics in the store, and where the run is tracked."""
        self.store.add_metrics(self.run_id, step, values)
        if self.tracking is not None:
            self.tracking.write(step, values)

    def watch(self, phase: str) -> Watch:
        """Return the ear for a trainer: metrics and attempts go to the store, steps to the display.

        Metrics of RL carry their plain names; those of another phase are qualified by it, so that step 4 of the cold
        start and step 4 of RL stay apart.
        """

        def step(done: int, total: int, metrics: Mapping[str, float]) -> None:
            mine = metrics if phase == "rl" else {f"{name}/{phase}": value for name, value in metrics.items()}
            self.add_metrics(done, mine)
            self.progress.advance(done, metrics, total)

        def keep(kind: str, step: int, attempts: Sequence[GradedAttempt]) -> None:
            self.store.add_attempts(self.run_id, kind, step, attempts)

        def kept(kind: str, step: int) -> Sequence[GradedAttempt]:
            return list(self.store.attempts(self.run_id, kind, step))

        def alarm(spoken: Alarm) -> None:
            payload = asdict(spoken)
            if payload not in [event.payload for event in self.store.events(self.run_id, GUARD_SPOKE)]:
                self.store.add_event(self.run_id, GUARD_SPOKE, payload)  # a step that is learned again says it again
            self.progress.say(f"guard {spoken.guard}, step {spoken.step} ({spoken.action}): {spoken.reason}")

        return Watch(step, keep, lambda: self.stop.asked, kept, alarm, self.progress.say)

    def register(
        self, name: str, folder: Path, *, parent: PolicyVersion | None = None, reward_model: str | None = None
    ) -> PolicyVersion:
        """Put the policy that lies in `folder` into the registry, bound to everything that made it.

        Its files are kept by content, so the version can be loaded as long as the store is there.
        """
        inputs, kept = self.inputs, self.store.artifacts.tree(self.store.artifacts.put_tree(folder))
        weights = weights_digest(kept)
        entry = new_version(
            name=name,
            weights=weights,
            base=parent.base if parent else weights,
            parent=parent.version_id if parent else None,
            reward_model=reward_model,
            dataset=dataset_digest(inputs.splits.get(TRAIN, ())),
            graders=inputs.graders.versions,
            suites={suite.name: suite.digest for suite in inputs.suites},
            tools=inputs.world.tool_versions,
            config=inputs.fingerprint["settings"],
            code=code_digest(),
            path=str(kept.resolve()),
        )
        registry = Registry(self.store, actor=f"run {self.run_id}")
        registry.register(entry)
        return registry.version(entry.version_id)

    def version(self, stage: str) -> PolicyVersion:
        """Return the version that a finished stage left."""
        return self.store.version(self.results[stage]["version"])


@dataclass(frozen=True)
class Stage:
    """A part of a run. `wanted` is False where the settings switch it off; then it leaves no result."""

    name: str
    title: str
    run: Callable[[Context], Awaitable[Result]]
    wanted: Callable[[Context], bool] = lambda context: True


def run_config(inputs: Inputs, policy: str) -> dict[str, Any]:
    """Return what a run is kept with: its file, policy, settings, and the digests of all that must not change."""
    return {
        "file": str(Path(inputs.workflow.marks.source).resolve()),
        "policy": policy,
        "fingerprint": inputs.fingerprint,
        "settings": inputs.workflow.settings.model_dump(mode="json"),
    }


@cache
def code_digest() -> str:
    """Return the version of flyball and sha256 over its own source files."""
    root = Path(str(files("flyball")))
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{version('flyball')}+{total.hexdigest()}"
