"""Versions through the frozen suites, compared, and the way back rehearsed: what `run` and `eval` share."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flyball.engine.protocol import Engine
from flyball.errors import EvalError
from flyball.evals.compare import compare
from flyball.evals.run import Arm, Turn, attempt_all, evaluate_in_turn, require_some
from flyball.evals.suite import Suite
from flyball.metrics import measured
from flyball.models.chat import ChatFormat
from flyball.release.evidence import TokenSpeed
from flyball.release.registry import Registry
from flyball.release.rollback import Drill, drill_rollback, loader
from flyball.rng import derive
from flyball.rollout.activity import Board, Watchdog
from flyball.rollout.attempt import run_attempt
from flyball.stats.binomial import wilson
from flyball.types import Attempt, Comparison, Estimate, EvalRun, GradedAttempt, PolicyVersion, Task
from flyball.workflow.calibrate import calibrate
from flyball.workflow.context import Context
from flyball.workflow.inputs import Inputs, require_anchors

PHASE = "eval"
ORDER = "order"
"""Kind of the event that keeps in which order the attempts at a suite began."""
ONE_SET_OF_WEIGHTS = ("vllm",)
"""Kinds of engine whose server serves one policy at a time, so that versions cannot be attempted in turn."""
BATCH = 32
"""Attempts written to the store at a time; a killed run evaluates the suite under way again."""


async def evaluate_suites(
    context: Context, pair: Sequence[PolicyVersion], alone: Sequence[PolicyVersion] = ()
) -> TokenSpeed:
    """Evaluate versions on each suite, leaving out what this run already has. Returns the token speed measured.

    Those of the `pair` (the candidate, and what it is compared with) attempt each task in turn, where the settings let
    them; those `alone` come one after the other. Every version meets the same seeds. Raises Stopped between attempts
    when asked to, and GraderError where the graders judge the anchors otherwise after a suite than before it.
    """
    settings = context.inputs.workflow.settings
    together = settings.evaluation.interleave
    if together is None:
        together = settings.engine.kind not in ONE_SET_OF_WEIGHTS
    pair = list({version.version_id: version for version in pair}.values())  # a policy against itself is one
    groups = [pair] if together else [[version] for version in pair]
    speed = None
    for group in (*groups, *([version] for version in alone)):
        async with AsyncExitStack() as stack:
            engines = [await stack.enter_async_context(engine_of(context, version)) for version in group]
            speed = speed or await calibrate(*engines[0])
            for suite in context.suites:
                if any(finished_eval(context, version, suite) is None for version in group):
                    await _evaluate(context, list(zip(group, engines, strict=True)), suite)
    if speed is None:
        raise EvalError("no version to evaluate; name at least one")
    return speed


def finished_eval(context: Context, version: PolicyVersion, suite: Suite) -> EvalRun | None:
    """Return the evaluation of a version on a suite that this run has finished."""
    found = context.store.evals(version.version_id, run_id=context.run_id, suite=suite.name)
    alike = [run for run in found if run.suite_digest == suite.digest]
    return alike[-1] if alike else None


def compare_first(context: Context, baseline: PolicyVersion, candidate: PolicyVersion) -> Comparison:
    """Compare success on the first suite, the one the run is about."""
    suite = context.inputs.suites[0]
    before, after = finished_eval(context, baseline, suite), finished_eval(context, candidate, suite)
    if before is None or after is None:
        raise EvalError(f"suite {suite.name!r} was not run by both versions; evaluate them first")
    return compare(before, after, "success", context.inputs.workflow.settings.evaluation.margin)


async def confirm(context: Context, version: PolicyVersion, tasks: Sequence[Task]) -> Estimate:
    """Success of a version on tasks that are no suite, as an evaluation draws; a missing outcome counts as failure."""
    inputs = context.inputs
    settings = inputs.workflow.settings
    async with engine_of(context, version) as (engine, chat):
        outcomes = await attempt_all(
            _arm(inputs, engine, chat, Board()),
            tasks,
            num_trials=1,
            seed=derive(settings.training.seed, "confirmation"),
            concurrency=settings.evaluation.concurrency,
            reduce=lambda graded: graded.outcome.success,
        )
    require_some(outcomes, "attempts at validation tasks")
    return wilson(sum(outcome is True for outcome in outcomes), len(outcomes))


async def rehearse_rollback(context: Context, baseline: PolicyVersion, candidate: PolicyVersion) -> Drill:
    """Alias back, old weights loaded, a task answered by the old version; timed."""
    task = context.inputs.suites[0].tasks[0]
    async with engine_of(context, baseline) as (engine, chat):

        async def probe() -> Attempt:
            return await run_attempt(
                task,
                world=context.inputs.world,
                runner=context.inputs.runner,
                engine=engine,
                chat=chat,
                sampling=context.inputs.sampling(context.inputs.workflow.settings.evaluation),
                seed=0,
                prices=context.inputs.prices,
            )

        registry = Registry(context.store, actor=f"run {context.run_id}")
        return await drill_rollback(registry, baseline=baseline, candidate=candidate, load=loader(engine), probe=probe)


async def _evaluate(
    context: Context, group: Sequence[tuple[PolicyVersion, tuple[Engine, ChatFormat]]], suite: Suite
) -> None:
    """Evaluate versions on a suite, in turn, and keep their runs and the order of their attempts."""
    inputs = context.inputs
    settings = inputs.workflow.settings.evaluation
    names = {version.version_id: version.name for version, _ in group}
    keeper = _Keeper(context, suite.name, names, len(suite.tasks) * settings.num_trials)
    board = Board()
    arms = {version.version_id: _arm(inputs, engine, chat, board) for version, (engine, chat) in group}
    try:
        with Watchdog(board, lambda stuck: context.progress.say(str(stuck))):
            runs, order = await evaluate_in_turn(
                suite,
                arms,
                num_trials=settings.num_trials,
                seed=inputs.workflow.settings.training.seed,
                concurrency=settings.concurrency,
                on_attempt=keeper.keep,
                slices=inputs.slices,
            )
    finally:
        keeper.flush()
    keeper.end()
    require_some([result.success for run in runs for result in run.results], f"attempts at the suite {suite.name!r}")
    await require_anchors(inputs)
    context.store.add_event(context.run_id, ORDER, order_record(suite.name, order))
    for run in runs:
        context.store.put_eval(replace(run, run_id=context.run_id))


def _arm(inputs: Inputs, engine: Engine, chat: ChatFormat, board: Board) -> Arm:
    """Who attempts, as the evaluation settings say."""
    return Arm(
        inputs.world,
        inputs.runner,
        engine,
        chat,
        inputs.sampling(inputs.workflow.settings.evaluation),
        inputs.graders,
        inputs.prices,
        board=board,
        best_of=inputs.best_of,
    )


def order_record(suite: str, order: Sequence[Turn]) -> dict[str, Any]:
    """The order in which attempts began, as JSON values: versions by their place in `versions`."""
    versions = list(dict.fromkeys(turn.version_id for turn in order))
    turns = [[versions.index(turn.version_id), turn.task_id, turn.trial] for turn in order]
    return {"suite": suite, "versions": versions, "turns": turns}


class _Keeper:
    """Writes attempts to the store in batches, shows the live success of the last version, and stops when asked to."""

    def __init__(self, context: Context, suite: str, names: Mapping[str, str], total_each: int) -> None:
        self._context, self._waiting, self._names = context, list[GradedAttempt](), names
        self._done, self._judged, self._succeeded = 0, Counter[str](), Counter[str]()
        context.progress.begin_part(f"{' and '.join(names.values())} on {suite}", len(names) * total_each)

    def keep(self, graded: GradedAttempt) -> None:
        self._waiting.append(graded)
        self._done += 1
        if isinstance(graded.outcome.success, bool):
            version = graded.attempt.versions["policy"]
            self._judged[version] += 1
            self._succeeded[version] += graded.outcome.success
        if len(self._waiting) >= BATCH:
            self.flush()
        self._context.progress.advance(self._done, self._live())
        self._context.stop.check()

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._context.store.add_attempts(self._context.run_id, PHASE, 0, waiting)

    def end(self) -> None:
        shares = (f"{self._succeeded[version]}/{self._judged[version]}" for version in self._names)
        self._context.progress.end_part(f"success {' and '.join(shares)}")

    def _live(self) -> dict[str, float]:
        version = list(self._names)[-1]
        succeeded, judged = self._succeeded[version], self._judged[version]
        return measured("success", wilson(succeeded, judged)) if judged else {}


@asynccontextmanager
async def engine_of(
    context: Context, version: PolicyVersion, concurrency: int | None = None
) -> AsyncIterator[tuple[Engine, ChatFormat]]:
    """An engine with the version's weights, for `concurrency` attempts at a time (unset = as many as evaluations)."""
    settings = context.inputs.workflow.settings
    at_once = concurrency or settings.evaluation.concurrency
    engine, chat = await context.trainer.open_engine(
        Path(version.path), context.inputs.engine, concurrency=at_once, seed=settings.training.seed
    )
    try:
        yield engine, chat
    finally:
        await engine.close()
