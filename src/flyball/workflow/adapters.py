"""Policies that are a low-rank adapter on the workflow's policy: the names in `engine.adapters` of a workflow file.

Such a policy is kept as a folder: the adapter as `peft` writes it, and which version of the registry it is added to.
Needs no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flyball.engine.protocol import Completion, Engine, Request
from flyball.errors import ModelError
from flyball.types import PolicyVersion, WeightsRef

BASE = "base.json"
"""The file of such a policy that says which weights its adapter is added to."""
FILES = ("adapter_config.json", "adapter_model.safetensors")


def make_policy(adapter: Path, base: PolicyVersion, folder: Path) -> Path:
    """Lay out the policy in `folder`. Raises ModelError for a folder without an adapter."""
    if missing := [name for name in FILES if not (adapter / name).is_file()]:
        raise ModelError(
            f"{adapter} holds no adapter of peft's format: {', '.join(missing)} is missing; engine.adapters names "
            "folders such as the `adapter/` that training.lora leaves beside the merged weights"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(adapter / name, folder / name)
    (folder / BASE).write_text(json.dumps({"path": base.path, "weights": base.weights}, sort_keys=True))
    return folder


def base_of(folder: Path) -> Path | None:
    """The folder of the weights that the policy in `folder` is an adapter on; None for one that is whole."""
    if not (folder / BASE).is_file():
        return None
    base = Path(json.loads((folder / BASE).read_text())["path"])
    if not base.is_dir():
        raise ModelError(
            f"the adapter in {folder} is on the weights in {base}, which are gone; evaluate it anew by name"
        )
    return base


class AdapterEngine:
    """An engine whose every request names one adapter."""

    def __init__(self, engine: Engine, adapter: str) -> None:
        self._engine, self._adapter = engine, adapter

    @property
    def max_context(self) -> int:
        return self._engine.max_context

    @property
    def version(self) -> int:
        return self._engine.version

    @property
    def adapters(self) -> Mapping[str, str]:
        return {}  # its adapter is the policy, whatever a request names

    async def generate(self, request: Request) -> Completion:
        return await self._engine.generate(replace(request, adapter=self._adapter))

    async def abort(self, session: str) -> None:
        await self._engine.abort(session)

    async def load_weights(self, ref: WeightsRef) -> None:
        await self._engine.load_weights(ref)

    async def end_session(self, session: str) -> None:
        await self._engine.end_session(session)

    async def close(self) -> None:
        await self._engine.close()
