"""The learner: one network, its optimizer, and the six things that can be asked of it.

    forward(samples) -> logprobs        forward_backward(samples, LossSpec) -> metrics        optim_step() -> metrics
    save(path) / load(path)             publish(path) -> WeightsRef

It knows no algorithm: it sums `loss_weights * token_loss` over what it is given (invariant 3). A beginning that rows
share is computed once and its gradient is exact, because the cached keys and values stay part of the graph.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.checkpoint import checkpoint

from flyball.errors import ConfigError, TrainError, TrainMemoryError, nearest, no_memory
from flyball.models.load import save_model, writing
from flyball.models.lora import ADAPTER, has_lora, merged_state, save_adapter
from flyball.rl.loss import TOKEN_LOSSES, Tokens
from flyball.rl.pack import Pack, packs
from flyball.rl.support import kept_mask, outside_support
from flyball.train.muon import Muon
from flyball.train.packed_attention import Layout, packed_hidden_states, use_packed_attention
from flyball.train.token_logprobs import NEVER, token_logprobs
from flyball.types import UNKNOWN, TrainingSample, WeightsRef


@dataclass(frozen=True)
class LossSpec:
    """Which token loss of `rl.loss.TOKEN_LOSSES`, and what it is called with."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


GRADIENT_SAMPLE = 2**18
"""Numbers of a gradient that tell its direction well enough, 1 MiB in float32."""
OPTIMIZERS = ("adamw", "muon")
LOGIT_BYTES = 2**26
"""Logits that exist at a time: 341 positions of a vocabulary of 49,152 in float32, 682 in bfloat16."""


@dataclass(frozen=True)
class OptimizerConfig:
    """`adamw`, or `muon` for the matrices of hidden layers with AdamW for the rest. `lr` is the peak of both.

    The caller scales it per step.
    """

    name: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0


class LocalLearner:
    """A learner in this process. `max_tokens` bounds the tokens of one forward pass (memory, not mathematics)."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        optimizer: OptimizerConfig,
        *,
        temperature: float = 1.0,
        max_tokens: int = 8192,
        bf16: bool = False,
    ) -> None:
        use_packed_attention(model)
        self.model = model
        self.tokenizer = tokenizer
        self.config = optimizer
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.bf16 = bf16
        self.version = 0
        self._optimizers = _optimizers(model, optimizer)

    def forward(self, samples: Sequence[TrainingSample]) -> list[npt.NDArray[np.float32]]:
        """Logprobs [T] of every sample's trained tokens under the current weights (0 elsewhere).

        Over the support of each draw. Raises TrainError for a draw from a distribution that cannot be scored here.
        """
        return [logprobs for logprobs, _entropy in self.score(samples)]

    def score(self, samples: Sequence[TrainingSample]) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """What `forward` gives, and the entropy [T] of each draw, in nats."""
        _refuse_other_distributions(samples, self.temperature)
        out = [(np.zeros(len(s.token_ids), np.float32), np.zeros(len(s.token_ids), np.float32)) for s in samples]
        self.model.eval()
        with torch.no_grad(), self._memory_for("the logprobs", samples):
            for pack in packs(samples, self.max_tokens):
                *values, row, position = self._token_logprobs(samples, pack)
                drawn = zip(row.tolist(), position.tolist(), *(v.tolist() for v in values), strict=True)
                for r, p, logprob, entropy in drawn:
                    logprobs, entropies = out[pack.rows[r]]
                    logprobs[p], entropies[p] = logprob, entropy
        return out

    def forward_backward(self, samples: Sequence[TrainingSample], spec: LossSpec) -> dict[str, float]:
        """Add the gradient of sum(weights * loss). Returns the loss and token-mean metrics.

        Raises TrainError when the loss is not finite, TrainMemoryError when memory runs out (the gradient is then
        dropped), and as `forward` does.
        """
        _refuse_other_distributions(samples, self.temperature)
        with self._memory_for("the gradient", samples):
            return self._add_gradient(samples, spec)

    def _add_gradient(self, samples: Sequence[TrainingSample], spec: LossSpec) -> dict[str, float]:
        self.model.train()
        sums: dict[str, float] = {"loss": 0.0, "entropy": 0.0}
        tokens = 0
        for pack in packs(samples, self.max_tokens):
            logprobs, entropy, row, position = self._token_logprobs(samples, pack)
            taken = [samples[i] for i in pack.rows]
            loss, metrics = self._token_loss(spec, logprobs, taken, row, position)
            weights = gather([s.loss_weights for s in taken], row, position)
            total = (loss * weights).sum()
            if not torch.isfinite(total):
                self._clear()
                raise TrainError(f"the {spec.name} loss is {total.item()}; the step was dropped, weights are unchanged")
            total.backward()  # type: ignore[no-untyped-call]
            sums["loss"] += total.item()
            sums["entropy"] += float(entropy.sum())
            for name, values in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(values.sum())
            tokens += len(row)
        return {k: v if k == "loss" else v / max(tokens, 1) for k, v in sums.items()} | {
            "trained_tokens": float(tokens)
        }

    def optim_step(self, lr_scale: float = 1.0) -> dict[str, float]:
        """Clip the gradient, step, clear. Raises TrainError for a gradient that is not finite; weights then stay.

        After a TrainMemoryError some weights may have moved: go on from a checkpoint.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        if not torch.isfinite(norm):
            self._clear()
            raise TrainError(f"gradient norm is {float(norm)}; the step was dropped, weights are unchanged")
        with self._memory_for("the optimizer's step", ()):
            for optimizer in self._optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.config.lr * lr_scale
                optimizer.step()
        self._clear()
        self.version += 1
        return {"grad_norm": float(norm)}

    def gradient_sample(self) -> torch.Tensor:
        """Every n-th number of the gradient added up so far, a flat copy of about GRADIENT_SAMPLE at most."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        stride = math.ceil(sum(p.numel() for p in trained) / GRADIENT_SAMPLE)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        return torch.cat([grad.detach().flatten()[::stride].float().clone() for grad in grads])

    def save(self, path: Path) -> None:
        """Weights, optimizer and version: what `load` needs to go on bit for bit. Of an adapted model, the adapter.

        Raises TrainError for weights that are no numbers; nothing is then written. StoreError where the disk refuses.
        """
        self._refuse_broken()
        path.mkdir(parents=True, exist_ok=True)
        state = {"model": self._trained_state(), "version": self.version}
        state |= {"optimizers": [optimizer.state_dict() for optimizer in self._optimizers]}
        partial = path / "learner.pt.partial"
        with writing(path):
            torch.save(state, partial)
        partial.rename(path / "learner.pt")

    def load(self, path: Path) -> None:
        """Go on from `save`."""
        state = torch.load(path / "learner.pt", weights_only=True)
        self.restore(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.version = int(state["version"])

    def publish(self, path: Path) -> WeightsRef:
        """Write a Hugging Face folder that engines and people can load; an adapter is merged, and kept beside it.

        Raises TrainError as `save` does.
        """
        self._refuse_broken()
        if has_lora(self.model):
            path.mkdir(parents=True, exist_ok=True)
            with writing(path):
                save_adapter(self.model, path / ADAPTER)
        digest = save_model(self.model, self.tokenizer, path, self.weights())
        return WeightsRef(self.version, str(path), digest)

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights that an engine computes with, by their names in the plain model; not copied where they exist."""
        return merged_state(self.model)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """A copy of the trained weights in memory."""
        return {k: v.detach().clone() for k, v in self._trained_state().items()}

    def restore(self, snapshot: dict[str, torch.Tensor]) -> None:
        """Put a snapshot back (the optimizer keeps its state). Raises TrainError for one of another model."""
        found, expected = snapshot.keys(), self._trained_state().keys()
        if found != expected:
            raise TrainError(
                f"the saved weights are of another model or adapter: {sorted(found ^ expected)[:3]} differ; go on with "
                "the settings that they were saved under, or start a new run"
            )
        self.model.load_state_dict(snapshot, strict=False)

    def _refuse_broken(self) -> None:
        for name, tensor in self._trained_state().items():
            if wrong := int((~torch.isfinite(tensor)).sum()):
                raise TrainError(
                    f"{wrong} of {tensor.numel()} weights of {name} are not finite; nothing was written, so the last "
                    "checkpoint is whole: resume from it with a lower learning rate"
                )

    def _trained_state(self) -> dict[str, torch.Tensor]:
        state = self.model.state_dict()
        return {k: v for k, v in state.items() if ".lora_" in k} if has_lora(self.model) else dict(state)

    def _clear(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def _memory_for(self, what: str, samples: Sequence[TrainingSample]) -> Iterator[None]:
        """Drop the gradient and raise TrainMemoryError, with what the memory was for, where none is left."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not (said := no_memory(error)):
                raise
            self._clear()
            weights = sum(p.nbytes for p in self.model.parameters()) / 2**30
            longest = max((len(sample.token_ids) for sample in samples), default=0)
            of = f" of {len(samples)} conversations (the longest has {longest} tokens, {self.max_tokens} at a time)"
            raise TrainMemoryError(
                f"no memory for {what}{of if samples else ''} beside weights of {weights:.2f} GiB and what the "
                f"optimizer holds: {said}. What was recorded is kept and "
                "`--resume` goes on from the last checkpoint; shorten conversations (`limits`), train adapters "
                "(`training.lora`), or take a smaller model"
            ) from error

    # --- one pass ----------------------------------------------------------------------------------------------------

    def _token_logprobs(
        self, samples: Sequence[TrainingSample], pack: Pack
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logprob and entropy [N] of the N trained tokens, with row and position [N] of each.

        Only the hidden states that predict a trained token go through the output layer. Both numbers are of the
        distribution that the sample was drawn from: over its support, where it stores one. The logits of one part of
        the tokens exist at a time; backward makes those of all parts but the last anew.
        """
        tokens = np.concatenate([piece.tokens for piece in pack.pieces])
        with self._precision():
            hidden = packed_hidden_states(self.model, torch.from_numpy(tokens), Layout(pack.pieces))
        *parts, last = self._parts(samples, pack)
        found = [checkpoint(self._predict, hidden, part, use_reentrant=False) for part in parts]
        logprobs, entropy = zip(*found, self._predict(hidden, last), strict=True)
        row, position = (np.concatenate([getattr(p, name) for p in (*parts, last)]) for name in ("row", "position"))
        return torch.cat(logprobs), torch.cat(entropy), torch.from_numpy(row), torch.from_numpy(position)

    def _parts(self, samples: Sequence[TrainingSample], pack: Pack) -> Iterator[Draws]:
        """The trained tokens of a pack, so many at a time that their logits stay below LOGIT_BYTES."""
        taken = [samples[i] for i in pack.rows]
        where = [np.flatnonzero(s.loss_mask) for s in taken]
        row = np.repeat(np.arange(len(taken)), [len(w) for w in where])
        position = np.concatenate(where)
        before = np.concatenate([places[w - 1] for places, w in zip(pack.places, where, strict=True)])
        order = np.argsort(before, kind="stable")  # brings together what one prediction serves
        vocab_size = int(self.model.get_output_embeddings().weight.shape[0])
        size = max(1, LOGIT_BYTES // (vocab_size * (2 if self.bf16 else 4)))
        for start in range(0, max(len(order), 1), size):
            part = order[start : start + size]
            yield Draws(taken, row[part], position[part], before[part])

    def _predict(self, hidden: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Logprob and entropy [n] of n draws from a pack whose hidden states are `hidden` [N, C]."""
        distinct, which = np.unique(draws.before, return_inverse=True)  # shared pieces predict once
        with self._precision():
            logits = self.model.get_output_embeddings()(hidden[torch.from_numpy(distinct)])
        at = torch.from_numpy(which)
        supports = [(draws.taken[r].support, draws.position[i : i + 1]) for i, r in enumerate(draws.row.tolist())]
        if any(support is not None for support, _ in supports):  # draws of one prediction may have different supports
            kept = torch.from_numpy(kept_mask(supports, logits.shape[-1]))
            logits, at = logits[at].masked_fill(~kept, NEVER), torch.arange(len(at))
        return token_logprobs(logits, at, torch.from_numpy(draws.labels), self.temperature)

    def _token_loss(
        self,
        spec: LossSpec,
        logprobs: torch.Tensor,
        taken: list[TrainingSample],
        row: torch.Tensor,
        position: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if spec.name not in TOKEN_LOSSES:
            raise ConfigError(f"loss {spec.name!r} is unknown{nearest(spec.name, TOKEN_LOSSES)}")
        tokens = Tokens(
            logprobs,
            gather([s.sampling_logprobs for s in taken], row, position),
            gather([s.advantages for s in taken], row, position),
            torch.tensor([int(s.loss_mask.sum()) for s in taken])[row],
            gather_if_known([s.old_logprobs for s in taken], row, position),
            gather_if_known([s.ref_logprobs for s in taken], row, position),
        )
        return TOKEN_LOSSES[spec.name](tokens, **spec.params)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext()


@dataclass(frozen=True)
class Draws:
    """Some of the trained tokens of a pack: `taken[row]` drew its token `position` from the prediction at `before`.

    All [n]; `before` counts the tokens of the pack and ascends.
    """

    taken: list[TrainingSample]
    row: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return np.array([self.taken[r].token_ids[p] for r, p in zip(self.row, self.position, strict=True)], np.int64)


def _refuse_other_distributions(samples: Sequence[TrainingSample], temperature: float) -> None:
    """Raise TrainError for a trained token drawn from a distribution that the learner cannot score.

    At another temperature, or cut without storing what it was drawn among, or to a set that does not hold it.
    """
    for sample in samples:
        if other := [t for t in sample.temperatures if t != temperature]:
            raise TrainError(
                f"attempt {sample.attempt_id!r} was sampled at temperature {other[0]} and the learner scores at "
                f"{temperature}; give both the same"
            )
        if sample.support is None:
            continue
        trained = np.flatnonzero(sample.loss_mask)
        unknown = int((sample.support.index[trained] == UNKNOWN).sum())
        if unknown:
            raise TrainError(
                f"attempt {sample.attempt_id!r}: {unknown} of {len(trained)} sampled tokens were drawn from a cut "
                "distribution (top_p, top_k, min_p or a grammar) without its support, or by an engine that answers in "
                "text (http), so their logprobs cannot be compared with the learner's; sample with the local engine, "
                "or with vllm without cuts larger than its logprobs"
            )
        if outside := outside_support(sample.support, sample.token_ids, trained):
            raise TrainError(
                f"attempt {sample.attempt_id!r}: token {sample.token_ids[outside[0]]} at position {outside[0]} is not "
                "in the support it is said to be drawn from; the sample is damaged"
            )


def _optimizers(model: Any, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """One or two optimizers over all parameters. Raises ConfigError for an unknown name."""
    if config.name not in OPTIMIZERS:
        raise ConfigError(f"optimizer {config.name!r} is unknown{nearest(config.name, OPTIMIZERS)}")
    outer = {id(p) for p in (*model.get_input_embeddings().parameters(), *model.get_output_embeddings().parameters())}
    trained = [p for p in model.parameters() if p.requires_grad]
    hidden = [p for p in trained if p.ndim == 2 and id(p) not in outer] if config.name == "muon" else []
    taken = {id(p) for p in hidden}
    rest = [p for p in trained if id(p) not in taken]
    adamw = torch.optim.AdamW(
        rest, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )
    return [adamw, Muon(hidden, config.lr)] if hidden else [adamw]


def gather(arrays: Sequence[npt.NDArray[np.float32]], row: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Values [N] at (row, position) of ragged arrays."""
    starts = np.cumsum([0, *[len(a) for a in arrays]])[:-1]
    flat = torch.from_numpy(np.concatenate(arrays))
    return flat[torch.from_numpy(starts)[row] + position]


def gather_if_known(
    arrays: Sequence[npt.NDArray[np.float32] | None], row: torch.Tensor, position: torch.Tensor
) -> torch.Tensor | None:
    """The same where all arrays are known, else None."""
    known = [a for a in arrays if a is not None]
    return gather(known, row, position) if len(known) == len(arrays) else None
