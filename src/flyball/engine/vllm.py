"""vLLM's OpenAI-compatible server as an engine: token ids in and out, logprobs of what was sampled, weights from disk.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --max-logprobs 64

`processed_logprobs` makes the server report the distribution that it samples from (temperature and cuts applied) and
not the model's; `connect` refuses a server without it. The development mode opens the routes that reload weights.
Tested against a small server that imitates vLLM's routes, and tried on vLLM 0.32's build for processors; a GPU is
unmeasured.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from flyball.engine.protocol import Completion, FinishReason, Request, SamplingParams
from flyball.engine.remote import RemoteEngine
from flyball.errors import EngineError, GrammarError, NumericsError, WeightsError
from flyball.rl.support import SupportWriter
from flyball.types import Support, WeightsRef

IMPOSSIBLE = -9999.0
"""vLLM writes this for a logprob of minus infinity, and where it has none."""
FINISHED: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


class VllmEngine(RemoteEngine):
    """Made by `connect`. `num_logprobs` bounds how large a support can be stored (the server's `--max-logprobs`).

    A draw from a set of more tokens is marked unknown, and the learner refuses it; `top_k` below the bound makes every
    set small enough. Weights are exchanged between requests: those in flight end on the version that began them, those
    that come meanwhile wait.
    """

    def __init__(self, base_url: str, model: str, *, num_logprobs: int = 20, **remote: Any) -> None:
        super().__init__(base_url, model, **remote)
        self._num_logprobs = num_logprobs
        self._open = asyncio.Event()
        self._open.set()
        self._asking: set[asyncio.Task[Any] | None] = set()
        self._broken: WeightsError | None = None
        self._updating = asyncio.Lock()

    @classmethod
    async def connect(cls, base_url: str, model: str, **settings: Any) -> VllmEngine:
        """Open the server at `base_url` (without `/v1`). Raises EngineError when it cannot serve exact tokens."""
        engine = cls(base_url, model, max_context=1, **settings)
        try:
            await engine._check_server()
        except BaseException:
            await engine.close()
            raise
        return engine

    async def _check_server(self) -> None:
        answer = await self._ask("GET", "/v1/models")
        try:
            contexts = {card["id"]: int(card["max_model_len"]) for card in answer["data"]}
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"{self._base_url} does not list models as vLLM does ({error!r} in {str(answer)[:200]}); give the "
                "address of a vLLM server, without /v1"
            ) from error
        if self._model not in contexts:
            raise EngineError(f"the server has no model {self._model!r}; it serves {sorted(contexts)}")
        self._max_context = contexts[self._model]
        only_one = SamplingParams(1.0, 1, seed=0, top_k=1)
        several = tuple(range(8))  # token 0 alone may be padding, without an embedding: then all tokens are alike
        (logprob,) = (await self._complete(Request(several, only_one, ()), 1)).logprobs
        if logprob < -1e-4:
            raise EngineError(
                f"a draw among one token has logprob {logprob}, not 0: the server reports the model's distribution and "
                "not the sampled one; start it with --logprobs-mode processed_logprobs"
            )

    async def _complete(self, request: Request, max_tokens: int) -> Completion:
        sampling = request.sampling
        if sampling.grammar:
            raise GrammarError("grammars are not sent to vllm, whose grammar languages differ; use the local engine")
        await self._open.wait()
        if self._broken is not None:
            raise self._broken
        started = time.perf_counter()
        body = {
            "model": self._model,
            "prompt": list(request.prompt_ids),
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "seed": sampling.seed,
            "stop": list(sampling.stop),
            "stop_token_ids": list(request.stop_ids),
            "ignore_eos": True,  # what ends a turn is the request's affair
            "repetition_penalty": 1.0,  # these three: or a model's generation_config may set them
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "skip_special_tokens": False,  # stop strings may hold them
            "logprobs": self._num_logprobs if sampling.has_cuts else 0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        task = asyncio.current_task()
        self._asking.add(task)
        try:
            answer = await self._ask("POST", "/v1/completions", body)
        finally:
            self._asking.discard(task)
        return self._read(answer, request, time.perf_counter() - started)

    def _read(self, answer: Any, request: Request, seconds: float) -> Completion:
        try:
            (choice,) = answer["choices"]
            token_ids, prompt_ids = choice.get("token_ids"), choice.get("prompt_token_ids")
            finish_reason = FINISHED[choice["finish_reason"]]
            logprobs = choice["logprobs"]["token_logprobs"]
            details = answer["usage"].get("prompt_tokens_details") or {}
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"the server's completion cannot be read: {error!r} in {str(answer)[:300]}") from error
        if token_ids is None or prompt_ids is None:
            raise EngineError("the server returned no token ids; vLLM does since 0.10.2 (`return_token_ids`)")
        if tuple(prompt_ids) != request.prompt_ids:
            raise EngineError(f"the server saw a prompt of {len(prompt_ids)} other tokens than the one it was sent")
        if len(logprobs) != len(token_ids):
            raise EngineError(f"the server returned {len(token_ids)} tokens and {len(logprobs)} logprobs")
        for token, logprob in zip(token_ids, logprobs, strict=True):
            if logprob is None or not IMPOSSIBLE < logprob <= 1e-4:
                raise NumericsError(f"the server gave the sampled token {token} the logprob {logprob}")
        cached = details.get("cached_tokens") or 0
        return Completion(
            tuple(token_ids),
            tuple(min(logprob, 0.0) for logprob in logprobs),
            (self._version,) * len(token_ids),
            finish_reason,
            len(prompt_ids) - cached,
            seconds,
            self._support(choice["logprobs"].get("top_logprobs")) if request.sampling.has_cuts else None,
        )

    def _support(self, likeliest: list[dict[str, float]]) -> Support:
        """Of each draw the tokens with a probability; where all that were asked for have one there may be more."""
        writer = SupportWriter()
        for row in likeliest:
            kept = [int(name.removeprefix("token_id:")) for name, logprob in row.items() if logprob > IMPOSSIBLE]
            if len(kept) < self._num_logprobs:
                writer.kept_ids(kept)
            else:
                writer.unknown()
        return writer.support()

    async def load_weights(self, ref: WeightsRef) -> None:
        """Let the server read a published folder, which must be on a disk that it sees. Raises WeightsError.

        After a failure the server may hold either version or a mixture, so every request is refused until a load has
        succeeded.
        """
        async with self._updating:
            self._open.clear()
            while running := [task for task in self._asking if task is not None]:
                await asyncio.wait(running)
            self._broken = None
            try:
                arguments = {"method": "reload_weights", "kwargs": {"weights_path": ref.path}}
                await self._ask("POST", "/collective_rpc", arguments)
                await self._ask("POST", "/reset_prefix_cache")
            except EngineError as error:
                self._broken = WeightsError(
                    f"the server did not load {ref.path}: {error}; it needs VLLM_SERVER_DEV_MODE=1, a vLLM whose "
                    "reload_weights takes a path, and weights of the same architecture and size"
                )
                raise self._broken from error
            else:
                self._version = ref.version
            finally:
                self._open.set()
