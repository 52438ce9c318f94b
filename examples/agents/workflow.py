"""Trains whichever agent of this folder is being served, from a policy made from nothing: see README.md."""

import os

from pantry import Pantry, oracle, success, tasks

import flyball as fb

workflow = fb.Workflow(
    world=Pantry,
    tasks=tasks,
    success=success,
    oracle=oracle,
    agent=fb.Http(os.environ.get("AGENT_URL", "http://127.0.0.1:8100")),
    limits={"max_turns": 4, "max_new_tokens": 40, "max_tokens": 512},
    training={
        "tiny": {"vocab_size": 500, "hidden_size": 72, "intermediate_size": 64, "num_layers": 2, "head_dim": 32},
        "sft": {"num_epochs": 7, "learning_rate": 1e-2, "batch_size": 8},
        "rl": {"num_steps": 20, "tasks_per_step": 8, "group_size": 4, "learning_rate": 5e-4},
        "controls": [],
    },
)
