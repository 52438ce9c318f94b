"""Every name in a workflow against the table of the folder that declares it, before any work is done.

A wrong name and a setting that the chosen preset would not read are errors at the line where they were written
(invariant 9). What is a right name but cannot be had here is not an error: `napkin.py` marks it and says how to get it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flyball.capture.openai_form import POLICY
from flyball.config import ENGINE_FIELDS, STAGES, PreferenceSettings, RewardModelSettings, Settings, TrainingSettings
from flyball.errors import ConfigError, nearest
from flyball.models.names import MADE_BY_A_RUN
from flyball.models.tool_formats import TOOL_FORMATS
from flyball.release.gates import gate, gates
from flyball.release.monitoring import monitor, monitors
from flyball.release.monitors import Monitor
from flyball.rl.algorithms import ALGORITHMS, CHOICES, Algorithm, configured, own_choices
from flyball.rl.guards import GUARDS
from flyball.rl.preference_methods import METHOD_SETTINGS, METHODS
from flyball.rl_settings import RLSettings
from flyball.settings_file import Location, Marks
from flyball.workflow.tracking import READS

NEEDED = (
    ("vllm", "url", "the address of a vLLM server, without /v1"),
    ("vllm", "model", "the name under which the server lists its model"),
    ("http", "url", "the address of an OpenAI-compatible endpoint, with /v1"),
)
"""Kind of engine, a setting that it cannot do without, and what that is."""


VLLM_STOPS = 4
"""How many stop strings vLLM's server takes (0.32)."""


EVALUATES_ONLY = {
    "http": "an endpoint that answers in text gives neither the tokens it sampled nor their logprobs",
}
"""Kinds of engine that cannot be trained with, and why."""


@dataclass(frozen=True)
class Names:
    """The names a workflow may use. `presets` maps each to the fields of `rl.algorithms.CHOICES` that it reads."""

    presets: Mapping[str, Collection[str]]
    splits: Collection[str] | None = None


def names_in_force(splits: Collection[str] | None = None) -> Names:
    """Return the names that the folders declare, with the splits of the user's tasks once they are read."""
    presets = {name: row.reads for name, row in ALGORITHMS.items()}
    return Names(presets, splits)


def check_names(settings: Settings, marks: Marks, names: Names) -> None:
    """Raise one ConfigError with a line for every name that no table declares and every setting nobody would read."""
    problems = [
        *_list_problems(("release", "gates"), settings.release.gates or (), gate, gates, marks),
        *_monitor_problems(settings, marks),
        *_preset_problems(settings, marks, names),
        *_stage_problems(settings.training, marks),
        *_preference_problems(settings.training.preference, marks),
        *_reward_problems(settings.training.reward_model, marks),
        *_guard_problems(settings, marks),
        *_ignored(settings, marks),
        *_engine_problems(settings, marks),
        *_tracking_problems(settings, marks),
        *_order_problems(settings, marks),
    ]
    if names.splits is not None:
        problems += _unknown("evaluation.suites", "split", settings.evaluation.suites, names.splits, marks)
    if problems:
        raise ConfigError("\n".join(problems))


def _order_problems(settings: Settings, marks: Marks) -> list[str]:
    if not (settings.evaluation.interleave and settings.engine.kind == "vllm"):
        return []
    where = marks.at(("evaluation", "interleave"))
    return [f"{where}: evaluation.interleave cannot be honoured: a vllm server holds one set of weights; remove it"]


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


def monitors_of(settings: Settings, marks: Marks) -> tuple[Monitor, ...]:
    """The monitors that the file asks for. Raises one ConfigError with a line for every entry that is none."""
    if problems := _monitor_problems(settings, marks):
        raise ConfigError("\n".join(problems))
    return monitors(settings.monitoring)


def _monitor_problems(settings: Settings, marks: Marks) -> list[str]:
    return _list_problems(("monitoring",), settings.monitoring, monitor, monitors, marks)


def _list_problems(
    at: Location,
    written: Sequence[Any],
    one: Callable[[Any], object],
    whole: Callable[[Sequence[Any]], object],
    marks: Marks,
) -> list[str]:
    """What the room of releases says against each entry of a list, else against the list as a whole."""
    problems = []
    for i, entry in enumerate(written):
        try:
            one(entry)
        except ConfigError as exc:
            problems.append(f"{marks.at((*at, i))}: {exc.args[0]}")
    if written and not problems:
        try:
            whole(written)
        except ConfigError as exc:
            problems.append(f"{marks.at(at)}: {exc.args[0]}")
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
    if preset not in names.presets:
        return [f"{where}: unknown preset {preset!r}{nearest(preset, names.presets)}"]
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
        row = configured(preset, own_choices(rl))
    except ConfigError as exc:
        return [f"{where}: training.rl: {exc.args[0]}"]
    if rl.network_learning_rate is not None and row.network is None:
        where = marks.at(("training", "rl", "network_learning_rate"))
        return [
            f"{where}: training.rl.network_learning_rate would be ignored: preset {preset!r} trains the policy alone"
        ]
    if rl.replay_ratio and row.correction == "none":
        where = marks.at(("training", "rl", "replay_ratio"))
        return [
            f"{where}: training.rl.replay_ratio is {rl.replay_ratio}, and preset {preset!r} with correction 'none' "
            "would take replayed tokens for the policy's own; set `correction: tis`, or remove it"
        ]
    return _selection_problems(row, rl, marks)


def _selection_problems(row: Algorithm, rl: RLSettings, marks: Marks) -> list[str]:
    """A choice of tasks that nothing would make."""
    greso = marks.at(("training", "rl", "greso"))
    if rl.greso and not row.compares_groups:
        return [f"{greso}: training.rl.greso would be ignored: preset {row.name!r} learns from every group"]
    if rl.curriculum is not None and (rl.greso or row.max_refills):
        where = marks.at(("training", "rl", "curriculum"))
        return [
            f"{where}: training.rl.curriculum chooses the tasks of a step, and so would greso or max_refills; keep "
            "one, with `max_refills: 0` where the preset has its own"
        ]
    if rl.schedule == "async" and row.greedy_baseline:
        where = marks.at(("training", "rl", "schedule"))
        return [f"{where}: training.rl: preset {row.name!r} attempts each task once greedily; set `schedule: sync`"]
    if rl.schedule == "async" and (rl.greso or row.max_refills):
        where = greso if rl.greso else marks.at(("training", "rl", "schedule"))
        asked = "greso" if rl.greso else f"max_refills {row.max_refills}"
        return [
            f"{where}: training.rl: {asked} chooses tasks by what the groups before them taught, which groups ahead of "
            "the updates do not know; set `schedule: sync`" + ("" if rl.greso else ", or `max_refills: 0`")
        ]
    return []


def _engine_problems(settings: Settings, marks: Marks) -> list[str]:
    """Settings of another kind of engine, what this kind cannot do, and what it needs."""
    engine = settings.engine
    reads = ENGINE_FIELDS[engine.kind]
    problems = [
        f"{marks.at(('engine', name))}: engine.{name} would be ignored by the {engine.kind} engine; it reads "
        f"{', '.join(sorted(reads))}"
        for name in sorted(engine.model_fields_set - {"kind"} - reads)
        if getattr(engine, name) is not None
    ]
    problems += [
        f"{marks.at(('engine',))}: engine.{name} is missing: {why}"
        for kind, name, why in NEEDED
        if kind == engine.kind and getattr(engine, name) is None
    ]
    if engine.tool_format is not None and engine.tool_format not in TOOL_FORMATS:
        where = marks.at(("engine", "tool_format"))
        problems.append(
            f"{where}: unknown tool_format {engine.tool_format!r}{nearest(engine.tool_format, TOOL_FORMATS)}"
        )
    if POLICY in (engine.adapters or {}):
        where = marks.at(("engine", "adapters", POLICY))
        problems.append(f"{where}: {POLICY!r} is what an agent calls the policy itself; give this adapter another name")
    if engine.kind == "vllm":
        problems += _too_many_stops(settings, marks)
    if engine.kind == "vllm" and settings.training.rl is not None:
        problems += _beyond_vllm(settings.training.rl, marks)
    if engine.kind == "http":
        problems += [
            f"{marks.at(('evaluation', name))}: evaluation.{name} would be ignored: OpenAI's interface does not know "
            "it; remove it, or evaluate with another engine"
            for name in ("top_k", "min_p")
            if getattr(settings.evaluation, name)
        ]
    return problems


def _too_many_stops(settings: Settings, marks: Marks) -> list[str]:
    drawing = {("evaluation",): settings.evaluation, ("training", "rl"): settings.training.rl}
    return [
        f"{marks.at((*at, 'stop'))}: {'.'.join(at)}.stop has {len(section.stop)} texts, and a server of vLLM takes "
        f"{VLLM_STOPS}; leave out some, or use the local engine"
        for at, section in drawing.items()
        if section is not None and len(section.stop) > VLLM_STOPS
    ]


def _beyond_vllm(rl: RLSettings, marks: Marks) -> list[str]:
    """What training asks of an engine that a server of vLLM, which holds one version, cannot do."""
    asked = {
        "reference": (rl.reference, "its batches are not equal to the bit from run to run"),
        "version_mode": (rl.version_mode == "own_version", "it holds the newest weights only; use in_flight"),
        "on_new_weights": (rl.on_new_weights == "keep", "it drops what it cached when weights are loaded"),
    }
    return [
        f"{marks.at(('training', 'rl', name))}: training.rl.{name} cannot be had of a vllm engine: {why}"
        for name, (wanted, why) in asked.items()
        if wanted
    ]


def _tracking_problems(settings: Settings, marks: Marks) -> list[str]:
    """Settings of another kind of tracker, and a password, which would be kept with the run."""
    tracking = settings.tracking
    if tracking is None:
        return []
    if tracking.uri is not None and urlsplit(tracking.uri).password is not None:
        where = marks.at(("tracking", "uri"))
        return [f"{where}: a password stands in tracking.uri; leave uri out and set MLFLOW_TRACKING_URI"]
    return [
        f"{marks.at(('tracking', name))}: tracking.{name} would be ignored by {tracking.kind}; it reads "
        f"{', '.join(sorted(READS[tracking.kind]))}"
        for name in sorted(tracking.model_fields_set - {"kind"} - READS[tracking.kind])
        if getattr(tracking, name) is not None
    ]


def _stage_problems(training: TrainingSettings, marks: Marks) -> list[str]:
    """Sections of stages that are not listed, and listed stages whose section is null."""
    if training.stages is None:
        return []
    problems = []
    for name in STAGES:
        listed, written = name in training.stages, getattr(training, name) is not None
        where = marks.at(("training", name))
        refreshes = name == "reward_model" and training.rl is not None and training.rl.refresh_reward_model is not None
        if written and not listed and not refreshes:
            problems.append(f"{where}: training.{name} would be ignored: training.stages does not list {name!r}")
        if listed and not written:
            problems.append(f"{where}: training.{name} is null and training.stages lists it; remove one of the two")
    return problems


def _preference_problems(preference: PreferenceSettings | None, marks: Marks) -> list[str]:
    """An unknown method, settings that it does not read, and settings of attempts beside a file of pairs."""
    if preference is None:
        return []
    at = ("training", "preference")
    if preference.method not in METHODS:
        return [
            f"{marks.at((*at, 'method'))}: unknown method {preference.method!r}{nearest(preference.method, METHODS)}"
        ]
    reads = METHODS[preference.method].reads
    ignored = {name: f"{preference.method} reads {', '.join(reads)}" for name in METHOD_SETTINGS if name not in reads}
    if preference.pairs is not None:
        ignored |= dict.fromkeys(("attempts", "min_margin", "pairs_per_task"), "the pairs are those of the file")
    return [
        f"{marks.at((*at, name))}: training.preference.{name} would be ignored: {why}"
        for name, why in ignored.items()
        if getattr(preference, name) is not None
    ]


def _reward_problems(reward: RewardModelSettings | None, marks: Marks) -> list[str]:
    """Settings of another kind of reward model, and of attempts beside a file."""
    if reward is None:
        return []
    why = dict.fromkeys(REWARD_READS["all"], f"a reward model of kind {reward.kind!r} does not read it")
    why = {name: reason for name, reason in why.items() if name not in REWARD_READS[reward.kind]}
    if reward.pairs is not None or reward.labels is not None:
        from_attempts = ("attempts", "from_runs", "min_margin", "pairs_per_task", "discount")
        why = dict.fromkeys(from_attempts, "the data are those of the file") | why
    elif reward.from_runs is not None:
        why["attempts"] = "the attempts are those of from_runs"
    return [
        f"{marks.at(('training', 'reward_model', name))}: training.reward_model.{name} would be ignored: {reason}"
        for name, reason in why.items()
        if getattr(reward, name) is not None
    ]


REWARD_READS = {
    "all": ("pairs", "min_margin", "pairs_per_task", "labels", "discount", "beta"),
    "pairs": ("pairs", "min_margin", "pairs_per_task"),
    "outcome": ("labels",),
    "process": ("labels", "discount"),
    "implicit": ("labels", "beta"),
}
"""Settings by the kind of reward model that reads them."""


def _ignored(settings: Settings, marks: Marks) -> list[str]:
    """Settings that another setting switches off."""
    training, problems = settings.training, []
    if training.tiny is not None and settings.policy not in (None, MADE_BY_A_RUN):
        problems.append(
            f"{marks.at(('training', 'tiny'))}: training.tiny would be ignored: policy is {settings.policy!r}; "
            "remove it or set `policy: tiny`"
        )
    if training.lora is not None and training.sft is not None and training.sft.optimizer == "muon":
        problems.append(
            f"{marks.at(('training', 'sft', 'optimizer'))}: training.sft.optimizer is 'muon', which is for the full "
            "matrices of hidden layers, and training.lora trains adapters; use adamw, or remove training.lora"
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
    if training.rl is not None and training.rl.replay_steps is not None and not training.rl.replay_ratio:
        problems.append(
            f"{marks.at(('training', 'rl', 'replay_steps'))}: training.rl.replay_steps would be ignored: replay_ratio "
            "is 0, so nothing is replayed; set it, or remove replay_steps"
        )
    if (
        training.rl is not None
        and training.rl.max_age is not None
        and not (training.rl.lead or training.rl.replay_ratio)
    ):
        problems.append(
            f"{marks.at(('training', 'rl', 'max_age'))}: training.rl.max_age would be ignored: attempts in turn with "
            "the updates are never old; set `schedule: async` or `replay_ratio`, or remove it"
        )
    if training.rl is not None and training.rl.refresh_reward_model is not None:
        problems += _refresh_problems(settings, marks)
    return problems + (_ignored_by_schedule(training.rl, marks) if training.rl else [])


def _refresh_problems(settings: Settings, marks: Marks) -> list[str]:
    """A refresh of no reward model, and data for one that is trained on what the run did."""
    training, where = settings.training, marks.at(("training", "rl", "refresh_reward_model"))
    if settings.workflow.reward_model is None:
        return [
            f"{where}: training.rl.refresh_reward_model would be ignored: RL learns from no reward model; name one in "
            "workflow.reward_model"
        ]
    reward = training.reward_model
    if reward is None or "reward_model" in training.order:
        return []
    return [
        f"{marks.at(('training', 'reward_model', name))}: training.reward_model.{name} would be ignored: a refresh "
        "learns from the success of what the run did"
        for name in ("pairs", "labels", "attempts", "from_runs")
        if getattr(reward, name) is not None
    ]


def _guard_problems(settings: Settings, marks: Marks) -> list[str]:
    """Guards that there are not."""
    rl = settings.training.rl
    return [
        f"{marks.at(('training', 'rl', 'guards', name))}: unknown guard {name!r} in training.rl.guards"
        f"{nearest(name, GUARDS)}"
        for name in (rl.guards if rl else ())
        if name not in GUARDS
    ]


def _ignored_by_schedule(rl: RLSettings, marks: Marks) -> list[str]:
    """Settings that only matter under another schedule or version mode."""
    if rl.schedule == "async" and rl.curriculum is not None:
        where = marks.at(("training", "rl", "curriculum"))
        return [
            f"{where}: training.rl.curriculum draws the tasks of a step by what the steps before it gave, and "
            "`schedule: async` begins them earlier; set `schedule: sync`, or remove the curriculum"
        ]
    if rl.schedule == "sync":
        names, why = ["max_off_policy_steps", "version_mode", "on_new_weights"], "set `schedule: async`"
    elif rl.keeps_versions:
        names, why = (
            ["on_new_weights"],
            "no attempt meets new weights under own_version; use `version_mode: in_flight`",
        )
    else:
        return []
    return [
        f"{marks.at(('training', 'rl', name))}: training.rl.{name} would be ignored: {why}, or remove it"
        for name in names
        if getattr(rl, name) is not None
    ]
