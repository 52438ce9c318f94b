"""Token losses, ratios and KL estimators against their formulae."""

from __future__ import annotations

import math

import pytest
import torch

from flyball.rl.algorithms import algorithm
from flyball.rl.kl import kl_k1, kl_k2, kl_k3
from flyball.rl.loss import Clip, Tokens, cispo, policy_loss, ppo_clip, sft_loss
from flyball.rl.ratio import importance_ratio

PARAMS = algorithm("rloo").loss_params(0.0)
K3 = {"kl": "k3-in-loss"}


def surrogate(rho: list[float], advantages: list[float], clip: Clip, function=ppo_clip) -> torch.Tensor:
    ratio = torch.tensor(rho)
    return function(ratio.log(), ratio, torch.tensor(advantages), clip)


@pytest.mark.parametrize(
    ("rho", "advantage", "loss"),
    [(1.5, 1, -1.28), (1.25, 1, -1.25), (0.5, 1, -0.5), (0.5, -1, 0.8), (1.5, -1, 1.5), (5, -1, 3.0)],
)
def test_clipping_by_hand(rho: float, advantage: float, loss: float) -> None:
    found = surrogate([rho], [float(advantage)], Clip(0.2, 0.28, 3.0))
    assert found.item() == pytest.approx(loss, abs=1e-6)


def test_the_dual_clip_is_for_negative_advantages_only() -> None:
    """LongCat's bound of 5: 8 at A = -1 is cut to 5; at A = 1 the upper clip rules as ever."""
    found = surrogate([8, 1.5, 1.5, 0.5, 0.5], [-1.0, -1, 1, 1, -1], Clip(0.2, 0.28, 5.0))
    assert found.tolist() == pytest.approx([5, 1.5, -1.28, -0.5, 0.8])


def test_a_clipped_token_gets_no_gradient() -> None:
    rho = torch.tensor([1.5, 0.5, 1.5, 0.5], requires_grad=True)
    ppo_clip(rho.log(), rho, torch.tensor([1.0, -1, -1, 1]), Clip(0.2, 0.28)).sum().backward()
    assert rho.grad is not None and rho.grad.tolist() == [0, 0, 1, -1]


def test_cispo_keeps_the_gradient_of_a_token_past_its_bound() -> None:
    logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    cispo(logprobs, torch.tensor([9.0, 0.1]), torch.tensor([1.0, 1.0]), Clip(high=4.0)).sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == pytest.approx([-5.0, -0.1])


def test_kl_estimators_by_hand() -> None:
    """pi = 1/2, other = 1/4 at the drawn token: log r = -log 2."""
    pi, other = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_k1(pi, other).item() == pytest.approx(math.log(2), abs=1e-6)
    assert kl_k2(pi, other).item() == pytest.approx(math.log(2) ** 2 / 2, abs=1e-6)
    assert kl_k3(pi, other).item() == pytest.approx(0.5 - 1 + math.log(2), abs=1e-6)


def test_k1_and_k3_have_the_divergence_as_their_mean() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    exact = float((p * (p / q).log()).sum())
    for estimator in (kl_k1, kl_k3):
        assert float((p * estimator(p.log(), q.log())).sum()) == pytest.approx(exact, abs=1e-6)
    assert bool((kl_k3(p.log(), q.log()) >= 0).all())


def test_ratios_stay_finite() -> None:
    assert bool(torch.isfinite(importance_ratio(torch.tensor([0.0, -500.0]), torch.tensor([-500.0, 0.0]))).all())


def test_gradient_at_ratio_one_is_that_of_reinforce() -> None:
    """With mu = pi: d/dtheta of the loss is -A d/dtheta log pi, exactly."""
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([0, 3, 6, 2, 2])
    advantages = torch.tensor([1.0, -0.5, 2.0, 0.0, -3.0], dtype=torch.float64)
    logprobs = logits.log_softmax(-1)[torch.arange(5), tokens]
    loss, metrics = policy_loss(Tokens(logprobs, logprobs.detach(), advantages), **PARAMS)
    (found,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad(-(advantages * logprobs).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert metrics["ratio"].tolist() == [1.0] * 5 and metrics["logprob_gap"].tolist() == [0.0] * 5


def test_the_engine_gap_weighs_the_gradient() -> None:
    logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    engine = torch.tensor([-1.4, -9.0])  # ratios e^0.4 and e^8, the second over the cap
    loss, metrics = policy_loss(Tokens(logprobs, engine, torch.tensor([1.0, 1.0])), **PARAMS)
    loss.sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == pytest.approx([-math.exp(0.4), -2.0])
    assert metrics["tis_capped"].tolist() == [0, 1]
    assert metrics["ratio"].tolist() == [1, 1] and metrics["clip_fraction"].tolist() == [0, 0]


def test_with_the_policy_before_the_batch_the_clip_acts() -> None:
    """pi/pi_old by hand: 1.5, 0.5, 1.5, 0.5 at A = 1, -1, -1, 1; the first two are past the bound they move to."""
    ratios, advantages = [1.5, 0.5, 1.5, 0.5], torch.tensor([1.0, -1.0, -1.0, 1.0])
    old = torch.full((4,), -2.0)
    logprobs = (old + torch.tensor(ratios).log()).requires_grad_()
    loss, metrics = policy_loss(Tokens(logprobs, old, advantages, old_logprobs=old), **PARAMS)
    assert loss.tolist() == pytest.approx([-1.28, 0.8, 1.5, -0.5])
    assert metrics["clip_fraction"].tolist() == [1, 1, 0, 0]
    assert metrics["ratio"].tolist() == pytest.approx(ratios)
    loss.sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == pytest.approx([0, 0, 1.5, -0.5])


def test_the_engine_gap_is_that_of_the_policy_before_the_batch() -> None:
    """w = pi_old/mu = e^0.5 whatever the policy has become since."""
    old, engine, now = torch.tensor([-1.0]), torch.tensor([-1.5]), torch.tensor([-1.1])
    loss, metrics = policy_loss(Tokens(now, engine, torch.ones(1), old_logprobs=old), **PARAMS)
    assert loss.item() == pytest.approx(-math.exp(0.5) * math.exp(-0.1))
    assert metrics["logprob_gap"].item() == pytest.approx(0.5)


def test_kl_to_the_reference_adds_beta_times_k3() -> None:
    pi, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    plain, _ = policy_loss(Tokens(pi, pi, torch.zeros(1)), **PARAMS)
    with_kl, metrics = policy_loss(Tokens(pi, pi, torch.zeros(1), ref_logprobs=ref), **PARAMS | K3 | {"kl_coef": 0.1})
    assert (with_kl - plain).item() == pytest.approx(0.1 * (math.log(2) - 0.5), abs=1e-6)
    assert metrics["kl_loss"].item() == pytest.approx(0.1 * (math.log(2) - 0.5), abs=1e-6)


def test_kl_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="carry no ref_logprobs"):
        policy_loss(Tokens(*[torch.zeros(1)] * 3), **PARAMS | {"kl_coef": 0.1})


def test_supervised_loss_is_negative_log_likelihood() -> None:
    tokens = Tokens(torch.tensor([-0.5, -2.0]), torch.zeros(2), torch.zeros(2))
    assert sft_loss(tokens)[0].tolist() == [0.5, 2.0]
