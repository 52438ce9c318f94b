"""What a workflow file asks for, entry by entry: `ready`, `built by this run`, or `missing: how to get it`.

The file of someone who sketches the whole wheel on a napkin is accepted word for word; `flyball run` refuses it before
any work as long as one entry is missing, and says how to supply it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flyball.config import Settings, read_settings
from flyball.errors import ConfigError
from flyball.release.monitoring import monitors
from flyball.release.monitors import told_changes
from flyball.settings_file import Location, Marks
from flyball.workflow.check import EVALUATES_ONLY, Names, check_names, names_in_force
from flyball.workflow.tracking import missing_package
from flyball.workflow.workflow import Workflow, load_workflow

State = Literal["ready", "built by this run", "missing"]


@dataclass(frozen=True)
class Entry:
    """One entry of a file: where it was written, what it says, and whether a run can honour it."""

    where: str
    key: str
    value: str
    state: State
    note: str = ""


@dataclass(frozen=True)
class Around:
    """What the entries are judged against. `versions`: names in the registry. `workflow` None: no code is named."""

    names: Names
    versions: Collection[str] = ()
    workflow: Workflow | None = None


def entries(settings: Settings, marks: Marks, around: Around) -> list[Entry]:
    """Judge every entry that was written, in the order of the file's sections; the code comes first."""
    rows = [_code(settings, marks, around)]
    written = settings.model_dump(exclude_unset=True, exclude={"python"})
    for location, value in _leaves(written, ()):
        key = ".".join(str(part) for part in location if isinstance(part, str))
        state, note = _judge(key, value, settings, around)
        rows.append(Entry(marks.at(location), key, str(value), state, note))
    return rows


def refuse_missing(rows: list[Entry]) -> None:
    """Raise ConfigError that lists what is missing and how to get it."""
    missing = [row for row in rows if row.state == "missing"]
    if missing:
        lines = [f"{row.where}: {row.key} {row.value!r} is missing: {row.note}" for row in missing]
        raise ConfigError("\n".join(lines))


def _code(settings: Settings, marks: Marks, around: Around) -> Entry:
    where = marks.at(("python",))
    if around.workflow is None:
        note = (
            "add `python: workflow.py` with the world, the tasks and the success grader; "
            "`flyball init helpdesk` writes a whole example"
        )
        return Entry(where, "python", "world, tasks, success", "missing", note)
    graders = ["success", *(name for name in ("reward", "safety") if getattr(around.workflow, name) is not None)]
    world = getattr(around.workflow.world, "__name__", type(around.workflow.world).__name__)
    value = settings.python or str(around.workflow.source or "Workflow(...)")
    return Entry(where, "python", value, "ready", f"world {world}, graders {', '.join(graders)}")


def _leaves(value: Any, at: Location) -> Iterator[tuple[Location, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*at, key))
    elif isinstance(value, (list, tuple)) and value:
        for i, inner in enumerate(value):
            yield from _leaves(inner, (*at, i))
    else:
        yield at, value


def _judge(key: str, value: Any, settings: Settings, around: Around) -> tuple[State, str]:
    if isinstance(value, (list, tuple)):
        return "ready", "none"  # a list with something in it is judged name by name
    judge = _JUDGES.get(key)
    return judge(value, settings, around) if judge else ("ready", "")


def _target(value: Any, settings: Settings, around: Around) -> tuple[State, str]:
    if around.workflow is None:
        return "missing", "a sentence cannot be run: the world and tasks that `python:` points at are the target"
    return "ready", f"bound to {around.workflow.title!r}; printed in the brief"


def _baseline(value: Any, settings: Settings, around: Around) -> tuple[State, str]:
    if value in around.versions:
        return "ready", "in the registry: the run starts from it and compares against it"
    if settings.training.sft is None:
        return "missing", "no version of this name is in the registry, and training.sft is null: set training.sft"
    if around.workflow is None:
        return "missing", "the SFT cold start would build it, from demonstrations of the world that `python:` points at"
    if around.workflow.oracle is None and around.workflow.demonstrations is None:
        return "missing", "the SFT cold start would build it: give the workflow an `oracle` or `demonstrations`"
    return "built by this run", "the SFT cold start, frozen under this name"


def _reward_model(value: Any, settings: Settings, around: Around) -> tuple[State, str]:
    if value in around.versions:
        return "ready", "in the registry: RL learns from its probability in place of `reward`"
    if "reward_model" in settings.training.order:
        return "built by this run", "the stage reward_model trains and calibrates it"
    return "missing", (
        "no version of this name is in the registry; add the stage that trains one from attempts of the policy, "
        "`training: {stages: [sft, reward_model, rl]}`, or leave it out: learning then reads the `reward` grader"
    )


def _training(value: Any, settings: Settings, around: Around) -> tuple[State, str]:
    return "ready", "a preset of rl/algorithms.py"


def _engine(value: Any, settings: Settings, around: Around) -> tuple[State, str]:
    why = EVALUATES_ONLY.get(value)
    return "ready", f"evaluates only, and `flyball run` refuses it: {why}" if why else ""


def _tracking(value: Any, settings: Settings, around: Around) -> tuple[State, str]:
    why = missing_package(value)
    return ("missing", why) if why else ("ready", "gets the metrics as they go to the store")


def _canary(value: Any, settings: Settings, around: Around) -> tuple[State, str]:
    return "ready", "recorded in the release; the canary itself needs live sessions"


def _gate(value: Any, settings: Settings, around: Around) -> tuple[State, str]:
    return "ready", "a gate of release/gates.py"


def _monitor(value: Any, settings: Settings, around: Around) -> tuple[State, str]:
    monitor = next(one for one in monitors(settings.monitoring) if one.name == value)
    changes = told_changes(monitor)
    return "ready", f"{monitor.owner}: alarm where it {monitor.alarm}{f'; {changes}' if changes else ''}"


_JUDGES: dict[str, Callable[[Any, Settings, Around], tuple[State, str]]] = {
    "workflow.target": _target,
    "workflow.baseline": _baseline,
    "workflow.reward_model": _reward_model,
    "workflow.policy_training": _training,
    "training.rl.preset": _training,
    "engine.kind": _engine,
    "tracking.kind": _tracking,
    "release.canary_traffic_percent": _canary,
    "release.gates": _gate,
    "monitoring": _monitor,
    "monitoring.metric": _monitor,
}


def judge_file(path: Path, versions: Collection[str]) -> list[Entry]:
    """Read a workflow file and judge its entries. Raises ConfigError for what is wrong rather than missing."""
    if path.suffix == ".py":
        workflow: Workflow | None = load_workflow(path)
        assert workflow is not None
        settings, marks = workflow.settings, workflow.marks
    else:
        settings, marks = read_settings(path)
        workflow = load_workflow(path) if settings.python is not None else None
    names = names_in_force()
    check_names(workflow.settings if workflow else settings, marks, names)
    return entries(settings, marks, Around(names, versions, workflow))
