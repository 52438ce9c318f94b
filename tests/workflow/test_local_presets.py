"""Presets that train or attempt something beside the policy, on one machine: real engine, real learners."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flyball.metrics import check
from flyball.rl.samples import GREEDY
from tests.workflow.test_local_rollouts import GROUP, SIZE, STEPS, go


@pytest.mark.parametrize(
    ("preset", "metric", "beside"),
    [("ppo_kl", "value_loss", "lm_head.weight"), ("prime", "implicit_reward_loss", "model.embed_tokens.weight")],
)
def test_a_network_is_trained_beside_the_policy_and_saved_with_it(
    tmp_path: Path, preset: str, metric: str, beside: str
) -> None:
    trained, ear = go(tmp_path / "run", preset=preset, network_learning_rate=1e-3)
    assert trained.finished and trained.num_steps == STEPS
    learned = [metrics for metrics in ear.metrics if "trained_tokens" in metrics]
    assert learned and all(metric in metrics and metrics["peak_memory"] > 0 for metrics in learned)
    for metrics in ear.metrics:
        for name in metrics:
            check(name)
    state = torch.load(tmp_path / "run" / "rl" / f"step-{STEPS}" / "network" / "learner.pt", weights_only=True)
    assert beside in state["model"] and state["version"] == len(learned)


def test_remax_attempts_each_task_once_greedily(tmp_path: Path) -> None:
    trained, ear = go(tmp_path / "run", preset="remax")
    assert trained.finished
    greedy = [graded for graded in ear.kept if graded.attempt.group_index == GREEDY]
    assert len(greedy) == STEPS * SIZE and len(ear.kept) == STEPS * SIZE * (GROUP + 1)
    temperatures = {call.sampling["temperature"] for graded in greedy for call in graded.attempt.trajectory.calls}
    assert temperatures == {0.0}


def test_dapo_refills_and_greso_skips(tmp_path: Path) -> None:
    trained, ear = go(tmp_path / "run", preset="dapo", greso=True)
    assert trained.finished
    assert all("skipped_share" in metrics for metrics in ear.metrics)
    for metrics in ear.metrics:
        assert metrics["zero_variance_share"] == 0 or metrics["refilled_share"] > 0
    for name in ear.metrics[-1]:
        check(name)
