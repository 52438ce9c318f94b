"""Engines of a workflow that live behind an address: a vLLM server, and any OpenAI-compatible endpoint.

Needs no torch. The key comes from the environment and is written nowhere.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from flyball.config import EngineSettings, TinySettings
from flyball.engine.http import HttpEngine
from flyball.engine.protocol import Engine
from flyball.engine.vllm import VllmEngine
from flyball.errors import ConfigError, ModelError, TrainError
from flyball.models.chat import ChatFormat
from flyball.models.names import MADE_BY_A_RUN
from flyball.types import WeightsRef
from flyball.workflow.trainer import (
    Demonstration,
    PreferenceJob,
    RejectionJob,
    RewardModelJob,
    RLJob,
    SFTJob,
    Trained,
    Watch,
)

ENDPOINT = "endpoint.json"
"""The file of a policy that is a model at an endpoint: its address and name, nothing secret."""


def key_of(settings: EngineSettings) -> str:
    """The key from the environment, "" where none is asked for. Raises ConfigError for a variable that is not set."""
    if settings.key_env is None:
        return ""
    if not (key := os.environ.get(settings.key_env)):
        raise ConfigError(f"engine.key_env names {settings.key_env}, which is not set; put the endpoint's key there")
    return key


async def connect_vllm(settings: EngineSettings) -> VllmEngine:
    """The server of the settings, with whatever weights it has. Raises EngineError."""
    assert settings.url is not None and settings.model is not None  # workflow/check.py sees to it
    bound = {} if settings.num_logprobs is None else {"num_logprobs": settings.num_logprobs}
    return await VllmEngine.connect(settings.url, settings.model, api_key=key_of(settings), **bound)


async def open_vllm(folder: Path, settings: EngineSettings) -> VllmEngine:
    """The server of the settings, with the weights of `folder` loaded into it. Raises EngineError, WeightsError."""
    engine = await connect_vllm(settings)
    try:
        await engine.load_weights(WeightsRef(engine.version, str(folder.resolve()), ""))
    except BaseException:
        await engine.close()
        raise
    return engine


class EndpointTrainer:
    """`Trainer` whose policies are models at an endpoint: they are evaluated, and never trained."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="flyball-endpoint-")

    def find_policy(self, name: str) -> Path:
        """Return a folder that says which model at which address is meant. Raises ConfigError for 'tiny'."""
        if name == MADE_BY_A_RUN:
            raise ConfigError(
                "policy 'tiny' is made here; name a model of the endpoint: `policy: NAME` or --policy NAME"
            )
        folder = Path(self._folder.name) / name.replace(os.sep, "--")
        folder.mkdir(exist_ok=True)
        endpoint = {"url": self._settings.url, "model": name}
        (folder / ENDPOINT).write_text(json.dumps(endpoint, sort_keys=True), encoding="utf-8")
        return folder

    async def open_engine(
        self, folder: Path, settings: EngineSettings, *, concurrency: int, seed: int
    ) -> tuple[Engine, ChatFormat]:
        """See Trainer. Raises ModelError for a folder that names no model at an endpoint."""
        try:
            endpoint = json.loads((folder / ENDPOINT).read_text(encoding="utf-8"))
            url, model = str(endpoint["url"]), str(endpoint["model"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{folder} names no model at an endpoint ({ENDPOINT}): {error}; with an http engine policies are names "
                "of the endpoint's models"
            ) from error
        own = {name: value for name in OWN if (value := getattr(settings, name)) is not None}
        engine = HttpEngine(url, model, api_key=key_of(settings), **own)
        return engine, engine.chat

    def build_tiny(
        self, settings: TinySettings, demonstrations: Sequence[Demonstration], seed: int, folder: Path
    ) -> Path:
        """Always refused."""
        _refuse()

    async def sft(self, job: SFTJob, watch: Watch) -> Trained:
        """Always refused."""
        _refuse()

    async def rl(self, job: RLJob, watch: Watch) -> Trained:
        """Always refused."""
        _refuse()

    async def rejection_sft(self, job: RejectionJob, watch: Watch) -> Trained:
        """Always refused."""
        _refuse()

    async def preference(self, job: PreferenceJob, watch: Watch) -> Trained:
        """Always refused."""
        _refuse()

    async def reward_model(self, job: RewardModelJob, watch: Watch) -> Trained:
        """Always refused."""
        _refuse()


OWN = ("max_context", "max_tokens_field")


def _refuse() -> NoReturn:
    raise TrainError("a model behind an endpoint that answers in text cannot be trained; use the local engine")
