"""Best of n: the scorer's first is given, all are paid for, nothing else of the attempt changes, RL refuses it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from flyball.agent.loop import ToolLoop
from flyball.capture.best_of import BestOf
from flyball.capture.door import Door
from flyball.engine.fake import FakeEngine, Prompt
from flyball.engine.protocol import SamplingParams
from flyball.errors import ConfigError, TrainError
from flyball.evals.run import attempt_all
from flyball.evals.scripted import scripted_arm
from flyball.rl.samples import attempt_samples
from flyball.rng import derive
from flyball.rollout.prices import Prices
from flyball.tasks.world import WorldSpec
from flyball.types import GradedAttempt, Limits
from tests.evals.desk import Desk, graders, oracle, tasks

LONGEST = BestOf(4, lambda messages: len(messages[-1]["content"]), "longest")


def by_seed(prompt: Prompt) -> str:
    return "word " * (1 + prompt.seed % 5)


def door(engine: FakeEngine, best_of: BestOf | None, temperature: float = 1.0) -> Door:
    sampling = SamplingParams(temperature)
    return Door(engine, engine.chat, sampling, limits=Limits(), seed=7, session="s", best_of=best_of)


def test_the_scorers_first_is_given_exact_and_the_others_are_counted() -> None:
    engine = FakeEngine(by_seed)
    opened = door(engine, LONGEST)
    reply = asyncio.run(opened.complete([{"role": "user", "content": "hi"}], []))
    (call,) = opened.calls
    lengths = [len(one.token_ids) for one in engine.completions]
    assert len(lengths) == 4 and len(set(lengths)) > 1
    best = lengths.index(max(lengths))
    assert call.completion_ids == engine.completions[best].token_ids
    assert call.sampling["seed"] == engine.requests[best].sampling.seed
    assert (call.sampling["best_of"], call.sampling["not_given_tokens"]) == (4, sum(lengths) - max(lengths))
    assert reply.num_completion_tokens == sum(lengths)
    assert engine.requests[0].sampling.seed == derive(7, 0), "the first is the one that would be drawn alone"
    assert len({request.prompt_ids for request in engine.requests}) == 1


def test_one_answer_is_drawn_without_it_and_its_record_is_as_before() -> None:
    engine = FakeEngine(by_seed)
    opened = door(engine, None)
    asyncio.run(opened.complete([{"role": "user", "content": "hi"}], []))
    assert len(engine.requests) == 1 and "best_of" not in opened.calls[0].sampling


def test_what_draws_the_same_answer_n_times_is_refused() -> None:
    with pytest.raises(ConfigError, match="best of 4 at temperature 0"):
        door(FakeEngine(by_seed), LONGEST, temperature=0.0)
    with pytest.raises(ConfigError, match="best of 1: there is nothing to choose"):
        BestOf(1, len, "none")


def attempts(best_of: BestOf | None) -> list[GradedAttempt]:
    """A desk agent that answers by its seed, through the one path."""
    engine = FakeEngine(by_seed)
    arm = replace(
        scripted_arm(oracle, WorldSpec(Desk), graders()),
        runner=ToolLoop(),
        engine=engine,
        chat=engine.chat,
        sampling=SamplingParams(1.0),
        prices=Prices(usd_per_million_tokens_in=0.0, usd_per_million_tokens_out=1e6, usd_per_cpu_second=0.0),
        best_of=best_of,
    )
    assert arm.conditions(0)["best_of"] == ("4 by longest" if best_of else "1")
    return asyncio.run(attempt_all(arm, tasks(3), num_trials=1, seed=0, concurrency=1, reduce=lambda g: g))


def test_an_attempt_pays_for_every_draw() -> None:
    for one, four in zip(attempts(None), attempts(LONGEST), strict=True):
        (call,) = four.attempt.trajectory.calls
        drawn = len(call.completion_ids) + call.sampling["not_given_tokens"]
        assert four.attempt.usage.tokens_out == drawn > one.attempt.usage.tokens_out
        assert four.attempt.cost_usd == pytest.approx(drawn), "a dollar a token"
        assert len(call.completion_ids) >= len(one.attempt.trajectory.calls[0].completion_ids)


def test_a_chosen_answer_may_be_imitated_and_enters_no_policy_gradient() -> None:
    (chosen, *_), (drawn, *_) = attempts(LONGEST), attempts(None)
    assert attempt_samples(chosen) and attempt_samples(drawn, np.ones(1))
    with pytest.raises(TrainError, match="was answered by the best of 4, which is no draw of the policy"):
        attempt_samples(chosen, np.ones(1))
