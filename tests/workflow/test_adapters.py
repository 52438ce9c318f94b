"""`engine.adapters`: each name is a policy, an adapter on the file's policy, and says what the merged model does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flyball.errors import ConfigError, ModelError
from flyball.models.load import new_tiny_model, save_model
from flyball.models.lora import add_lora, merged_state, save_adapter
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.store.store import Store
from flyball.workflow.inputs import Inputs
from flyball.workflow.local_trainer import LocalTrainer
from flyball.workflow.progress import Silent
from flyball.workflow.trial import evaluate_policy
from flyball.workflow.workflow import Workflow, load_workflow
from tests.cli.conftest import PROJECT

SHAPE = TinyConfig(400, 64, 64, num_layers=2, head_dim=24, max_context=1536)
TARGETS = {"desk": ["q_proj", "v_proj"], "shop": ["down_proj"]}


def written(folder: Path, engine: str) -> Workflow:
    """The stockroom over a base policy in this folder: two tasks, one short turn each."""
    file = folder / "over.yaml"
    file.write_text(
        f"python: {PROJECT / 'workflow.py'}\npolicy: {folder / 'base'}\nengine: {engine}\n"
        "evaluation: {max_tasks: 2}\nlimits: {max_turns: 1, max_new_tokens: 8}\n"
    )
    return load_workflow(file)


def made(folder: Path) -> None:
    """A base, two adapters that change what it says, and each merged."""
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(["where is the box of screws?"] * 3, 400)
    save_model(new_tiny_model(SHAPE, tokenizer, 0), tokenizer, folder / "base")
    for name, targets in TARGETS.items():
        model = new_tiny_model(SHAPE, tokenizer, 0)
        add_lora(model, 4, 8.0, targets, seed=1)
        for part, parameter in model.named_parameters():
            if ".lora_B." in part:
                torch.nn.init.normal_(parameter, std=0.5)
        save_adapter(model, folder / name)
        save_model(model, tokenizer, folder / f"{name}-merged", merged_state(model))


def test_adapters_of_one_base_are_policies_beside_it(tmp_path: Path) -> None:
    made(tmp_path)
    flow = written(tmp_path, f"{{adapters: {{desk: {tmp_path / 'desk'}, shop: {tmp_path / 'shop'}}}}}")
    Inputs(flow).check()
    said: dict[str, list[tuple[int, ...]]] = {}
    with Store(tmp_path / "home") as store:
        for pair in (("desk", "shop"), (str(tmp_path / "desk-merged"), str(tmp_path / "shop-merged"))):
            record = evaluate_policy(flow, store, LocalTrainer(), Silent(), policy=pair[0], against=pair[1])
            assert record is not None
            for version in record.arms.values():
                said[version.name] = sorted(
                    call.completion_ids
                    for graded in store.attempts(record.run.run_id, "eval")
                    if graded.attempt.versions["policy"] == version.version_id
                    for call in graded.attempt.trajectory.calls
                )
        (base,) = store.versions("base")
        (desk,) = store.versions("desk")
        assert desk.base == base.weights and desk.parent == base.version_id and desk.weights != base.weights
        assert json.loads((Path(desk.path) / "base.json").read_text())["weights"] == base.weights
    assert len(said) == 4 and all(said.values())
    assert said["desk"] == said["desk-merged"] and said["shop"] == said["shop-merged"] and said["desk"] != said["shop"]


def test_what_is_no_adapter_and_another_kind_of_engine_are_refused(tmp_path: Path) -> None:
    made(tmp_path)
    flow = written(tmp_path, f"{{adapters: {{desk: {tmp_path / 'base'}}}}}")
    with (
        Store(tmp_path / "home") as store,
        pytest.raises(ModelError, match=r"base holds no adapter .*adapter_config\.json, adapter_model\.safetensors is"),
    ):
        evaluate_policy(flow, store, LocalTrainer(), Silent(), policy="desk")
    with pytest.raises(ConfigError, match=r"over\.yaml:3: engine\.adapters would be ignored by the vllm engine"):
        Inputs(written(tmp_path, "{kind: vllm, url: 'http://a', model: m, adapters: {a: b}}")).check()
