"""The napkin file of the design is taken word for word, and each entry says what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flyball.config import read_settings
from flyball.errors import ConfigError
from flyball.workflow.check import Names, check_names, names_in_force
from flyball.workflow.napkin import Around, Entry, entries, refuse_missing
from flyball.workflow.workflow import Workflow

NAPKIN = """\
workflow: {target: "one high-volume, multi-step support or ops task", baseline: "sft_checkpoint_v1", reward_model: "rm_v1", policy_training: "ppo_kl"}
release:
  canary_traffic_percent: 5
  gates: [no_safety_regression, latency_delta_lt_15_percent, cost_per_success_not_worse, rollback_under_5_minutes]
monitoring: [human_override_rate, tool_error_rate, policy_kl_drift, task_completion_quality]
"""  # noqa: E501
IN_FORCE = {name: names_in_force().presets[name] for name in ("ppo_kl", "dapo", "reinforce_pp")}
NAMES = Names({"rloo": {"kl_coef"}, "grpo": {"kl_coef", "clip_ratio_low"}, **IN_FORCE})


class Desk:
    def reset(self, ticket: str) -> str:
        return ticket


def success(a: Any, hidden: Any) -> bool:
    return True


def judge(tmp_path: Path, text: str, workflow: Workflow | None = None, versions: set[str] | None = None) -> list[Entry]:
    path = tmp_path / "napkin.yaml"
    path.write_text(text)
    settings, marks = read_settings(path)
    check_names(settings, marks, NAMES)
    return entries(settings, marks, Around(NAMES, versions or set(), workflow))


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        judge(tmp_path, text)
    return str(caught.value)


def state(rows: list[Entry], key: str) -> list[str]:
    return [row.state for row in rows if row.key == key]


def test_word_for_word_without_code(tmp_path: Path) -> None:
    rows = judge(tmp_path, NAPKIN)
    assert len(rows) == 1 + 4 + 1 + 4 + 4, "the code, then every entry of the file"
    missing = {row.key for row in rows if row.state == "missing"}
    assert missing == {"python", *(f"workflow.{k}" for k in ("target", "baseline", "reward_model"))}
    assert state(rows, "release.gates") == ["ready"] * 4
    assert state(rows, "monitoring") == ["ready"] * 4
    assert state(rows, "release.canary_traffic_percent") == ["ready"]
    assert all(row.note for row in rows if row.state == "missing"), "each says how to get it"


def test_with_code_the_baseline_is_built_ppo_is_ready_and_the_reward_model_is_missing(tmp_path: Path) -> None:
    workflow = Workflow(world=Desk, tasks=[], success=success, oracle=success)
    rows = judge(tmp_path, NAPKIN, workflow)
    assert state(rows, "workflow.target") == ["ready"]
    assert state(rows, "workflow.baseline") == ["built by this run"]
    with pytest.raises(ConfigError) as caught:
        refuse_missing(rows)
    message = str(caught.value)
    assert state(rows, "workflow.policy_training") == ["ready"]
    assert (
        "workflow.reward_model 'rm_v1' is missing: no version of this name is in the registry; add the stage" in message
    )
    assert "workflow.baseline" not in message


def test_a_workflow_that_monitors_nothing_is_ready() -> None:
    workflow = Workflow(world=Desk, tasks=[], success=success)
    settings, marks = workflow.settings, workflow.marks
    rows = {entry.key: entry for entry in entries(settings, marks, Around(NAMES, (), workflow))}
    assert (rows["monitoring"].state, rows["monitoring"].note) == ("ready", "none")


def test_a_baseline_in_the_registry_is_ready(tmp_path: Path) -> None:
    assert state(judge(tmp_path, NAPKIN, versions={"sft_checkpoint_v1"}), "workflow.baseline") == ["ready"]


def test_a_reward_model_is_in_the_registry_or_built_or_missing(tmp_path: Path) -> None:
    key = "workflow.reward_model"
    assert state(judge(tmp_path, NAPKIN, versions={"rm_v1"}), key) == ["ready"]
    assert state(judge(tmp_path, NAPKIN), key) == ["missing"]
    chain = "training: {stages: [sft, reward_model, rl]}\n"
    assert state(judge(tmp_path, NAPKIN + chain), key) == ["built by this run"]


def test_a_baseline_that_nothing_would_build_is_missing(tmp_path: Path) -> None:
    no_teacher = Workflow(world=Desk, tasks=[], success=success)
    assert state(judge(tmp_path, NAPKIN, no_teacher), "workflow.baseline") == ["missing"]
    teacher = Workflow(world=Desk, tasks=[], success=success, oracle=success)
    rows = judge(tmp_path, NAPKIN + "training: {sft: null}\n", teacher)
    assert state(rows, "workflow.baseline") == ["missing"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "release:\n  gates:\n  - no_safety_regresion",
            "napkin.yaml:3: unknown gate 'no_safety_regresion'; did you mean",
        ),
        ("release:\n  gates: [missing_rate]", "napkin.yaml:2: "),
        (
            "monitoring:\n- tool_eror_rate",
            "napkin.yaml:2: unknown monitor 'tool_eror_rate'; did you mean",
        ),
        ("workflow:\n  policy_training: ppo_kll", "napkin.yaml:2: unknown preset 'ppo_kll'; did you mean 'ppo_kl'?"),
        (
            "workflow: {policy_training: grpo}\ntraining: {rl: {preset: rloo}}",
            "napkin.yaml:1: policy_training is 'grpo' and",
        ),
        (
            "training:\n  rl:\n    preset: rloo\n    clip_ratio_low: 0.2",
            "napkin.yaml:4: training.rl.clip_ratio_low would be ignored: preset 'rloo' does not read it",
        ),
        (
            "training:\n  rl:\n    preset: grpo\n    clip_ratio_low: 0.2",
            "napkin.yaml:4: training.rl.clip_ratio_low would be ignored: with one update per batch",
        ),
        (
            "training:\n  rl:\n    guards:\n      reward_haking: stop",
            "napkin.yaml:4: unknown guard 'reward_haking' in training.rl.guards; did you mean 'reward_hacking'?",
        ),
        (
            "training:\n  rl:\n    preset: dapo\n    schedule: async",
            "napkin.yaml:4: training.rl: max_refills 3 chooses tasks by what the groups before them taught",
        ),
        (
            "training:\n  rl:\n    preset: reinforce_pp\n    greso: true",
            "napkin.yaml:4: training.rl.greso would be ignored: preset 'reinforce_pp' learns from every group",
        ),
        ("policy: x\ntraining:\n  tiny: {num_layers: 2}", "napkin.yaml:3: training.tiny would be ignored"),
        (
            "training:\n  rl: null\n  controls: [rejection_sft]",
            "napkin.yaml:3: the control 'rejection_sft' learns from",
        ),
        (
            "training:\n  stages: [rl]\n  sft: {batch_size: 4}",
            "napkin.yaml:3: training.sft would be ignored: training.stages does not list 'sft'",
        ),
        ("training:\n  preference: {method: dop}", "napkin.yaml:2: unknown method 'dop'; did you mean 'dpo'"),
        (
            "training:\n  preference:\n    gamma: 1.0",
            "napkin.yaml:3: training.preference.gamma would be ignored: dpo reads beta",
        ),
        (
            "training:\n  preference:\n    pairs: p.jsonl\n    min_margin: 0.1",
            "napkin.yaml:4: training.preference.min_margin would be ignored: the pairs are those of the file",
        ),
        (
            "training:\n  reward_model:\n    kind: outcome\n    pairs: p.jsonl",
            "napkin.yaml:4: training.reward_model.pairs would be ignored: a reward model of kind 'outcome' does not",
        ),
        (
            "training:\n  reward_model:\n    pairs: p.jsonl\n    pairs_per_task: 2",
            "napkin.yaml:4: training.reward_model.pairs_per_task would be ignored: the data are those of the file",
        ),
        (
            "training:\n  reward_model:\n    from_runs: [r]\n    attempts: {per_task: 4}",
            "napkin.yaml:4: training.reward_model.attempts would be ignored: the attempts are those of from_runs",
        ),
        ("training:\n  stages: [rl]\n  rl: null", "napkin.yaml:3: training.rl is null and training.stages lists it"),
    ],
)
def test_names_that_mean_nothing_and_settings_nobody_reads_are_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(tmp_path, text)


def test_what_a_file_sets_of_a_monitor_is_shown_beside_it(tmp_path: Path) -> None:
    rows = judge(tmp_path, "monitoring:\n- policy_kl_drift\n- metric: tool_error_rate\n  margin: 0.05\n")
    notes = {row.value: row.note for row in rows if row.key.startswith("monitoring")}
    assert notes["policy_kl_drift"] == "ML: alarm where it is above 0.05 nats/token"
    assert notes["tool_error_rate"] == (
        "Platform: alarm where it rises by more than 5 points; margin 0.05 instead of 0.03"
    )
    assert "napkin.yaml:3: monitor 'tool_error_rate': margin 5" in refusal(
        tmp_path, "monitoring:\n- policy_kl_drift\n- metric: tool_error_rate\n  margin: 5\n"
    )
    assert "napkin.yaml:1: monitor 'refusal_drift' is listed twice" in refusal(
        tmp_path, "monitoring: [refusal_drift, {metric: refusal_drift, owner: ML}]"
    )


def test_suites_must_be_splits_of_the_tasks(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("evaluation:\n  suites: [test, odd]\n")
    settings, marks = read_settings(path)
    with pytest.raises(ConfigError, match=r"w.yaml:2: unknown split 'odd' in evaluation.suites; did you mean 'ood'\?"):
        check_names(settings, marks, Names({"rloo": ()}, {"train", "test", "ood"}))
