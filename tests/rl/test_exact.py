"""Gradients by enumeration on small softmax policies; corrections and preferences against numbers worked by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from flyball.errors import TrainError
from flyball.rl.algorithms import algorithm
from flyball.rl.calibration import calibrate, point_biserial
from flyball.rl.conflict import conflict_masks, conflict_weights
from flyball.rl.correction import CORRECTIONS, acceptance_by_length, by_length, effective_share
from flyball.rl.credit import Episode
from flyball.rl.kl import PLACEMENTS, kl_k1, kl_k2, kl_k3
from flyball.rl.loss import Tokens, policy_loss
from flyball.rl.preference import bradley_terry, dpo, kto, mismatched_kl, simpo, turn_weights
from flyball.rl.samples import finished_advantages
from flyball.rl.sequence import entropy_controlled, renormalised, with_sequence_terms
from flyball.types import TrainingSample

THETA, REF = [0.5, -0.2, 0.1], torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
REVERSE, FORWARD = [0.285923, -0.228417, -0.057506], [0.261488, -0.270832, 0.009344]


def sample(logprobs: list[float], mu: list[float], advantages: list[float], **more) -> TrainingSample:
    n = len(logprobs)
    weights = np.full(n, 1 / n, np.float32)
    mine = TrainingSample(
        np.arange(n), np.ones(n, np.bool_), np.array(mu, np.float32), np.array(advantages, np.float32), weights
    )
    return replace(mine, old_logprobs=np.array(logprobs, np.float32), **more)


# --- KL --------------------------------------------------------------------------------------------------------------


def kl_gradient(placement: str) -> list[float]:
    """Expected gradient of beta x the KL term at beta 1, over every token the policy may draw."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    now = theta.log_softmax(0)
    row = PLACEMENTS[placement]
    if row.loss is not None:
        loss = (now.detach().exp() * row.loss(now, REF.log(), now.detach())).sum()
    else:
        value = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}[placement[:2]](now.detach(), REF.log())
        loss = (now.detach().exp() * value * now).sum()
    return torch.autograd.grad(loss, theta)[0].tolist()


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("k1-in-reward", REVERSE),
        ("k2-in-loss", REVERSE),
        ("k2-in-loss-weighted", REVERSE),
        ("k3-in-loss-weighted", REVERSE),
        ("k3-in-loss", FORWARD),
        ("k1-in-loss", [0, 0, 0]),
        ("k2-in-reward", [0.054621, 0.016755, -0.071376]),
        ("k3-in-reward", [0.024435, 0.042415, -0.066851]),
    ],
)
def test_what_each_placement_optimises(placement: str, expected: list[float]) -> None:
    assert kl_gradient(placement) == pytest.approx(expected, abs=1e-6)


def test_values_of_the_estimators() -> None:
    now = torch.tensor(THETA, dtype=torch.float64).log_softmax(0)
    values = [float((now.exp() * k(now, REF.log())).sum()) for k in (kl_k1, kl_k2, kl_k3)]
    assert values == pytest.approx([0.216570, 0.231205, 0.216570], abs=1e-6)


def test_k1_in_the_reward_is_exact_over_two_tokens() -> None:
    """Two binary tokens, the second depends on the first: the surrogate with the KL to go has the gradient of KL."""
    row = replace(algorithm("rloo"), kl="k1-in-reward", kl_coef=1.0)
    theta = torch.tensor([0.3, -0.4, 0.8], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([-0.5, 0.2, 0.1], dtype=torch.float64)

    def logprobs(weights: torch.Tensor, a: int, b: int) -> torch.Tensor:
        logits = torch.stack([weights[0], weights[1 + a]])
        return torch.nn.functional.logsigmoid(logits * torch.tensor([2.0 * a - 1, 2.0 * b - 1]))

    exact = surrogate = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.product((0, 1), repeat=2):
        now, ref = logprobs(theta, a, b), logprobs(other, a, b)
        exact = exact + now.sum().exp() * (now - ref).sum()
        drawn = sample(now.tolist(), now.tolist(), [0, 0], ref_logprobs=np.array(ref.tolist(), np.float32))
        (finished,) = finished_advantages([drawn], row, 1.0)
        surrogate = surrogate - now.sum().exp().detach() * (torch.from_numpy(finished.advantages) * now).sum()
    expected = torch.autograd.grad(exact, theta, retain_graph=True)[0].tolist()
    assert torch.autograd.grad(surrogate, theta)[0].tolist() == pytest.approx(expected, abs=1e-6)


# --- estimators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "scale"), [("rloo", 1.0), ("turn_rloo", 1.0), ("dr_grpo", 2 / 3)])
def test_the_expected_gradient_of_a_group(preset: str, scale: float) -> None:
    """Over all groups of three draws of a three-armed policy: the gradient of E[R], Dr. GRPO's times (G-1)/G."""
    reward, size = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64), 3
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    now = theta.log_softmax(0)
    credit = algorithm(preset).credit
    assert credit is not None
    surrogate = torch.zeros((), dtype=torch.float64)
    for draws in itertools.product(range(3), repeat=size):
        chance = math.prod(float(now[d].detach().exp()) for d in draws)
        advantages = credit([Episode(np.zeros(1), float(reward[d])) for d in draws])
        terms = [float(a[0]) * now[d] for d, a in zip(draws, advantages, strict=True)]
        surrogate = surrogate + chance * sum(terms) / size
    found = torch.autograd.grad(surrogate, theta, retain_graph=True)[0]
    exact = torch.autograd.grad((now.exp() * reward).sum(), theta)[0]
    torch.testing.assert_close(found, scale * exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("preset", ["rloo", "grpo", "cispo"])
def test_all_surrogates_share_one_gradient_on_policy(preset: str) -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.3], requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 0.5])
    loss, found = policy_loss(
        Tokens(logprobs, logprobs.detach(), advantages), **algorithm(preset).loss_params(kl_coef=0.0)
    )
    loss.sum().backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == pytest.approx([-1, 2, -0.5])
    assert found["clip_fraction"].sum() == 0 and found["ratio"].tolist() == [1, 1, 1]


# --- corrections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 1, 1, 1, 1]),
        ("tis", [0.3, 0.6, 1, 1.8, 2]),
        ("icepop", [0, 0.6, 1, 1.8, 0]),
        ("sequence-mask", [1.944] * 5),
        ("tis-sequence", [1.944] * 5),
        ("geometric-mask", [0] * 5),
    ],
)
def test_corrections_by_hand(name: str, expected: list[float], kind: Callable) -> None:
    """rho = 0.3, 0.6, 1, 1.8, 6: their product is 1.944, their geometric mean 1.142."""
    log_rho = kind([math.log(x) for x in (0.3, 0.6, 1, 1.8, 6)])
    weights, _kept = CORRECTIONS[name].weights(log_rho, None, None)
    assert weights.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_product_and_a_mean_see_a_sequence_differently() -> None:
    gap = np.array([0.01, -0.02, 0.015, 0.02])
    assert CORRECTIONS["sequence-mask"].weights(gap, None, None)[0][0] == pytest.approx(1.025315, abs=1e-6)
    assert math.exp(gap.mean()) == pytest.approx(1.006270, abs=1e-6)
    assert CORRECTIONS["geometric-mask"].weights(gap, 0.99, 1.01)[1].all()
    assert not CORRECTIONS["geometric-mask"].weights(gap, None, None)[1].any()
    assert float(kl_k3(torch.zeros(4), torch.tensor(gap)).mean()) == pytest.approx(1.40811e-4, abs=1e-8)


def test_weights_without_a_bound_are_unbiased_and_tis_loses_the_cut_mass() -> None:
    """E_mu[w A grad log pi] over three arms; the second arm's ratio 4 is cut to 2, which halves its term."""
    old, mu, advantages = np.array([0.5, 0.4, 0.1]), np.array([0.6, 0.1, 0.3]), np.array([1.0, 2.0, -1.0])
    scores = np.eye(3) - old
    exact = (old * advantages) @ scores
    free = CORRECTIONS["tis"].weights(np.log(old / mu), None, math.inf)[0]
    cut = CORRECTIONS["tis"].weights(np.log(old / mu), None, None)[0]
    assert (mu * free * advantages) @ scores == pytest.approx(exact)
    assert (mu * cut * advantages) @ scores == pytest.approx(exact - 0.2 * 2.0 * scores[1])


def test_acceptance_is_told_by_length() -> None:
    kept, lengths = np.array([True, False, True, True]), np.array([10, 10, 300, 9999])
    sums = {name: float(values.sum()) for name, values in by_length(kept, lengths).items()}
    assert acceptance_by_length(sums) == {
        "kept_share/upto_64": 0.5,
        "kept_share/upto_1024": 1.0,
        "kept_share/over_4096": 1.0,
    }
    assert effective_share(np.array([1.0, 1.0, 0.0, 0.0])) == 0.5 and effective_share(np.zeros(3)) == 0.0


def test_gspo_goes_through_the_token_ratio() -> None:
    """log r = 0.1, -0.2, 0.3: every token's ratio is s = exp(mean) = 1.068939, its gradient s A."""
    old = [-1.0, -2.0, -0.5]
    now = torch.tensor([-0.9, -2.2, -0.2], dtype=torch.float64, requires_grad=True)
    row = replace(algorithm("gspo"), clip_ratio_low=0.2, clip_ratio_high=0.2)
    put, _ = with_sequence_terms(sample(old, old, [1.0] * 3), now.detach().numpy(), np.zeros(3), row)
    tokens = Tokens(now, torch.tensor(old), torch.from_numpy(put.advantages), None, torch.from_numpy(put.old_logprobs))
    loss, found = policy_loss(tokens, **row.loss_params(0.0))
    assert found["ratio"].tolist() == pytest.approx([1.068939] * 3, abs=1e-6)
    loss.sum().backward()
    assert now.grad is not None and now.grad.tolist() == pytest.approx([-1.068939] * 3, abs=1e-6)


def test_a_sequence_rule_weighs_the_advantage() -> None:
    row = replace(algorithm("rloo"), correction="sequence-mask")
    near, _ = with_sequence_terms(sample([-1.0, -1], [-1.5, -1], [1, -2]), np.array([-1.0, -1]), np.zeros(2), row)
    far, found = with_sequence_terms(sample([-1.0, -1], [-3.0, -1], [1, -2]), np.array([-1.0, -1]), np.zeros(2), row)
    assert near.advantages.tolist() == pytest.approx([math.exp(0.5), -2 * math.exp(0.5)])
    assert far.advantages.tolist() == [0, 0] and found["tis_capped"] == 2


def test_dividing_by_what_was_accepted() -> None:
    row = replace(algorithm("rloo"), correction="icepop", correction_normalizer="accepted")
    (put,) = renormalised([sample([-1.0, -1, -1], [-1.0, -9, -1], [1, 1, 1])], row, None)
    assert put.loss_weights.tolist() == pytest.approx([0.5, 0, 0.5])


# --- GTPO, calibration, age ------------------------------------------------------------------------------------------


def test_conflict_tokens_by_hand() -> None:
    said = [np.array(c) for c in ([5, 6, 7, 8, 2], [5, 6, 9, 8, 2], [5, 4, 9, 3, 2])]
    forward = [m.astype(int).tolist() for m in conflict_masks(said, [1, -1, -1])]
    assert forward == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    weights = [w.tolist() for w in conflict_weights(said, [1, -1, -1])]
    assert weights == [[2, 2, 1, 2, 2], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0]]


def test_the_entropy_gate_does_not_fire_at_equality() -> None:
    h = np.full(4, math.log(2))
    assert entropy_controlled(np.ones(4), h, 0.1, math.log(2)) == pytest.approx(1 - 0.1 * math.log(2))
    assert not entropy_controlled(np.ones(4), h + 0.01, 0.1, math.log(2)).any()


def test_calibration_by_hand() -> None:
    x, y = np.array([1, 1, 1, 0, 0, 0, 1, 0]), np.array([1, 1, 0, 0, 0, 1, 1, 0])
    assert point_biserial(x, y) == pytest.approx(0.5)
    gold, read = calibrate({"gold": x, "read": np.ones(8)}, y, {"gold": [0.2, -0.5], "read": [0.1]})
    assert (gold.reward, gold.agrees) == (pytest.approx(0.5), False)
    assert (read.correlation, read.reward, read.agrees) == (0.0, 0.0, True)


# --- preferences -----------------------------------------------------------------------------------------------------


def test_preferences_by_hand() -> None:
    def loss(pairs: tuple[np.ndarray, ...]) -> float:
        return float(pairs[0][0])

    one = np.ones(1)
    assert loss(dpo(2 * one, -one)) == pytest.approx(0.554355, abs=1e-6)
    assert loss(dpo(0 * one, 0 * one)) == pytest.approx(math.log(2))
    assert loss(simpo(-0.8 * one, -1.0 * one)) == pytest.approx(1.223445, abs=1e-6)
    assert loss(bradley_terry(one, 0 * one)) == pytest.approx(0.313262, abs=1e-6)
    assert kto(2 * one, np.array([True]), 0.5)[0] == pytest.approx([0.462570], abs=1e-6)
    assert kto(2 * one, np.array([False]), 0.5)[0] == pytest.approx([0.537430], abs=1e-6)
    assert turn_weights(4) == pytest.approx([1, 0.605211, 0.328859, 0.135413], abs=1e-6)
    assert turn_weights(4, 1.0).tolist() == [1, 0.75, 0.5, 0.25] and turn_weights(1).tolist() == [1]


@pytest.mark.parametrize("loss", [dpo, simpo, bradley_terry])
def test_derivatives_of_pairs(loss: Callable) -> None:
    chosen, rejected, h = np.array([0.7, -1.0]), np.array([0.2, 0.4]), 1e-6
    _, by_chosen, by_rejected = loss(chosen, rejected)
    numeric = (loss(chosen + h, rejected)[0] - loss(chosen - h, rejected)[0]) / (2 * h)
    assert by_chosen == pytest.approx(numeric, abs=1e-8) and by_rejected == pytest.approx(-numeric, abs=1e-8)


def test_derivatives_of_kto_and_its_kl() -> None:
    scores, wanted, h = np.array([0.7, -1.0]), np.array([True, False]), 1e-6
    numeric = (kto(scores + h, wanted, 0.3)[0] - kto(scores - h, wanted, 0.3)[0]) / (2 * h)
    assert kto(scores, wanted, 0.3)[1] == pytest.approx(numeric, abs=1e-8)
    assert mismatched_kl(np.array([-3.0, 1.0])) == 0.0
    with pytest.raises(TrainError, match="at least 2"):
        mismatched_kl(np.ones(1))
    with pytest.raises(TrainError, match="not finite"):
        dpo(np.array([-np.inf]), np.zeros(1))
