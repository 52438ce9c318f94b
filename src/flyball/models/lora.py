"""Low-rank adapters (LoRA, arXiv 2106.09685): W x + (alpha / rank) B A x with W frozen, by the `peft` library.

What leaves training is merged: engines and releases meet a plain model. The adapter itself is kept beside it, in
`peft`'s format, for engines that serve many on one base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flyball.errors import ConfigError, nearest

ADAPTER = "adapter"
"""Folder of the adapter inside the folder of the merged model."""
_NAME = "default"


def add_lora(model: Any, rank: int, alpha: float, targets: Sequence[str], seed: int) -> None:
    """Freeze `model` and give the linear layers named `targets` (all but the output layer, if empty) an adapter.

    The adapter starts as no change (B = 0). Raises ConfigError for a target that the model does not have.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, and only runs with adapters need it

    head = model.get_output_embeddings()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    names = sorted({name.rsplit(".", 1)[-1] for name in layers})
    if unknown := [target for target in targets if target not in names]:
        raise ConfigError(
            f"training.lora.targets: {type(model).__name__} has no linear layer {unknown[0]!r}"
            f"{nearest(unknown[0], names)}"
        )
    torch.manual_seed(seed)
    chosen = [n for n in layers if n.rsplit(".", 1)[-1] in (targets or names)]
    # peft divides alpha by the rank, so any number will do; its annotation is narrower.
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen, lora_dropout=0.0, bias="none")  # type: ignore[arg-type]
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    config.target_modules = sorted(targets or names)
    model.flyball_adapter = config


def has_lora(model: Any) -> bool:
    """Whether `add_lora` was here."""
    return hasattr(model, "flyball_adapter")


def merged_state(model: Any) -> dict[str, torch.Tensor]:
    """The state dict of the plain model that computes what this one does; without an adapter it is the model's own.

    Merged in float32, as the sum of what is stored; the tensors of layers without an adapter are not copied.
    """
    state: dict[str, torch.Tensor] = {k: v for k, v in model.state_dict().items() if ".lora_" not in k}
    with torch.no_grad():
        for name, layer in _adapted(model):
            for part in [k for k in state if k.startswith(f"{name}.base_layer.")]:
                state[part.replace(".base_layer.", ".")] = state.pop(part)
            state[f"{name}.weight"] = state[f"{name}.weight"] + layer.get_delta_weight(_NAME)
    return state


def save_adapter(model: Any, path: Path) -> None:
    """Write the adapter in the format of `peft`, which it and vLLM load onto the base."""
    path.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in _adapted(model):
        for part in ("lora_A", "lora_B"):
            tensors[f"base_model.model.{name}.{part}.weight"] = getattr(layer, part)[_NAME].weight.detach().contiguous()
    save_file(tensors, path / "adapter_model.safetensors")
    model.flyball_adapter.save_pretrained(path)


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "get_delta_weight"))
