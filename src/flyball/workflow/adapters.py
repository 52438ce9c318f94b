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

from flyball.capture.openai_form import POLICY
from flyball.engine.protocol import Completion, Engine, Request
from flyball.errors import ModelError
from flyball.models.fetch import sha256_of
from flyball.store.records import digest
from flyball.types import PolicyVersion, WeightsRef

BASE = "base.json"
"""The file of such a policy that says which weights its adapter is added to."""
FILES = ("adapter_config.json", "adapter_model.safetensors")


def check_adapter(folder: Path) -> None:
    """Raise ModelError for a folder without an adapter."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ModelError(
            f"{folder} holds no adapter of peft's format: {', '.join(missing)} is missing; engine.adapters names "
            "folders such as the `adapter/` that training.lora leaves beside the merged weights"
        )


def adapter_digest(folder: Path) -> str:
    """The digest of what an adapter consists of."""
    return digest({name: sha256_of(folder / name) for name in FILES})


def make_policy(adapter: Path, base: PolicyVersion, folder: Path) -> Path:
    """Lay out the policy in `folder`. Raises ModelError for a folder without an adapter."""
    check_adapter(adapter)
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
    """An engine whose policy is the adapter `POLICY`; a request may name one of the others in its place."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def max_context(self) -> int:
        return self._engine.max_context

    @property
    def version(self) -> int:
        return self._engine.version

    @property
    def adapters(self) -> Mapping[str, str]:
        return {name: version for name, version in self._engine.adapters.items() if name != POLICY}

    async def generate(self, request: Request) -> Completion:
        return await self._engine.generate(replace(request, adapter=request.adapter or POLICY))

    async def abort(self, session: str) -> None:
        await self._engine.abort(session)

    async def load_weights(self, ref: WeightsRef) -> None:
        await self._engine.load_weights(ref)

    async def end_session(self, session: str) -> None:
        await self._engine.end_session(session)

    async def close(self) -> None:
        await self._engine.close()
