"""RL over a server of vLLM: weights by folder, the version of every token, and a server that does not take them.

The server imitates vLLM's routes over the local engine.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.tiny_job import Desk, tiny_job
from flyball.engine.local import LocalEngine
from flyball.errors import ConfigError, TrainError, WeightsError
from flyball.models.hf_chat import load_chat
from flyball.models.load import load_model, new_tiny_model, save_model
from flyball.models.tiny import TinyConfig
from flyball.workflow.inputs import Inputs
from flyball.workflow.local_trainer import LocalTrainer
from flyball.workflow.trainer import Trained
from tests.engine.serving import serving
from tests.engine.test_vllm import Server
from tests.workflow.test_engines import written
from tests.workflow.test_local_rollouts import GROUP, SIZE, STEPS, Ear

SHAPE: dict[str, Any] = {
    "stop": ("a", "e", "i", "o"),
    "num_tasks": 8,
    "num_steps": STEPS,
    "tasks_per_step": SIZE,
    "group_size": GROUP,
    "validate_every": 2,
}


def untied(model: Any) -> Any:
    """With an output layer of its own."""
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def train(folder: Path, ear: Ear, *, width: int = 56, tied: bool = False, **rl: Any) -> tuple[Trained, Server]:
    """Train over a server that begins with weights of its own."""
    torch.set_num_threads(1)
    Desk.open_anew({})
    policy = tiny_job(folder, **SHAPE).policy
    tokenizer = load_chat(policy).tokenizer
    if not tied:
        save_model(untied(load_model(policy)), tokenizer, policy)
    config = TinyConfig(300, hidden_size=width, intermediate_size=32, num_layers=2, head_dim=24, max_context=256)
    server = Server(LocalEngine(untied(new_tiny_model(config, tokenizer, 9)), tokenizer=tokenizer), context=256)

    async def go() -> Trained:
        async with serving(server.app) as url:
            engine = {"kind": "vllm", "url": url, "model": "policy"}
            return await LocalTrainer().rl(tiny_job(folder, **SHAPE, engine=engine, **rl), ear.watch)

    return asyncio.run(go()), server


@pytest.mark.parametrize("rl", [{}, {"schedule": "async", "max_off_policy_steps": 1}], ids=["in turn", "ahead"])
def test_the_server_follows_the_learner(tmp_path: Path, rl: dict[str, Any]) -> None:
    ear = Ear()
    trained, server = train(tmp_path, ear, **rl)
    assert trained.finished and trained.num_steps == STEPS
    assert len(ear.kept) == STEPS * SIZE * GROUP
    versions = [{v for call in one.attempt.trajectory.calls for v in call.policy_versions} for one in ear.kept]
    assert versions[0] == {0} and max(max(one) for one in versions) > 0
    learned = torch.load(tmp_path / "rl" / f"step-{STEPS}" / "learner.pt", weights_only=True)
    served = server.engine._model.state_dict()
    assert all(torch.equal(served[name], value) for name, value in learned["model"].items())
    assert [path.name for path in (tmp_path / "rl" / "published").iterdir()] == [f"version-{learned['version']}"]
    if not rl:  # in turn, the server samples from the very weights that are trained
        assert all(step["logprob_gap_mean"] < 1e-4 for step in ear.metrics if "logprob_gap_mean" in step)
        assert any("logprob_gap_mean" in step for step in ear.metrics)
    load_model(trained.folder)


def test_a_server_of_another_shape_ends_it_with_what_was_recorded(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"the server did not load .*version-0.* answered 500"):
        train(tmp_path, Ear(), width=64)


def test_a_tied_output_layer_which_a_server_would_not_reload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="keeps the old output layer when it loads new weights"):
        train(tmp_path, Ear(), tied=True)


@pytest.mark.parametrize(
    ("rl", "said"),
    [
        ("{stop: [a, b, c, d, e]}", "training.rl.stop has 5 texts, and a server of vLLM takes 4"),
        ("{reference: true}", "training.rl.reference cannot be had of a vllm engine"),
        ("{schedule: async, version_mode: own_version}", "it holds the newest weights only; use in_flight"),
        ("{schedule: async, on_new_weights: keep}", "it drops what it cached when weights are loaded"),
    ],
)
def test_what_a_server_with_one_version_cannot_do_is_refused_with_its_line(tmp_path: Path, rl: str, said: str) -> None:
    text = f"engine: {{kind: vllm, url: 'http://a', model: m}}\ntraining: {{rl: {rl}}}"
    with pytest.raises(ConfigError, match=r"over\.yaml:3: ") as caught:
        Inputs(written(tmp_path, text)).check()
    assert said in str(caught.value)
