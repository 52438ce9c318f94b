"""A workflow turned into what the rooms work with: tasks by split, the world, the graders, the runner, the prices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from flyball.agent.callable import CallableAgent
from flyball.agent.command import Command
from flyball.agent.hooks import Hooks
from flyball.agent.loop import ToolLoop
from flyball.agent.runner import AgentRunner
from flyball.capture.best_of import BestOf, ranked_by
from flyball.config import EngineSettings
from flyball.engine.protocol import SamplingParams
from flyball.errors import ConfigError, DatasetError, GraderError, nearest
from flyball.evals.fresh import FRESH, fresh_tasks
from flyball.evals.slices import Slice, check_slices
from flyball.evals.suite import Suite
from flyball.graders.anchors import Anchor, load_anchors, missed_anchors
from flyball.graders.grade import REWARD, SAFETY, SUCCESS, GraderSet
from flyball.graders.grader import Grader
from flyball.graders.make import as_grader
from flyball.graders.turns import TurnGrader
from flyball.release.hacking import AUDIT_SCORE, HACKING_GATE
from flyball.rl.algorithms import ALGORITHMS
from flyball.rl_settings import SamplingSettings
from flyball.rng import derive
from flyball.rollout.prices import Prices
from flyball.section import Section
from flyball.store.records import digest
from flyball.tasks.dataset import dataset_digest, load_tasks
from flyball.tasks.world import WorldSpec
from flyball.tools.permissions import Permissions
from flyball.tools.servers import tool_servers
from flyball.types import Limits, Task
from flyball.workflow.adapters import adapter_digest, check_adapter
from flyball.workflow.check import check_names, names_in_force, preset_of
from flyball.workflow.workflow import Workflow

D = TypeVar("D", Limits, Prices)
TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Inputs:
    """Read once per command. Every property raises the error of the boundary that is wrong."""

    workflow: Workflow
    reward_model: Path | None = None
    """folder of the reward model that learning reads in place of the workflow's `reward`"""

    @cached_property
    def tasks(self) -> list[Task]:
        """All tasks with the workflow's limits; where a task file sets its own, the task's win."""
        found = self._read_tasks()
        seen: dict[str, int] = {}
        for i, task in enumerate(found):
            if task.task_id in seen:
                raise DatasetError(f"tasks {seen[task.task_id]} and {i} share the id {task.task_id!r}; ids are unique")
            seen[task.task_id] = i
        if not found:
            raise DatasetError("the workflow has no tasks; give at least one with split 'train' and one with 'test'")
        return found

    def _read_tasks(self) -> list[Task]:
        source, limits = self.workflow.tasks, _over(Limits(), self.workflow.settings.limits)
        if isinstance(source, (str, Path)):
            path = self.workflow.folder / source
            files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
            if not files:
                raise DatasetError(f"{path}: no .jsonl file in this folder; a task file has one JSON object a line")
            return [task for file in files for task in load_tasks(file, limits)]
        made = source() if callable(source) else source
        if not isinstance(made, Sequence) or not all(isinstance(task, Task) for task in made):
            raise DatasetError(f"tasks gave {type(made).__name__}; it gives a list of flyball.types.Task")
        written = self.workflow.settings.limits
        return [replace(task, limits=_over(task.limits, written)) for task in made]

    @cached_property
    def splits(self) -> dict[str, list[Task]]:
        """Tasks by split, splits in the order in which they first appear."""
        found: dict[str, list[Task]] = {}
        for task in self.tasks:
            found.setdefault(task.split, []).append(task)
        return found

    def split(self, name: str) -> list[Task]:
        """Return the tasks of a split. Raises DatasetError when there is none."""
        if name not in self.splits:
            raise DatasetError(f"no task has split {name!r}; there are: {', '.join(self.splits)}")
        return self.splits[name]

    @cached_property
    def suites(self) -> list[Suite]:
        """The frozen suites of the evaluation settings."""
        evaluation = self.workflow.settings.evaluation
        return [
            Suite.of(name, self.split(name)[: evaluation.max_tasks], world_version=self.world.version)
            for name in evaluation.suites
        ]

    @cached_property
    def slices(self) -> list[Slice]:
        """The protected slices of the evaluation settings. Raises EvalError for one that no suite has a task of."""
        written = self.workflow.settings.evaluation.slices
        found = [
            Slice(name, {k: v if isinstance(v, tuple) else (v,) for k, v in one.where.items()}, one.margin)
            for name, one in written.items()
        ]
        check_slices(found, [task for suite in self.suites for task in suite.tasks])
        return found

    @cached_property
    def world(self) -> WorldSpec:
        """The user's world with the tool servers; MCP servers are asked for their tools here."""
        tools = self.workflow.settings.tools
        servers = tool_servers(tools, self.workflow.folder)
        return WorldSpec(self.workflow.world, self.workflow.approver, servers, Permissions.of(tools))

    @cached_property
    def graders(self) -> GraderSet:
        flow = self.workflow
        return GraderSet(
            success=as_grader(flow.success, SUCCESS, decides=True),
            reward=self._reward,
            safety=None if flow.safety is None else as_grader(flow.safety, SAFETY, decides=True),
            scores={name: as_grader(written, name) for name, written in (flow.scores or {}).items()},
            holdout={name: as_grader(written, name) for name, written in (flow.holdout or {}).items()},
            turn_reward=None if flow.turn_reward is None else TurnGrader(flow.turn_reward),
        )

    @property
    def _reward(self) -> Grader | None:
        if self.reward_model is not None:
            return as_grader({"type": "reward_model", "path": str(self.reward_model)}, REWARD)
        return None if self.workflow.reward is None else as_grader(self.workflow.reward, REWARD)

    @cached_property
    def anchors(self) -> list[Anchor]:
        """The attempts whose judgement is settled, none where the workflow names no file."""
        return [] if self.workflow.anchors is None else load_anchors(self.workflow.folder / self.workflow.anchors)

    @cached_property
    def runner(self) -> AgentRunner:
        """The built-in loop, or the user's agent."""
        agent = self.workflow.agent
        if agent is None:
            return ToolLoop(self.hooks)
        if isinstance(agent, Command):
            return agent.beside(self.workflow.folder)
        if callable(getattr(agent, "run", None)):
            return agent  # type: ignore[no-any-return]
        if callable(agent):
            return CallableAgent(agent)
        raise ConfigError(f"agent is {agent!r}; give an async function (attempt, client), fb.Command or fb.Http")

    @cached_property
    def engine(self) -> EngineSettings:
        """The settings of the engine, with the folders of its adapters by whole path."""
        written = self.workflow.settings.engine
        found = {name: str(self.workflow.folder / path) for name, path in (written.adapters or {}).items()}
        return written.model_copy(update={"adapters": found}) if found else written

    @cached_property
    def hooks(self) -> Hooks:
        flow = self.workflow
        return Hooks(flow.planner, flow.critic, tuple(flow.policy_checks))

    @cached_property
    def prices(self) -> Prices:
        return _over(Prices(), self.workflow.settings.prices)

    def sampling(self, settings: SamplingSettings) -> SamplingParams:
        """How this workflow draws; how long a completion may be is a limit of each task, which the door holds."""
        longest = max(task.limits.max_new_tokens for task in self.tasks)
        return SamplingParams(
            settings.temperature,
            longest,
            top_p=settings.top_p,
            top_k=settings.top_k,
            min_p=settings.min_p,
            stop=settings.stop,
        )

    @cached_property
    def best_of(self) -> BestOf | None:
        """How the evaluation picks among several answers to a turn; None where it draws one."""
        written = self.workflow.settings.evaluation.best_of
        if written is None:
            return None
        if self.workflow.settings.evaluation.temperature == 0:
            raise ConfigError(
                f"{self.workflow.marks.at(('evaluation', 'best_of'))}: at temperature 0 the best of {written.n} is one "
                "answer drawn again and again; set evaluation.temperature"
            )
        return ranked_by(self.workflow.folder / written.reward_model, written.n)

    def policy_folder_or_name(self, name: str) -> str:
        """A relative path is meant from the workflow's folder when it leads somewhere, so a file runs from anywhere."""
        beside = self.workflow.folder / name
        return str(beside) if beside.is_dir() else name

    def check(self) -> None:
        """Raise for whatever would stop a run later: names, tasks, the world opened for each task, graders."""
        check_names(self.workflow.settings, self.workflow.marks, names_in_force(set(self.splits)))
        self.world.servers.check()
        for task in self.tasks:
            self.world.check(task)
        if self.world.approver is not None and not self.world.asks_for_approval:
            raise ConfigError(
                f'approver would be ignored: no tool of {self.world.name} has approval="human"; remove it, or mark the '
                'tools that a person must approve with `@fb.tool(approval="human")`'
            )
        for folder in (self.engine.adapters or {}).values():
            check_adapter(Path(folder))
        self._check_fresh()
        self._check_audit()
        self._check_reward_model()
        self._check_curriculum()
        self._check_turns()
        _ = self.graders, self.runner, self.prices, self.slices, self.anchors, self.best_of

    def _check_fresh(self) -> None:
        asked = self.workflow.settings.evaluation.fresh_tasks is not None
        if asked and self.workflow.fresh is None:
            raise ConfigError(
                f"{self.workflow.marks.at(('evaluation', 'fresh_tasks'))}: fresh_tasks needs the workflow's `fresh`, a "
                "function (seed, n) that returns n new tasks"
            )
        if asked and FRESH in self.splits:
            raise ConfigError(f"a split of the tasks is called {FRESH!r}, as the suite of new tasks is; rename it")

    def fresh(self, run_id: str) -> list[Suite]:
        """The suite of new tasks that this run, and no other, judges by; none where the settings ask for none."""
        draw, n = self.workflow.fresh, self.workflow.settings.evaluation.fresh_tasks
        if draw is None or n is None:
            return []
        seed, limits = derive(self.workflow.settings.training.seed, run_id), self.workflow.settings.limits
        drawn = fresh_tasks(draw, n, seed=seed, known=self.tasks)
        tasks = [replace(task, limits=_over(task.limits, limits)) for task in drawn]
        for task in tasks:
            self.world.check(task)
        return [Suite.of(FRESH, tasks, world_version=self.world.version)]

    def _check_audit(self) -> None:
        asked = HACKING_GATE in (self.workflow.settings.release.gates or ())
        if asked and AUDIT_SCORE not in self.graders.scores:
            raise ConfigError(
                f"gate {HACKING_GATE!r} judges the score {AUDIT_SCORE!r}, which no grader gives; add "
                f"scores={{{AUDIT_SCORE!r}: {{'type': 'no_hacks'}}}} to the workflow"
            )

    def _check_curriculum(self) -> None:
        rl = self.workflow.settings.training.rl
        if rl is None or rl.curriculum is None:
            return
        levels, tasks = rl.curriculum.levels, self.splits.get(TRAIN, [])
        known = sorted({task.stage for task in tasks})
        for i, level in enumerate(levels):
            if level not in known:
                where = self.workflow.marks.at(("training", "rl", "curriculum", "levels", i))
                raise ConfigError(f"{where}: no training task has the stage {level!r}{nearest(level, known)}")
        at = self.workflow.marks.at(("training", "rl", "curriculum", "streams"))
        families = sorted({task.family for task in tasks})
        for name in rl.curriculum.streams:
            if name not in families:
                raise ConfigError(f"{at}: no training task has the family {name!r}{nearest(name, families)}")
        for level in levels if rl.curriculum.streams else ():
            if not any(task.stage == level and task.family in rl.curriculum.streams for task in tasks):
                raise ConfigError(f"{at}: no training task of level {level!r} is of one of these families; add its own")

    def _check_reward_model(self) -> None:
        name = self.workflow.settings.workflow.reward_model
        where = f"{self.workflow.marks.at(('workflow', 'reward_model'))}: "
        if name is not None and self.workflow.reward is not None:
            raise ConfigError(
                f"{where}the workflow's `reward` would be ignored: RL learns from the reward model {name!r}; remove one"
            )
        if name is not None and "rl" not in self.workflow.settings.training.order:
            raise ConfigError(
                f"{where}reward_model {name!r} would be ignored: no stage of this run is RL, which reads it; add rl to "
                "training.stages, or name the model in training.reward_model.name"
            )

    def _check_turns(self) -> None:
        preset = preset_of(self.workflow.settings)
        if preset is not None and ALGORITHMS[preset].reads_turns and self.workflow.turn_reward is None:
            raise ConfigError(
                f"preset {preset!r} learns from rewards on turns and this workflow gives none; pass `turn_reward`, a "
                "function (attempt, hidden) that returns one number per call of attempt.trajectory.calls, or choose "
                "preset 'rloo'"
            )

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Digest of everything that a resumed run must find unchanged, by what it is."""
        settings, adapters = self.workflow.settings, self.engine.adapters or {}
        found = {
            "settings": digest(settings.model_dump(exclude={"tracking"})),  # it is told, and decides nothing
            "tasks": dataset_digest(self.tasks),
            "world": self.world.version,
            "graders": self.graders.version,
            "agent": self.runner.name,
        }
        if adapters:
            found["adapters"] = digest({name: adapter_digest(Path(folder)) for name, folder in adapters.items()})
        return found


async def require_anchors(inputs: Inputs) -> None:
    """Let the graders judge the anchors: a changed grader is a new one and has to agree first (invariant 11).

    Raises GraderError when one is judged otherwise than people settled it.
    """
    missed = await missed_anchors(inputs.graders, inputs.anchors)
    if missed:
        raise GraderError(
            f"{len({miss.anchor for miss in missed})} of {len(inputs.anchors)} anchors are judged otherwise than "
            f"people settled them, so these graders may not judge a run: {'; '.join(map(str, missed[:3]))}. Mend the "
            "grader, or settle the anchor anew; `flyball doctor grader` shows all"
        )


def _over(base: D, section: Section) -> D:
    """Return the dataclass with the values that were set in the section."""
    return dataclasses.replace(base, **section.model_dump(exclude_none=True))
