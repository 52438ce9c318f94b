"""Muon: momentum whose matrix updates are made orthogonal, so every direction of a layer learns at one pace.

    m <- mu m + (1 - mu) g,    u = (1 - mu) g + mu m,    W <- W - lr 0.2 sqrt(max(rows, cols)) NS(u)

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (Newton-Schulz coefficients, Nesterov);
the factor of arXiv 2502.16982 eq. 4 gives updates the root mean square of AdamW's, so learning rates carry over.

`torch.optim.Muon` computes the same in bfloat16, which a processor without bfloat16 arithmetic does many times
slower; here it is done in the parameter's own type. For matrices of hidden layers; embeddings belong to AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Steps on matrices only. Raises ValueError for a parameter of another shape."""

    def __init__(self, params: Iterable[torch.Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"a parameter of shape {tuple(parameter.shape)} is no matrix; give it to AdamW")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["momentum"])

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, lr: float, momentum: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        update = orthogonal(gradient.lerp(state["momentum"], momentum))
        parameter.add_(update, alpha=-lr * RMS * max(parameter.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values of [rows, cols] go to between 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x: torch.Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
