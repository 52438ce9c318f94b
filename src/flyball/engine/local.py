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
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file

from flyball.engine.local_adapters import Adapters
from flyball.engine.local_cache import ATTENTION, SlotCache
from flyball.engine.local_linear import Projection
from flyball.engine.local_llama import LlamaPass
from flyball.engine.local_prefix import MIN_SHARED, common_prefix, first_of_each, num_common, source_of
from flyball.engine.local_request import Running, Slot
from flyball.engine.local_sampling import draw
from flyball.engine.local_vocabulary import Vocabulary
from flyball.engine.protocol import Completion, Request
from flyball.errors import (
    ConfigError,
    EngineError,
    EngineMemoryError,
    NumericsError,
    WeightsError,
    nearest,
    no_memory,
)
from flyball.models.threads import in_thread
from flyball.types import WeightsRef

STEPS_PER_QUANTUM = 3


class LocalEngine:
    """Generate with a Hugging Face causal language model in this process.

    `model` must go through transformers' attention interface (Llama, Qwen, Mistral, SmolLM and most others do).
    `num_slots` bounds how many conversations keep their cache; more requests wait their turn. `tokenizer` is needed for
    stop strings and grammars.

    `on_new_weights` says what becomes of keys and values cached under the old weights. `recompute`: all are dropped,
    and requests in flight compute theirs again, so every logprob is of the new weights alone. `keep`: requests in
    flight and sessions go on with theirs (cheaper; their logprobs are of a mixture), conversations that begin later
    share nothing with them.

    `deterministic` computes each conversation alone: what it samples is the same to the bit whatever else runs, as long
    as `num_slots` is enough for all. Several times slower.
    """

    def __init__(
        self,
        model: Any,
        *,
        num_slots: int = 64,
        max_context: int | None = None,
        version: int = 0,
        tokenizer: Any = None,
        on_new_weights: Literal["recompute", "keep"] = "recompute",
        deterministic: bool = False,
    ) -> None:
        if not getattr(model, "_supports_attention_backend", False):
            raise EngineError(
                f"{type(model).__name__} does not use transformers' attention interface, which the local engine needs; "
                "serve it with another engine (vllm, http)"
            )
        if on_new_weights not in ("recompute", "keep"):
            raise ConfigError(f"on_new_weights {on_new_weights!r}{nearest(on_new_weights, ('recompute', 'keep'))}")
        self._model = model.eval()
        self._model.set_attn_implementation(ATTENTION)
        self._adapters = Adapters(model)
        self._lean = LlamaPass(model, self._adapters) if LlamaPass.fits(model) else None
        self._head = Projection(model.get_output_embeddings())
        self._device: torch.device = model.device
        self._max_context = max_context or int(model.config.max_position_embeddings)
        self._version = version
        self._tokenizer = tokenizer
        self._vocabulary: Vocabulary | None = None
        self._keeps_caches = on_new_weights == "keep"
        self._deterministic = deterministic
        self._cache = SlotCache(num_slots, exact=deterministic)
        self._root: list[int] = []
        self._root_adapter: str | None = None
        self._slots = [Slot(i) for i in range(num_slots)]
        self._open: set[Running] = set()
        self._waiting: list[Running] = []
        self._running: list[Running] = []
        self._must_recompute = False
        self._clock = 0
        self._task: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        """held by whoever works with model, caches and running requests: the worker, or an update between its steps"""
        self.prefilled_tokens = 0
        self.sampled_tokens = 0

    @property
    def max_context(self) -> int:
        return self._max_context

    @property
    def version(self) -> int:
        return self._version

    @property
    def adapters(self) -> Mapping[str, str]:
        return self._adapters.versions

    async def generate(self, request: Request) -> Completion:
        """Draw one completion. Raises ContextError when the prompt leaves no room for a token, else EngineError."""
        running = self._prepare(request, request.room(self._max_context))
        self._open.add(running)
        self._waiting.append(running)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        try:
            return await running.future
        except asyncio.CancelledError:
            running.aborted = True
            raise
        finally:
            self._open.discard(running)

    def _prepare(self, request: Request, num_allowed: int) -> Running:
        self._adapters.check(request.adapter)
        sampling = request.sampling
        running = Running(request, asyncio.get_running_loop().create_future(), num_allowed)
        if sampling.stop or sampling.grammar:
            running.watch(self._text)
        return running

    @property
    def _text(self) -> Vocabulary:
        if self._vocabulary is None:
            if self._tokenizer is None:
                raise EngineError("stop strings and grammars need the tokenizer; give LocalEngine `tokenizer=`")
            self._vocabulary = Vocabulary(self._tokenizer, self._model.get_output_embeddings().weight.shape[0])
        return self._vocabulary

    async def abort(self, session: str) -> None:
        for running in self._open:
            if running.request.session == session:
                running.aborted = True

    async def load_weights(self, ref: WeightsRef) -> None:
        """Load a published safetensors folder, also while requests run.

        Raises WeightsError, or EngineMemoryError when there is no room to read it; the old weights stay.
        """
        try:
            state = await in_thread(_read_safetensors, Path(ref.path))
        except (MemoryError, RuntimeError) as error:
            if not (said := no_memory(error)):
                raise
            raise EngineMemoryError(
                f"no memory to read the weights in {ref.path}: {said}; the old ones stay"
            ) from error
        await in_thread(self._take, state, ref.version, ref.path)

    def use_weights(self, state: dict[str, torch.Tensor], version: int) -> None:
        """Take weights from memory (the learner in the same process), as `load_weights` does from a folder.

        Returns when they are in use, at the end of the decode steps under way.
        """
        self._take(state, version, "memory")

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """Serve an adapter of `peft`'s format (LoRA) to the requests that name it, beside all others.

        It stays, on top of the new weights, when weights are exchanged. Raises WeightsError when its rank, its targets
        or what else it asks for does not fit the model.
        """
        with self._lock:
            self._adapters.add(name, Path(folder))

    def _take(self, state: dict[str, torch.Tensor], version: int, origin: str) -> None:
        own = self._model.state_dict()
        missing = sorted(k for k in own if k not in state and not _tied(self._model, k))
        unknown = sorted(k for k in state if k not in own)
        wrong = sorted(k for k, v in state.items() if k in own and own[k].shape != v.shape)
        if missing or unknown or wrong:
            raise WeightsError(
                f"weights from {origin} do not fit this {type(self._model).__name__}: missing {missing[:3]}, unknown "
                f"{unknown[:3]}, of another shape {wrong[:3]}; load weights of the same architecture and size"
            )
        with self._lock, torch.no_grad():
            for key, value in state.items():
                own[key].copy_(value)
            self._head.refresh()
            if self._lean is not None:
                self._lean.refresh()
            self._version = version
            self._renew_caches()

    def _renew_caches(self) -> None:
        """Do with what the old weights computed what `on_new_weights` says."""
        if not self._keeps_caches or not any(s.busy or s.session for s in self._slots):
            self._forget()
            self._must_recompute = bool(self._running)
            return
        if self._root:  # those in flight take it with them; whoever comes must not begin with it
            self._move_root_into_slots(0)
        for slot in self._slots:
            if slot.busy or slot.session:
                slot.stale = True
            else:
                slot.clear()

    def _forget(self) -> None:
        self._root = []
        self._cache.clear()
        for slot in self._slots:
            slot.clear()

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
                for done in await in_thread(self._quantum):
                    if done.future.done():
                        continue
                    if done.failure is None:
                        done.future.set_result(done.completion())
                    else:
                        done.future.set_exception(done.failure)
                await asyncio.sleep(0)
        except Exception as error:
            self._fail(self._typed(error))

    def _typed(self, error: Exception) -> EngineError:
        """The error as its caller gets it; one for want of memory says what the memory was for."""
        if isinstance(error, EngineError):
            return error
        if not (said := no_memory(error)):
            return EngineError(f"{type(error).__name__}: {error}")
        longest = max((len(running.tokens) for running in self._running), default=0)
        return EngineMemoryError(
            f"no memory to compute {len(self._running)} requests at a time, the longest of {longest} tokens so far; "
            f"their cache holds {self._cache.num_bytes / 2**30:.2f} GiB ({self._cache.num_slots} conversations x "
            f"{self._cache.columns} tokens), beside the weights: {said}. The cache was dropped and the "
            "engine goes on; lower `concurrency` or `limits` (turns, new tokens), or take a smaller model"
        )

    def _fail(self, failure: EngineError) -> None:
        """Tell everyone in flight, and start afresh: a NaN left in the cache would outlive the weights it is from."""
        with self._lock:
            for running in self._open:  # also those that a cancelled loop had ended and not yet told
                if not running.future.done():
                    running.future.set_exception(failure)
            self._running, self._waiting = [], []
            for slot in self._slots:
                slot.busy = False
            self._forget()
            self._cache.drop_slots()

    @torch.inference_mode()
    def _quantum(self) -> list[Running]:
        """Admit if it is worth a forward pass, then decode a few steps. Returns the requests that ended."""
        with self._lock:
            finished = self._drop_aborted()
            if self._must_recompute:
                self._must_recompute = False
                if self._running:
                    self._plant_root(self._running)
                    finished += self._prefill(self._running)
            if len(self._waiting) * 4 >= len(self._running) or self._clock % 2 == 0:
                finished += self._admit()
            self._clock += 1
            for _ in range(STEPS_PER_QUANTUM):
                finished += self._drop_aborted()
                if not self._running:
                    break
                finished += self._decode()
            return finished

    def _drop_aborted(self) -> list[Running]:
        """End what was aborted or cancelled; its slot is free for the next admission."""
        dropped = [r for r in self._waiting + self._running if r.aborted]
        for running in dropped:
            running.finish_reason = "abort"
            if running.slot is None:
                self._waiting.remove(running)  # in place: the event loop appends to it meanwhile
            else:
                self._release(running)
        return dropped

    def _admit(self) -> list[Running]:
        if self._waiting and not self._running and not any(s.session and s.tokens for s in self._slots):
            self._plant_root(self._waiting)
        admitted: list[Running] = []
        for running in list(self._waiting):  # changed in place: the event loop appends to it meanwhile
            slot = self._find_slot(running.request)
            if slot is None:
                break
            self._waiting.remove(running)
            running.slot = slot
            resumes = slot.session and slot.session == running.request.session
            if (not resumes and (self._deterministic or slot.stale)) or slot.adapter != running.request.adapter:
                slot.clear()
            slot.adapter = running.request.adapter
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

    def _plant_root(self, coming: list[Running]) -> None:
        """With nothing cached that lives: what `coming` begin with in common becomes the root, unless the old fits.

        Requests of different adapters have nothing in common.
        """
        if self._deterministic:
            return
        prompts = [r.tokens for r in coming]
        adapter = coming[0].request.adapter
        common = common_prefix(prompts) if all(r.request.adapter == adapter for r in coming) else []
        if self._root and adapter == self._root_adapter and common[: len(self._root)] == self._root:
            return
        if len(prompts) == 1:
            common = common[: len(common_prefix([self._root, prompts[0]]))] if self._root else []
        self._forget()
        common = common[: min(len(p) for p in prompts) - 1]
        if len(common) < MIN_SHARED:
            return
        self._cache.target(None, self._tensor([0]), 0)
        n = len(common)
        positions = self._tensor([range(n)])
        causal = _additive(positions <= positions.T, self._model.dtype)[None, None]
        self._forward(self._tensor([common]), positions, causal, [adapter])
        self._cache.root_length = n
        self._root, self._root_adapter = list(common), adapter
        self.prefilled_tokens += n

    def _fit_root(self, admitted: list[Running]) -> None:
        """Shrink the root to what every admitted request starts with; live slots take over the rest."""
        prompts = [r.tokens for r in admitted]
        length = len(common_prefix([self._root, *prompts]))
        length = min(length, min(len(p) for p in prompts) - 1)
        if any(r.request.adapter != self._root_adapter for r in admitted):
            length = 0
        if length < len(self._root):
            self._move_root_into_slots(length)

    def _move_root_into_slots(self, length: int) -> None:
        """Shorten the root to `length`; every slot takes over the rest."""
        root = len(self._root)
        self._cache.shrink_root(length, [max(len(s.tokens) - root, 0) for s in self._slots])
        self._root = self._root[:length]

    def _prefill(self, admitted: list[Running]) -> list[Running]:
        """Compute what is not cached of the admitted requests' tokens and draw the next of each.

        What several begin with is computed for the first of them; the others copy it, and equal prompts all of it.
        """
        if self._deterministic and len(admitted) > 1:
            return [ended for running in admitted for ended in self._prefill([running])]
        if self._root:
            self._fit_root(admitted)
        last: dict[Running, torch.Tensor] = {}
        coming = admitted
        while coming:
            now, coming = first_of_each([(running, self._num_cached(running)) for running in coming])
            last.update(zip(now, self._compute(now), strict=True))
            for first in now:
                twins = [r for r in coming if r.computes_the_same_as(first)]
                self._copy(first, twins, len(first.tokens))
                last.update((twin, last[first]) for twin in twins)
            coming = [running for running in coming if running not in last]
        return self._sample(admitted, torch.stack([last[running] for running in admitted]))

    def _num_cached(self, running: Running) -> int:
        """How many of its tokens root and its own slot hold; the last is always computed, for what it predicts."""
        own = num_common(running.in_slot.tokens, running.tokens)
        return min(max(own, len(self._root)), len(running.tokens) - 1)

    def _copy(self, source: Running | Slot, others: list[Running], length: int) -> None:
        """Let the slots of `others` begin with `length` tokens of the source's."""
        slot = source.in_slot if isinstance(source, Running) else source
        self._cache.copy(slot.index, [other.in_slot.index for other in others], length - len(self._root))
        for other in others:
            other.in_slot.hold(slot.tokens[:length])

    def _compute(self, batch: list[Running]) -> torch.Tensor:
        """Pass what is not cached through the model; the last hidden state [n, C] of each."""
        root = len(self._root)
        deltas: list[list[int]] = []
        starts: list[int] = []
        for running in batch:
            slot, tokens, cached = running.in_slot, running.tokens, self._num_cached(running)
            if not self._deterministic:
                source, found = source_of(running, self._slots, cached)
                if source is not None:
                    cached = min(found, len(tokens) - 1)
                    self._copy(source, [running], cached)
            slot.tokens = tokens[:cached]
            deltas.append(tokens[cached:])
            starts.append(cached - root)
            running.prefilled += len(tokens) - cached
            self.prefilled_tokens += len(tokens) - cached
        width = max(map(len, deltas))
        padded = self._tensor([[*d, *[0] * (width - len(d))] for d in deltas])
        start = self._tensor(starts)
        rows = self._tensor([running.in_slot.index for running in batch])
        extent = self._cache.target(rows, start, max(starts) + width)
        positions = start[:, None] + self._tensor(range(width))
        visible = self._tensor(range(extent)) <= positions[:, :, None]
        lengths = self._tensor([len(d) for d in deltas])
        mask = _additive(visible, self._model.dtype)[:, None]
        hidden = self._forward(padded, positions + root, mask, [r.request.adapter for r in batch], lengths)
        for running in batch:
            running.in_slot.tokens = list(running.tokens)
        return hidden[self._tensor(range(len(batch))), lengths - 1]

    def _decode(self) -> list[Running]:
        """One token for every running request."""
        batches = [[running] for running in self._running] if self._deterministic else [self._running]
        return [ended for batch in batches for ended in self._decode_batch(batch)]

    def _decode_batch(self, batch: list[Running]) -> list[Running]:
        """One token each, in one pass.

        While most slots run, the pass covers the contiguous block that holds them, so no keys are copied: an idle row
        writes its garbage just behind what it holds. When few run, their rows are gathered instead.
        """
        root = len(self._root)
        slots = [running.in_slot for running in batch]
        high = 1 + max(slot.index for slot in slots)
        dense = 2 * len(slots) > high and not self._deterministic
        covered = self._slots[:high] if dense else slots
        starts = [max(len(slot.tokens) - root, 0) for slot in covered]
        start = self._tensor(starts)
        latest = {running.in_slot.index: running.latest for running in batch}
        tokens = self._tensor([[latest.get(slot.index, 0)] for slot in covered])
        for slot in slots:
            slot.tokens.append(latest[slot.index])
        rows = slice(0, high) if dense else self._tensor([slot.index for slot in slots])
        extent = self._cache.target(rows, start, max(starts) + 1)
        visible = self._tensor(range(extent)) <= start[:, None]
        mask = _additive(visible, self._model.dtype)[:, None, None]
        adapters = [slot.adapter if slot.busy else None for slot in covered]
        hidden = self._forward(tokens, (start + root)[:, None], mask, adapters)[:, 0]
        return self._sample(batch, hidden[[slot.index for slot in slots]] if dense else hidden)

    def _tensor(self, values: Any) -> torch.Tensor:
        """Whole numbers, nested as given, where the model is."""
        return torch.from_numpy(np.array(values, dtype=np.int64)).to(self._device)

    def _forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        adapters: list[str | None],
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Last hidden states [n, Q, C]; behind a row's length (None = all are full) they mean nothing."""
        if self._lean is not None:
            with self._adapters.of_rows(adapters, tokens.shape[1] if lengths is None else lengths):
                return self._lean(tokens, positions, mask, self._cache, lengths)
        with self._adapters.of_rows(adapters):
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
        logits = self._head(hidden).float()
        if not bool(logits.sum().isfinite()):  # many times faster than to ask each
            raise NumericsError("the model produced NaN or infinite logits; the weights are damaged or diverged")
        params = [r.request.sampling for r in batch]
        drawn, logprobs, kept = draw(logits, params, [r.uniform for r in batch], _allowed(batch, logits.shape[-1]))
        self.sampled_tokens += len(batch)
        for i, (running, token, logprob) in enumerate(zip(batch, drawn.tolist(), logprobs.tolist(), strict=True)):
            running.take(token, logprob, self._version, None if kept is None else kept[i].numpy())
        finished = [running for running in batch if running.finish_reason]
        for running in finished:
            self._release(running)
        return finished

    def _release(self, running: Running) -> None:
        self._running = [r for r in self._running if r is not running]
        slot = running.in_slot
        slot.busy = False
        if not slot.session:
            slot.clear()


def _allowed(batch: list[Running], vocab_size: int) -> torch.Tensor | None:
    """What grammars allow next [n, V]; None when no request has one."""
    if all(running.guide is None for running in batch):
        return None
    allowed = np.ones((len(batch), vocab_size), np.bool_)
    for row, running in zip(allowed, batch, strict=True):
        running.restrict(row)
    return torch.from_numpy(allowed)


def _read_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        state.update(load_file(file))
    if not state:
        raise WeightsError(f"no safetensors file in {folder}; publish weights with the learner first")
    return state


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where visible, the smallest number of `dtype` elsewhere."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)


def _tied(model: Any, key: str) -> bool:
    return model.config.tie_word_embeddings and key in (getattr(model, "_tied_weights_keys", None) or {})
