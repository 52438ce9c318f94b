"""The learner's gradient against plain autograd on whole sequences, and its promises about steps and checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Request, SamplingParams
from flyball.errors import ConfigError, ModelError, TrainError
from flyball.models.load import load_model
from flyball.models.tiny import train_tokenizer
from flyball.rl.algorithms import algorithm
from flyball.rl.pack import packs
from flyball.rl.samples import attempt_samples, weighted
from flyball.rl.support import kept_mask, unknown_support
from flyball.train.learner import LocalLearner, LossSpec, OptimizerConfig
from flyball.types import Attempt, Call, GradedAttempt, Outcome, StopReason, Task, TrainingSample, Trajectory

VOCAB = 61
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "initializer_range": 0.1,
}
ROOT = [7 + i % 40 for i in range(37)]
POLICY = LossSpec("policy", replace(algorithm("rloo"), kl="k3-in-loss").loss_params(kl_coef=0.1))
SFT = LossSpec("sft")


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))


def qwen2() -> Any:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=False))


def learner(model: Any, **settings: Any) -> LocalLearner:
    return LocalLearner(model, None, OptimizerConfig(lr=1e-2), **settings)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def batch(*, shared: bool) -> list[TrainingSample]:
    """Nine ragged rows; two stretches of each are trained, as of an attempt with a tool call between them."""
    rng = np.random.default_rng(4)
    samples = []
    for i in range(9):
        beginning = ROOT if shared else rng.integers(0, VOCAB, 3 + 4 * i).tolist()
        tokens = np.array([*beginning, *rng.integers(0, VOCAB, 8 + 3 * i)], np.int64)
        mask = np.zeros(len(tokens), np.bool_)
        mask[len(beginning) : len(beginning) + 3] = mask[-3:] = True
        noise = [rng.normal(-4, 0.5, len(tokens)).astype(np.float32) for _ in range(3)]
        samples.append(TrainingSample(tokens, mask, noise[0], noise[1] + 4, noise[2], ref_logprobs=noise[2]))
    return weighted(samples, "token-mean")


def plain_logprobs(model: Any, sample: TrainingSample, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs of the trained tokens from a pass over the whole sequence, and where those tokens are."""
    where = torch.from_numpy(np.flatnonzero(sample.loss_mask))
    tokens = torch.from_numpy(sample.token_ids)
    predicted = (model(tokens[None]).logits[0].float() / temperature).log_softmax(-1)
    return predicted[where - 1, tokens[where]], where


def plain_gradient(model: Any, samples: list[TrainingSample], spec: LossSpec) -> dict[str, torch.Tensor]:
    """The objective written out once more: at ratio 1 the clipped loss has the gradient of -w A log pi."""
    total = torch.zeros(())
    for sample in samples:
        logprobs, where = plain_logprobs(model, sample)
        mu, advantages, weights, ref = (
            torch.from_numpy(a)[where]
            for a in (sample.sampling_logprobs, sample.advantages, sample.loss_weights, sample.ref_logprobs)
        )
        if spec.name == "sft":
            loss = -logprobs
        else:
            gap = (logprobs.detach() - mu).exp().clamp(max=2.0)
            log_r = ref - logprobs
            loss = -gap * advantages * logprobs + 0.1 * (log_r.exp() - 1 - log_r)
        total = total + (loss * weights).sum()
    names, values = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(total, values), strict=True))


@pytest.mark.parametrize("make", [llama, qwen2])
@pytest.mark.parametrize("max_tokens", [1, 150, 100_000])
@pytest.mark.parametrize("shared", [True, False], ids=["shared beginning", "nothing shared"])
@pytest.mark.parametrize("spec", [POLICY, SFT], ids=["policy", "sft"])
def test_the_gradient_is_exact_however_the_batch_is_cut(
    make: Callable[[], Any], max_tokens: int, shared: bool, spec: LossSpec
) -> None:
    model, samples = make(), batch(shared=shared)
    assert any(p.path for b in packs(samples, max_tokens) for p in b.pieces) == (shared and max_tokens > 1)
    expected = plain_gradient(model, samples, spec)
    learner(model, max_tokens=max_tokens).forward_backward(samples, spec)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_logits_exist_for_few_trained_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = llama(), batch(shared=True)
    expected = plain_gradient(model, samples, POLICY)
    rows: list[int] = []
    model.lm_head.register_forward_hook(lambda _module, _given, logits: rows.append(len(logits)))
    monkeypatch.setattr("flyball.train.learner.LOGIT_BYTES", 4 * 5 * VOCAB + 3)
    one = learner(model)
    metrics = one.forward_backward(samples, POLICY)
    distinct = int(metrics["trained_tokens"]) - 8  # 9 samples begin with the same prediction
    assert max(rows) == 5 and distinct <= sum(rows) < 2 * distinct  # the last part is not made anew
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)
    logprobs = one.forward(samples)
    monkeypatch.undo()
    for few, all_at_once in zip(logprobs, one.forward(samples), strict=True):
        assert few == pytest.approx(all_at_once, abs=1e-6)


@pytest.mark.parametrize("queries", [1, 7, 64])
def test_the_gradient_does_not_depend_on_the_blocks_of_attention(monkeypatch: pytest.MonkeyPatch, queries: int) -> None:
    monkeypatch.setattr("flyball.train.packed_attention.QUERIES", queries)
    model, samples = llama(), batch(shared=True)
    expected = plain_gradient(model, samples, SFT)
    learner(model).forward_backward(samples, SFT)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_logprobs_are_those_of_whole_sequences_at_the_temperature(shared: bool) -> None:
    model, samples = llama(), batch(shared=shared)
    for sample, found in zip(samples, learner(model, temperature=0.7).forward(samples), strict=True):
        with torch.no_grad():
            expected, where = plain_logprobs(model, sample, 0.7)
        assert found[where.numpy()] == pytest.approx(expected.numpy(), abs=1e-5)
        assert not found[~sample.loss_mask].any()


def attempts(rules: SamplingParams) -> list[TrainingSample]:
    """Six attempts of two turns with a tool result between them, by an engine with the weights of `llama`."""
    engine = LocalEngine(llama(), num_slots=4)

    async def attempt(i: int) -> TrainingSample:
        calls: list[Call] = []
        given, seen = tuple(ROOT), ()
        for turn in range(2):
            sampling = replace(rules, seed=10 * i + turn)
            done = await engine.generate(Request((*seen, *given), sampling, (), f"s{i}"))
            made = (done.token_ids, done.logprobs, done.policy_versions, vars(sampling), "stop", {"role": "assistant"})
            calls.append(Call(f"c{turn}", "c0" if turn else None, "main", given, *made, support=done.support))
            seen, given = (*seen, *given, *done.token_ids), tuple((5 * i + j) % VOCAB for j in range(4))
        trajectory = Trajectory(tuple(calls), StopReason.ANSWERED)
        graded = GradedAttempt(Attempt(f"a{i}", Task("t", {}), trajectory, ()), Outcome(True))
        (sample,) = attempt_samples(graded, np.ones(len(graded.attempt.trajectory.calls)))
        return sample

    async def all_of_them() -> list[TrainingSample]:
        return await asyncio.gather(*map(attempt, range(6)))

    return asyncio.run(all_of_them())


def gaps(one: LocalLearner, samples: list[TrainingSample]) -> np.ndarray:
    """|learner - sampler| of the logprobs of all sampled tokens."""
    found = one.forward(samples)
    return np.concatenate([np.abs(f - s.sampling_logprobs)[s.loss_mask] for f, s in zip(found, samples, strict=True)])


CUTS = [{"top_p": 0.7}, {"top_k": 4}, {"min_p": 0.3}, {"top_p": 0.9, "top_k": 30, "min_p": 0.05}]


@pytest.mark.parametrize("cut", [{}, *CUTS], ids=str)
def test_learner_and_engine_agree_on_what_was_sampled(cut: dict[str, Any]) -> None:
    """As sampled with caches, as read back by the learner, over the distribution that was sampled."""
    samples = attempts(SamplingParams(0.9, 8, **cut))
    one = learner(llama(), temperature=0.9, max_tokens=100)
    assert all((s.support is not None) == bool(cut) for s in samples)
    assert gaps(one, samples).mean() < 1e-5
    if cut:
        ignored = gaps(one, [replace(s, support=None) for s in samples])
        assert ignored.mean() > 0.05 and (ignored > 0.01).mean() > 0.9


@pytest.mark.parametrize("max_tokens", [1, 100_000])
def test_the_gradient_over_a_support_is_exact(max_tokens: int) -> None:
    """Also where samples share the prediction and not the support: attempt 0 and a copy that was drawn uncut."""
    cut = attempts(SamplingParams(1.0, 8, top_k=5))
    samples = weighted([*cut, replace(cut[0], support=None, attempt_id="uncut")], "token-mean")
    model = llama()
    total = torch.zeros(())
    for sample in samples:
        where = np.flatnonzero(sample.loss_mask)
        logits = model(torch.from_numpy(sample.token_ids)[None]).logits[0, where - 1].float()
        kept = torch.from_numpy(kept_mask([(sample.support, where)], VOCAB))
        logprobs = logits.masked_fill(~kept, -1e9).log_softmax(-1)[range(len(where)), sample.token_ids[where]]
        total = total - (logprobs * torch.from_numpy(sample.loss_weights[where])).sum()
    expected = torch.autograd.grad(total, list(model.parameters()))
    one = learner(model, max_tokens=max_tokens)
    metrics = one.forward_backward(samples, SFT)
    assert metrics["loss"] == pytest.approx(total.item(), abs=1e-5) and 0 < metrics["entropy"] < np.log(VOCAB)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_a_cut_sample_without_its_support_is_refused() -> None:
    (sample, *_) = attempts(SamplingParams(1.0, 8, top_p=0.7))
    n = len(sample.token_ids)
    unknown = replace(sample, support=unknown_support(n))
    one = learner(llama())
    for ask in (lambda: one.forward([unknown]), lambda: one.forward_backward([unknown], SFT)):
        with pytest.raises(TrainError, match="'a0': 16 of 16 sampled tokens were drawn from a cut distribution"):
            ask()
    one.forward([replace(unknown, loss_mask=np.zeros(n, np.bool_)), sample])


def test_a_sample_of_another_temperature_is_refused() -> None:
    (sample, *_) = attempts(SamplingParams(0.8, 8))
    with pytest.raises(TrainError, match=r"'a0' was sampled at temperature 0.8 and the learner scores at 1.0"):
        learner(llama()).forward_backward([sample], SFT)
    learner(llama(), temperature=0.8).forward([sample])
    learner(llama()).forward([replace(sample, temperatures=())])


def test_a_sample_that_contradicts_its_support_is_refused() -> None:
    (sample, *_) = attempts(SamplingParams(1.0, 8, top_k=2))
    tokens = sample.token_ids.copy()
    at = int(np.flatnonzero(sample.loss_mask)[0])
    kept = kept_mask([(sample.support, np.array([at]))], VOCAB)[0]
    tokens[at] = int(np.flatnonzero(~kept)[0])
    with pytest.raises(TrainError, match=f"token {tokens[at]} at position {at} is not in the support"):
        learner(llama()).forward([replace(sample, token_ids=tokens)])


def test_metrics_are_means_over_trained_tokens() -> None:
    model, samples = llama(), batch(shared=True)
    metrics = learner(model).forward_backward(samples, SFT)
    with torch.no_grad():
        logprobs = torch.cat([plain_logprobs(model, s)[0] for s in samples])
    assert metrics["trained_tokens"] == len(logprobs) == 9 * 6
    assert metrics["loss"] == pytest.approx(-float(logprobs.mean()), abs=1e-5)
    assert 0 < metrics["entropy"] < np.log(VOCAB)


def test_steps_make_the_demonstrated_tokens_likelier() -> None:
    model, samples = llama(), batch(shared=True)
    one = learner(model)
    losses = []
    for _ in range(8):
        losses.append(one.forward_backward(samples, SFT)["loss"])
        one.optim_step()
    assert losses[-1] < losses[0] - 0.5 and one.version == 8


def test_a_long_gradient_is_clipped_to_the_norm() -> None:
    model, samples = llama(), batch(shared=True)
    one = LocalLearner(model, None, OptimizerConfig(lr=0.0, max_grad_norm=1e-3))
    one.forward_backward(samples, SFT)
    before = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert one.optim_step()["grad_norm"] == pytest.approx(float(before), rel=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 100_000])
def test_a_loss_that_is_not_finite_is_dropped(max_tokens: int) -> None:
    """Also what rows before it in the batch had already added to the gradient."""
    model, samples = llama(), batch(shared=False)
    one = learner(model, max_tokens=max_tokens)
    before = one.snapshot()
    longest = max(samples, key=lambda s: len(s.token_ids))
    bad = [replace(s, advantages=s.advantages * np.nan) if s is longest else s for s in samples]
    with pytest.raises(TrainError, match="policy loss is nan; the step was dropped"):
        one.forward_backward(bad, POLICY)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in one.snapshot().items())
    one.forward_backward(samples, POLICY)
    one.optim_step()


def test_a_gradient_that_is_not_finite_is_dropped() -> None:
    model, samples = llama(), batch(shared=True)
    one = learner(model)
    before = one.snapshot()
    one.forward_backward(samples, SFT)
    next(model.parameters()).grad.fill_(float("inf"))
    with pytest.raises(TrainError, match="gradient norm is inf"):
        one.optim_step()
    assert one.version == 0 and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in one.snapshot().items())


def test_saved_and_loaded_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    samples = batch(shared=True)

    def steps(one: LocalLearner, n: int) -> None:
        for _ in range(n):
            one.forward_backward(samples, POLICY)
            one.optim_step()

    unbroken, first, second = learner(llama()), learner(llama()), learner(other_llama())
    steps(unbroken, 4)
    steps(first, 2)
    first.save(tmp_path)
    second.load(tmp_path)
    steps(second, 2)
    assert second.version == unbroken.version == 4
    assert all(torch.equal(v, unbroken.snapshot()[k]) for k, v in second.snapshot().items())


def other_llama() -> Any:
    """The same shape with other weights: everything must come from the file."""
    torch.manual_seed(99)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))


def test_a_snapshot_brings_the_weights_back() -> None:
    one, samples = learner(llama()), batch(shared=True)
    before = one.snapshot()
    one.forward_backward(samples, SFT)
    one.optim_step()
    assert any(not torch.equal(v, before[k]) for k, v in one.snapshot().items())
    one.restore(before)
    assert all(torch.equal(v, before[k]) for k, v in one.snapshot().items())


def test_published_weights_are_those_of_the_learner(tmp_path: Path) -> None:
    model = llama()
    one = LocalLearner(model, train_tokenizer(["desk"], 300), OptimizerConfig())
    ref = one.publish(tmp_path)
    again = load_model(Path(ref.path))
    assert ref.version == 0 and len(ref.digest) == 64
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_model_that_changes_its_logits_afterwards_is_refused() -> None:
    model = llama()
    model.config.logits_scaling = 8.0
    with pytest.raises(ModelError, match=r"changes its logits after the output layer \(logits_scaling is 8.0\)"):
        learner(model)


def test_an_unknown_loss_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'policy'"):
        learner(llama()).forward_backward(batch(shared=True), LossSpec("polici"))
