"""Tokens per second of the local engine beside vLLM's CPU build, on one machine, model and type of number.

    python -m benchmarks.vllm_cpu --python /path/to/its/environment/bin/python --rounds 5 --fresh

`vllm_cpu.txt` says how to make that environment. vLLM runs in a process that is asked over a pipe; both keep their
process between rounds, the other one idles. Where vLLM does not start, nothing is written and the error is shown.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.generation import FLYBALL, Row, ids
from benchmarks.helpdesk.run import read_reasons
from benchmarks.result import Finding, append_row, median_ratio, publish, read_rows, rows_file
from benchmarks.speed import NEW, Drawn, Prompts, flyball, instructions, make_prompts, timed
from flyball.errors import EvalError, FlyballError
from flyball.models.load import load_model, pays_bfloat16
from flyball.models.names import find

NAME = "vllm_cpu"
VLLM = "vllm"
WORKER = Path(__file__).with_name("vllm_worker.py")
REASONS = Path(__file__).with_name("vllm_cpu_reasons.json")
LEAST = {32: 1.2, 64: 1.0}
SETTINGS = {
    "OMP_NUM_THREADS": str(os.cpu_count()),  # left out, vLLM serves with one thread of two
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


class Worker:
    """vLLM behind a pipe. Raises EvalError, with what it said, when it does not answer."""

    def __init__(self, python: Path, folder: Path, dtype: str) -> None:
        command = [str(python), str(WORKER), str(folder), dtype, str(NEW)]
        env = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **SETTINGS}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self._read()

    def __call__(self, prompts: Prompts, seed: int) -> list[Drawn]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts}) + "\n")
        self._process.stdin.flush()
        return [Drawn(tokens, logprobs) for tokens, logprobs in self._read()["drawn"]]

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def _read(self) -> dict[str, list[tuple[list[int], list[float]]]]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EvalError(f"vLLM ended with exit code {self._process.wait()}; its error is above")
        answer: dict[str, list[tuple[list[int], list[float]]]] = json.loads(line)
        return answer


@click.command()
@click.option("--python", required=True, type=click.Path(path_type=Path, exists=True), help="Of vLLM's environment.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(32, 64), show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--policy", default="smollm2-135m", show_default=True, help="Known name or model folder.")
@click.option("--fresh", is_flag=True, help="Discard the rows of earlier runs.")
def main(python: Path, batches: tuple[int, ...], rounds: int, policy: str, fresh: bool) -> None:
    """Measure, then write the results."""
    try:
        file = rows_file(NAME)
        if fresh:
            file.unlink(missing_ok=True)
        _measure(python, policy, batches, rounds, file)
        found = findings(read_rows(file))
        reasons = read_reasons(REASONS) if REASONS.exists() else {}
        command = f"python -m benchmarks.vllm_cpu --python PYTHON --rounds {rounds}"
        results = publish(NAME, found, command=command, reasons={k: v for k, v in reasons.items() if k in ids(found)})
    except FlyballError as exc:
        raise click.ClickException(str(exc)) from exc
    for result in results:
        print(f"{'holds ' if result.holds else 'MISSED'}  {result.id:24} {result.value:8.2f} {result.unit}")


def _measure(python: Path, policy: str, batches: Sequence[int], rounds: int, file: Path) -> None:
    done = {(row["batch"], row["round"]) for row in read_rows(file)}
    missing = [(b, r) for b in batches for r in range(rounds) if (b, r) not in done]
    if not missing:
        return
    folder = find(policy)
    model = load_model(folder)
    model = model.bfloat16() if pays_bfloat16(model) else model
    worker = Worker(python, folder, str(model.dtype).removeprefix("torch."))
    try:
        ways = {FLYBALL: flyball(model), VLLM: worker}
        for way in ways.values():
            timed(way, make_prompts(2, "different", 10**6), 0)
        for batch, number in missing:
            row = {"batch": batch, "round": number, "dtype": str(model.dtype), **instructions()}
            for name, way in ways.items():
                row[name] = timed(way, make_prompts(batch, "different", number), number)
                print(f"batch {batch} round {number}: {row[name]:7.1f} tokens/s  {name}", flush=True)
            append_row(file, row)
    finally:
        worker.close()


def findings(rows: Sequence[Row]) -> list[Finding]:
    """Return one claim for every batch in `rows`."""
    found = []
    for batch in sorted({row["batch"] for row in rows}):
        own = [row for row in rows if row["batch"] == batch]
        value, interval, n = median_ratio(own, FLYBALL, VLLM)
        least = LEAST.get(batch, 1.0)
        found.append(
            Finding(
                f"vllm_cpu.{batch}",
                f"batch {batch}, 64 new tokens after 100, logprobs on: at least {least:g} times vLLM's CPU build",
                f"median over rounds of the ratio of tokens/s, at least {least:g}",
                value,
                interval,
                n,
                "times",
                value >= least,
                {name: sorted(row[name] for row in own) for name in (FLYBALL, VLLM)},
            )
        )
    return found


if __name__ == "__main__":
    main()
