"""The first hour of a team that trains nothing: capture, grade, try another prompt on the same tickets.

    python first_hour.py           # with the stand-in; see README.md for your own model

Both gateways are those of the YAML files, served in this process. Nothing in `agent.py` changes.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import agent
import click
from openai import AsyncOpenAI
from stand_in import app as stand_in
from tickets import grounded, success, tickets

import flyball as fb
from flyball.evals.compare import compare
from flyball.evals.run import task_result
from flyball.gateway.captured import attempt_of, captured_sessions
from flyball.gateway.grading import grade_live
from flyball.gateway.serve import build, serving
from flyball.gateway.settings import read_gateway_file
from flyball.graders.grade import GraderSet
from flyball.graders.make import as_grader
from flyball.stats.written import format_estimate
from flyball.store.spool import Spool
from flyball.store.store import Store
from flyball.types import Comparison, EvalRun

HERE = Path(__file__).parent


async def run_agent(gateway: str, tasks: Sequence[fb.Task]) -> None:
    """Let the agent serve every ticket, a session each: two environment variables and no change of its code."""
    os.environ["OPENAI_BASE_URL"] = f"{gateway}/v1"
    for task in tasks:
        os.environ["OPENAI_API_KEY"] = f"{os.environ['SHOP_KEY']}/{task.task_id}"
        order = {"days": task.public["days"], "cents": task.public["cents"]}
        shop = {"find_order": lambda order, found=order: found, "refund": lambda order, cents: {"refunded": cents}}
        async with AsyncOpenAI() as client:
            await agent.serve(task.public["message"], shop, client)


async def collect(file: Path, model: str, tasks: Sequence[fb.Task], folder: Path) -> Store:
    """Serve by a gateway's file while the agent works; returns the store with what was captured."""
    settings = read_gateway_file(file)
    upstreams = {name: each.model_copy(update={"url": f"{model}/v1"}) for name, each in settings.upstreams.items()}
    settings = settings.model_copy(update={"upstreams": upstreams, "store": str(folder / file.stem)})
    app = build(settings, Spool.claim(settings.spool))
    await app.start()
    try:
        async with serving(app) as gateway:
            await run_agent(gateway, tasks)
    finally:
        await app.close()
    store = Store(settings.store)
    store.ingest(settings.spool / "0")
    return store


async def evaluated(store: Store, tasks: Sequence[fb.Task], graders: GraderSet, version: str) -> EvalRun:
    """What was captured, as an evaluation: each session is the attempt at its ticket."""
    sessions = {name: calls for (_, name), calls in captured_sessions(store).items()}
    attempts = [replace(attempt_of(sessions[task.task_id]), task=task) for task in tasks]
    results = [task_result(await graders.grade(attempt)) for attempt in attempts]
    return EvalRun(version, version, "tickets", "tickets-0", graders.version, 1, tuple(results))


async def first_hour(folder: Path, num_tickets: int = 60) -> tuple[Comparison, int]:
    """Both prompts on the same tickets: the comparison, and how many live sessions were graded without a key."""
    tasks = tickets(num_tickets)
    known = GraderSet(as_grader(success, "success", decides=True))
    unknown = GraderSet(as_grader(grounded, "success", decides=True))
    async with serving(stand_in) as model:
        old = await collect(HERE / "gateway.yaml", model, tasks, folder)
        new = await collect(HERE / "gateway_new_prompt.yaml", model, tasks, folder)
    with old, new:
        graded = await grade_live(old, unknown, shares={"stable": 0.5})
        before = await evaluated(old, tasks, known, "prompt-1")
        after = await evaluated(new, tasks, known, "prompt-2")
    return compare(before, after), graded.graded


def main() -> None:
    """Run it and print what was found."""
    os.environ.setdefault("SHOP_KEY", "shop-key")
    os.environ.setdefault("FLYBALL_RECEIPT_KEY", "only for this example")
    with tempfile.TemporaryDirectory() as folder:
        found, graded = asyncio.run(first_hour(Path(folder)))
    click.echo(f"graded live sessions: {graded}")
    click.echo(f"prompt in force:      {format_estimate(found.baseline_estimate)}")
    click.echo(f"prompt on trial:      {format_estimate(found.candidate_estimate)}")
    click.echo(f"difference:           {format_estimate(found.difference, signed=True)}: {found.verdict}")


if __name__ == "__main__":
    main()
