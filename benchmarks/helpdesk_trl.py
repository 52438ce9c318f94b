"""Wall time to the same held-out success on the help desk, beside TRL's GRPOTrainer, on a CPU.

    python -m benchmarks.helpdesk_trl --rival /path/of/your/choice/bin/python

How to make the environment of the rival is said in requirements-rivals.txt. Each seed imitates once (the `sft` of
examples/helpdesk/workflow.yaml); both sides start from that policy and learn from the same tasks and reward, in batches
of the same size with the same learning rate, until success on held-out tasks is `--gain` points above the start's.
Held-out success is measured after every batch of either side, by the same code at the same draws. (15 points lie where
a constant learning rate levels off: our first 28 batches came to 12 above and hung there.) The clock runs while
a side samples, grades and learns; measuring, saving and loading are not in it. We go first: where we arrived, TRL's run
ends at the latest after `--times` our seconds.

TRL runs its own tool loop, which has no turn for the customer to answer in. So the tasks of both sides are those whose
ticket names its order (9 of 10): there the customer never answers. A run that the cap ends is a lower bound: TRL's
makes the ratio of its seed one, ours makes it 0. TRL counts tokens over the whole conversation, we by turn.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.helpdesk.run import read_reasons
from benchmarks.result import Finding, append_row, median_ratio, publish, read_rows, rows_file
from benchmarks.rival import Rival
from flyball.errors import EvalError, FlyballError
from flyball.evals.run import Arm, attempt_all
from flyball.models.hf_chat import load_chat
from flyball.types import Task
from flyball.workflow.demonstrations import make_demonstrations
from flyball.workflow.inputs import TRAIN, Inputs
from flyball.workflow.local_trainer import RL_EPS, LocalTrainer
from flyball.workflow.trainer import RLJob, SFTJob, Watch
from flyball.workflow.workflow import load_workflow

NAME = "helpdesk_trl"
ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / "examples/helpdesk/workflow.yaml"
HOME = ROOT / "runs/benchmarks/helpdesk_trl"
REASONS = Path(__file__).with_name("helpdesk_trl_reasons.json")
HELD_OUT = ("validation", "test")
FLYBALL, TRL = "flyball", "trl"
LEAST = 5.0
MANY_STEPS = 1000
"""More than a run can take: the learning rate hardly falls, as TRL's does not."""
CONVERSATION = 512
"""Tokens of a conversation after its prompt that TRL may use: twice what the clerk's longest takes."""
CONCURRENCY = 64


@click.command()
@click.option("--rival", type=click.Path(exists=True, path_type=Path), required=True, help="Python that has TRL.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--gain", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True, help="Points.")
@click.option(
    "--cap", type=click.FloatRange(min=1), default=1800.0, show_default=True, help="Seconds of a run's clock."
)
@click.option(
    "--times", type=click.FloatRange(min=LEAST, min_open=True), default=8.0, show_default=True, help="Our seconds."
)
@click.option("--held-out", type=click.IntRange(min=1), help="Held-out tasks; unset = all.")
@click.option("--setting", "given", multiple=True, help="Of TRL's GRPOConfig, as NAME=JSON, over ours.")
@click.option("--fresh", is_flag=True, help="Discard the rows of earlier runs.")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), default=HOME, help="Folder of the policies.")
def main(
    rival: Path,
    seeds: int,
    gain: float,
    cap: float,
    times: float,
    held_out: int | None,
    given: tuple[str, ...],
    fresh: bool,
    home: Path,
) -> None:
    """Run the seeds and sides that are missing, then write the results."""
    try:
        file = rows_file(NAME)
        if fresh:
            file.unlink(missing_ok=True)
        desk = HelpDesk(held_out, gain, home)
        settings = {**trl_settings(desk), **_read_settings(given)}
        for seed in range(seeds):
            done = {row["side"]: row for row in read_rows(file) if row["seed"] == seed}
            own = done.get(FLYBALL) or desk.flyball(seed, cap)
            if FLYBALL not in done:
                append_row(file, {"seed": seed, "side": FLYBALL, **own})
            if TRL not in done:
                longest = min(cap, times * own["seconds"]) if own["reached"] else cap
                run = desk.trl(seed, rival, settings, longest)
                append_row(file, {"seed": seed, "side": TRL, "settings": settings, **run})
        command = f"python -m benchmarks.helpdesk_trl --rival PYTHON --seeds {seeds} --gain {gain:g} --cap {cap:g}"
        command += f" --times {times:g}" + (f" --held-out {held_out}" if held_out else "")
        reasons = read_reasons(REASONS) if REASONS.exists() else {}
        for result in publish(NAME, [finding(read_rows(file), gain)], command=command, reasons=reasons):
            print(f"{'holds ' if result.holds else 'MISSED'}  {result.id} {result.value:.2f} {result.unit}")
    except FlyballError as exc:
        raise click.ClickException(str(exc)) from exc


def trl_settings(desk: HelpDesk) -> dict[str, Any]:
    """Our batch, learning rate and optimizer in TRL's words; what else is in a GRPOConfig stays at its default.

    Without checkpointing and in float32, which is faster for a policy of 1.6 million weights.
    """
    rl = desk.rl
    return {
        "learning_rate": rl.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 3 * rl.updates_per_batch,
        "adam_epsilon": RL_EPS,
        "max_grad_norm": rl.max_grad_norm,
        "per_device_train_batch_size": rl.tasks_per_step * rl.group_size // rl.updates_per_batch,
        "steps_per_generation": rl.updates_per_batch,
        "num_generations": rl.group_size,
        "max_completion_length": CONVERSATION,
        "max_tool_calling_iterations": desk.train[0].limits.max_turns - 1,
        "temperature": rl.temperature,
        "gradient_checkpointing": False,
        "bf16": False,
        "max_steps": MANY_STEPS * rl.updates_per_batch,
        "disable_tqdm": True,
    }


def _read_settings(given: Sequence[str]) -> dict[str, Any]:
    settings = {}
    for each in given:
        name, _, value = each.partition("=")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError as exc:
            raise EvalError(f'--setting {each}: NAME=JSON is needed, such as loss_type="grpo" ({exc})') from exc
    return settings


class Clock:
    """Seconds that one side learned and its held-out success after every batch, until it is there or out of time."""

    def __init__(self, side: str, seed: int, target: float, cap: float) -> None:
        self._words, self._target, self._cap = f"seed {seed} {side}", target, cap
        self.history: list[tuple[float, float]] = []

    def add(self, seconds: float, success: float) -> None:
        """One batch more."""
        total = seconds + (self.history[-1][0] if self.history else 0.0)
        self.history.append((total, success))
        print(f"{self._words}: {len(self.history)} batches, {total:7.1f} s, {success:.1%}", flush=True)

    @property
    def reached(self) -> bool:
        return bool(self.history) and self.history[-1][1] >= self._target

    @property
    def over(self) -> bool:
        return self.reached or (bool(self.history) and self.history[-1][0] >= self._cap)

    def row(self) -> dict[str, Any]:
        """What is kept of the run."""
        return {
            "seconds": self.history[-1][0],
            "reached": self.reached,
            "target": self._target,
            "history": self.history,
        }


class HelpDesk:
    """The job that both sides do."""

    def __init__(self, held_out: int | None, gain: float, home: Path) -> None:
        workflow = load_workflow(WORKFLOW)
        assert workflow.settings.training.rl is not None
        self.inputs, self.rl = Inputs(workflow), workflow.settings.training.rl
        self.train = [task for task in self.inputs.split(TRAIN) if _names_its_order(task)]
        held = [task for split in HELD_OUT for task in self.inputs.split(split) if _names_its_order(task)]
        self.held_out = held[:held_out]
        self._gain, self._home = gain / 100, home
        self._trainer = LocalTrainer()
        self._starts: dict[int, Path] = {}

    def start(self, seed: int) -> Path:
        """The policy that both sides start from; the second to ask gets what the first made."""
        if seed not in self._starts:
            self._starts[seed] = self._imitate(seed)
        return self._starts[seed]

    def _imitate(self, seed: int) -> Path:
        folder = self._home / f"start-{seed}"
        sft = self.inputs.workflow.settings.training.sft
        assert sft is not None
        train, validation = asyncio.run(make_demonstrations(self.inputs, lambda done, total: None))
        policy = self._trainer.find_policy(self.inputs.policy_folder_or_name(str(self.inputs.workflow.policy)))
        settings = sft.model_copy(update={"max_minutes": None})
        job = SFTJob(policy, train, validation, self.inputs, settings, seed, folder)
        return asyncio.run(self._trainer.sft(job, _watch())).folder

    def success(self, policy: Path, seed: int) -> float:
        """Success of a policy on the held-out tasks; what gave no outcome counts as a failure."""
        return asyncio.run(self._success(policy, seed))

    async def _success(self, policy: Path, seed: int) -> float:
        settings = self.inputs.workflow.settings
        engine, chat = await self._trainer.open_engine(policy, settings.engine, concurrency=CONCURRENCY, seed=seed)
        sampling = self.inputs.sampling(settings.evaluation)
        arm = Arm(self.inputs.world, self.inputs.runner, engine, chat, sampling, self.inputs.graders)
        try:
            found = await attempt_all(
                arm,
                self.held_out,
                num_trials=1,
                seed=seed,
                concurrency=CONCURRENCY,
                reduce=lambda graded: graded.outcome.success,
            )
        finally:
            await engine.close()
        return sum(success is True for success in found) / len(found)

    def flyball(self, seed: int, cap: float) -> dict[str, Any]:
        """Our trainer, validating after every batch."""
        start = self.start(seed)
        clock = self._clock(FLYBALL, seed, start, cap)
        folder = self._home / f"{FLYBALL}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # a run that was cut off begins again
        update = {
            "num_steps": MANY_STEPS,
            "max_minutes": None,
            "validate_every": 1,
            "validation_tasks": len(self.held_out),
        }
        settings = self.rl.model_copy(update=update)

        def step(done: int, total: int, metrics: Mapping[str, float]) -> None:
            seconds = sum(metrics[part] for part in ("rollout_seconds", "train_seconds", "weights_seconds"))
            clock.add(seconds, metrics["validation_success"])

        job = RLJob(start, self.train, self.held_out, self.inputs, settings, settings.preset, seed, folder)
        asyncio.run(self._trainer.rl(job, _watch(step, lambda: clock.over)))
        return clock.row()

    def trl(self, seed: int, python: Path, settings: Mapping[str, Any], cap: float) -> dict[str, Any]:
        """TRL in its own process; its weights are measured after every batch, while it waits."""
        start, out = self.start(seed), self._home / f"{TRL}-{seed}"
        clock = self._clock(TRL, seed, start, cap)
        shutil.rmtree(out, ignore_errors=True)
        rows = [self._row(task) for task in self.train]
        chat = load_chat(start)
        job = {
            "folder": str(start),
            "out": str(out),
            "settings": {**settings, "seed": seed},
            "updates": settings["steps_per_generation"],
            "rows": rows,
            "prompt_ids": chat.render(rows[0]["prompt"], self.inputs.world.schemas(self.train[0])),
        }
        environment = {"PYTHONPATH": str(ROOT / "src"), "TRL_EXPERIMENTAL_SILENCE": "1"}
        with Rival(python, "helpdesk_trl_side.py", job, environment) as rival:
            while not clock.over:
                seconds = rival.step()["seconds"]
                clock.add(seconds, self.success(out, seed))
        return clock.row()

    def _clock(self, side: str, seed: int, start: Path, cap: float) -> Clock:
        return Clock(side, seed, self.success(start, seed) + self._gain, cap)

    def _row(self, task: Task) -> dict[str, Any]:
        asked = {"role": "user", "content": task.public["ticket"]}
        prompt = [{"role": "system", "content": self.inputs.world.system}, asked]
        return {"prompt": prompt, **task.public, "hidden": json.dumps(task.hidden)}


def _names_its_order(task: Task) -> bool:
    """Whether the customer has nothing to add: `Desk.user_reply` answers only to tickets without an order number."""
    from desk import ORDER_NUMBER  # of the workflow's folder, which load_workflow put on the path

    return ORDER_NUMBER.search(task.public["ticket"]) is not None


def _watch(step: Any = lambda done, total, metrics: None, should_stop: Any = lambda: False) -> Watch:
    return Watch(step, lambda phase, number, graded: None, should_stop)


def finding(rows: Sequence[Mapping[str, Any]], gain: float) -> Finding:
    """The ratio over the seeds that both sides ran."""
    seeds = sorted({row["seed"] for row in rows})
    runs = {(row["seed"], row["side"]): row for row in rows}
    pairs = [(runs[s, FLYBALL], runs[s, TRL]) for s in seeds if (s, FLYBALL) in runs and (s, TRL) in runs]
    seconds = [{FLYBALL: own["seconds"] if own["reached"] else math.inf, TRL: trl["seconds"]} for own, trl in pairs]
    value, interval, n = median_ratio(seconds, TRL, FLYBALL)
    bounds = [trl["seed"] for _, trl in pairs if not trl["reached"]]
    details = {
        "by_seed": {
            str(own["seed"]): {
                "flyball_seconds": own["seconds"],
                "flyball_reached": own["reached"],
                "trl_seconds": trl["seconds"],
                "trl_reached": trl["reached"],
                "batches": [len(own["history"]), len(trl["history"])],
            }
            for own, trl in pairs
        },
        "lower_bounds": bounds,
        "settings_of_trl": pairs[0][1]["settings"],
    }
    return Finding(
        f"{NAME}.time_to_success",
        f"help desk, {gain:g} points above the imitating start on held-out tasks: time of learning, TRL 1.16 over ours",
        f"median over seeds of the ratio of seconds at least {LEAST:g}; a lower bound where the cap ended TRL's run",
        value,
        interval,
        n,
        "times",
        value >= LEAST,
        details,
    )


if __name__ == "__main__":
    main()
