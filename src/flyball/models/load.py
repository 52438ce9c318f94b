"""Model folders in and out: load a causal language model with its chat format, make a tiny one, save, digest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from flyball.errors import ModelError, StoreError
from flyball.models.planted import plant_copying
from flyball.models.tiny import TinyConfig
from flyball.store.artifacts import tree_digest

disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for every file would tear up that of the run


SMALL_MODEL = 20_000_000
"""Parameters up to which a model trains and samples in float32, which is as fast there."""
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def pays_bfloat16(model: Any) -> bool:
    """Large models on a processor that multiplies bfloat16; without such instructions torch is 400 times slower."""
    has_instructions = any(torch.cpu.get_capabilities().get(name) for name in BFLOAT16_INSTRUCTIONS)
    return has_instructions and bool(sum(p.numel() for p in model.parameters()) > SMALL_MODEL)


def new_tiny_model(config: TinyConfig, tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings in float32: random weights and the circuit of `models/planted.py`."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_context,
            rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    plant_copying(model, seed)
    return model


def load_model(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The weights of a model folder. Raises ModelError naming what is missing."""
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} is no model folder: config.json is missing; give a Hugging Face causal-LM folder")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the model in {path}: {error}") from error
    model, found = loaded
    if found["missing_keys"]:  # transformers would go on with random numbers
        raise ModelError(
            f"the weights in {path} lack {sorted(found['missing_keys'])[:3]}; take a complete model folder"
        )
    return model


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise StoreError where files in the folder `path` cannot be written: torch and safetensors have errors of their
    own for a full disk."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        free = shutil.disk_usage(path).free / 1e6
        raise StoreError(
            f"{path} cannot be written ({said[0]}); {free:.0f} MB are free there. What was saved before is whole: free "
            "some space, then resume"
        ) from error


def save_model(model: Any, tokenizer: Any, path: Path, state: dict[str, torch.Tensor] | None = None) -> str:
    """Write a Hugging Face folder, with `state` in place of the model's own; returns the digest.

    It is the digest that the store and the registry give. Raises StoreError where the disk refuses.
    """
    path.mkdir(parents=True, exist_ok=True)
    with writing(path):
        model.save_pretrained(path, state_dict=state)
        tokenizer.save_pretrained(path)
    return tree_digest(path)
