"""What an engine is: prompt tokens in, sampled tokens with their logprobs out.

Tokens are sacred (invariant 1): an engine takes token ids and returns token ids, it never sees text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flyball.errors import ConfigError
from flyball.types import WeightsRef


@dataclass(frozen=True)
class SamplingParams:
    """How a completion is drawn. `temperature` 0 is greedy. `logprobs` are of the distribution actually sampled."""

    temperature: float = 1.0
    max_new_tokens: int = 256
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 10.0:
            raise ConfigError(f"temperature {self.temperature} is outside 0 to 10")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens {self.max_new_tokens}: at least one token must be allowed")


@dataclass(frozen=True)
class Request:
    """One completion to draw. `session` names the attempt whose cached prefix may be resumed."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    stop_ids: tuple[int, ...]
    session: str = ""


@dataclass(frozen=True)
class Completion:
    """Sampled tokens, stop token included. `prefilled` = prompt tokens that were computed, not found cached."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy_versions: tuple[int, ...]
    finish_reason: str  # "stop" | "length"
    prefilled: int = 0
    seconds: float = 0.0


class Engine(Protocol):
    """Backends: `local` (PyTorch), `vllm`, `http`; `fake` for tests. Coroutines of one engine run on one event loop."""

    @property
    def max_context(self) -> int:
        """Largest number of tokens, prompt plus completion, of one sequence."""
        ...

    @property
    def version(self) -> int:
        """Version of the weights in use."""
        ...

    async def generate(self, request: Request) -> Completion:
        """Draw one completion. Raises EngineError; a prompt that leaves no room for a token is refused, not cut."""
        ...

    async def load_weights(self, ref: WeightsRef) -> None:
        """Use these weights from the next request on."""
        ...

    async def end_session(self, session: str) -> None:
        """The attempt is over: its cached prefix may be reused for others."""
        ...

    async def close(self) -> None: ...
