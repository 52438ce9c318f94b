"""Every name in a workflow against the table of the folder that declares it, before any work is done.

A wrong name and a setting that the chosen preset would not read are errors at the line where they were written
(invariant 9). What is a right name but cannot be had here is not an error: `napkin.py` marks it and says how to get it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from flyball.config import Location, Marks, Settings
from flyball.errors import ConfigError, nearest
from flyball.metrics import METRICS
from flyball.release.gates import gate, gates
from flyball.rl.algorithms import ALGORITHMS, CHOICES, configured, own_choices

ANNOUNCED = {name: f"preset {name!r} {row.needs}" for name, row in ALGORITHMS.items() if row.needs}
"""Presets that a file may name before they can run, with what is missing and what to do until then."""


@dataclass(frozen=True)
class Names:
    """The names a workflow may use. `presets` maps each to the fields of `rl.algorithms.CHOICES` that it reads."""

    metrics: Collection[str]
    presets: Mapping[str, Collection[str]]
    splits: Collection[str] | None = None


def names_in_force(splits: Collection[str] | None = None) -> Names:
    """Return the names that the folders declare, with the splits of the user's tasks once they are read."""
    presets = {name: row.reads for name, row in ALGORITHMS.items() if not row.needs}
    monitored = {name for name, metric in METRICS.items() if "monitoring" in metric.where}
    return Names(monitored, presets, splits)


def check_names(settings: Settings, marks: Marks, names: Names) -> None:
    """Raise one ConfigError with a line for every name that no table declares and every setting nobody would read."""
    problems = [
        *_gate_problems(settings, marks),
        *_unknown("monitoring", "metric", settings.monitoring, names.metrics, marks),
        *_preset_problems(settings, marks, names),
        *_ignored(settings, marks),
    ]
    if names.splits is not None:
        problems += _unknown("evaluation.suites", "split", settings.evaluation.suites, names.splits, marks)
    if problems:
        raise ConfigError("\n".join(problems))


def preset_of(settings: Settings) -> str | None:
    """Return the RL preset in force: `workflow.policy_training`, or `training.rl.preset`; None when RL is off."""
    if settings.workflow.policy_training is not None:
        return settings.workflow.policy_training
    return settings.training.rl.preset if settings.training.rl else None


def _unknown(key: str, kind: str, written: Collection[str], known: Collection[str], marks: Marks) -> list[str]:
    at: Location = tuple(key.split("."))
    return [
        f"{marks.at((*at, i))}: unknown {kind} {name!r} in {key}{nearest(name, known)}"
        for i, name in enumerate(written)
        if name not in known
    ]


def _gate_problems(settings: Settings, marks: Marks) -> list[str]:
    """What the room of releases says against each name, else against the list as a whole."""
    written, problems = settings.release.gates or (), []
    for i, name in enumerate(written):
        try:
            gate(name)
        except ConfigError as exc:
            problems.append(f"{marks.at(('release', 'gates', i))}: {exc.args[0]}")
    if written and not problems:
        try:
            gates(written)
        except ConfigError as exc:
            problems.append(f"{marks.at(('release', 'gates'))}: {exc.args[0]}")
    return problems


def _preset_problems(settings: Settings, marks: Marks, names: Names) -> list[str]:
    preset, rl = preset_of(settings), settings.training.rl
    if preset is None:
        return []
    asked_in_plan = settings.workflow.policy_training is not None
    where = marks.at(("workflow", "policy_training") if asked_in_plan else ("training", "rl", "preset"))
    if rl is None:
        return [f"{where}: policy_training is {preset!r} and training.rl is null; remove one of the two"]
    if asked_in_plan and "preset" in rl.model_fields_set and rl.preset != preset:
        return [f"{where}: policy_training is {preset!r} and training.rl.preset is {rl.preset!r}; keep one"]
    if preset in ANNOUNCED and preset not in names.presets:
        return []
    if preset not in names.presets:
        return [f"{where}: unknown preset {preset!r}{nearest(preset, [*names.presets, *ANNOUNCED])}"]
    reads = names.presets[preset]
    ignored = [
        f"{marks.at(('training', 'rl', name))}: training.rl.{name} would be ignored: preset {preset!r} does not read it"
        f"{nearest(name, reads) if reads else '; it has no such settings'}"
        for name in CHOICES
        if getattr(rl, name) is not None and name not in reads
    ]
    if ignored or preset not in ALGORITHMS:
        return ignored
    try:
        configured(preset, own_choices(rl))
    except ConfigError as exc:
        return [f"{where}: training.rl: {exc.args[0]}"]
    return []


def _ignored(settings: Settings, marks: Marks) -> list[str]:
    """Settings that another setting switches off."""
    training, problems = settings.training, []
    if training.tiny is not None and settings.policy not in (None, "tiny"):
        problems.append(
            f"{marks.at(('training', 'tiny'))}: training.tiny would be ignored: policy is {settings.policy!r}; "
            "remove it or set `policy: tiny`"
        )
    if training.rl is None and "controls" in training.model_fields_set and "rejection_sft" in training.controls:
        problems.append(
            f"{marks.at(('training', 'controls'))}: the control 'rejection_sft' learns from the graded rollouts of RL, "
            "and training.rl is null; remove one of the two"
        )
    if training.rl is not None and training.rl.updates_per_batch == 1 and training.rl.proximal != "sampler":
        problems += [
            f"{marks.at(('training', 'rl', name))}: training.rl.{name} would be ignored: with one update per batch the "
            "policy is compared with itself, so the clip never acts; set `updates_per_batch: 2` or more, or remove it"
            for name in ("clip_ratio_low", "clip_ratio_high", "dual_clip")
            if getattr(training.rl, name) is not None
        ]
    return problems
