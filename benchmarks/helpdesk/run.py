"""The help desk over several seeds, and its main job timed: the targets of the project measured on one machine.

    python -m benchmarks.helpdesk.run --seeds 5       # make bench; a finished seed is not run again
    python -m benchmarks.helpdesk.run --demo          # `make demo` without the installation: time, memory, gain

A seed changes the policy's first weights, the order of training and every draw; the tasks stay the same. Runs and
their attempts are kept in the store of `--home`, so `flyball show RUN --home ...` tells any of them from end to end.
"""

from __future__ import annotations

import copy
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from benchmarks.helpdesk.claims import demo_findings, findings
from benchmarks.helpdesk.row import measure
from benchmarks.result import Finding, append_row, machine, publish, read_rows, rows_file
from flyball.cli.options import make_trainer
from flyball.cli.output import progress_for_terminal
from flyball.config import Settings
from flyball.errors import ConfigError, EvalError, FlyballError
from flyball.store.records import digest
from flyball.store.store import Store
from flyball.workflow.context import code_digest, run_config
from flyball.workflow.inputs import Inputs
from flyball.workflow.record import Record
from flyball.workflow.run import start
from flyball.workflow.trainer import Trainer
from flyball.workflow.workflow import Workflow, load_workflow

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path("examples/helpdesk/workflow.yaml")
PROOF = Path("examples/helpdesk/proof.yaml")
HOME = Path("runs/benchmarks/helpdesk")
REASONS = Path(__file__).with_name("reasons.json")
STOPPED = 130


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Run seeds 0 to SEEDS - 1.")
@click.option("--demo", is_flag=True, help="Time the main job instead.")
@click.option("--fresh", is_flag=True, help="Discard the rows of earlier runs.")
@click.option(
    "--reasons",
    "reasons_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON: why a claim was missed, by its id. Default: reasons.json beside this file, if it is there.",
)
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), default=ROOT / HOME, help="Store of the runs."
)
def main(seeds: int, demo: bool, fresh: bool, reasons_file: Path | None, home: Path) -> None:
    """Run what is not yet measured, then write the results."""
    try:
        reasons = read_reasons(reasons_file or REASONS) if reasons_file or REASONS.exists() else {}
        name = "demo" if demo else "helpdesk"
        rows = rows_file(name)
        if fresh:
            rows.unlink(missing_ok=True)
        found, command = _demo(rows, home) if demo else _seeds(seeds, rows, home)
        own = {claim: text for claim, text in reasons.items() if claim.startswith(f"{name}.")}
        results = publish(name, found, command=command, reasons=own)
    except FlyballError as exc:
        raise click.ClickException(str(exc)) from exc
    for result in results:
        print(f"{'holds ' if result.holds else 'MISSED'}  {result.id:26} {result.value:8.2f} {result.unit}")


def read_reasons(path: Path) -> dict[str, str]:
    """Return the reasons of missed claims by id. Raises ConfigError for a file that does not hold that."""
    try:
        reasons = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read as JSON: {exc}") from exc
    if not isinstance(reasons, dict) or not all(isinstance(text, str) for text in reasons.values()):
        raise ConfigError(f'{path}: a JSON object of claim id to text is needed: {{"helpdesk.end": "why"}}')
    return reasons


# --- seeds -----------------------------------------------------------------------------------------------------------


def _seeds(count: int, file: Path, home: Path) -> tuple[list[Finding], str]:
    workflow = load_workflow(ROOT / PROOF)
    now = conditions(run_config(Inputs(workflow), str(workflow.policy)))
    with Store(home) as store:
        for seed in range(count):
            rows = read_rows(file)
            check_alike(rows, now, file)
            if seed not in {row["seed"] for row in rows}:
                append_row(file, run_seed(workflow, seed, store, make_trainer()))
    rows = sorted((row for row in read_rows(file) if row["seed"] < count), key=lambda row: row["seed"])
    return findings(rows), f"python -m benchmarks.helpdesk.run --seeds {count}"


def run_seed(workflow: Workflow, seed: int, store: Store, trainer: Trainer) -> dict[str, Any]:
    """Run the whole workflow with one seed, by the path of `flyball run`, and return its row."""
    over = Settings.model_validate({"training": {"seed": seed}})
    started = time.perf_counter()
    finished = start(workflow.with_settings(over, workflow.marks), store, trainer, progress_for_terminal())
    minutes = (time.perf_counter() - started) / 60
    if finished.stopped:
        print(f"stopped; seed {seed} will begin again, finished seeds are kept", file=sys.stderr)
        raise SystemExit(STOPPED)
    return {"seed": seed, "minutes": minutes, **_measured(store, finished.run_id)}


def conditions(config: Mapping[str, Any]) -> dict[str, str]:
    """Return digests of what all seeds must share, from the config of a run: everything but the seed itself."""
    settings = copy.deepcopy(config["settings"])
    del settings["training"]["seed"]
    return {**config["fingerprint"], "settings": digest(settings)}


def check_alike(rows: Sequence[Mapping[str, Any]], now: Mapping[str, str], file: Path) -> None:
    """Raise EvalError when kept rows were made under other conditions: seeds of two jobs have no mean."""
    for row in rows:
        if changed := [what for what, value in now.items() if row["conditions"][what] != value]:
            raise EvalError(
                f"{file}: {' and '.join(changed)} changed since seed {row['seed']} was run; run all anew with --fresh"
            )


def _measured(store: Store, run_id: str) -> dict[str, Any]:
    record = Record.of(store, run_id)
    if record.release is None:
        raise EvalError(f"run {run_id} ended without a release, so its gates were never asked; run it again")
    return {
        "run": run_id,
        "conditions": conditions(record.run.config),
        "code": code_digest(),
        "machine": machine(),
        "untrained": record.results.get("controls", {}).get("untrained", {}),
        **measure(record.evals, record.release),
    }


# --- the main job ----------------------------------------------------------------------------------------------------


def _demo(file: Path, home: Path) -> tuple[list[Finding], str]:
    rows = read_rows(file)
    if not rows:
        append_row(file, run_demo(home))
        rows = read_rows(file)
    return demo_findings(rows[-1]), "python -m benchmarks.helpdesk.run --demo"


def run_demo(home: Path) -> dict[str, Any]:
    """Run the command of `make demo` in a process of its own and return its row, with wall time and peak memory."""
    command = [str(Path(sys.executable).with_name("flyball")), "run", str(DEMO), "--home", str(home)]
    started = time.perf_counter()
    ended = subprocess.run(command, cwd=ROOT, check=False)
    minutes = (time.perf_counter() - started) / 60
    if ended.returncode != 0:
        raise EvalError(f"the main job exited {ended.returncode}; what it said above names the cause")
    with Store(home) as store:
        measured = _measured(store, store.runs("run")[0].run_id)
    return {"minutes": minutes, "peak_rss_gib": peak_rss_of_children(), **measured}


def peak_rss_of_children() -> float:
    """Largest resident set of any finished child, in GiB; the kernel counts KiB on Linux and bytes on macOS."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 2**30


if __name__ == "__main__":
    main()
