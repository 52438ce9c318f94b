"""KL to a reference: estimators from tokens that the sampler drew, where they may stand, and how their weight moves.

With r = other/sampler at the drawn token:  k1 = -log r,  k2 = (log r)^2 / 2,  k3 = r - 1 - log r. All are [T]; k1 and
k3 are unbiased values of KL(sampler || other), k3 is never negative (J. Schulman, "Approximating KL divergence").
As something to be optimised a value is not a gradient (arXiv 2512.21852): `PLACEMENTS` says what each form optimises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from flyball.errors import ConfigError, nearest
from flyball.rl.ratio import importance_ratio

if TYPE_CHECKING:
    import torch


def kl_k1(logprobs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """-log r."""
    return logprobs - other


def kl_k2(logprobs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(log r)^2 / 2."""
    return (other - logprobs) ** 2 / 2


def kl_k3(logprobs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """r - 1 - log r. As a loss term its gradient is that of the forward KL, as published in GRPO."""
    log_r = other - logprobs
    return log_r.exp() - 1 - log_r


# --- where a KL may stand --------------------------------------------------------------------------------------------

KlLoss = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""(logprobs, ref_logprobs, sampling_logprobs) -> [N] with the gradient in logprobs."""


@dataclass(frozen=True)
class KlPlacement:
    """One row: an estimator in the loss (`loss` set) or in the reward (None).

    `refused` says why nobody should optimise it; empty for the allowed.
    """

    name: str
    loss: KlLoss | None
    gradient: str
    refused: str = ""


def _weighted_k2(now: torch.Tensor, ref: torch.Tensor, sampler: torch.Tensor) -> torch.Tensor:
    return importance_ratio(now, sampler).detach() * kl_k2(now, ref)


def _weighted_k3(now: torch.Tensor, ref: torch.Tensor, sampler: torch.Tensor) -> torch.Tensor:
    return importance_ratio(now, sampler) * kl_k3(now, ref)


PLACEMENTS = {
    row.name: row
    for row in (
        KlPlacement("k1-in-reward", None, "grad KL(pi : ref), tokens that follow included"),
        KlPlacement("k2-in-loss", lambda now, ref, _mu: kl_k2(now, ref), "grad KL(pi : ref), token by token"),
        KlPlacement("k2-in-loss-weighted", _weighted_k2, "grad KL(pi : ref), token by token, also off policy"),
        KlPlacement("k3-in-loss-weighted", _weighted_k3, "the same as k2-in-loss-weighted (DeepSeek-V3.2)"),
        KlPlacement("k3-in-loss", lambda now, ref, _mu: kl_k3(now, ref), "forward-KL gradient, as published in GRPO"),
        KlPlacement(
            "k1-in-loss",
            lambda now, ref, _mu: kl_k1(now, ref),
            "0",
            "its expected gradient is 0: it holds nothing back and adds variance",
        ),
        KlPlacement("k2-in-reward", None, "no KL", "its gradient is that of no KL"),
        KlPlacement(
            "k3-in-reward",
            None,
            "grad KL(pi : ref) - grad KL(ref : pi)",
            "its gradient is the reverse KL less the forward KL, which pushes the policy away from where the "
            "reference is likelier; the paper reports collapse at every weight",
        ),
    )
}
"""Gradients are those expected on policy; arXiv 2512.21852, checked by enumeration in the tests."""


def kl_placement(name: str, *, allow_refused: bool = False) -> KlPlacement:
    """The placement of that name. Raises ConfigError for an unknown one, and for a refused one unless it is allowed."""
    if name not in PLACEMENTS:
        raise ConfigError(f"KL placement {name!r} is unknown{nearest(name, PLACEMENTS)}")
    row = PLACEMENTS[name]
    if row.refused and not allow_refused:
        raise ConfigError(
            f"KL placement {name!r} is refused: {row.refused}; use 'k1-in-reward' or 'k2-in-loss-weighted', or, to "
            "reproduce a paper that used it, set `allow_refused_kl: true` beside it"
        )
    return row


# --- how the weight moves --------------------------------------------------------------------------------------------


READS = {
    "constant": (),
    "warmup-decay": ("warmup_steps", "final"),
    "adaptive": ("target", "horizon"),
    "pid": ("target", "gains"),
}
"""What each kind of schedule reads besides its weight."""


@dataclass(frozen=True)
class KlSchedule:
    """How the KL weight moves over a run. `coef` is the weight (of the controllers: at the start).

    constant        coef
    warmup-decay    0 up to coef in a straight line over `warmup_steps`, then down to `final` x coef at the last step
    adaptive        beta <- beta (1 + clip(KL/target - 1, -0.2, 0.2) n/horizon), n attempts a step.  1909.08593, 2.2
    pid             beta <- coef + P e + I sum e + D (e - e_before), e = KL - target, and never below 0.  2007.03964, 4
    """

    kind: Literal["constant", "warmup-decay", "adaptive", "pid"] = "constant"
    coef: float = 0.0
    warmup_steps: int = 0
    final: float = 0.0
    target: float = 0.0
    horizon: float = 10_000.0
    gains: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for option in fields(self)[2:]:
            if option.name not in READS[self.kind] and getattr(self, option.name) != option.default:
                raise ConfigError(f"a KL schedule of kind {self.kind!r} would ignore {option.name}; remove it")
        if "target" in READS[self.kind] and self.target <= 0:
            raise ConfigError(f"a KL schedule of kind {self.kind!r} has the target {self.target}; it needs one above 0")

    def weight(self, step: int, num_steps: int, measured: Iterable[float], attempts_per_step: int = 1) -> float:
        """The weight of step `step` (from 0); `measured`: KL to the reference of the steps before it, oldest first.

        A function of what is recorded alone, so a resumed run goes on with the same weights.
        """
        if self.kind == "constant":
            return self.coef
        if self.kind == "warmup-decay":
            if step < self.warmup_steps:
                return self.coef * (step + 1) / self.warmup_steps
            left = (num_steps - 1 - step) / max(num_steps - 1 - self.warmup_steps, 1)
            return self.coef * (self.final + (1 - self.final) * max(left, 0.0))
        if self.kind == "adaptive":
            beta = self.coef
            for kl in measured:
                beta = adapted(beta, kl, self.target, attempts_per_step, self.horizon)
            return beta
        return _pid(self, list(measured))

    def scaled(self, coef: float) -> KlSchedule:
        """The same with another weight."""
        return replace(self, coef=coef)


def adapted(beta: float, kl: float, target: float, attempts: int, horizon: float) -> float:
    """beta (1 + clip(KL/target - 1, -0.2, 0.2) n/horizon).  Fine-tuning from preferences, arXiv 1909.08593, 2.2."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * attempts / horizon)


def _pid(schedule: KlSchedule, measured: list[float]) -> float:
    errors = [kl - schedule.target for kl in measured]
    if not errors:
        return schedule.coef
    p, i, d = schedule.gains
    slope = errors[-1] - errors[-2] if len(errors) > 1 else 0.0
    return max(schedule.coef + p * errors[-1] + i * sum(errors) + d * slope, 0.0)
