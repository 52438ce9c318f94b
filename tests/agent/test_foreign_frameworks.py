"""Agents of other frameworks are trained as they are: over HTTP, by a real model, on the tokens that it sampled.

A small policy is shown a few times how to count; then each agent of `examples/agents` is served, attempts groups of
tasks with it, and RL makes its steps from what came back.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import importlib
import json
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import uvicorn

from examples.agents import pantry
from examples.agents.serve import app
from flyball.agent.http import Http
from flyball.engine.fake import FakeEngine
from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.evals.run import Arm, attempt_all
from flyball.graders.grade import GraderSet
from flyball.graders.grader import FunctionGrader
from flyball.models.fake import tool_call_text
from flyball.models.hf_chat import HfChat
from flyball.models.load import new_tiny_model
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.rl.algorithms import algorithm
from flyball.rl.samples import weighted
from flyball.rollout.attempt import run_attempt
from flyball.tasks.world import WorldSpec
from flyball.train.learner import LocalLearner, LossSpec, OptimizerConfig
from flyball.train.progress import Progress
from flyball.train.rl_plan import RLPlan
from flyball.train.sft import demonstration_sample
from flyball.train.update import update
from flyball.types import Attempt, GradedAttempt, Limits, Message, StopReason, Task, TrainingSample
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import load_workflow

EXAMPLES = Path(pantry.__file__).parent
SHOWN, NUM_STEPS, TASKS_PER_STEP, GROUP_SIZE = 130, 2, 3, 4
WARM = 1.4  # attempts of a group that are all alike would cancel out, and strict tools leave less to differ in
FRAMEWORKS = {"openai_sdk": "openai", "langgraph": "langgraph", "openai_agents": "agents", "pydantic_ai": "pydantic_ai"}
LIMITS = Limits(max_turns=4, max_new_tokens=40, max_tokens=512)
SHAPE = TinyConfig(500, hidden_size=72, intermediate_size=64, num_layers=2, head_dim=32, max_context=512)
TASKS = [replace(task, limits=LIMITS) for task in pantry.tasks(32)]
WORLD = WorldSpec(pantry.Pantry)


def demonstration(task: Task) -> list[Message]:
    call = {"name": "count", "arguments": json.dumps({"item": task.public["item"]})}
    return [
        {"role": "system", "content": WORLD.system},
        {"role": "user", "content": f"How many {task.public['item']}?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c", "name": "count", "content": str(task.hidden["count"])},
        {"role": "assistant", "content": str(task.hidden["count"])},
    ]


@pytest.fixture(scope="module")
def started() -> LocalLearner:
    """A policy that has seen how it is done, and does it more often than not."""
    torch.set_num_threads(1)
    written = [f'{{"name": "count", "arguments": {{"item": "{item}"}}}}' for item in pantry.ITEMS]
    said = [message["content"] for task in TASKS for message in demonstration(task)]
    tokenizer = train_tokenizer([*said, *written], SHAPE.vocab_size)
    learner = LocalLearner(new_tiny_model(SHAPE, tokenizer, 0), tokenizer, OptimizerConfig(lr=1e-2))
    chat, schemas = HfChat(tokenizer), WORLD.schemas(TASKS[0])
    samples = [demonstration_sample(chat, demonstration(task), schemas) for task in TASKS]
    for step in range(SHOWN):
        learner.forward_backward(weighted(samples[step * 8 % 32 :][:8], "token-mean"), LossSpec("sft"))
        learner.optim_step(1 - step / SHOWN)
    return learner


class Recorder(LocalEngine):
    """The engine, with a record of its own of what it was asked and what it sampled."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, num_slots=16, tokenizer=tokenizer)
        self.drawn: list[tuple[Request, Completion]] = []

    async def generate(self, request: Request) -> Completion:
        completion = await super().generate(request)
        self.drawn.append((request, completion))
        return completion


def every_other(a: Attempt, hidden: Any) -> float:
    """Half of a group is rewarded whatever it did, so that every group has something to teach and all is trained."""
    return float(a.group_index % 2)


@dataclass
class Trained:
    """What one run left: attempts, what the engine sampled, and the samples that the learner was given."""

    graded: list[GradedAttempt] = field(default_factory=list)
    drawn: list[tuple[Request, Completion]] = field(default_factory=list)
    samples: list[TrainingSample] = field(default_factory=list)
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    after: dict[str, torch.Tensor] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def served(agent: ModuleType) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app(agent.answer), log_level="error", lifespan="on"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def train(agent: ModuleType, start: LocalLearner) -> Trained:
    """`NUM_STEPS` steps of RL with the agent as it is."""
    model = copy.deepcopy(start.model)
    learner = LocalLearner(model, start.tokenizer, OptimizerConfig(lr=1e-3), temperature=WARM)
    reference = LocalLearner(copy.deepcopy(model), start.tokenizer, OptimizerConfig(), temperature=WARM)
    engine = Recorder(copy.deepcopy(model), start.tokenizer)
    trained = Trained(before=copy.deepcopy(model.state_dict()))
    plan = RLPlan(algorithm("rloo"), NUM_STEPS, TASKS_PER_STEP, 0, 1, warmup_steps=1)
    learn = learner.forward_backward

    def forward_backward(samples: Sequence[TrainingSample], spec: LossSpec) -> dict[str, float]:
        trained.samples += samples
        return learn(samples, spec)

    learner.forward_backward = forward_backward  # type: ignore[method-assign]
    async with served(agent) as url:
        graders = GraderSet(FunctionGrader(pantry.success, "success"), FunctionGrader(every_other, "reward"))
        arm = Arm(WORLD, Http(url), engine, HfChat(start.tokenizer), SamplingParams(WARM), graders)
        for step in range(NUM_STEPS):
            engine.use_weights(learner.model.state_dict(), learner.version)
            tasks = TASKS[step * TASKS_PER_STEP :][:TASKS_PER_STEP]
            flat = await attempt_all(
                arm, tasks, num_trials=GROUP_SIZE, seed=step, concurrency=16, reduce=lambda graded: graded
            )
            groups = [flat[i : i + GROUP_SIZE] for i in range(0, len(flat), GROUP_SIZE)]
            update(learner, reference, groups, plan, Progress(step=step))
            trained.graded += flat
    await engine.close()
    trained.drawn, trained.after = engine.drawn, learner.model.state_dict()
    return trained


@pytest.fixture(scope="module", params=FRAMEWORKS)
def trained(request: pytest.FixtureRequest, started: LocalLearner) -> Trained:
    pytest.importorskip(FRAMEWORKS[request.param], reason="pip install 'flyball[examples-agents]'")
    return asyncio.run(train(importlib.import_module(f"examples.agents.{request.param}.agent"), started))


def test_the_agent_uses_its_tools_and_answers(trained: Trained) -> None:
    attempts = [graded.attempt for graded in trained.graded]
    assert len(attempts) == NUM_STEPS * TASKS_PER_STEP * GROUP_SIZE
    stops = {attempt.stop for attempt in attempts}
    assert not stops & {StopReason.AGENT_ERROR, StopReason.ENGINE_ERROR, StopReason.WORLD_ERROR}, stops
    counted = [a for a in attempts if any(r.name == "count" and r.problem is None for r in a.tool_results)]
    assert len(counted) > len(attempts) / 3
    successes = sum(graded.outcome.success is True for graded in trained.graded)
    assert successes > 0
    for attempt in attempts:  # every result lies with the call that asked for it
        for call in attempt.trajectory.calls:
            assert {result.call_id for result in call.tool_results} <= {tc.call_id for tc in call.tool_calls}


def test_every_trained_token_is_one_that_the_engine_sampled(trained: Trained) -> None:
    sampled = {(_attempt_id(request), request.prompt_ids + c.token_ids): c for request, c in trained.drawn}
    num_trained = 0
    for sample in trained.samples:
        ids, trained_here = tuple(sample.token_ids.tolist()), 0
        for end in range(1, len(ids) + 1):
            completion = sampled.get((sample.attempt_id, ids[:end]))
            if completion is None:
                continue
            begin = end - len(completion.token_ids)
            assert sample.loss_mask[begin:end].all()
            assert tuple(sample.token_ids[begin:end].tolist()) == completion.token_ids
            assert sample.sampling_logprobs[begin:end].tolist() == pytest.approx(completion.logprobs, abs=0.0, rel=1e-6)
            assert tuple(sample.policy_versions[begin:end].tolist()) == completion.policy_versions
            trained_here += end - begin
        assert trained_here == sample.loss_mask.sum()
        num_trained += trained_here
    assert num_trained == sum(len(completion.token_ids) for _, completion in trained.drawn) > 0


def _attempt_id(request: Request) -> str:
    return request.session.partition("-")[0]


def test_nothing_that_the_engine_sampled_is_lost_or_told_twice(trained: Trained) -> None:
    calls = [call for graded in trained.graded for call in graded.attempt.trajectory.calls]
    assert sorted(call.completion_ids for call in calls) == sorted(c.token_ids for _, c in trained.drawn)
    assert {call.drift for call in calls} <= {"clean", "realigned"}  # some frameworks trim what was said
    for graded in trained.graded:
        *before, _ = graded.attempt.trajectory.calls
        left_out = [c for c in before if not c.tool_calls and not c.message["content"].strip()]  # by Pydantic AI
        branches = list(graded.attempt.trajectory.branches())
        assert len(branches) == 1 + len(left_out)
        assert sum(branch.loss_mask.sum() for branch in branches) == graded.attempt.usage.tokens_out


def test_the_weights_have_changed(trained: Trained) -> None:
    assert all(torch.isfinite(weights).all() for weights in trained.after.values())
    assert any(not torch.equal(trained.before[name], weights) for name, weights in trained.after.items())


BLUNDERS = {
    "a tool that does not exist": tool_call_text("cuont", item="figs"),
    "an argument that does not exist": tool_call_text("count", thing="figs"),
    "arguments that are no object": '<tool_call>{"name": "count", "arguments": [1]}</tool_call>',
    "a call that cannot be read": "<tool_call>{oops</tool_call>",
    "an item that is not there": tool_call_text("count", item="gold"),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_the_policy_does_wrong_is_its_own_failure_and_never_the_agents(framework: str) -> None:
    pytest.importorskip(FRAMEWORKS[framework], reason="pip install 'flyball[examples-agents]'")
    agent = importlib.import_module(f"examples.agents.{framework}.agent")
    engines = {blunder: FakeEngine([turn, "I do not know."]) for blunder, turn in BLUNDERS.items()}

    async def go() -> dict[str, Attempt]:
        async with served(agent) as url:
            runner = Http(url)

            async def attempt(engine: FakeEngine) -> Attempt:
                how: Any = {"runner": runner, "engine": engine, "chat": engine.chat, "sampling": SamplingParams()}
                return await run_attempt(replace(TASKS[0], limits=Limits()), world=WORLD, seed=0, **how)

            done = await asyncio.gather(*map(attempt, engines.values()))
            return dict(zip(engines, done, strict=True))

    for blunder, done in asyncio.run(go()).items():
        assert done.stop is StopReason.ANSWERED, (blunder, done.trajectory.detail)
        assert len(done.trajectory.calls) == len(engines[blunder].completions), blunder


def test_the_workflow_beside_the_agents_is_complete() -> None:
    inputs = Inputs(load_workflow(EXAMPLES / "workflow.py"))
    inputs.check()
    assert inputs.runner.name == "http(http://127.0.0.1:8100/run)"
    assert {split: len(tasks) for split, tasks in inputs.splits.items()} == {"train": 64, "validation": 32, "test": 32}


def test_no_agent_imports_what_trains_it() -> None:
    agents = sorted(EXAMPLES.glob("*/agent.py"))
    assert [path.parent.name for path in agents] == sorted(FRAMEWORKS)
    assert not [path for path in agents if "flyball" in path.read_text()]
