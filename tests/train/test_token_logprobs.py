"""Logprobs in blocks against plain autograd over the whole vocabulary, and how many logits exist at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flyball.train import token_logprobs as module
from flyball.train.token_logprobs import NEVER, token_logprobs

AT = torch.tensor([0, 0, 1, 3, 6, 6, 6])
LABELS = torch.tensor([4, 4, 0, 12, 8, 9, 10])


def logits(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    made = torch.randn(7, 13, generator=torch.Generator().manual_seed(1)).mul(3)
    made[3, :12] = NEVER  # one token is left: its logprob is 0
    made[6, :8] = NEVER
    return made.to(dtype).requires_grad_()


def plain(of: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    log_softmax = (of.float() / temperature).log_softmax(-1)
    return log_softmax[AT, LABELS], -(log_softmax.exp() * log_softmax).sum(-1)[AT]


@pytest.mark.parametrize("block_elements", [1, 13, 30, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradient_are_those_of_a_plain_log_softmax(
    monkeypatch: pytest.MonkeyPatch, block_elements: int, temperature: float, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block_elements)
    one, other = logits(dtype), logits(dtype)
    found, entropy = token_logprobs(one, AT, LABELS, temperature)
    expected, expected_entropy = plain(other, temperature)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropy, expected_entropy.detach())
    assert found[3] == 0 and entropy[3] == 0 and not entropy.requires_grad
    weights = torch.linspace(-1, 2, len(AT))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    exact: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-2}
    torch.testing.assert_close(one.grad, other.grad, **exact)


def test_what_is_not_finite_stays_so() -> None:
    broken = logits().detach()
    broken[1, 5] = torch.nan
    found, _ = token_logprobs(broken, AT, LABELS)
    assert found.isnan().tolist() == [False, False, True, False, False, False, False]
