"""The learner: one network, its optimizer, and the six things that can be asked of it.

    forward(samples) -> logprobs        forward_backward(samples, LossSpec) -> metrics        optim_step() -> metrics
    save(path) / load(path)             publish(path) -> WeightsRef

It knows no algorithm: it sums `loss_weights * token_loss` over what it is given (invariant 3). A beginning that rows
share is computed once and its gradient is exact, because the cached keys and values stay part of the graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from flyball.errors import ConfigError, TrainError, nearest
from flyball.models.load import save_model
from flyball.rl.loss import policy_loss, sft_loss
from flyball.rl.pack import MicroBatch, micro_batches
from flyball.types import TrainingSample, WeightsRef


@dataclass(frozen=True)
class LossSpec:
    """Which token loss, and its parameters: `sft`, or `policy` with clip_ratio_low/high, tis_cap, kl_coef."""

    name: str
    params: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW. `lr` is the peak; the caller scales it per step."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0


class LocalLearner:
    """A learner in this process. `max_tokens` bounds padded tokens of one forward pass (memory, not mathematics)."""

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
        self.model = model
        self.tokenizer = tokenizer
        self.config = optimizer
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.bf16 = bf16
        self.version = 0
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=optimizer.lr, betas=optimizer.betas, weight_decay=optimizer.weight_decay, fused=True
        )

    def forward(self, samples: Sequence[TrainingSample]) -> list[npt.NDArray[np.float32]]:
        """Logprobs [T] of every sample's trained tokens under the current weights (0 elsewhere)."""
        out = [np.zeros(len(s.token_ids), np.float32) for s in samples]
        self.model.eval()
        with torch.no_grad():
            for batch in micro_batches(samples, self.max_tokens):
                logprobs, _entropy, row, position = self._token_logprobs(samples, batch)
                for r, p, value in zip(row.tolist(), position.tolist(), logprobs.tolist(), strict=True):
                    out[batch.rows[r]][p] = value
        return out

    def forward_backward(self, samples: Sequence[TrainingSample], spec: LossSpec) -> dict[str, float]:
        """Add the gradient of sum(weights * loss). Returns the loss and token-mean metrics.

        Raises TrainError when the loss is not finite; the gradient is then dropped.
        """
        self.model.train()
        sums: dict[str, float] = {"loss": 0.0, "entropy": 0.0}
        tokens = 0
        for batch in micro_batches(samples, self.max_tokens):
            logprobs, entropy, row, position = self._token_logprobs(samples, batch)
            taken = [samples[i] for i in batch.rows]
            loss, metrics = _token_loss(spec, logprobs, taken, row, position)
            weights = _gather([s.loss_weights for s in taken], row, position)
            total = (loss * weights).sum()
            if not torch.isfinite(total):
                self._optimizer.zero_grad(set_to_none=True)
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
        """Clip the gradient, step, clear. Raises TrainError for a gradient that is not finite; weights then stay."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        if not torch.isfinite(norm):
            self._optimizer.zero_grad(set_to_none=True)
            raise TrainError(f"gradient norm is {float(norm)}; the step was dropped, weights are unchanged")
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.lr * lr_scale
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.version += 1
        return {"grad_norm": float(norm)}

    def save(self, path: Path) -> None:
        """Weights, optimizer and version: what `load` needs to go on bit for bit."""
        path.mkdir(parents=True, exist_ok=True)
        state = {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict(), "version": self.version}
        partial = path / "learner.pt.partial"
        torch.save(state, partial)
        partial.rename(path / "learner.pt")

    def load(self, path: Path) -> None:
        """Go on from `save`."""
        state = torch.load(path / "learner.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.version = int(state["version"])

    def publish(self, path: Path) -> WeightsRef:
        """Write a Hugging Face folder that engines and people can load."""
        digest = save_model(self.model, self.tokenizer, path)
        return WeightsRef(self.version, str(path), digest)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """A copy of the weights in memory."""
        return {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def restore(self, snapshot: dict[str, torch.Tensor]) -> None:
        """Put a snapshot back (the optimizer keeps its state)."""
        self.model.load_state_dict(snapshot)

    # --- one pass ----------------------------------------------------------------------------------------------------

    def _token_logprobs(
        self, samples: Sequence[TrainingSample], batch: MicroBatch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logprob and entropy [N] of the N trained tokens, with row and position [N] of each.

        Only the hidden states that predict a trained token go through the output layer.
        """
        taken = [samples[i] for i in batch.rows]
        prefix = batch.prefix
        width = max(len(s.token_ids) for s in taken) - prefix
        tokens = torch.zeros(len(taken), width, dtype=torch.long)
        visible = torch.zeros(len(taken), prefix + width, dtype=torch.long)
        for r, sample in enumerate(taken):
            own = len(sample.token_ids) - prefix
            tokens[r, :own] = torch.from_numpy(sample.token_ids[prefix:])
            visible[r, : prefix + own] = 1
        where = [np.flatnonzero(s.loss_mask) for s in taken]
        row = torch.from_numpy(np.repeat(np.arange(len(taken)), [len(w) for w in where]))
        position = torch.from_numpy(np.concatenate(where))
        labels = tokens[row, position - prefix]
        precision = torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext()
        with precision:
            cache = self._shared_beginning(taken[0], prefix, len(taken))
            hidden = self.model.base_model(
                input_ids=tokens, attention_mask=visible, past_key_values=cache, use_cache=cache is not None
            ).last_hidden_state
            logits = self.model.get_output_embeddings()(hidden[row, position - prefix - 1])
        log_softmax = torch.log_softmax(logits.float() / self.temperature, dim=-1)
        with torch.no_grad():
            entropy = -(log_softmax.exp() * log_softmax).sum(-1)
        return log_softmax.gather(1, labels[:, None])[:, 0], entropy, row, position

    def _shared_beginning(self, sample: TrainingSample, prefix: int, rows: int) -> DynamicCache | None:
        if prefix == 0:
            return None
        cache = DynamicCache(config=self.model.config)
        self.model.base_model(
            input_ids=torch.from_numpy(sample.token_ids[None, :prefix]), past_key_values=cache, use_cache=True
        )
        cache.batch_repeat_interleave(rows)
        return cache


def _token_loss(
    spec: LossSpec, logprobs: torch.Tensor, taken: list[TrainingSample], row: torch.Tensor, position: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    if spec.name == "sft":
        return sft_loss(logprobs), {}
    if spec.name == "policy":
        refs = [s.ref_logprobs for s in taken]
        known = [r for r in refs if r is not None]
        return policy_loss(
            logprobs,
            _gather([s.sampling_logprobs for s in taken], row, position),
            _gather([s.advantages for s in taken], row, position),
            ref_logprobs=_gather(known, row, position) if len(known) == len(refs) else None,
            **spec.params,
        )
    raise ConfigError(f"loss {spec.name!r} is unknown{nearest(spec.name, ('sft', 'policy'))}")


def _gather(arrays: Sequence[npt.NDArray[np.float32]], row: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Values [N] at (row, position) of ragged arrays."""
    starts = np.cumsum([0, *[len(a) for a in arrays]])[:-1]
    flat = torch.from_numpy(np.concatenate(arrays))
    return flat[torch.from_numpy(starts)[row] + position]
