"""Adapters by request: each row of a mixed batch against its own merged model, and caches that are never shared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flyball.engine.http import HttpEngine
from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.engine.vllm import VllmEngine
from flyball.errors import EngineError, WeightsError
from flyball.models.lora import add_lora, merged_state, save_adapter
from tests.engine.test_fast_paths import wide_llama
from tests.engine.test_local import ROOT, assert_plain, llama, other_activation, own, plain_logprobs, qwen2

TARGETS = {"desk": ("q_proj", "down_proj"), "shop": ("k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")}
RANKS = {"desk": 3, "shop": 5}
WHO = ("desk", None, "shop", "desk", "shop", None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trained(make: Callable[[], Any], name: str, folder: Path) -> Any:
    """Write an adapter that is far from no change; return its merged model."""
    model, merged = make(), make()
    add_lora(model, RANKS[name], 6.0, TARGETS[name], seed=len(name))
    torch.manual_seed(RANKS[name])
    for key, parameter in model.named_parameters():
        if ".lora_B." in key:
            torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(model, folder)
    merged.load_state_dict(merged_state(model))
    return merged


def served(make: Callable[[], Any], tmp_path: Path, **settings: Any) -> tuple[LocalEngine, dict[str | None, Any]]:
    """An engine with two adapters, and by name the models that it should compute."""
    base = make()
    engine = LocalEngine(base, **settings)
    models: dict[str | None, Any] = {None: base}
    for name in TARGETS:
        models[name] = trained(make, name, tmp_path / name)
        engine.add_adapter(name, tmp_path / name)
    return engine, models


def ask(prompt: tuple[int, ...], adapter: str | None, seed: int = 0, session: str = "") -> Request:
    return Request(prompt, SamplingParams(0.8, 6, seed), (), session, adapter)


async def turns(engine: LocalEngine, prompt: tuple[int, ...], i: int) -> list[tuple[tuple[int, ...], Completion]]:
    """Two of one session, and a tool's answer between."""
    first = await engine.generate(ask(prompt, WHO[i], i, f"s{i}"))
    longer = (*prompt, *first.token_ids, *own(i, 4))
    second = await engine.generate(ask(longer, WHO[i], i + 10, f"s{i}"))
    await engine.end_session(f"s{i}")
    return [(prompt, first), (longer, second)]


@pytest.mark.parametrize("make", [llama, qwen2, wide_llama, other_activation])
@pytest.mark.parametrize("settings", [{}, {"num_slots": 4}, {"deterministic": True}], ids=["room", "few", "alone"])
def test_each_row_is_its_own_merged_model(make: Callable[[], Any], settings: dict[str, Any], tmp_path: Path) -> None:
    engine, models = served(make, tmp_path, **settings)
    prompts = [(*ROOT, *own(i, 2 + i)) for i in range(len(WHO))]

    async def main() -> Any:
        return await asyncio.gather(*(turns(engine, prompt, i) for i, prompt in enumerate(prompts)))

    for _ in range(2):  # the second meets what the first left
        for name, conversation in zip(WHO, asyncio.run(main()), strict=True):
            for prompt, done in conversation:
                assert_plain(models[name], prompt, done)
                for other in models.keys() - {name}:
                    apart = plain_logprobs(models[other], prompt, done) - torch.tensor(done.logprobs)
                    assert float(apart.abs().max()) > 1e-2


@pytest.mark.parametrize("make", [llama, other_activation])
def test_cached_prefixes_are_shared_within_one_adapter_only(make: Callable[[], Any], tmp_path: Path) -> None:
    engine, models = served(make, tmp_path, num_slots=2)

    def together(*who: str | None) -> list[int]:
        prompts = [(*ROOT, i) for i in range(len(who))]

        async def main() -> list[Completion]:
            return await asyncio.gather(*(engine.generate(ask(p, w)) for p, w in zip(prompts, who, strict=True)))

        done = asyncio.run(main())
        for name, prompt, one in zip(who, prompts, done, strict=True):
            assert_plain(models[name], prompt, one)
        return [one.prefilled for one in done]

    whole = len(ROOT) + 1
    assert together("desk", "desk") == [1, 1]  # behind a root of their own
    assert together("desk", "desk") == [1, 1] and engine._root == list(ROOT)
    before = engine.prefilled_tokens
    assert together("shop", "shop") == [1, 1] and engine.prefilled_tokens == before + len(ROOT) + 2
    assert together("shop", None) == [whole, whole]
    assert together(None, "desk") == [whole, whole]


def test_a_session_and_a_root_meet_another_adapter(tmp_path: Path) -> None:
    """The session computes anew; a stranger comes while the root of another adapter is in use, which stays right."""
    engine, models = served(llama, tmp_path, num_slots=4)

    async def main() -> list[tuple[str | None, tuple[int, ...], Completion]]:
        prompts = [(*ROOT, i) for i in range(2)]
        told = await asyncio.gather(*(engine.generate(ask(p, "desk", i, f"s{i}")) for i, p in enumerate(prompts)))
        assert engine._root == list(ROOT)
        other = await engine.generate(ask(prompts[0], "shop", 5, "s0"))
        assert other.prefilled == len(ROOT) + 1 and not engine._root
        more = (*prompts[1], *told[1].token_ids, 9)
        resumed = await engine.generate(ask(more, "desk", 6, "s1"))
        assert resumed.prefilled == 2  # the token sampled last, and the new one
        return [("desk", prompts[0], told[0]), ("shop", prompts[0], other), ("desk", more, resumed)]

    for name, prompt, done in asyncio.run(main()):
        assert_plain(models[name], prompt, done)


def test_new_weights_carry_the_adapters(tmp_path: Path) -> None:
    engine, _ = served(llama, tmp_path)
    newer = trained(lambda: llama(1), "desk", tmp_path / "same matrices")
    engine.use_weights(llama(1).state_dict(), 1)
    done = asyncio.run(engine.generate(ask(ROOT, "desk")))
    assert done.policy_versions == (1,) * len(done.token_ids)
    assert_plain(newer, ROOT, done)


def test_an_adapter_is_known_by_its_name_and_what_it_holds(tmp_path: Path) -> None:
    engine, _ = served(llama, tmp_path)
    assert list(engine.adapters) == ["desk", "shop"] and engine.adapters["desk"] != engine.adapters["shop"]
    again = LocalEngine(llama())
    again.add_adapter("copy", tmp_path / "desk")
    rewritten(tmp_path / "desk", dict, lora_alpha=7.0)
    again.add_adapter("louder", tmp_path / "desk")
    assert again.adapters["copy"] == engine.adapters["desk"] != again.adapters["louder"]


def rewritten(folder: Path, tensors: Callable[[dict[str, Any]], dict[str, Any]], **config: Any) -> None:
    file, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file(tensors(load_file(file)), file)
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **config}))


def first_renamed(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {k.replace("layers.0.self_attn.q_proj", name): v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("tensors", "config", "said"),
    [
        (dict, {"r": 4}, "rank 4 and this model need"),
        (lambda t: {k: v for k, v in t.items() if ".lora_B." not in k}, {}, "B None"),
        (first_renamed("layers.7.self_attn.q_proj"), {}, r"layers\.7\.self_attn\.q_proj, which is no linear layer"),
        (first_renamed("embed_tokens"), {}, "embed_tokens, which is no linear layer"),
        (dict, {"use_dora": True}, r"\['use_dora'\]"),
        (dict, {"init_lora_weights": "pissa"}, r"\['init_lora_weights'\]"),
        (dict, {"bias": "all"}, "bias 'all'"),
        (dict, {"peft_type": "LOHA"}, "type LOHA"),
        (lambda _: {}, {}, "no matrices"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    tensors: Callable[[dict[str, Any]], dict[str, Any]], config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    engine = LocalEngine(llama())
    trained(llama, "desk", tmp_path)
    rewritten(tmp_path, tensors, **config)
    with pytest.raises(WeightsError, match=said):
        engine.add_adapter("desk", tmp_path)
    with pytest.raises(EngineError, match="no adapter 'desk'"):
        asyncio.run(engine.generate(ask(ROOT, "desk")))


def test_other_models_names_twice_and_empty_folders_are_refused(tmp_path: Path) -> None:
    engine, _ = served(llama, tmp_path)
    with pytest.raises(WeightsError, match="'desk' already"):
        engine.add_adapter("desk", tmp_path / "desk")
    with pytest.raises(WeightsError, match="no adapter that can be read"):
        engine.add_adapter("new", tmp_path)
    with pytest.raises(
        WeightsError, match=r"down_proj matrices A \(3, 48\) and B \(32, 3\); .* need \(3, 512\) and \(384, 3\)"
    ):
        LocalEngine(wide_llama()).add_adapter("desk", tmp_path / "desk")
    with pytest.raises(EngineError, match=r"no adapter 'dest'.*desk"):
        asyncio.run(engine.generate(ask(ROOT, "dest")))


@pytest.mark.parametrize("kind", [HttpEngine, VllmEngine])
def test_engines_behind_http_refuse_adapters(kind: Any) -> None:
    async def main() -> None:
        engine = kind("http://127.0.0.1:9", "m", max_context=100)
        try:
            await engine.generate(ask(ROOT, "desk"))
        finally:
            await engine.close()

    with pytest.raises(EngineError, match="adapter 'desk' would be ignored"):
        asyncio.run(main())
