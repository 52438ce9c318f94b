"""Adapters in the local engine: each row of a batch may add its own low-rank product to the products by the weights.

The weights are multiplied once for the whole batch; then the rows of each adapter get (x A^T) B^T (LoRA,
arXiv 2106.09685).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from flyball.errors import EngineError, WeightsError, nearest
from flyball.models.lora import adapter_version, load_adapter

Parts = dict[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]
"""Of each adapted layer: A [rank, in] and B [out, rank], scale included."""


class Adapters:
    """The adapters of one model by name, and which rows of the pass under way each has.

    A pass that calls the layers as modules gets the products by hooks; `Projection`, which does not, asks for them.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._parts: dict[str, Parts] = {}
        self.versions: dict[str, str] = {}
        self._hooked: set[torch.nn.Module] = set()
        self._groups: list[tuple[Parts, torch.Tensor]] = []

    def add(self, name: str, folder: Path) -> None:
        """Read an adapter in `peft`'s format. Raises WeightsError when it does not fit the model."""
        if name in self._parts:
            raise WeightsError(f"there is an adapter {name!r} already; give this one another name")
        parts: dict[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]] = {
            layer: (down.to(layer.weight), up.to(layer.weight))
            for layer, (down, up) in load_adapter(self._model, folder).items()
        }
        for layer in parts.keys() - self._hooked:
            layer.register_forward_hook(self._hook)
        self._hooked |= parts.keys()
        self._parts[name] = parts
        self.versions[name] = adapter_version(folder)

    def check(self, name: str | None) -> None:
        """Raise EngineError for an adapter that is not there."""
        if name is not None and name not in self._parts:
            raise EngineError(
                f"there is no adapter {name!r}{nearest(name, sorted(self._parts))}; LocalEngine.add_adapter adds one"
            )

    @contextmanager
    def of_rows(self, names: Sequence[str | None], times: int | torch.Tensor = 1) -> Iterator[None]:
        """During a pass: row i of the batch, `times` ([n] or one for all) rows in a product, has adapter names[i]."""
        for name in sorted({name for name in names if name is not None}):
            has_it = torch.tensor([name == each for each in names], device=self._model.device)
            rows = has_it.repeat_interleave(times).nonzero()[:, 0]
            self._groups.append((self._parts[name], rows))
        try:
            yield
        finally:
            self._groups = []

    def apply_to(self, layers: Sequence[torch.nn.Module]) -> bool:
        """Whether this pass has rows with something to add to one of `layers`."""
        return any(layer in parts for parts, _ in self._groups for layer in layers)

    def add_to(self, y: torch.Tensor, layer: torch.nn.Module, x: torch.Tensor) -> None:
        """Add to y [N, ..., out], the layer's product with x [N, ..., in], what the rows' adapters have, in place."""
        for parts, rows in self._groups:
            if layer in parts:
                down, up = parts[layer]
                y.index_add_(0, rows, x[rows] @ down.T @ up.T)

    def _hook(self, layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        if not self.apply_to([layer]):
            return
        if y.dim() != 3:  # rows of experts and the like: nobody says whose they are
            raise EngineError(
                f"{type(self._model).__name__} multiplies {tuple(inputs[0].shape)} by an adapted layer, not batch x "
                "tokens x width, so its rows cannot have adapters of their own; serve the merged model"
            )
        self.add_to(y, layer, inputs[0])
