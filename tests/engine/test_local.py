"""The local engine against the plain Transformers forward pass, on tiny random models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from flyball.engine.local import LocalEngine
from flyball.engine.local_llama import LlamaPass
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.errors import ContextError, EngineError, NumericsError, WeightsError
from flyball.types import WeightsRef

VOCAB, CONTEXT = 61, 160
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # far from uniform, so that a wrong mask or position shows
}
ROOT = tuple(7 + i % 40 for i in range(30))


def llama(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))


def qwen2(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=False))


def qwen3(seed: int = 0) -> Any:
    """Norms of the heads, and heads wider than their share of the hidden size."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=12, tie_word_embeddings=True))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    return model


def one_head_group(seed: int = 0) -> Any:
    """As many key/value heads as query heads."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_key_value_heads": 4}, tie_word_embeddings=True))


def odd_llama(seed: int = 0) -> Any:
    """Biases everywhere and stretched positions: what the lean pass for Llama must not leave out."""
    torch.manual_seed(seed)
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    config = LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, rope_parameters=scaled, rms_norm_eps=1e-3)
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def other_activation(seed: int = 0) -> Any:
    """A Llama that the lean pass does not fit."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, hidden_act="gelu"))


MODELS = [llama, qwen2, qwen3, one_head_group, odd_llama, other_activation]


def test_the_lean_pass_is_for_llama_and_its_kin() -> None:
    assert [LlamaPass.fits(make()) for make in MODELS] == [True, True, True, True, True, False]
    windowed = Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert not LlamaPass.fits(Qwen2ForCausalLM(windowed))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def request(
    prompt: Sequence[int], seed: int = 0, *, tokens: int = 6, session: str = "", temperature: float = 0.8
) -> Request:
    return Request(tuple(prompt), SamplingParams(temperature, tokens, seed), (), session)


def plain_logprobs(model: Any, prompt: Sequence[int], completion: Completion, temperature: float = 0.8) -> torch.Tensor:
    """Logprobs of the sampled tokens from one forward pass over the whole sequence, no cache."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion.token_ids]])).logits[0].float()
    model.set_attn_implementation("flyball_slots")
    predicted = (logits[len(prompt) - 1 : -1] / (temperature or 1.0)).log_softmax(-1)
    return predicted.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]


def assert_plain(model: Any, prompt: Sequence[int], completion: Completion, temperature: float = 0.8) -> None:
    expected = plain_logprobs(model, prompt, completion, temperature)
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=1e-4)


def own(i: int, length: int) -> tuple[int, ...]:
    return tuple((11 * i + 3 * j) % VOCAB for j in range(length))


async def started(engine: LocalEngine) -> None:
    while engine.sampled_tokens == 0:
        await asyncio.sleep(0)


async def talk(engine: LocalEngine, first: tuple[int, ...], name: str) -> list[tuple[tuple[int, ...], Completion]]:
    """Three turns of one session; what a tool answered lies between them."""
    prompt, turns = first, []
    for turn in range(3):
        done = await engine.generate(request(prompt, seed=turn, tokens=4 + turn, session=name))
        turns.append((prompt, done))
        prompt = (*prompt, *done.token_ids, *own(turn, 3 + turn))
    await engine.end_session(name)
    return turns


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("num_slots", [8, 3], ids=["room for all", "more talks than slots"])
@pytest.mark.parametrize(
    "prompts",
    [
        [(*ROOT, *own(i, 2 + i)) for i in range(6)],
        [(*ROOT[: 30 - 4 * i], *own(i, 5 + i)) for i in range(6)],
        [own(i, 1 + 7 * i) for i in range(6)],
        [ROOT, ROOT, ROOT, (*ROOT, 1), ROOT[:5], (60,)],
    ],
    ids=["shared root", "shrinking root", "no root", "root is the prompt"],
)
def test_logprobs_are_those_of_the_plain_forward_pass(
    make: Callable[[], Any], num_slots: int, prompts: list[tuple[int, ...]]
) -> None:
    model = make()
    engine = LocalEngine(model, num_slots=num_slots)

    async def rounds() -> list[list[tuple[tuple[int, ...], Completion]]]:
        found = []
        for _ in range(2):  # the second meets slots and a root that were used before
            found += await asyncio.gather(*(talk(engine, p, f"s{i}") for i, p in enumerate(prompts)))
        return found

    for turns in asyncio.run(rounds()):
        for prompt, done in turns:
            assert_plain(model, prompt, done)


def test_a_root_shrinks_under_live_conversations() -> None:
    """Strangers come while others decode and one waits for its tool: what these have cached moves, and stays right."""
    model = llama()
    engine = LocalEngine(model, num_slots=6)

    async def ask(prompt: tuple[int, ...], seed: int, tokens: int = 60, session: str = "") -> Any:
        return prompt, await engine.generate(request(prompt, seed=seed, tokens=tokens, session=session))

    async def main() -> list[tuple[tuple[int, ...], Completion]]:
        paused, _ = await asyncio.gather(ask((*ROOT, 1, 2, 3), 1, 5, "paused"), ask((*ROOT, 2), 2, 5, "other"))
        assert engine.prefilled_tokens == len(ROOT) + 3 + 1
        before = engine.sampled_tokens
        live = [asyncio.create_task(ask((*ROOT, 3 + i), 3 + i)) for i in range(2)]
        while engine.sampled_tokens == before:
            await asyncio.sleep(0)
        strangers = [await ask((*ROOT[:20], 50, 51), 7, 3), await ask(own(4, 9), 8, 3)]
        prompt, done = paused
        resumed = await ask((*prompt, *done.token_ids, 9), 9, 5, "paused")
        assert resumed[1].prefilled == 2
        return [paused, *await asyncio.gather(*live), *strangers, resumed]

    for prompt, done in asyncio.run(main()):
        assert_plain(model, prompt, done)


def test_what_is_sampled_depends_on_the_seed_and_not_on_the_company() -> None:
    engine = LocalEngine(llama(), num_slots=8)
    prompt = (*ROOT, 3, 4)

    async def main() -> tuple[Completion, list[Completion], Completion]:
        alone = await engine.generate(request(prompt, seed=5, tokens=20))
        company = [request((*ROOT, i), seed=100 + i, tokens=3 + 5 * i) for i in range(6)]
        together = await asyncio.gather(
            engine.generate(request(prompt, seed=5, tokens=20)), *map(engine.generate, company)
        )
        return alone, together, await engine.generate(request(prompt, seed=6, tokens=20))

    alone, together, other = asyncio.run(main())
    assert together[0].token_ids == alone.token_ids
    assert other.token_ids != alone.token_ids


def test_a_tool_result_resumes_where_the_conversation_was() -> None:
    """Only the last sampled token (its keys were never needed) and what the tool said are computed."""
    engine = LocalEngine(llama(), num_slots=2)

    async def main() -> tuple[Completion, Completion]:
        first = await engine.generate(request(ROOT, tokens=5, session="a"))
        again = await engine.generate(request((*ROOT, *first.token_ids, 8, 9, 10), tokens=5, session="a"))
        return first, again

    first, again = asyncio.run(main())
    assert first.prefilled == len(ROOT)
    assert again.prefilled == 1 + 3
    assert engine.prefilled_tokens == len(ROOT) + 4 and engine.sampled_tokens == 10


def test_a_shared_root_is_computed_once() -> None:
    engine = LocalEngine(llama(), num_slots=8)

    async def main() -> None:
        await asyncio.gather(*(engine.generate(request((*ROOT, 50 + i, 50 + i), seed=i)) for i in range(8)))

    asyncio.run(main())
    assert engine.prefilled_tokens == len(ROOT) + 8 * 2


def test_temperature_zero_is_argmax() -> None:
    model = qwen2()
    engine = LocalEngine(model)
    done = asyncio.run(engine.generate(request(ROOT, tokens=10, temperature=0.0)))
    assert_plain(model, ROOT, done, temperature=0.0)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(torch.tensor([[*ROOT, *done.token_ids]])).logits[0]
    assert list(done.token_ids) == logits[len(ROOT) - 1 : -1].argmax(-1).tolist()


def test_draws_follow_the_distribution() -> None:
    """2000 first tokens: every frequency within five standard errors of its probability."""
    model = llama()
    engine = LocalEngine(model, num_slots=64)

    async def main() -> list[Completion]:
        return await asyncio.gather(
            *(engine.generate(request(ROOT, seed=i, tokens=1, temperature=1.0)) for i in range(2000))
        )

    drawn = torch.tensor([done.token_ids[0] for done in asyncio.run(main())])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        p = model(torch.tensor([ROOT])).logits[0, -1].softmax(-1)
    frequency = torch.bincount(drawn, minlength=VOCAB) / 2000
    assert bool(((frequency - p).abs() <= 5 * (p * (1 - p) / 2000).sqrt() + 1 / 2000).all())


def test_a_stop_token_ends_the_turn_and_belongs_to_it() -> None:
    engine = LocalEngine(llama())
    free = asyncio.run(engine.generate(request(ROOT, tokens=12)))
    stop = free.token_ids[4]
    stopped = asyncio.run(engine.generate(Request(ROOT, SamplingParams(0.8, 12, 0), (stop,))))
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]
    assert (stopped.finish_reason, free.finish_reason) == ("stop", "length")


@pytest.mark.parametrize("length", [0, CONTEXT, CONTEXT + 5])
def test_a_prompt_without_room_is_refused(length: int) -> None:
    engine = LocalEngine(llama())
    with pytest.raises(ContextError, match=f"prompt of {length} tokens leaves no room"):
        asyncio.run(engine.generate(request([1] * length)))


def test_the_context_bounds_a_completion() -> None:
    done = asyncio.run(LocalEngine(llama()).generate(request([1] * (CONTEXT - 3), tokens=50)))
    assert len(done.token_ids) == 3 and done.finish_reason == "length"


def test_an_abandoned_request_does_not_disturb_the_others() -> None:
    model = llama()
    engine = LocalEngine(model, num_slots=2)

    async def main() -> list[Completion]:
        doomed = [asyncio.create_task(engine.generate(request((*ROOT, i), tokens=100))) for i in range(4)]
        kept = [asyncio.create_task(engine.generate(request((*ROOT, 20 + i), seed=i, tokens=30))) for i in range(3)]
        await started(engine)  # some are running, some are waiting
        for task in doomed:
            task.cancel()
        done = await asyncio.gather(*kept)
        assert all(isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*doomed, return_exceptions=True))
        return done

    for i, done in enumerate(asyncio.run(main())):
        assert len(done.token_ids) == 30
        assert_plain(model, (*ROOT, 20 + i), done)


def test_damaged_weights_are_an_engine_error_and_good_ones_mend_it() -> None:
    model, good = llama(), llama(1).state_dict()
    engine = LocalEngine(model, num_slots=4)
    short = [(*ROOT, *own(i, 1 + 4 * i)) for i in range(3)]
    damaged = {k: v * float("nan") if "layers.0" in k else v for k, v in good.items()}

    async def three(seed: int, prompts: list[tuple[int, ...]]) -> list[Any]:
        requests = [request(p, seed=seed, tokens=30) for p in prompts]
        return await asyncio.gather(*map(engine.generate, requests), return_exceptions=True)

    async def main() -> list[Completion]:
        assert all(isinstance(done, Completion) for done in await three(0, short))
        engine.use_weights(damaged, version=1)
        for error in await three(1, [own(i, 100) for i in range(3)]):  # leaves NaN far behind what comes next
            assert isinstance(error, NumericsError) and "NaN" in str(error)
        engine.use_weights(good, version=2)
        return await three(2, short)

    for i, done in enumerate(asyncio.run(main())):
        assert done.policy_versions == (2,) * 30
        assert_plain(model, short[i], done)


def test_new_weights_are_used_from_the_next_request_on(tmp_path: Path) -> None:
    """Also inside a session: nothing cached under the old weights survives."""
    model, newer = llama(), llama(1)
    newer.save_pretrained(tmp_path)
    engine = LocalEngine(model, num_slots=2, version=3)

    async def main() -> tuple[Completion, tuple[int, ...], Completion]:
        first = await engine.generate(request(ROOT, session="a"))
        await engine.load_weights(WeightsRef(4, str(tmp_path), ""))
        prompt = (*ROOT, *first.token_ids, 9)
        return first, prompt, await engine.generate(request(prompt, session="a"))

    first, prompt, second = asyncio.run(main())
    assert first.policy_versions == (3,) * 6 and second.policy_versions == (4,) * 6 and engine.version == 4
    assert second.prefilled == len(prompt)
    torch.testing.assert_close(
        torch.tensor(second.logprobs), plain_logprobs(LocalEngine(newer)._model, prompt, second), rtol=0, atol=1e-4
    )


def test_weights_of_another_model_are_refused_and_change_nothing(tmp_path: Path) -> None:
    engine = LocalEngine(llama())
    before = asyncio.run(engine.generate(request(ROOT)))
    wider = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "intermediate_size": 64}, tie_word_embeddings=True))
    deeper = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_hidden_layers": 3}, tie_word_embeddings=True))
    shallower = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_hidden_layers": 1}, tie_word_embeddings=True))
    for other, said in ((wider, "of another shape"), (deeper, "unknown"), (shallower, "missing")):
        with pytest.raises(WeightsError, match=rf"{said} \['model.layers"):
            engine.use_weights(other.state_dict(), 9)
    with pytest.raises(WeightsError, match="no safetensors file"):
        asyncio.run(engine.load_weights(WeightsRef(9, str(tmp_path), "")))
    after = asyncio.run(engine.generate(request(ROOT)))
    assert engine.version == 0 and after.token_ids == before.token_ids


def test_an_untied_output_layer_must_be_among_the_weights() -> None:
    state = qwen2().state_dict()
    del state["lm_head.weight"]
    with pytest.raises(EngineError, match=r"missing \['lm_head.weight'\]"):
        LocalEngine(qwen2()).use_weights(state, 1)


def test_closing_tells_those_who_wait() -> None:
    engine = LocalEngine(llama())

    async def main() -> None:
        running = asyncio.create_task(engine.generate(request(ROOT, tokens=100)))
        await started(engine)
        await engine.close()
        with pytest.raises(EngineError, match="closed"):
            await running

    asyncio.run(main())


def test_a_model_outside_the_attention_interface_is_refused() -> None:
    class Old(torch.nn.Module):
        pass

    with pytest.raises(EngineError, match="Old does not use transformers' attention interface"):
        LocalEngine(Old())
