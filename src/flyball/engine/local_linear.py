"""Multiplication by the weights of a model: the one place where the local engine does it.

On a processor oneDNN multiplies a packed copy of a large weight faster than the weight as it lies (SmolLM2-135M, 32
rows: 49 ms instead of 63 for all products of a step, bfloat16, one core of a Zen 4), and applies what follows to the
result while it is in registers. Elsewhere, and for small weights, the plain product is used. What adapters add to rows
of the batch comes after the product, so what is applied to the result waits for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear, silu

from flyball.engine.local_adapters import Adapters

PACKED_NUMEL = 2**17
"""Elements from which a weight is packed; below, the call costs more than it saves."""


class Projection:
    """One or several linear layers of the same input, side by side: y [N, sum of outputs] = x [N, C] W^T + b.

    `adapters` may add to it. `refresh` must be called when the weights have changed.
    """

    def __init__(self, *layers: Any, adapters: Adapters | None = None) -> None:
        self._layers = layers
        self._adapters = adapters
        self.refresh()

    def refresh(self) -> None:
        """Take the weights as they are now."""
        self._weight = _joined([layer.weight for layer in self._layers])
        biases = [getattr(layer, "bias", None) for layer in self._layers]
        self._bias = None if biases[0] is None else _joined(biases)
        self._packed = None
        if _pays_packing(self._weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight.detach(), None)
            if len(self._layers) > 1:
                self._weight = self._weight[:0]  # only the packed copy is needed

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._packed is None:
            y = linear(x, self._weight, self._bias)
        else:
            y = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        if self._adapters is not None and self._adapters.apply_to(self._layers):
            parts = torch.split(y, [layer.out_features for layer in self._layers], -1)
            for layer, part in zip(self._layers, parts, strict=True):
                self._adapters.add_to(part, layer, x)
        return y

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        """silu(y)."""
        if not self._fuses:
            return silu(self(x))
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "swish", [], "")  # type: ignore[no-any-return]

    def times(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """y * factor."""
        return self._with(x, factor, "mul") if self._fuses else self(x) * factor

    def plus(self, x: torch.Tensor, term: torch.Tensor) -> torch.Tensor:
        """y + term."""
        return self._with(x, term, "add") if self._fuses else self(x) + term

    @property
    def _fuses(self) -> bool:
        """Whether what follows the product can be applied by it."""
        return self._packed is not None and not (self._adapters and self._adapters.apply_to(self._layers))

    def _with(self, x: torch.Tensor, other: torch.Tensor, operation: str) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._packed, self._bias, operation)
        return product


def _joined(parts: list[Any]) -> torch.Tensor:
    return parts[0].detach() if len(parts) == 1 else torch.cat([part.detach() for part in parts])


def _pays_packing(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu" or weight.numel() < PACKED_NUMEL or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
