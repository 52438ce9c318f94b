"""Muon: its steps against the formula, and what it takes."""

from __future__ import annotations

import pytest
import torch

from flyball.train.muon import RMS, Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_every_direction_becomes_about_as_long(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=generator))[0]
    right = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=generator))[0]
    values = torch.logspace(0, -1, min(shape))  # lengths of the directions, ten to one
    made = orthogonal(left @ torch.diag(values) @ right.T)
    assert made.shape == shape
    found = torch.linalg.svdvals(made)
    assert float(found.min()) > 0.6 and float(found.max()) < 1.3
    # and the directions stay what they were
    assert torch.allclose((left.T @ made @ right).diagonal(), torch.linalg.svdvals(made).sort()[0], atol=0.7)


def test_one_step_by_hand() -> None:
    """First step: m = 0.05 g, u = 0.05 g + 0.95 m, which points along g; so W falls by lr 0.2 sqrt(3) NS(g)."""
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    gradient = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    weight.grad = gradient.clone()
    Muon([weight], lr=0.1).step()
    expected = -0.1 * RMS * 3**0.5 * orthogonal(gradient)
    torch.testing.assert_close(weight.detach(), expected)
    assert expected[0, 0] < -0.02 and expected[0, 1] == 0


def test_momentum_is_kept_with_the_state() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(4, 6) for _ in range(4)]

    def run(weight: torch.nn.Parameter, optimizer: Muon, steps: list[torch.Tensor]) -> None:
        for gradient in steps:
            weight.grad = gradient.clone()
            optimizer.step()

    whole = torch.nn.Parameter(torch.zeros(4, 6))
    run(whole, Muon([whole], lr=0.1), gradients)
    broken = torch.nn.Parameter(torch.zeros(4, 6))
    before = Muon([broken], lr=0.1)
    run(broken, before, gradients[:2])
    after = Muon([broken], lr=0.1)
    after.load_state_dict(before.state_dict())
    run(broken, after, gradients[2:])
    assert torch.equal(whole, broken)


def test_only_matrices() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\) is no matrix; give it to AdamW"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
