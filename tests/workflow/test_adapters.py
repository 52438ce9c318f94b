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
from flyball.workflow.run import resume, start
from flyball.workflow.trial import evaluate_policy
from flyball.workflow.workflow import Workflow, load_workflow
from tests.cli.conftest import PROJECT

SHAPE = TinyConfig(400, 64, 64, num_layers=2, head_dim=24, max_context=1536)
TARGETS = {"desk": ["q_proj", "v_proj"], "shop": ["down_proj"]}


BOTH = "{adapters: {desk: desk, shop: shop}}"
ASKING = f"""
from dataclasses import replace
import runpy

async def asking(attempt, client):
    for model in ("desk", "shop", "policy"):
        await client.chat.completions.create(model=model, messages=[{{"role": "user", "content": attempt.observation}}])
    return "done"

stock = runpy.run_path({str(PROJECT / "workflow.py")!r})["workflow"]
paid = lambda a, hidden: float(a.group_index)
workflow = replace(stock, tasks={str(PROJECT / "tasks.jsonl")!r}, agent=asking, reward=paid)
"""


def written(folder: Path, engine: str, python: Path = PROJECT / "workflow.py", more: str = "") -> Workflow:
    """The stockroom over a base policy in this folder: two tasks, short turns."""
    file = folder / "over.yaml"
    file.write_text(
        f"python: {python}\npolicy: {folder / 'base'}\nengine: {engine}\nevaluation: {{max_tasks: 2}}\n"
        f"limits: {{max_turns: {1 if python.parent == PROJECT else 3}, max_new_tokens: 8}}\n{more}"
    )
    return load_workflow(file)


def asking(folder: Path, engine: str, more: str = "") -> Workflow:
    """The same with an agent that asks both adapters and the policy, once each."""
    (folder / "asking.py").write_text(ASKING)
    return written(folder, engine, folder / "asking.py", more)


def said(store: Store, run_id: str, phase: str) -> dict[str, list[tuple[int, ...]]]:
    """What each model answered in a run."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for graded in sorted(store.attempts(run_id, phase), key=lambda g: g.attempt.task.task_id):
        for call in graded.attempt.trajectory.calls:
            found.setdefault(call.sampling.get("adapter", "policy"), []).append(call.completion_ids)
    return found


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
    answers: dict[str, list[tuple[int, ...]]] = {}
    with Store(tmp_path / "home") as store:
        for pair in (("desk", "shop"), (str(tmp_path / "desk-merged"), str(tmp_path / "shop-merged"))):
            record = evaluate_policy(flow, store, LocalTrainer(), Silent(), policy=pair[0], against=pair[1])
            assert record is not None
            for version in record.arms.values():
                answers[version.name] = sorted(
                    call.completion_ids
                    for graded in store.attempts(record.run.run_id, "eval")
                    if graded.attempt.versions["policy"] == version.version_id
                    for call in graded.attempt.trajectory.calls
                )
        (base,) = store.versions("base")
        (desk,) = store.versions("desk")
        assert desk.base == base.weights and desk.parent == base.version_id and desk.weights != base.weights
        assert json.loads((Path(desk.path) / "base.json").read_text())["weights"] == base.weights
    assert len(answers) == 4 and all(answers.values())
    assert answers["desk"] == answers["desk-merged"] and answers["shop"] == answers["shop-merged"]
    assert answers["desk"] != answers["shop"]


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


@pytest.mark.parametrize("process", ["", ", separate_process: true"], ids=["here", "process"])
def test_an_agent_reaches_the_adapters_of_the_file_by_model(process: str, tmp_path: Path) -> None:
    made(tmp_path)
    heard: dict[str, dict[str, list[tuple[int, ...]]]] = {}
    with Store(tmp_path / "home") as store:
        for policy in ("base", "desk", "desk-merged", "shop-merged"):
            flow = asking(tmp_path, BOTH[:-1] + process + "}")
            record = evaluate_policy(flow, store, LocalTrainer(), Silent(), policy=policy)
            assert record is not None
            heard[policy] = said(store, record.run.run_id, "eval")
    base = heard["base"]
    assert base["desk"] == heard["desk-merged"]["policy"] and base["shop"] == heard["shop-merged"]["policy"]
    assert len({str(answers) for answers in base.values()}) == 3, "base and adapters say three different things"
    assert heard["desk"] == {"desk": base["desk"], "shop": base["shop"], "policy": base["desk"]}


def test_rl_trains_what_the_policy_said_and_not_what_adapters_said(tmp_path: Path) -> None:
    made(tmp_path)
    training = (
        "training: {sft: null, controls: [], confirmation_tasks: 0, "
        "rl: {num_steps: 1, tasks_per_step: 1, group_size: 2, validation_tasks: 1}}\n"
    )
    flow = asking(tmp_path, BOTH, training)
    with Store(tmp_path / "home") as store:
        finished = start(flow, store, LocalTrainer(), Silent(), kind="train")
        heard = said(store, finished.run_id, "rl")
        (trained,) = store.metrics(finished.run_id)["trained_tokens"]
        assert set(heard) == {"desk", "shop", "policy"}
        assert trained[1] == sum(map(len, heard["policy"]))
        save_adapter_again(tmp_path / "shop")
        with pytest.raises(ConfigError, match="adapters changed since it began"):
            resume(finished.run_id, store, LocalTrainer(), Silent())


def save_adapter_again(folder: Path) -> None:
    """Other matrices under the same name."""
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 9.0}))


def test_the_name_of_the_policy_is_taken(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(ConfigError, match=r"over\.yaml:3: 'policy' is what an agent calls the policy itself"):
        Inputs(written(tmp_path, "{adapters: {policy: desk}}")).check()
