"""Requests that meet something on their way: an abort, a neighbour that goes, new weights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from flyball.engine.fake import FakeEngine
from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Completion, Request
from flyball.errors import ConfigError, WeightsError
from tests.engine.test_local import ROOT, llama, own, plain_logprobs, qwen2, request, started


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


async def sampled(engine: LocalEngine, count: int) -> None:
    """Return once `count` tokens more were sampled."""
    before = engine.sampled_tokens
    while engine.sampled_tokens < before + count:
        await asyncio.sleep(0)


# --- abort -----------------------------------------------------------------------------------------------------------


def test_an_aborted_request_returns_what_it_has_and_its_place_is_free() -> None:
    """One slot: whoever waits begins at once. The aborted session resumes from its cache."""
    engine = LocalEngine(llama(), num_slots=1)

    async def main() -> tuple[Completion, Completion, Completion]:
        long = asyncio.create_task(engine.generate(request(ROOT, tokens=120, session="a")))
        await started(engine)
        waiting = asyncio.create_task(engine.generate(request(own(1, 9), tokens=3, session="b")))
        never = asyncio.create_task(engine.generate(request(own(2, 9), tokens=3, session="c")))
        await asyncio.sleep(0)
        await engine.abort("c")
        await engine.abort("a")
        return await long, await waiting, await never

    long, waited, never = asyncio.run(main())
    assert long.finish_reason == "abort" and 0 < len(long.token_ids) < 120
    assert len(long.logprobs) == len(long.policy_versions) == len(long.token_ids)
    assert (waited.finish_reason, len(waited.token_ids)) == ("length", 3)
    assert (never.finish_reason, never.token_ids) == ("abort", ())
    whole = asyncio.run(LocalEngine(llama()).generate(request(ROOT, tokens=120)))
    assert whole.token_ids[: len(long.token_ids)] == long.token_ids


def test_a_partial_completion_is_continued_from_its_cache() -> None:
    engine = LocalEngine(llama(), num_slots=2)

    async def main() -> tuple[Completion, Completion]:
        task = asyncio.create_task(engine.generate(request(ROOT, tokens=100, session="a")))
        await started(engine)
        await engine.abort("a")
        part = await task
        return part, await engine.generate(request((*ROOT, *part.token_ids), tokens=4, session="a"))

    _part, rest = asyncio.run(main())
    assert rest.prefilled == 1 and len(rest.token_ids) == 4


@pytest.mark.parametrize("make", [llama, qwen2])
@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "aborted"])
def test_the_others_are_equal_to_the_bit_in_deterministic_mode(make: Callable[[], Any], cancel: bool) -> None:
    """As with company that goes, so alone: tokens and logprobs, over two turns of a session."""

    async def talk(engine: LocalEngine, i: int) -> list[Completion]:
        prompt, turns = (*ROOT, *own(i, 3 + i)), []
        for turn in range(2):
            done = await engine.generate(request(prompt, seed=i, tokens=25, session=f"s{i}"))
            turns.append(replace(done, seconds=0.0))
            prompt = (*prompt, *done.token_ids, *own(turn, 4))
        return turns

    async def disturbed(engine: LocalEngine) -> list[list[Completion]]:
        doomed = [asyncio.create_task(engine.generate(request(ROOT, i, tokens=90, session="x"))) for i in range(3)]
        kept = [asyncio.create_task(talk(engine, i)) for i in range(3)]
        await sampled(engine, 20)
        if cancel:
            [task.cancel() for task in doomed]
        else:
            await engine.abort("x")
        await asyncio.gather(*doomed, return_exceptions=True)
        return await asyncio.gather(*kept)

    together = asyncio.run(disturbed(LocalEngine(make(), deterministic=True)))
    for i in range(3):
        assert asyncio.run(talk(LocalEngine(make(), deterministic=True), i)) == together[i]


def test_the_fake_is_aborted_in_its_delay() -> None:
    engine = FakeEngine(["long"], delay_seconds=30)
    ask = request(tuple(engine.chat.render([], [])), session="a")

    async def main() -> Completion:
        task = asyncio.create_task(engine.generate(ask))
        await asyncio.sleep(0)
        await engine.abort("a")
        return await task

    assert asyncio.run(main()).finish_reason == "abort"


# --- new weights -----------------------------------------------------------------------------------------------------

PROMPTS = [(*ROOT, *own(i, 2 + i)) for i in range(4)]


async def updated_in_flight(engine: LocalEngine, newer: Any) -> tuple[list[Completion], list[Completion]]:
    """Four requests over an update, and a session that waited for its tool meanwhile: before and after."""
    paused = await engine.generate(request((*ROOT, 1, 2), seed=9, tokens=5, session="paused"))
    tasks = [asyncio.create_task(engine.generate(request(p, seed=i, tokens=60))) for i, p in enumerate(PROMPTS)]
    await sampled(engine, 30)
    engine.use_weights(newer.state_dict(), version=1)
    await sampled(engine, 4)
    late = await engine.generate(request(PROMPTS[0], seed=8, tokens=5))
    resumed = await engine.generate(request((*ROOT, 1, 2, *paused.token_ids, 3), seed=9, tokens=5, session="paused"))
    return await asyncio.gather(*tasks), [paused, resumed, late]


def logprobs_of(model: Any, prompt: tuple[int, ...], done: Completion) -> torch.Tensor:
    return plain_logprobs(model, prompt, done)


@pytest.mark.parametrize("make", [llama, qwen2])
def test_recompute_leaves_nothing_of_the_old_weights(make: Callable[[int], Any]) -> None:
    old, newer = make(0), make(1)
    engine = LocalEngine(make(0), num_slots=8)
    for reference in (old, newer):
        LocalEngine(reference)  # the form that `plain_logprobs` takes
    done, (paused, resumed, late) = asyncio.run(updated_in_flight(engine, newer))
    for prompt, one in zip(PROMPTS, done, strict=True):
        k = one.policy_versions.count(0)
        assert 0 < k < 60 and one.policy_versions == (0,) * k + (1,) * (60 - k)
        expected = torch.cat([logprobs_of(old, prompt, one)[:k], logprobs_of(newer, prompt, one)[k:]])
        torch.testing.assert_close(torch.tensor(one.logprobs), expected, rtol=0, atol=1e-4)
    talk = (*ROOT, 1, 2, *paused.token_ids, 3)
    assert resumed.policy_versions == late.policy_versions == (1,) * 5 and resumed.prefilled > 2
    for prompt, one in ((talk, resumed), (PROMPTS[0], late)):
        torch.testing.assert_close(torch.tensor(one.logprobs), logprobs_of(newer, prompt, one), rtol=0, atol=1e-4)


def carried_over(
    old: Any, newer: Any, seen: tuple[int, ...], given: tuple[int, ...], done: Completion, k: int
) -> torch.Tensor:
    """Logprobs of `done.token_ids[k:]`: `seen` cached by the old weights, everything from `given` on by the new."""
    for model in (old, newer):
        model.set_attn_implementation("eager")
    with torch.no_grad():
        past = old(torch.tensor([seen]), use_cache=True).past_key_values
        logits = newer(torch.tensor([[*given, *done.token_ids[k:-1]]]), past_key_values=past).logits[0].float()
    predicted = (logits[len(given) - 1 :] / 0.8).log_softmax(-1)
    return predicted.gather(1, torch.tensor(done.token_ids[k:])[:, None])[:, 0]


@pytest.mark.parametrize("make", [llama, qwen2])
def test_keep_goes_on_with_what_the_old_weights_cached(make: Callable[[int], Any]) -> None:
    """And a conversation that begins later shares nothing with it, though it begins with the same tokens."""
    old, newer = make(0), make(1)
    engine = LocalEngine(make(0), num_slots=8, on_new_weights="keep")
    done, (paused, resumed, late) = asyncio.run(updated_in_flight(engine, newer))
    for prompt, one in zip(PROMPTS, done, strict=True):
        k = one.policy_versions.count(0)
        assert 0 < k < 60 and one.policy_versions == (0,) * k + (1,) * (60 - k)
        seen, latest = (*prompt, *one.token_ids[: k - 1]), one.token_ids[k - 1 : k]
        expected = carried_over(old, newer, seen, latest, one, k)
        found = torch.tensor(one.logprobs[k:])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        newer.set_attn_implementation("flyball_slots")
        assert float((logprobs_of(newer, prompt, one)[k:] - found).abs().max()) > 1e-2  # a mixture, not the new weights
    seen, given = (*ROOT, 1, 2, *paused.token_ids[:-1]), (paused.token_ids[-1], 3)
    assert resumed.prefilled == 2 and late.prefilled == len(PROMPTS[0])
    torch.testing.assert_close(
        torch.tensor(resumed.logprobs), carried_over(old, newer, seen, given, resumed, 0), rtol=0, atol=1e-4
    )
    newer.set_attn_implementation("flyball_slots")
    torch.testing.assert_close(torch.tensor(late.logprobs), logprobs_of(newer, PROMPTS[0], late), rtol=0, atol=1e-4)


def test_keep_gives_no_stale_prefix_to_whoever_comes_next() -> None:
    """Neither from a session that ended after the update nor from a root without live conversations."""
    newer = llama(1)
    engine = LocalEngine(llama(), num_slots=2, on_new_weights="keep")

    async def main() -> list[Completion]:
        await engine.generate(request(own(3, 9), tokens=5, session="lives on"))
        await engine.generate(request(ROOT, tokens=5, session="a"))
        engine.use_weights(newer.state_dict(), version=1)
        await engine.end_session("a")
        after_session = await engine.generate(request(ROOT, tokens=5))
        await engine.end_session("lives on")
        await asyncio.gather(*(engine.generate(request(p, tokens=5)) for p in PROMPTS))
        engine.use_weights(newer.state_dict(), version=2)
        return [after_session, await engine.generate(request(ROOT, tokens=5))]

    assert [done.prefilled for done in asyncio.run(main())] == [len(ROOT)] * 2


def test_after_an_update_a_shared_beginning_is_computed_once_again() -> None:
    """Also while a session waits for its tool; it joins the others' beginning on its next turn."""
    newer = llama(1)
    engine = LocalEngine(llama(), num_slots=8)

    async def main() -> tuple[tuple[int, ...], Completion]:
        first = await engine.generate(request(ROOT, tokens=5, session="paused"))
        engine.use_weights(newer.state_dict(), version=1)
        before = engine.prefilled_tokens
        await asyncio.gather(*(engine.generate(request((*ROOT, i, i), seed=i)) for i in range(4)))
        assert engine.prefilled_tokens - before == len(ROOT) + 4 * 2
        prompt = (*ROOT, *first.token_ids, 9)
        return prompt, await engine.generate(request(prompt, session="paused"))

    prompt, resumed = asyncio.run(main())
    assert resumed.prefilled == len(prompt) - len(ROOT)
    LocalEngine(newer)
    torch.testing.assert_close(
        torch.tensor(resumed.logprobs), plain_logprobs(newer, prompt, resumed), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("on_new_weights", ["recompute", "keep"])
def test_refused_weights_leave_requests_in_flight_as_they_were(on_new_weights: Any) -> None:
    engine = LocalEngine(llama(), on_new_weights=on_new_weights)
    wrong = {**llama().state_dict(), "model.norm.weight": torch.ones(7)}

    async def main() -> Completion:
        task = asyncio.create_task(engine.generate(request(ROOT, tokens=60)))
        await started(engine)
        with pytest.raises(WeightsError, match=r"of another shape \['model.norm.weight'\]"):
            engine.use_weights(wrong, 1)
        return await task

    done = asyncio.run(main())
    alone = asyncio.run(LocalEngine(llama()).generate(request(ROOT, tokens=60)))
    assert done.token_ids == alone.token_ids and done.policy_versions == (0,) * 60


def test_an_unknown_way_with_new_weights_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'recompute'"):
        LocalEngine(llama(), on_new_weights="recomputed")  # type: ignore[arg-type]


def test_an_abort_ends_the_named_session_only() -> None:
    """Sessions are told apart by name: aborting one that has nothing in flight changes nothing."""
    engine = LocalEngine(llama())

    async def main() -> Completion:
        task = asyncio.create_task(engine.generate(Request(ROOT, request(ROOT, tokens=9).sampling, (), "a")))
        await engine.abort("b")
        return await task

    assert len(asyncio.run(main()).token_ids) == 9


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_aborts_sessions_and_updates_keeps_every_logprob_right(seed: int) -> None:
    """Few slots, a shared beginning, three updates: each token's logprob is that of the weights it names."""
    rng = np.random.default_rng(seed)
    weights = [llama(version) for version in range(4)]
    engine = LocalEngine(llama(), num_slots=4)
    found: list[tuple[tuple[int, ...], Completion]] = []

    async def talk(i: int) -> None:
        prompt = (*ROOT[: int(rng.integers(0, 31))], *own(i, int(rng.integers(1, 9))))
        for turn in range(3):
            session = f"s{i}" if i % 2 else ""
            done = await engine.generate(request(prompt, seed=i, tokens=int(rng.integers(5, 30)), session=session))
            found.append((prompt, done))
            prompt = (*prompt, *done.token_ids, *own(turn, 2))
        await engine.end_session(f"s{i}")

    async def main() -> None:
        tasks = [asyncio.create_task(talk(i)) for i in range(12)]
        for version in (1, 2, 3):
            await sampled(engine, int(rng.integers(10, 60)))
            engine.use_weights(weights[version].state_dict(), version)
            tasks[int(rng.integers(12))].cancel()
            await engine.abort(f"s{2 * int(rng.integers(6)) + 1}")
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ended)

    asyncio.run(main())
    for reference in weights:
        LocalEngine(reference)
    assert len({v for _, done in found for v in done.policy_versions}) == 4
    for prompt, done in found:
        for version in set(done.policy_versions):
            at = torch.tensor(done.policy_versions) == version
            expected = plain_logprobs(weights[version], prompt, done)
            torch.testing.assert_close(torch.tensor(done.logprobs)[at], expected[at], rtol=0, atol=1e-4)
