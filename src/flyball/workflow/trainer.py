"""What a run needs of whoever trains. `local_trainer.py` adapts `flyball.train`; `fake.py` stands in for it in tests.

Every job has a folder of its own. A trainer leaves checkpoints there as it goes and continues from the last one when it
is given the same job again, so a run that was killed inside a stage resumes inside that stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flyball.config import (
    EngineSettings,
    FitSettings,
    PreferenceSettings,
    RewardModelSettings,
    SFTSettings,
    TinySettings,
)
from flyball.engine.protocol import Engine
from flyball.models.chat import ChatFormat
from flyball.rl.guards import Alarm
from flyball.rl_settings import RLSettings
from flyball.types import GradedAttempt, Message, Task
from flyball.workflow.inputs import Inputs


@dataclass(frozen=True)
class Demonstration:
    """One conversation to imitate: assistant turns are learned, everything else is given. `tools`: OpenAI schemas."""

    task_id: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Watch:
    """How a trainer reports and learns that it should stop.

    `step(done, total, metrics)` is called after every step that is saved or can be repeated; names of metrics are
    those of `flyball.metrics`. `keep(phase, step, attempts)` writes graded attempts to the store, all or none, and
    `kept(phase, step)` reads them back: a step that is repeated learns from these. `alarm(alarm)` keeps what a guard
    said, and shows it. `tell(line)` shows a person what the run cannot act on itself; it may be called from any thread.
    When `should_stop()` is true the trainer saves a checkpoint after the step under way and returns with
    `finished=False`.
    """

    step: Callable[[int, int, Mapping[str, float]], None]
    keep: Callable[[str, int, Sequence[GradedAttempt]], None]
    should_stop: Callable[[], bool]
    kept: Callable[[str, int], Sequence[GradedAttempt]] = lambda phase, step: ()
    alarm: Callable[[Alarm], None] = lambda alarm: None
    tell: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Trained:
    """A policy on disk in Hugging Face format. `finished` is False when it stopped because it was asked to, or paused.

    `stopped_early` says why training ended before its last step ('' when it did not), `paused` why a person should look
    before it goes on; `note` is one line for people.
    """

    folder: Path
    num_steps: int
    finished: bool = True
    stopped_early: str = ""
    paused: str = ""
    note: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SFTJob:
    """Supervised training of `policy` on demonstrations; the checkpoint is picked on `validation`."""

    policy: Path
    demonstrations: Sequence[Demonstration]
    validation: Sequence[Demonstration]
    inputs: Inputs
    settings: SFTSettings
    seed: int
    folder: Path


@dataclass(frozen=True)
class RLJob:
    """Group-relative RL of `policy` against its frozen self; the checkpoint is picked on `validation`."""

    policy: Path
    tasks: Sequence[Task]
    validation: Sequence[Task]
    inputs: Inputs
    settings: RLSettings
    preset: str
    seed: int
    folder: Path


@dataclass(frozen=True)
class RejectionJob:
    """SFT of `policy` on the rollouts that succeeded: a stage, and the control that sees exactly what RL saw.

    `others` were made by other policies with the same tokens, and are weighed (`rl/other_policy.py`).
    """

    policy: Path
    rollouts: Sequence[GradedAttempt]
    inputs: Inputs
    settings: FitSettings
    seed: int
    folder: Path
    others: Sequence[GradedAttempt] = ()


@dataclass(frozen=True)
class WrittenPair:
    """Two answers to `given`, the first the better one. `margin` is NaN where nobody said by how much."""

    task_id: str
    given: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    margin: float = math.nan


@dataclass(frozen=True)
class PreferenceJob:
    """Preference training of `policy` on pairs that were written, or that its own graded attempts make."""

    policy: Path
    written: Sequence[WrittenPair]
    rollouts: Sequence[GradedAttempt]
    inputs: Inputs
    settings: PreferenceSettings
    seed: int
    folder: Path


@dataclass(frozen=True)
class LabelledTalk:
    """A conversation with labels from 0 to 1: one for the whole, or one for each turn of the assistant."""

    task_id: str
    messages: tuple[Message, ...]
    labels: tuple[float, ...]


@dataclass(frozen=True)
class RewardModelJob:
    """A reward model on the body of `policy`: of written pairs, of labels, or of graded attempts."""

    policy: Path
    written: Sequence[WrittenPair]
    labelled: Sequence[LabelledTalk]
    rollouts: Sequence[GradedAttempt]
    inputs: Inputs
    settings: RewardModelSettings
    seed: int
    folder: Path


class Trainer(Protocol):
    """Every method raises ModelError or TrainError for what it cannot do; none of them ends with half a folder.

    A TrainError of a control costs the run this control only.
    """

    def find_policy(self, name: str) -> Path:
        """Return the folder of a known name, fetched and checked if need be, or of a folder that holds a policy."""
        ...

    def build_tiny(
        self, settings: TinySettings, demonstrations: Sequence[Demonstration], seed: int, folder: Path
    ) -> Path:
        """Make a tokenizer from the demonstrations and an untrained model, in Hugging Face format, in `folder`."""
        ...

    async def sft(self, job: SFTJob, watch: Watch) -> Trained: ...

    async def rl(self, job: RLJob, watch: Watch) -> Trained: ...

    async def rejection_sft(self, job: RejectionJob, watch: Watch) -> Trained: ...

    async def preference(self, job: PreferenceJob, watch: Watch) -> Trained: ...

    async def reward_model(self, job: RewardModelJob, watch: Watch) -> Trained:
        """The folder that comes back holds a reward model with its calibration; its metrics are on tasks held out."""
        ...

    async def open_engine(
        self, folder: Path, settings: EngineSettings, *, concurrency: int, seed: int
    ) -> tuple[Engine, ChatFormat]:
        """Load a policy for generation, with the engine that the settings name. The caller closes the engine.

        Raises ConfigError for settings that cannot be honoured here, EngineError for a server that cannot serve it.
        """
        ...
