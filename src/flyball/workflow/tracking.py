"""The metrics of a run in TensorBoard, MLflow or Weights & Biases, as they go to the store.

The store is the record and the tracker a copy of it: the thread that writes the copy never holds up or stops a run.
What a kill kept from the tracker is sent from the store when the run is resumed. A step is marked as sent before it is
sent, so none is sent twice; one that was being sent during a kill, or that the tracker refused, is in the store alone.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from flyball.config import TrackingSettings

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""The package that each kind writes with; the extra of the same name as the kind installs it."""

READS = {
    "tensorboard": frozenset({"folder"}),
    "mlflow": frozenset({"uri", "project"}),
    "wandb": frozenset({"folder", "project"}),
}
"""The settings that each kind reads."""

CLOSE_SECONDS = 30.0
"""How long the end of a run waits for what is still to be sent."""


class Tracker(Protocol):
    """An open run of a tracker; both methods may raise whatever its package raises."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of one step."""

    def close(self, complete: bool) -> None:
        """Nothing more will be sent for now. `complete`: all stages of the run are done."""


@dataclass(frozen=True)
class Place:
    """What a tracker knows the run by. `folder` is absolute, `project` the name runs are gathered under."""

    run_id: str
    project: str
    folder: Path
    uri: str | None = None


def missing_package(kind: str) -> str | None:
    """Return how to get the package of a kind of tracker, None when it is there."""
    if find_spec(PACKAGES[kind]) is not None:
        return None
    return f"its package {PACKAGES[kind]} is not installed: pip install 'flyball[{kind}]'"


class TensorBoard:
    """Event files in `<folder>/<run id>`; a resumed run adds one to the same folder, which TensorBoard reads as one."""

    def __init__(self, place: Place) -> None:
        # Files are named by the second: two writers of one run within a second would share one.
        folder, suffix = str(place.folder / place.run_id), f".{uuid.uuid4().hex[:8]}"
        self._writer = import_module("tensorboardX").SummaryWriter(folder, filename_suffix=suffix)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, complete: bool) -> None:
        self._writer.close()


class MLflow:
    """A run of an experiment, found again by the tag `flyball.run`."""

    def __init__(self, place: Place) -> None:
        self._client = import_module("mlflow.tracking").MlflowClient(tracking_uri=place.uri)
        self._metric = import_module("mlflow.entities").Metric
        found = self._client.get_experiment_by_name(place.project)
        experiment = found.experiment_id if found else self._client.create_experiment(place.project)
        runs = self._client.search_runs([experiment], f"tags.`flyball.run` = '{place.run_id}'")
        tags = {"flyball.run": place.run_id}
        run = runs[0] if runs else self._client.create_run(experiment, run_name=place.run_id, tags=tags)
        self._run_id = run.info.run_id
        self._client.update_run(self._run_id, status="RUNNING")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        at = round(time.time() * 1000)
        rows = [self._metric(name, value, at, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=rows)

    def close(self, complete: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if complete else "KILLED")


class WandB:
    """A run with the id of ours. Phases count their steps anew and W&B's own only rises, so `step` is the axis."""

    def __init__(self, place: Place) -> None:
        place.folder.mkdir(parents=True, exist_ok=True)
        self._run = import_module("wandb").init(
            project=place.project, id=place.run_id, name=place.run_id, dir=str(place.folder), resume="allow"
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def close(self, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)


TRACKERS: Mapping[str, Callable[[Place], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


class Tracking:
    """Writes the steps of one run to a tracker, from a thread of its own.

    `marks` is the file with the last step sent of each metric, `curves` what the store holds: what is there and was
    never sent goes first. A failure is said once through `say`; `failed` counts the steps that did not arrive.
    """

    def __init__(
        self,
        open_tracker: Callable[[], Tracker],
        marks: Path,
        curves: Mapping[str, list[tuple[int, float]]],
        say: Callable[[str], None],
    ) -> None:
        self._open, self._marks, self._say = open_tracker, marks, say
        self._sent: dict[str, int] = json.loads(marks.read_text()) if marks.is_file() else {}
        self._tracker: Tracker | None = None
        self._queue: queue.SimpleQueue[tuple[int, Mapping[str, float]] | None] = queue.SimpleQueue()
        self._complete = False
        self.failed = 0
        by_step: dict[int, dict[str, float]] = {}
        for name, curve in curves.items():
            for step, value in curve:
                by_step.setdefault(step, {})[name] = value
        for step in sorted(by_step):
            self.write(step, by_step[step])
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step; returns at once."""
        self._queue.put((step, dict(values)))

    def close(self, complete: bool, seconds: float = CLOSE_SECONDS) -> None:
        """Send what is left, for at most `seconds`, and say how many steps did not arrive."""
        self._complete = complete
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._say(f"the tracker has not taken all steps after {seconds:g} s; the run's store has them")
        if self.failed:
            self._say(f"{self.failed} steps did not reach the tracker; the run's store has them")

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._try(partial(self._send, *item))
        if self._tracker is not None:
            self._try(partial(self._tracker.close, self._complete))

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        new = {name: value for name, value in values.items() if step > self._sent.get(name, -1)}
        if not new:
            return
        self._tracker = self._tracker or self._open()
        self._sent |= dict.fromkeys(new, step)
        beside = self._marks.with_suffix(".partial")
        beside.write_text(json.dumps(self._sent))
        beside.replace(self._marks)
        self._tracker.write(step, new)

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as exc:  # whatever another program's package raises: the run does not depend on it
            self.failed += 1
            if self.failed == 1:
                self._say(f"the tracker failed, and the run goes on without: {type(exc).__name__}: {exc}")


def place_of(settings: TrackingSettings, run_id: str, title: str, beside: Path) -> Place:
    """Return where a run is tracked. A relative folder starts at `beside`, that of the workflow."""
    folder = (beside / (settings.folder or settings.kind)).resolve()
    return Place(run_id, settings.project or title, folder, settings.uri)
