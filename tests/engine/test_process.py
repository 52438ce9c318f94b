"""The local engine in a process of its own: what it says, the weights it takes, and what is told when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flyball.engine.local import LocalEngine
from flyball.engine.local_process import ProcessEngine, ProcessSpec
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.errors import ContextError, EngineLostError, GrammarError, ModelError, WeightsError
from flyball.models.load import load_model, new_tiny_model, save_model
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.types import WeightsRef

TOKENIZER = train_tokenizer(["count the bolts again"], 300)
SHAPE = TinyConfig(300, hidden_size=56, intermediate_size=32, num_layers=2, head_dim=24, max_context=256)
PROMPT = tuple(TOKENIZER("count the bolts again")["input_ids"])


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("policy")
    save_model(new_tiny_model(SHAPE, TOKENIZER, 0), TOKENIZER, folder)
    return folder


@pytest.fixture(scope="module")
def running(policy: Path) -> Iterator[tuple[asyncio.Runner, ProcessEngine]]:
    """One process for the tests that leave it as it was, and the event loop of its requests."""
    with asyncio.Runner() as runner:
        engine = ProcessEngine(ProcessSpec(str(policy), num_slots=8, deterministic=True))
        yield runner, engine
        runner.run(engine.close())
    assert engine._process.returncode == 0 and not engine._folder.exists()


def ask(seed: int, tokens: int = 12, **rules: Any) -> Request:
    return Request(PROMPT, SamplingParams(1.0, tokens, seed, **rules), (), session=f"s{seed}")


async def several(engine: Any) -> list[Completion]:
    requests = [ask(0), ask(1, top_k=5), ask(2, stop=("a", "e"))]
    return await asyncio.gather(*(engine.generate(request) for request in requests))


def told(completions: list[Completion]) -> list[tuple[Any, ...]]:
    """All but the seconds, to the bit."""
    return [(c.token_ids, c.logprobs, c.policy_versions, c.finish_reason, c.support) for c in completions]


def test_it_says_what_the_engine_says_to_the_bit_under_any_weights(
    running: tuple[asyncio.Runner, ProcessEngine], policy: Path
) -> None:
    runner, apart = running
    here = LocalEngine(load_model(policy), num_slots=8, tokenizer=TOKENIZER, deterministic=True)
    assert apart.max_context == here.max_context
    for version, seed in enumerate((0, 7, 0)):
        state = new_tiny_model(SHAPE, TOKENIZER, seed).state_dict()  # embeddings are tied: one tensor, two names
        for engine in (here, apart):
            engine.use_weights(state, version)
        assert told(runner.run(several(apart))) == told(asyncio.run(several(here)))
        assert apart.version == version


def test_weights_that_do_not_fit_are_refused_and_the_old_stay(
    running: tuple[asyncio.Runner, ProcessEngine], tmp_path: Path
) -> None:
    runner, engine = running
    before = told(runner.run(several(engine)))
    version = engine.version
    state = new_tiny_model(SHAPE, TOKENIZER, 3).state_dict()
    with pytest.raises(WeightsError, match=r"of another shape \['model\.norm\.weight'\]"):
        engine.use_weights({**state, "model.norm.weight": torch.ones(7)}, 99)
    with pytest.raises(WeightsError, match="no safetensors file"):
        runner.run(engine.load_weights(WeightsRef(99, str(tmp_path), "")))
    assert told(runner.run(several(engine))) == before and engine.version == version


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request((1,) * 300, SamplingParams(), ()), ContextError),
        (ask(1, grammar="start: ("), GrammarError),
    ],
)
def test_its_errors_keep_their_type(
    running: tuple[asyncio.Runner, ProcessEngine], request_: Request, error: type[Exception]
) -> None:
    runner, engine = running
    with pytest.raises(error):
        runner.run(engine.generate(request_))


def test_an_abort_and_a_cancelled_request_end_in_the_process(running: tuple[asyncio.Runner, ProcessEngine]) -> None:
    runner, engine = running

    async def main() -> Completion:
        dropped, ended = (asyncio.create_task(engine.generate(ask(seed, 230))) for seed in (1, 2))
        await asyncio.sleep(0.05)
        dropped.cancel()
        await engine.abort("s2")
        await asyncio.gather(dropped, return_exceptions=True)
        return await ended

    assert runner.run(main()).finish_reason in ("abort", "length")
    assert not engine._pending and len(runner.run(several(engine))) == 3


def test_a_process_that_is_killed_is_told_to_everyone_and_leaves_nothing(policy: Path) -> None:
    engine = ProcessEngine(ProcessSpec(str(policy), num_slots=8))

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(engine.generate(ask(seed, 230))) for seed in range(3)]
        await asyncio.sleep(0.02)
        os.kill(engine.pid, signal.SIGKILL)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        late = await asyncio.gather(engine.generate(ask(9)), return_exceptions=True)
        with pytest.raises(EngineLostError):
            engine.use_weights(new_tiny_model(SHAPE, TOKENIZER, 3).state_dict(), 1)
        await engine.close()
        return [*found, *late]

    for error in asyncio.run(main()):
        assert isinstance(error, EngineLostError) and "was killed by signal 9" in str(error)
        assert "`--resume` goes on with a new process" in str(error)
    assert not engine._folder.exists()


def test_a_folder_without_a_policy_is_told_when_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        ProcessEngine(ProcessSpec(str(tmp_path)))


def test_it_ends_with_its_parent(policy: Path) -> None:
    """The sockets close when a parent dies, whatever kills it."""
    engine = ProcessEngine(ProcessSpec(str(policy)))
    engine._control.close()
    engine._process.wait(timeout=60)
    assert not engine._folder.exists()
    engine._socket.close()
