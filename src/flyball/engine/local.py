"""The engine in the same process: PyTorch, continuous batching, cached prefixes, any Hugging Face decoder.

    generate() ──▶ waiting ──admit: find slot, prefill what is not cached──▶ running ──decode steps──▶ future resolved
                                  ▲ a session keeps its slot between turns, so a tool result extends its cache

One background task owns the model. It hands quanta of decode steps to a worker thread, so that the event loop can run
tools meanwhile. Each request draws from its own counter-based random stream: what it samples does not depend on who
else is in the batch (up to rounding of the batched arithmetic).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flyball.engine.local_cache import ATTENTION, SlotCache
from flyball.engine.local_llama import LlamaPass
from flyball.engine.local_sampling import draw
from flyball.engine.protocol import Completion, Request
from flyball.errors import EngineError
from flyball.rl.support import SupportWriter
from flyball.types import WeightsRef

STEPS_PER_QUANTUM = 3
MIN_ROOT = 16


@dataclass
class Slot:
    """One row of the cache: the tokens whose keys and values it holds, root included."""

    index: int
    session: str = ""
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: int = 0


@dataclass(eq=False)
class Running:
    """A request being decoded."""

    request: Request
    future: asyncio.Future[Completion]
    started: float
    slot: Slot | None = None
    uniforms: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prefilled: int = 0
    finish_reason: str = ""
    support: SupportWriter | None = None


class LocalEngine:
    """Generate with a Hugging Face causal language model in this process.

    `model` must go through transformers' attention interface (Llama, Qwen, Mistral, SmolLM and most others do).
    `num_slots` bounds how many conversations keep their cache; more requests wait their turn.
    """

    def __init__(self, model: Any, *, num_slots: int = 64, max_context: int | None = None, version: int = 0) -> None:
        if not getattr(model, "_supports_attention_backend", False):
            raise EngineError(
                f"{type(model).__name__} does not use transformers' attention interface, which the local engine needs; "
                "serve it with another engine (vllm, http)"
            )
        self._model = model.eval()
        self._model.set_attn_implementation(ATTENTION)
        self._lean = LlamaPass(model) if LlamaPass.fits(model) else None
        self._max_context = max_context or int(model.config.max_position_embeddings)
        self._version = version
        self._cache = SlotCache(num_slots)
        self._root: list[int] = []
        self._slots = [Slot(i) for i in range(num_slots)]
        self._waiting: list[Running] = []
        self._running: list[Running] = []
        self._clock = 0
        self._task: asyncio.Task[None] | None = None
        self.prefilled_tokens = 0
        self.sampled_tokens = 0

    @property
    def max_context(self) -> int:
        return self._max_context

    @property
    def version(self) -> int:
        return self._version

    async def generate(self, request: Request) -> Completion:
        """Draw one completion. Raises EngineError when the prompt leaves no room for a token."""
        room = self._max_context - len(request.prompt_ids)
        if not request.prompt_ids or room < 1:
            raise EngineError(
                f"prompt of {len(request.prompt_ids)} tokens leaves no room in a context of {self._max_context}; "
                "shorten the conversation or use a model with a longer context"
            )
        allowed = min(request.sampling.max_new_tokens, room)
        seed = request.sampling.seed
        stream = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
        running = Running(request, asyncio.get_running_loop().create_future(), time.perf_counter())
        running.uniforms = stream.random(allowed)
        running.support = SupportWriter() if request.sampling.truncates else None
        self._waiting.append(running)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        try:
            return await running.future
        except asyncio.CancelledError:
            running.finish_reason = "abort"
            raise

    async def load_weights(self, ref: WeightsRef) -> None:
        """Load a published safetensors folder; caches are dropped, requests in flight must have ended."""
        from safetensors.torch import load_file

        path = Path(ref.path)
        state: dict[str, torch.Tensor] = {}
        for file in sorted(path.glob("*.safetensors")):
            state.update(load_file(file))
        if not state:
            raise EngineError(f"no safetensors file in {path}; publish weights with the learner first")
        self._copy_in(state, str(path))
        self._version = ref.version

    def use_weights(self, state: dict[str, torch.Tensor], version: int) -> None:
        """Take weights from memory (the learner in the same process); requests in flight must have ended."""
        self._copy_in(state, "memory")
        self._version = version

    def _copy_in(self, state: dict[str, torch.Tensor], origin: str) -> None:
        if self._running or self._waiting:
            in_flight = len(self._running) + len(self._waiting)
            raise EngineError(f"{in_flight} requests in flight; let them end, then load weights")
        own = self._model.state_dict()
        missing = sorted(k for k in own if k not in state and not _tied(self._model, k))
        unknown = sorted(k for k in state if k not in own)
        wrong = sorted(k for k, v in state.items() if k in own and own[k].shape != v.shape)
        if missing or unknown or wrong:
            raise EngineError(
                f"weights from {origin} do not fit this {type(self._model).__name__}: missing {missing[:3]}, unknown "
                f"{unknown[:3]}, of another shape {wrong[:3]}; load weights of the same architecture and size"
            )
        with torch.no_grad():
            for key, value in state.items():
                own[key].copy_(value)
        self._forget()

    def _forget(self) -> None:
        self._root = []
        self._cache.clear()
        for slot in self._slots:
            slot.tokens = []

    async def end_session(self, session: str) -> None:
        for slot in self._slots:
            if slot.session == session and not slot.busy:
                slot.session = ""

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._fail(EngineError("the engine was closed while this request waited for it"))

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            while self._waiting or self._running:
                for done in await asyncio.to_thread(self._quantum):
                    if not done.future.done():
                        done.future.set_result(self._completion(done))
                await asyncio.sleep(0)
        except Exception as error:
            self._fail(error if isinstance(error, EngineError) else EngineError(f"{type(error).__name__}: {error}"))

    def _fail(self, failure: EngineError) -> None:
        """Tell everyone in flight, and start afresh: a NaN left in the cache would outlive the weights it is from."""
        for running in self._running + self._waiting:
            if not running.future.done():
                running.future.set_exception(failure)
        self._running, self._waiting = [], []
        for slot in self._slots:
            slot.busy = False
        self._forget()
        self._cache.drop_slots()

    def _completion(self, done: Running) -> Completion:
        n = len(done.sampled)
        return Completion(
            tuple(done.sampled),
            tuple(done.logprobs),
            (self._version,) * n,
            done.finish_reason,
            done.prefilled,
            time.perf_counter() - done.started,
            None if done.support is None else done.support.support(),
        )

    @torch.inference_mode()
    def _quantum(self) -> list[Running]:
        """Admit if it is worth a forward pass, then decode a few steps. Returns the requests that ended."""
        finished: list[Running] = []
        if len(self._waiting) * 4 >= len(self._running) or self._clock % 2 == 0:
            finished += self._admit()
        self._clock += 1
        for _ in range(STEPS_PER_QUANTUM):
            if not self._running:
                break
            finished += self._decode()
        return finished

    def _admit(self) -> list[Running]:
        for running in list(self._waiting):  # changed in place: the event loop appends to it meanwhile
            if running.finish_reason == "abort":
                self._waiting.remove(running)
        if self._waiting and not self._running and not any(s.session for s in self._slots):
            self._plant_root([r.request.prompt_ids for r in self._waiting])
        admitted: list[Running] = []
        for running in list(self._waiting):
            slot = self._find_slot(running.request)
            if slot is None:
                break
            self._waiting.remove(running)
            running.slot = slot
            slot.busy, slot.session, slot.used_at = True, running.request.session, self._clock
            admitted.append(running)
        self._running += admitted  # before the pass: if it fails, they are among those who are told
        return self._prefill(admitted) if admitted else []

    def _find_slot(self, request: Request) -> Slot | None:
        """The session's own slot, else a free one, else the idle session unused for longest (it loses its cache)."""
        idle = [s for s in self._slots if not s.busy]
        for slot in idle:
            if request.session and slot.session == request.session:
                return slot
        free = [s for s in idle if not s.session]
        if free:
            return free[0]
        return min(idle, key=lambda s: s.used_at) if idle else None

    def _plant_root(self, prompts: list[tuple[int, ...]]) -> None:
        """With no live conversation: the common prefix of what waits becomes the root, unless the old one fits."""
        common = _common_prefix(prompts)
        if self._root and common[: len(self._root)] == self._root:
            return
        if len(prompts) == 1:
            common = common[: len(_common_prefix([tuple(self._root), prompts[0]]))] if self._root else []
        self._forget()
        common = common[: min(len(p) for p in prompts) - 1]
        if len(common) < MIN_ROOT:
            return
        self._cache.target(None, torch.zeros(1, dtype=torch.long), 0)
        n = len(common)
        causal = _additive(torch.ones(n, n, dtype=torch.bool).tril(), self._model.dtype)[None, None]
        self._forward(torch.tensor([common]), torch.arange(n)[None], causal)
        self._cache.root_length = n
        self._root = list(common)
        self.prefilled_tokens += n

    def _fit_root(self, prompts: list[tuple[int, ...]]) -> None:
        """Shrink the root to what every admitted prompt starts with; live slots take over the rest."""
        length = len(_common_prefix([tuple(self._root), *prompts]))
        length = min(length, min(len(p) for p in prompts) - 1)
        if length < len(self._root):
            root = len(self._root)
            self._cache.shrink_root(length, [max(len(s.tokens) - root, 0) for s in self._slots])
            self._root = self._root[:length]

    def _prefill(self, admitted: list[Running]) -> list[Running]:
        if self._root:
            self._fit_root([r.request.prompt_ids for r in admitted])
        root = len(self._root)
        deltas: list[tuple[int, ...]] = []
        starts: list[int] = []
        for running in admitted:
            slot, prompt = running.slot, running.request.prompt_ids
            assert slot is not None
            cached = len(_common_prefix([tuple(slot.tokens), prompt])) if slot.tokens else 0
            cached = min(max(cached, root), len(prompt) - 1)
            deltas.append(prompt[cached:])
            starts.append(cached - root)
            slot.tokens = list(prompt)
            running.prefilled = len(prompt) - cached
            self.prefilled_tokens += running.prefilled
        width = max(map(len, deltas))
        tokens = torch.tensor([[*d, *[0] * (width - len(d))] for d in deltas])
        start = torch.tensor(starts)
        extent = int(start.max()) + width
        rows = torch.tensor([r.slot.index for r in admitted if r.slot])
        self._cache.target(rows, start, extent)
        positions = start[:, None] + torch.arange(width)
        visible = torch.arange(extent)[None, None, :] <= positions[:, :, None]
        lengths = torch.tensor([len(d) for d in deltas])
        hidden = self._forward(tokens, positions + root, _additive(visible, self._model.dtype)[:, None], lengths)
        last = lengths - 1
        return self._sample(admitted, hidden[torch.arange(len(admitted)), last])

    def _decode(self) -> list[Running]:
        """One token for every running request.

        While most slots run, the pass covers the contiguous block that holds them, so no keys are copied: an idle row
        writes its garbage just behind what it holds. When few run, their rows are gathered instead.
        """
        root = len(self._root)
        slots = [r.slot for r in self._running if r.slot is not None]
        high = 1 + max(slot.index for slot in slots)
        dense = 2 * len(slots) > high
        covered = self._slots[:high] if dense else slots
        start = torch.tensor([max(len(slot.tokens) - root, 0) for slot in covered])
        latest = {r.slot.index: r.sampled[-1] for r in self._running if r.slot is not None}
        tokens = torch.tensor([[latest.get(slot.index, 0)] for slot in covered])
        for slot in slots:
            slot.tokens.append(latest[slot.index])
        extent = int(start.max()) + 1
        rows = slice(0, high) if dense else torch.tensor([slot.index for slot in slots])
        self._cache.target(rows, start, extent)
        visible = torch.arange(extent)[None, :] <= start[:, None]
        mask = _additive(visible, self._model.dtype)[:, None, None]
        hidden = self._forward(tokens, (start + root)[:, None], mask)[:, 0]
        return self._sample(self._running, hidden[[slot.index for slot in slots]] if dense else hidden)

    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Last hidden states [n, Q, C]; behind a row's length (None = all are full) they mean nothing."""
        if self._lean is not None:
            return self._lean(tokens, positions, mask, self._cache, lengths)
        out = self._model.base_model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            slot_cache=self._cache,
        )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def _sample(self, batch: list[Running], hidden: torch.Tensor) -> list[Running]:
        """Draw the next token of every request by inverse transform; keep the rest running, return the ended."""
        logits = self._model.get_output_embeddings()(hidden).float()
        if not torch.isfinite(logits).all():
            raise EngineError("the model produced NaN or infinite logits; the weights are damaged or diverged")
        params = [r.request.sampling for r in batch]
        drawn, logprobs, kept = draw(logits, params, [r.uniforms[len(r.sampled)] for r in batch], None)
        finished: list[Running] = []
        self.sampled_tokens += len(batch)
        for i, (running, token, logprob) in enumerate(zip(batch, drawn.tolist(), logprobs.tolist(), strict=True)):
            running.sampled.append(token)
            running.logprobs.append(logprob)
            if running.support is not None and kept is not None:
                running.support.kept(kept[i].numpy())
            if token in running.request.stop_ids:
                running.finish_reason = "stop"
            elif len(running.sampled) >= len(running.uniforms):
                running.finish_reason = "length"
            if running.finish_reason:
                finished.append(running)
        for running in finished:
            self._release(running)
        return finished

    def _release(self, running: Running) -> None:
        self._running = [r for r in self._running if r is not running]
        slot = running.slot
        assert slot is not None
        slot.busy = False
        if not slot.session:
            slot.tokens = []


def _common_prefix(rows: list[tuple[int, ...]]) -> list[int]:
    shortest, longest = min(rows), max(rows)
    n = min(len(shortest), len(longest))
    for i in range(n):
        if shortest[i] != longest[i]:
            return list(shortest[:i])
    return list(shortest[:n])


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where visible, the smallest number of `dtype` elsewhere."""
    mask = torch.zeros(visible.shape, dtype=dtype)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)


def _tied(model: Any, key: str) -> bool:
    return model.config.tie_word_embeddings and key in (getattr(model, "_tied_weights_keys", None) or {})
