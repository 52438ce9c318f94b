"""One request on its way through the local engine: what it has sampled, and what decides that it is over."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flyball.engine.local_vocabulary import Guide, Vocabulary
from flyball.engine.protocol import Completion, FinishReason, Request
from flyball.engine.stop_strings import StopStrings
from flyball.errors import EngineError
from flyball.rl.support import SupportWriter

Mask = npt.NDArray[np.bool_]


@dataclass
class Slot:
    """One row of the cache: the tokens whose keys and values it holds, root included, as `adapter` computed them.

    `stale`: some are of earlier weights; its own session goes on with them, nobody else may.
    """

    index: int
    session: str = ""
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: int = 0
    adapter: str | None = None
    stale: bool = False

    def hold(self, tokens: list[int]) -> None:
        """Say that it holds these, by the weights in use."""
        self.tokens, self.stale = tokens, False

    def clear(self) -> None:
        """Say that it holds nothing of use."""
        self.hold([])


class Running:
    """A request being decoded; at most `num_allowed` tokens.

    Its random numbers are a stream of its own (counter-based, from the request's seed), one for each token.
    """

    def __init__(self, request: Request, future: asyncio.Future[Completion], num_allowed: int) -> None:
        self.request = request
        self.future = future
        self.slot: Slot | None = None
        self.tokens = list(request.prompt_ids)
        """prompt and what was sampled so far"""
        self.prefilled = 0
        self.finish_reason: FinishReason | None = None
        self.failure: EngineError | None = None
        """of its own grammar; others in the batch go on"""
        self.aborted = False
        """set by the event loop at any time; acted on between steps"""
        self.guide: Guide | None = None
        self._vocabulary: Vocabulary | None = None
        self._stop: StopStrings | None = None
        self._started = time.perf_counter()
        stream = np.random.Generator(np.random.Philox(np.random.SeedSequence(request.sampling.seed)))
        self._uniforms = stream.random(num_allowed)
        self._sampled: list[int] = []
        self._logprobs: list[float] = []
        self._versions: list[int] = []
        cut = request.sampling.has_cuts or request.sampling.grammar
        self._support = SupportWriter() if cut else None

    def watch(self, vocabulary: Vocabulary) -> None:
        """Follow its stop strings and grammar. Raises EngineError for a grammar that cannot be read."""
        sampling = self.request.sampling
        self._vocabulary = vocabulary
        self._stop = StopStrings(sampling.stop) if sampling.stop else None
        self.guide = vocabulary.guide(sampling.grammar, self.request.stop_ids) if sampling.grammar else None

    @property
    def in_slot(self) -> Slot:
        """Its slot, once it is admitted."""
        assert self.slot is not None
        return self.slot

    def computes_the_same_as(self, other: Running) -> bool:
        """Whether both have the same tokens, to be read by the same weights."""
        return self.request.adapter == other.request.adapter and self.tokens == other.tokens

    @property
    def latest(self) -> int:
        """The token sampled last."""
        return self._sampled[-1]

    @property
    def uniform(self) -> float:
        """The random number of the next token."""
        return float(self._uniforms[len(self._sampled)])

    def restrict(self, allowed: Mask) -> None:
        """Clear in `allowed` [V] what its grammar, if any, forbids."""
        if self.guide is not None:
            try:
                allowed &= self.guide.allowed()
            except EngineError as error:
                self.failure = error

    def take(self, token: int, logprob: float, version: int, kept: Mask | None) -> None:
        """Add a token that was drawn among `kept` [V]; see whether it is the last."""
        self._sampled.append(token)
        self.tokens.append(token)
        self._logprobs.append(logprob)
        self._versions.append(version)
        if self._support is not None and kept is not None:
            self._support.kept(kept)
        if self._ends(token) or self.failure is not None:
            self.finish_reason = "stop"
        elif len(self._sampled) >= len(self._uniforms):
            self.finish_reason = "length"

    def _ends(self, token: int) -> bool:
        """Whether `token` is a stop token, the end of a stop string, or of a grammar without stop tokens."""
        stop_ids = self.request.stop_ids
        complete = said = False
        if self.guide is not None and self.failure is None:
            try:
                complete = self.guide.take(token) and not stop_ids
            except EngineError as error:
                self.failure = error
        if self._stop is not None and self._vocabulary is not None:
            said = self._stop.ends(self._vocabulary.bytes_of(token))
        return token in stop_ids or said or complete

    def completion(self) -> Completion:
        """What its caller gets, once `finish_reason` is known."""
        assert self.finish_reason is not None
        return Completion(
            tuple(self._sampled),
            tuple(self._logprobs),
            tuple(self._versions),
            self.finish_reason,
            self.prefilled,
            time.perf_counter() - self._started,
            None if self._support is None else self._support.support(),
        )
