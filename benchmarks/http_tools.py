"""HTTP tools under injected faults: 200 rollouts at a time, 5 % of requests answered 503, 2 % never; is a call lost?

    python -m benchmarks.http_tools              # 5 rounds of 200 rollouts with 8 calls each, about a minute

A scripted policy calls a tool of a server in another process, two calls a turn. A call is lost when a rollout has no
result for it, when the result is another call's, or when the server saw a try that no result tells of. A try that never
arrived (the machine was too busy to connect in time) is counted apart. Rollouts whose server could not be used end as
`tool_error` and count as accounted for.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import orjson

from benchmarks.result import RESULTS, Finding, append_row, bounds, publish, read_rows, rows_file
from flyball.config import FunctionSettings, HttpToolsSettings
from flyball.errors import EvalError
from flyball.evals.run import attempt_all
from flyball.evals.scripted import say, scripted_arm
from flyball.graders.grade import GraderSet
from flyball.graders.make import as_grader
from flyball.stats.binomial import wilson
from flyball.tasks.world import WorldSpec
from flyball.tools.http import HttpToolServer
from flyball.tools.servers import ToolServers
from flyball.types import Attempt, Limits, Message, Task

NAME = "http_tools"
ROLLOUTS, CALLS = 200, 8
FAILS, HANGS = 0.05, 0.02
TIMEOUT_SECONDS = 5.0
PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Desk:
    """You look things up."""

    def reset(self) -> str:
        return "look"


def script(task: Task) -> Iterator[Message]:
    """Two calls a turn."""
    for n in range(0, CALLS, 2):
        function = [{"name": "lookup", "arguments": f'{{"n": {n + i}}}'} for i in range(2)]
        yield {"role": "assistant", "content": "", "tool_calls": [{"function": f} for f in function]}
    yield say("done")


@contextmanager
def serving(seed: int) -> Iterator[str]:
    """The failing server in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.http_tools_server:app", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--log-level", "critical"], env={**os.environ, "FAULTS": f"{FAILS} {HANGS} {seed}"}
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def measure(rollouts: int, seed: int) -> dict[str, Any]:
    """One round: a row of counts."""
    with serving(seed) as address:
        function = FunctionSettings(name="lookup", description="Look up.", parameters=PARAMETERS)
        settings = HttpToolsSettings(url=f"{address}/call", functions=(function,), timeout_seconds=TIMEOUT_SECONDS)
        server = HttpToolServer("injected", settings)
        graders = GraderSet(as_grader(lambda attempt, hidden: True, "success", decides=True))
        arm = scripted_arm(script, WorldSpec(Desk, servers=ToolServers([server])), graders)
        tasks = [Task(f"t{i}", {}, limits=Limits(max_seconds=600.0)) for i in range(rollouts)]
        started = time.perf_counter()
        graded = await attempt_all(arm, tasks, num_trials=1, seed=seed, concurrency=rollouts, reduce=lambda g: g)
        seconds = time.perf_counter() - started
        await server.aclose()
        async with httpx.AsyncClient() as client:
            seen = (await client.get(f"{address}/log")).json()
    return {"seed": seed, "seconds": round(seconds, 2), **count([g.attempt for g in graded], seen, rollouts)}


def count(attempts: Sequence[Attempt], seen: Sequence[tuple[str, str, str]], rollouts: int) -> dict[str, Any]:
    """What became of every call, held against what the server saw."""
    at_server = Counter(call_id for call_id, _, _ in seen)
    calls = unanswered = crossed = uncounted = not_arrived = 0
    for attempt in attempts:
        results = {result.call_id: result for result in attempt.tool_results}
        for call in attempt.tool_calls:
            calls += 1
            result = results.get(call.call_id)
            if result is None:
                # The other call of the turn could not be served, and this one never began.
                unanswered += attempt.stop.value != "tool_error"
                continue
            expected = f"{attempt.task.task_id} {orjson.loads(call.arguments)['n']}"
            crossed += result.problem is None and result.content != expected
            sent = at_server[f"call_{attempt.trace_id.removeprefix('trace_')}_{call.call_id}"]
            if result.problem != "cancelled":
                uncounted += sent > result.tries or (result.problem is None and sent == 0)
                not_arrived += max(result.tries - sent, 0)
    problems = Counter(result.problem or "answered" for a in attempts for result in a.tool_results)
    return {
        "rollouts": rollouts,
        "ended": dict(Counter(attempt.stop.value for attempt in attempts)),
        "calls": calls,
        "lost": unanswered,
        "crossed": crossed,
        "uncounted": uncounted,
        "tries_not_arrived": not_arrived,
        "results": dict(problems),
        "requests": dict(Counter(what for _, _, what in seen)),
    }


def findings(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    """The claim of the rows. Raises EvalError without any."""
    if not rows:
        raise EvalError("no round was run; run at least one")
    calls = sum(row["calls"] for row in rows)
    lost = sum(row["lost"] + row["crossed"] + row["uncounted"] for row in rows)
    missing = sum(row["rollouts"] - sum(row["ended"].values()) for row in rows)
    requests = sum((Counter(row["requests"]) for row in rows), Counter[str]())
    total = sum(requests.values())
    details = {
        "rounds": len(rows),
        "rollouts": sum(row["rollouts"] for row in rows),
        "rollouts_without_an_end": missing,
        "ended": dict(sum((Counter(row["ended"]) for row in rows), Counter[str]())),
        "injected": {"failed": requests["failed"] / total, "hung": requests["hung"] / total, "requests": total},
        "tries_not_arrived": sum(row["tries_not_arrived"] for row in rows),
        "seconds_per_round": [row["seconds"] for row in rows],
    }
    return [
        Finding(
            f"{NAME}.lost",
            "200 concurrent rollouts lose no call of an HTTP tool under 5 % injected 5xx and 2 % hangs",
            "calls without a result of their own, or with a try at the server that no result tells of, over all: 0",
            lost / calls,
            bounds(wilson(lost, calls)),
            calls,
            "share",
            lost == 0 and missing == 0,
            details,
        )
    ]


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--rollouts", type=click.IntRange(min=1), default=ROLLOUTS, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="For the results.")
def main(rounds: int, rollouts: int, folder: Path) -> None:
    """Run the rounds, print each, and write the result."""
    path = rows_file(NAME, folder)
    path.unlink(missing_ok=True)
    for seed in range(rounds):
        row = asyncio.run(measure(rollouts, seed))
        append_row(path, row)
        print(row)
    found = findings(read_rows(path))
    publish(NAME, found, command=f"python -m benchmarks.{NAME}", reasons={}, folder=folder)
    print(f"{found[0].claim}: {'holds' if found[0].holds else 'MISSED'}, n={found[0].n}")


if __name__ == "__main__":
    main()
