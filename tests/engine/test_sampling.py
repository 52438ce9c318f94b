"""Cuts of the distribution: the rules, their order, and logprobs of what was really drawn from."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import torch

from flyball.engine.local import LocalEngine
from flyball.engine.local_sampling import LOOKS, cut, draw
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.errors import ConfigError
from flyball.rl.support import kept_mask
from flyball.types import WHOLE
from tests.engine.test_local import ROOT, VOCAB, llama, plain_logprobs, qwen2

PROBABILITIES = [0.05, 0.4, 0.1, 0.3, 0.15]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def kept(probabilities: list[float], **rules: Any) -> list[int]:
    logits = torch.tensor([probabilities]).log()
    return cut(logits, [SamplingParams(**rules)])[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.4}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.84}, [1, 3, 4]),
        ({"top_p": 0.999}, [0, 1, 2, 3, 4]),
        ({"min_p": 0.3}, [1, 3, 4]),
        ({"min_p": 0.8}, [1]),
        ({"top_k": 3, "top_p": 0.82}, [1, 3]),  # of the three that are left 0.4 + 0.3 hold 0.7 / 0.85 = 0.824
        ({"min_p": 0.3, "top_p": 0.82}, [1, 3]),  # as above: min-p comes first
        ({"min_p": 0.7, "top_k": 4, "top_p": 0.99}, [1, 3]),
    ],
)
def test_each_rule_works_on_what_the_last_one_left(rules: dict[str, Any], expected: list[int]) -> None:
    assert kept(PROBABILITIES, **rules) == expected


def test_a_tie_at_the_edge_is_kept_whole() -> None:
    assert kept([0.25, 0.25, 0.25, 0.25], top_k=2) == [0, 1, 2, 3]
    assert kept([0.4, 0.2, 0.2, 0.2], top_p=0.5) == [0, 1, 2, 3]


@pytest.mark.parametrize("look", LOOKS)
def test_a_nucleus_larger_than_a_look_is_found(look: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 5 * look) / 10
    probabilities = logits.double().softmax(-1)[0]
    least = probabilities[cut(logits, [SamplingParams(top_p=0.8)])[0]]
    assert len(least) > look
    assert float(least.sum()) >= 0.8 > float(least.sum() - least.min())


def test_draws_stay_inside_what_is_kept() -> None:
    """Also with the largest random number there is, and when the last tokens of the vocabulary are cut."""
    logits = torch.tensor([PROBABILITIES, PROBABILITIES]).log()
    for uniform in (0.0, 0.57, 0.58, 1 - 2**-53):
        drawn, logprobs, _kept = draw(logits, [SamplingParams(top_k=2)] * 2, [uniform] * 2, None)
        expected = 1 if uniform < 0.4 / 0.7 else 3
        assert drawn.tolist() == [expected] * 2
        assert logprobs.exp().tolist() == pytest.approx([PROBABILITIES[expected] / 0.7] * 2)


def test_draws_follow_the_cut_distribution() -> None:
    """2000 draws: every frequency within five standard errors of its renormalised probability."""
    n = 2000
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64).tolist()
    logits = torch.tensor([PROBABILITIES]).log().expand(n, -1)
    drawn, _, _ = draw(logits, [SamplingParams(top_k=4, top_p=0.9)] * n, uniforms, None)
    p = torch.tensor([0, 0.4, 0.1, 0.3, 0.15]) / 0.95
    frequency = torch.bincount(drawn, minlength=5) / n
    assert bool(((frequency - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all())


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"top_p": 0.0}, "top_p 0.0 is outside"),
        ({"top_p": 1.1}, "top_p 1.1 is outside"),
        ({"top_p": float("nan")}, "top_p nan is outside"),
        ({"max_new_tokens": 0}, "max_new_tokens 0: at least one token must be allowed"),
        ({"top_k": -1}, "top_k -1 is negative"),
        ({"min_p": 1.0}, "min_p 1.0 is outside"),
        ({"temperature": 0.0, "top_k": 5}, "would be ignored"),
    ],
)
def test_rules_that_cannot_be_honoured_are_refused(rules: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SamplingParams(**rules)


RULES = [
    SamplingParams(0.8, 12, top_p=0.7),
    SamplingParams(1.0, 12, top_k=3),
    SamplingParams(1.2, 12, min_p=0.2),
    SamplingParams(0.9, 12, top_p=0.95, top_k=20, min_p=0.02),
    SamplingParams(0.8, 12),
]


def sampled(model: Any) -> list[Completion]:
    engine = LocalEngine(model, num_slots=8)

    async def main() -> list[Completion]:
        requests = [Request((*ROOT, i), replace(rules, seed=i), ()) for i, rules in enumerate(RULES)]
        return await asyncio.gather(*map(engine.generate, requests))

    return asyncio.run(main())


@pytest.mark.parametrize("make", [llama, qwen2])
def test_logprobs_are_of_the_distribution_drawn_from(make: Any) -> None:
    """Against a plain pass over the whole sequence, renormalised over the stored support."""
    model = make()
    done = sampled(model)
    assert done[-1].support is None
    for i, (rules, completion) in enumerate(zip(RULES[:-1], done, strict=False)):
        support = completion.support
        assert support is not None and (support.index != WHOLE).any()
        model.set_attn_implementation("eager")
        with torch.no_grad():
            logits = model(torch.tensor([[*ROOT, i, *completion.token_ids]])).logits[0, len(ROOT) : -1].float()
        positions = torch.arange(len(completion.token_ids))
        mask = torch.from_numpy(kept_mask([(support, positions.numpy())], VOCAB))
        assert torch.equal(mask, cut(logits / rules.temperature, [rules] * len(positions)))
        expected = (logits / rules.temperature).masked_fill(~mask, -torch.inf).log_softmax(-1)
        found = torch.tensor(completion.logprobs)
        torch.testing.assert_close(
            found, expected[positions, torch.tensor(completion.token_ids)], rtol=0, atol=1e-4, check_dtype=False
        )
        whole = plain_logprobs(model, (*ROOT, i), completion, rules.temperature)
        assert float((found - whole).mean()) > 0.05  # what ignoring the cut would be wrong by


def test_a_seed_draws_the_same_whatever_rules_its_neighbours_have() -> None:
    model = llama()
    together = sampled(model)
    engine = LocalEngine(model)
    for i, rules in enumerate(RULES):
        alone = asyncio.run(engine.generate(Request((*ROOT, i), replace(rules, seed=i), ())))
        assert alone.token_ids == together[i].token_ids and alone.support == together[i].support
