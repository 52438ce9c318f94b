"""What an engine is: prompt tokens in, sampled tokens with their logprobs out.

Tokens are sacred (invariant 1): an engine takes token ids and returns token ids, it never sees text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from flyball.errors import ConfigError, ContextError
from flyball.types import Support, WeightsRef

FinishReason = Literal["stop", "length", "abort"]
"""stop: a stop token or string. length: no further token was allowed. abort: `Engine.abort` ended it."""


@dataclass(frozen=True)
class SamplingParams:
    """How a completion is drawn. `temperature` 0 is greedy: the likeliest token, with its logprob at temperature 1.

    Otherwise the logits are divided by the temperature and cut in this order, each rule on what the last one left,
    renormalised (vLLM's order); a tie at the edge is kept whole. `logprobs` are of the distribution that is left.

    - `min_p` keeps tokens at least `min_p` times as likely as the likeliest (arXiv 2407.01082), 0 = all
    - `top_k` keeps the k likeliest, 0 = all
    - `top_p` keeps the fewest likeliest whose probabilities sum to at least `top_p` (arXiv 1904.09751), 1 = all

    A completion ends with the token that completes one of the `stop` strings. What was sampled is never cut, so its
    text holds the string.

    `grammar` (see `engine.grammar`), if any, says what a completion may be up to its stop token. Tokens that it forbids
    are cut before all else, so `logprobs` and `support` are of what it left.
    """

    temperature: float = 1.0
    max_new_tokens: int = 256
    seed: int | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    grammar: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 10.0:
            raise ConfigError(f"temperature {self.temperature} is outside 0 to 10")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens {self.max_new_tokens}: at least one token must be allowed")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p {self.top_p} is outside 0 to 1; 1 keeps every token")
        if self.top_k < 0:
            raise ConfigError(f"top_k {self.top_k} is negative; 0 keeps every token")
        if not 0.0 <= self.min_p < 1.0:
            raise ConfigError(f"min_p {self.min_p} is outside 0 to 1; 0 keeps every token")
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) and s for s in self.stop):
            raise ConfigError(f"stop {self.stop!r} is not a tuple of texts with at least one character each")
        if self.temperature == 0 and self.has_cuts:
            raise ConfigError(
                f"temperature 0 takes the likeliest token, so top_p {self.top_p}, top_k {self.top_k} and min_p "
                f"{self.min_p} would be ignored; leave them out or raise the temperature"
            )

    @property
    def has_cuts(self) -> bool:
        """Whether top-p, top-k or min-p cut the distribution."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


@dataclass(frozen=True)
class Request:
    """One completion to draw. `session` names the attempt whose cached prefix may be resumed.

    `adapter` names the low-rank adapter that is added to the weights; None = the weights alone.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    stop_ids: tuple[int, ...]
    session: str = ""
    adapter: str | None = None

    def room(self, max_context: int) -> int:
        """The most tokens that may be drawn in a context of so many. Raises ContextError when there is not one."""
        left = max_context - len(self.prompt_ids)
        if not self.prompt_ids or left < 1:
            raise ContextError(
                f"prompt of {len(self.prompt_ids)} tokens leaves no room in a context of {max_context}; shorten the "
                "conversation or use a model with a longer context"
            )
        return min(self.sampling.max_new_tokens, left)


@dataclass(frozen=True)
class Completion:
    """Sampled tokens, stop token included. `prefilled` = prompt tokens that were computed, not found cached.

    `policy_versions` are those of the weights that computed each logprob; an update may fall inside a completion.

    `support`: what each token was drawn among, when the distribution was cut; None when nothing was, or where the
    engine cannot say (the sampling parameters tell which, and the learner refuses the latter).
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy_versions: tuple[int, ...]
    finish_reason: FinishReason
    prefilled: int = 0
    seconds: float = 0.0
    support: Support | None = None


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

    @property
    def adapters(self) -> Mapping[str, str]:
        """The adapters that a request may name, each with a digest of its weights."""
        ...

    async def generate(self, request: Request) -> Completion:
        """Draw one completion. Raises EngineError; a prompt that leaves no room for a token is refused, not cut."""
        ...

    async def abort(self, session: str) -> None:
        """End the session's requests: their `generate` returns what was sampled so far, with finish reason "abort".

        Cancelling the coroutine of `generate` frees its place too, without a result.
        """
        ...

    async def load_weights(self, ref: WeightsRef) -> None:
        """Use these weights from the next token on. Raises WeightsError where they do not fit; the old ones stay."""
        ...

    async def end_session(self, session: str) -> None:
        """The attempt is over: its cached prefix may be reused for others."""
        ...

    async def close(self) -> None: ...
