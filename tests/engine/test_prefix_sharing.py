"""What requests begin with in common is computed once, however they arrive; counted, and right to the logprob."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from flyball.engine.local import LocalEngine
from flyball.engine.local_prefix import MIN_SHARED, common_prefix, longer_prefix, num_common
from flyball.engine.protocol import Completion
from tests.engine.test_local import SHAPE, assert_plain, llama, other_activation, own, qwen2, request

SYSTEM = tuple(7 + i % 40 for i in range(40))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def distinct(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens of prompts that differ in themselves or in what comes before them: the least that must be computed."""
    return len({tuple(prompt[: i + 1]) for prompt in prompts for i in range(len(prompt))})


def group(task: int, length: int = 60) -> tuple[int, ...]:
    """A prompt of the same system message as the others', and a task of its own."""
    return (*SYSTEM, *own(task, length))


async def sampled(engine: LocalEngine, count: int) -> None:
    while engine.sampled_tokens < count:
        await asyncio.sleep(0)


@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("make", [llama, qwen2, other_activation])
def test_the_prompt_of_a_group_is_computed_once(make: Callable[[], Any], tokens: int) -> None:
    """Also when its first member is over with its first token."""
    model, prompt = make(), group(1)
    engine = LocalEngine(model, num_slots=8)

    async def main() -> list[Completion]:
        return await asyncio.gather(
            *(engine.generate(request(prompt, i, tokens=tokens, session=f"s{i}" if i % 2 else "")) for i in range(8))
        )

    done = asyncio.run(main())
    assert engine.prefilled_tokens == len(prompt)
    assert len({one.token_ids for one in done}) > 1
    for one in done:
        assert_plain(model, prompt, one)


@pytest.mark.parametrize("on_new_weights", ["recompute", "keep"])
def test_groups_that_come_while_others_run_compute_each_prompt_once(on_new_weights: Any) -> None:
    """Four groups of eight beside a conversation that begins otherwise, so that no root is left to share."""
    model = llama()
    engine = LocalEngine(model, num_slots=40, on_new_weights=on_new_weights)
    stranger, prompts = own(9, 30), [group(task) for task in range(4) for _ in range(8)]

    async def main() -> list[Completion]:
        running = asyncio.create_task(engine.generate(request(stranger, tokens=100)))
        await sampled(engine, 1)
        done = await asyncio.gather(*(engine.generate(request(p, i)) for i, p in enumerate(prompts)))
        running.cancel()
        return done

    done = asyncio.run(main())
    assert engine.prefilled_tokens == distinct([stranger, *prompts])
    for prompt, one in zip(prompts, done, strict=True):
        assert_plain(model, prompt, one)


def test_who_comes_later_copies_from_a_running_sibling() -> None:
    model, prompt = qwen2(), group(2)
    engine = LocalEngine(model, num_slots=4)

    async def main() -> Completion:
        first = asyncio.create_task(engine.generate(request(prompt, 1, tokens=50)))
        await sampled(engine, 5)
        late = await engine.generate(request(prompt, 2))
        assert not first.done()
        first.cancel()
        return late

    late = asyncio.run(main())
    assert late.prefilled == 1  # what the last token of a prompt predicts is not kept
    assert_plain(model, prompt, late)


def test_twenty_turns_with_tools_compute_hardly_anything_twice() -> None:
    """Eight attempts at one task, together: at most 1.02 times the distinct tokens of their prompts."""
    turns, tool_result = 20, 70
    torch.manual_seed(0)
    config = LlamaConfig(**{**SHAPE, "max_position_embeddings": 2048}, tie_word_embeddings=True)
    engine = LocalEngine(LlamaForCausalLM(config), num_slots=8)
    prompt = group(1)
    told: list[int] = []

    async def attempt(i: int) -> None:
        talk: tuple[int, ...] = prompt
        for turn in range(turns):
            done = await engine.generate(request(talk, 100 * i + turn, tokens=5, session=f"s{i}"))
            talk += (*done.token_ids, *own(i + turn, tool_result))
            told.append(tool_result)

    async def main() -> None:
        await asyncio.gather(*map(attempt, range(8)))

    asyncio.run(main())
    needed = len(prompt) + sum(told) - 8 * tool_result  # the last results are not read any more
    assert needed <= engine.prefilled_tokens <= 1.02 * needed


@pytest.mark.parametrize("seed", range(4))
def test_any_tree_of_prompts_gives_the_plain_logprobs(seed: int) -> None:
    """Prompts that branch from each other anywhere, in waves and beside sessions that go on."""
    draw, model = random.Random(seed), llama()
    engine = LocalEngine(model, num_slots=draw.choice([3, 6, 12]))
    prompts = [own(0, 20)]
    for _ in range(14):
        stem = draw.choice(prompts)
        branch = stem[: draw.randint(1, len(stem))] + own(draw.randint(1, 9), draw.randint(0, 30))
        prompts.append(branch[:110])
    talks: list[tuple[tuple[int, ...], Completion]] = []

    async def attempt(i: int, prompt: tuple[int, ...]) -> None:
        for turn in range(2):
            done = await engine.generate(request(prompt, 10 * i + turn, tokens=draw.randint(1, 6), session=f"s{i % 7}"))
            talks.append((prompt, done))
            prompt = (*prompt, *done.token_ids, *own(i, 3))
            if draw.random() < 0.3:
                await engine.end_session(f"s{i % 7}")

    async def main() -> None:
        for start in range(0, len(prompts), 5):
            await asyncio.gather(*(attempt(i, p) for i, p in enumerate(prompts[start : start + 5], start)))

    asyncio.run(main())
    for prompt, one in talks:
        assert_plain(model, prompt, one)


TOKENS = st.lists(st.integers(0, 2), max_size=2 * MIN_SHARED + 4)


@given(TOKENS, TOKENS, st.integers(0, 4))
def test_what_lists_have_in_common(a: list[int], b: list[int], drop: int) -> None:
    b = a[: len(a) - drop] + b  # mostly alike
    plain = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert num_common(a, b) == plain and common_prefix([a, b, a]) == a[:plain]
    for cached in range(plain + 1):
        assert longer_prefix(a, b, cached) == (plain if plain - cached >= MIN_SHARED else cached)
