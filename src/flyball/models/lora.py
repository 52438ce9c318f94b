"""Low-rank adapters (LoRA, arXiv 2106.09685): W x + (alpha / rank) B A x with W frozen, by the `peft` library.

What leaves training is merged: engines and releases meet a plain model. The adapter itself is kept beside it, in
`peft`'s format, for engines that serve many on one base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flyball.errors import ConfigError, WeightsError, nearest

ADAPTER = "adapter"
"""Folder of the adapter inside the folder of the merged model."""
_NAME = "default"
_PREFIX = "base_model.model."
_UNSERVED = (
    *("use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out", "lora_bias", "modules_to_save", "rank_pattern"),
    *("alpha_pattern", "layer_replication", "target_parameters", "trainable_token_indices"),
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "velora_config", "monteclora_config"),
)
"""Settings of `peft` under which an adapter is more than one product of two matrices for each layer."""
_KEEP_THE_BASE = (None, True, False, "gaussian", "eva", "orthogonal")
"""`init_lora_weights` that leave the base as it was; the others (PiSSA, OLoRA, ...) train on a changed one."""


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
            tensors[f"{_PREFIX}{name}.{part}.weight"] = getattr(layer, part)[_NAME].weight.detach().contiguous()
    save_file(tensors, path / "adapter_model.safetensors")
    model.flyball_adapter.save_pretrained(path)


def adapter_version(folder: Path) -> str:
    """Digest of the adapter in `folder`: its matrices and what scales them."""
    digest = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:12]


def load_adapter(model: Any, folder: Path) -> dict[torch.nn.Linear, tuple[torch.Tensor, torch.Tensor]]:
    """A [rank, in] and B [out, rank], scaled, of each layer of `model` that an adapter in `peft`'s format changes.

    Raises WeightsError for an adapter of another model or form, with what does not fit.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(f"{folder} holds no adapter that can be read, in peft's format: {error!r}") from error
    unserved = [name for name in _UNSERVED if config.get(name)]
    if config.get("init_lora_weights") not in _KEEP_THE_BASE:
        unserved.append("init_lora_weights")
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or unserved:
        raise WeightsError(
            f"the adapter in {folder} is of type {config.get('peft_type')} with bias {config.get('bias')!r} and uses "
            f"{unserved}; only plain LoRA without these is added to a request, so serve the merged model"
        )
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    head = model.get_output_embeddings()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    found: dict[torch.nn.Linear, tuple[torch.Tensor, torch.Tensor]] = {}
    for name in sorted({key.removeprefix(_PREFIX).split(".lora_")[0] for key in tensors}):
        if name not in layers:
            raise WeightsError(
                f"the adapter in {folder} changes {name}, which is no linear layer of {type(model).__name__} below the "
                "output layer; add an adapter that was trained on this model"
            )
        layer = layers[name]
        pair = [tensors.pop(f"{_PREFIX}{name}.lora_{part}.weight", None) for part in "AB"]
        shapes = [None if part is None else tuple(part.shape) for part in pair]
        if shapes != [(rank, layer.in_features), (layer.out_features, rank)]:
            raise WeightsError(
                f"the adapter in {folder} has for {name} matrices A {shapes[0]} and B {shapes[1]}; rank {rank} and "
                f"this model need {(rank, layer.in_features)} and {(layer.out_features, rank)}"
            )
        down, up = (part.float() for part in pair if part is not None)
        found[layer] = (down, up * scale)
    if tensors or not found:
        raise WeightsError(
            f"the adapter in {folder} has {sorted(tensors)[:3] or 'no matrices'}, not pairs A and B alone"
        )
    return found


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "get_delta_weight"))
