"""Peak memory of PPO against GRPO: two whole updates by our learner, each in a process of its own.

Measured is the peak resident memory (VmHWM of Linux) less what the process held before there was a network. Both have
the policy, its gradient, AdamW's two moments and the frozen reference; PPO has a critic as large as the policy besides.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.mini import Check, Draws, Metrics, Row
from flyball.types import Attempt, Call, GradedAttempt, Outcome, StopReason, Task, Trajectory

VOCABULARY, WIDTH, INSIDE, BLOCKS = 4_096, 256, 688, 6
GROUPS, SIZE, PROMPT, LONGEST = 4, 4, 64, 64


def run(arm: str, draws: Draws) -> list[Metrics]:
    """One process after the other."""
    processes = multiprocessing.get_context("spawn")
    found = []
    for seed in draws.seeds:
        with processes.Pool(1) as one:
            found.append({"mib": one.apply(_peak, (arm, seed))})
    return found


def _peak(preset: str, seed: int) -> float:
    """MiB that two updates of a preset take at most. The process ends with it."""
    import torch

    from flyball.rl.algorithms import algorithm
    from flyball.train.progress import Progress
    from flyball.train.rl_plan import RLPlan
    from flyball.train.update import update

    torch.set_num_threads(1)
    before = _held("VmRSS")
    learner, reference, network = _networks(preset, seed)
    plan = RLPlan(algorithm(preset), num_steps=2, tasks_per_step=GROUPS, seed=seed, validate_every=2)
    rng = np.random.default_rng(seed)
    for step in range(2):
        groups = [[_attempt(rng, f"{step}-{g}-{i}", g) for i in range(SIZE)] for g in range(GROUPS)]
        update(learner, reference, groups, plan, Progress(step=step), network)
    return _held("VmHWM") - before


def _networks(preset: str, seed: int) -> tuple[Any, Any, Any]:
    """Policy, reference and, for PPO, a critic: 5.8 million parameters each."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from flyball.models.heads import with_value_head
    from flyball.train.critic import Critic, CriticLearner
    from flyball.train.learner import LocalLearner, OptimizerConfig

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INSIDE,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        max_position_embeddings=PROMPT + LONGEST,
        tie_word_embeddings=True,
    )
    learner, reference = (LocalLearner(LlamaForCausalLM(config), None, OptimizerConfig()) for _ in range(2))
    reference.restore(learner.weights())
    if preset != "ppo":
        return learner, reference, None
    return learner, reference, Critic(CriticLearner(with_value_head(learner.model), None, OptimizerConfig()))


def _attempt(rng: np.random.Generator, name: str, group: int) -> GradedAttempt:
    prompt = tuple(int(t) for t in np.random.default_rng(group).integers(VOCABULARY, size=PROMPT))
    sampled = tuple(int(t) for t in rng.integers(VOCABULARY, size=int(rng.integers(LONGEST // 2, LONGEST))))
    n, reward = len(sampled), float(rng.random())
    call = Call(name, None, "main", prompt, sampled, (-8.0,) * n, (0,) * n, {}, "stop", {"role": "assistant"})
    attempt = Attempt(name, Task(f"task-{group}", {}), Trajectory((call,), StopReason.ANSWERED), ())
    return GradedAttempt(attempt, Outcome(reward > 0.5), reward=reward)


def _held(what: str) -> float:
    """MiB of this process, from the kernel."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


ROW = Row(
    name="peak_memory",
    title="Peak memory of PPO against GRPO",
    paper="2402.03300: GRPO does without the critic, usually as large as the policy; no number of bytes",
    policy="network of 5.8 million parameters, our learner, peak resident memory of a process for each run",
    arms=("grpo", "ppo"),
    run=run,
    checks=(
        Check("more_memory", "PPO needs more memory at its peak", "mib", "ppo", "grpo", times=True),
        Check("in_mib", "the same in MiB: about the critic's weights, gradient and moments", "mib", "ppo", "grpo"),
    ),
    seeds=5,
)
