"""The gateway against its targets: added latency, processor time against LiteLLM's proxy, start, kill switch, tokens.

    python -m benchmarks.gateway --litellm /path/of/venv/bin/litellm          # about 12 minutes
    python -m benchmarks.gateway --part kill --part exact                     # some parts, each written when done

Rounds of a part are interleaved: the mock upstream alone, the gateway, LiteLLM, and again. Requests leave by a clock
(open loop), so a server that stalls is charged for those that wait. Latency is that of the client, from before the
connection is asked for to the last byte; added = the quantile through the gateway minus the quantile without it.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np
import orjson
from openai import AsyncOpenAI

from benchmarks.gateway_servers import KEY, RECEIPT_KEY, TEXT, Running, gateway_server, litellm_server, mock_server
from benchmarks.result import RESULTS, Finding, append_row, bounds, publish, read_rows, rows_file
from flyball.capture.sessions import SessionDoors
from flyball.engine.fake import FakeEngine, Prompt
from flyball.engine.protocol import SamplingParams
from flyball.gateway.captured import captured_sessions
from flyball.gateway.serve import build, serving
from flyball.gateway.settings import GatewaySettings
from flyball.models.fake import tool_call_text
from flyball.release.routing import RoutingTable
from flyball.stats.binomial import wilson
from flyball.store.audit import Act
from flyball.store.records import from_json
from flyball.store.spool import Spool
from flyball.store.store import Store

NAME = "gateway"
RATE = 500
"""Requests a second of the claims; two fifths of it for the kill switch."""
PROMPT = {"role": "user", "content": TEXT * 8}
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


@dataclass(frozen=True)
class Options:
    """How much of each part is run."""

    rounds: int
    seconds: float
    sessions: int
    rate: int
    litellm: str | None
    folder: Path


# --- load ------------------------------------------------------------------------------------------------------------


async def load(
    url: str,
    rate: int,
    seconds: float,
    on_answer: Callable[[dict[str, Any]], None] | None = None,
    sessions: str = "s",
) -> list[float]:
    """Send `rate` requests a second; the seconds that each took. An answer that is no 200 ends the benchmark.

    `sessions`: how the name of each request's session begins.
    """
    taken: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=HEADERS) as client:

        async def one(i: int, due: float) -> None:
            body = orjson.dumps({"model": "old", "messages": [PROMPT]})
            headers = {"x-flyball-session": f"{sessions}{i}"}
            async with client.post(f"{url}/v1/chat/completions", data=body, headers=headers) as answer:
                read = await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{url} answered {answer.status}: {read[:200]!r}")
            taken.append(time.perf_counter() - due)
            if on_answer is not None:
                on_answer(orjson.loads(read))

        begun, tasks = time.perf_counter(), []
        for i in range(int(rate * seconds)):
            due = begun + i / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(one(i, due)))
        await asyncio.gather(*tasks)
    return taken


def quantiles(taken: Sequence[float]) -> dict[str, float]:
    return {f"p{q}_ms": round(1e3 * float(np.quantile(taken, q / 100)), 3) for q in (50, 99)}


# --- parts -----------------------------------------------------------------------------------------------------------


def latency(options: Options, folder: Path) -> list[dict[str, Any]]:
    """Rounds with and without the gateway, at 500 requests a second."""
    rows = []
    with mock_server() as mock, gateway_server(folder, mock.url) as gateway:
        for url in (mock.url, gateway.url):
            asyncio.run(load(url, options.rate // 5, 2.0))  # connections and caches
        for number in range(options.rounds):
            for name, server in (("direct", mock), ("gateway", gateway)):
                taken = asyncio.run(load(server.url, options.rate, options.seconds))
                rows.append(
                    {
                        "part": "latency",
                        "round": number,
                        "server": name,
                        "n": len(taken),
                        "rate": options.rate,
                        **quantiles(taken),
                    }
                )
    return rows


def processor(options: Options, folder: Path) -> list[dict[str, Any]]:
    """Processor time of one request, gateway and LiteLLM's proxy in turn, at a rate that both can take."""
    if options.litellm is None:
        raise click.UsageError("part processor compares with LiteLLM: give --litellm PROGRAM, or leave the part out")
    rows, rate = [], 40
    with ExitStack() as stack:
        mock = stack.enter_context(mock_server())
        servers: dict[str, Running] = {
            "gateway": stack.enter_context(gateway_server(folder, mock.url)),
            "litellm": stack.enter_context(litellm_server(folder, mock.url, options.litellm)),
        }
        for server in servers.values():
            asyncio.run(load(server.url, rate, 5.0))
        for number in range(options.rounds):
            for name, server in servers.items():
                before = server.cpu_seconds()
                taken = asyncio.run(load(server.url, rate, options.seconds))
                time.sleep(0.5)  # what is written after the answer counts too
                used = 1e3 * (server.cpu_seconds() - before) / len(taken)
                about = {"n": len(taken), "cpu_ms": round(used, 4), "memory_mb": round(server.memory_mb(), 1)}
                rows.append({"part": "processor", "round": number, "server": name, **about, **quantiles(taken)})
    return rows


def start(options: Options, folder: Path) -> list[dict[str, Any]]:
    """From the command to the first answer, and the memory then; graders by their import."""
    rows = []
    # VmHWM and not ru_maxrss, which a child inherits from the process that started it
    code = "import time;t=time.perf_counter();import flyball.graders.make;s=time.perf_counter()-t;"
    code += "print(s, int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024)"
    with mock_server() as mock:
        for number in range(max(3, options.rounds)):
            with gateway_server(folder / str(number), mock.url) as gateway:
                seconds, memory = gateway.started_seconds, gateway.memory_mb()
            printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            graders = dict(zip(("graders_seconds", "graders_mb"), map(float, printed.split()), strict=True))
            rows.append({"part": "start", "round": number, "seconds": seconds, "memory_mb": memory, **graders})
    return rows


def kill(options: Options, folder: Path) -> list[dict[str, Any]]:
    """Half the sessions on the canary, four workers under load, the store gone: the last answer of the candidate."""
    rows = []
    for number in range(options.rounds):
        home = folder / f"kill{number}"
        with Store(home / "store") as store:
            table = RoutingTable(
                version=1,
                release_id="r",
                stage="canary",
                stable="old",
                candidate="new",
                share=0.5,
                salt="00ff",
                unit="session",
                plan="p",
                since=0.0,
            )
            store.add_route(1, "r", table.to_json(), Act(action="route", actor="benchmark", at=0.0, subject="r"))
        seen: list[tuple[float, str]] = []
        with mock_server() as mock, gateway_server(home, mock.url, workers=4, store="store") as gateway:
            killed = asyncio.run(_kill_under_load(gateway.url, home, seen, 2 * options.rate // 5))
        before = [model for at, model in seen if at < killed]
        last = max((at - killed for at, model in seen if model == "new"), default=0.0)
        share = before.count("new") / len(before)
        rows.append({"part": "kill", "round": number, "n": len(seen), "share_before": share, "seconds": max(0.0, last)})
    return rows


async def _kill_under_load(url: str, home: Path, seen: list[tuple[float, str]], rate: int) -> float:
    def note(answer: dict[str, Any]) -> None:
        seen.append((time.perf_counter(), answer["model"]))

    running = asyncio.create_task(load(url, rate, 6.0, note))
    await asyncio.sleep(2.0)
    for path in (home / "store").glob("flyball.db*"):
        path.rename(path.with_suffix(f"{path.suffix}.gone"))  # the control plane is dead
    await asyncio.sleep(1.0)
    killed = time.perf_counter()
    (home / "KILL").touch()
    await running
    return killed


def exact(options: Options, folder: Path) -> list[dict[str, Any]]:
    """Sessions of four turns with tools, every second one streamed: what was captured against what the engine drew."""
    return [asyncio.run(_exact(options.sessions, folder))]


async def _exact(num_sessions: int, folder: Path) -> dict[str, Any]:
    def script(prompt: Prompt) -> str:
        drawn = prompt.seed % 1000
        return tool_call_text("look", n=drawn) if prompt.turn < 3 else f"done {drawn} é"

    engine = FakeEngine(script)
    os.environ.update(BENCH_KEY=KEY, FLYBALL_RECEIPT_KEY=RECEIPT_KEY)
    keys, upstreams = [{"key_env": "BENCH_KEY"}], {"ours": {"local": "fake"}}
    made = {"keys": keys, "upstreams": upstreams, "default": "ours", "store": str(folder / "store")}
    doors = SessionDoors(engine, engine.chat, SamplingParams(1.0, 512))
    async with serving(doors, uds=str(folder / "engine")) as uds:
        settings = GatewaySettings.model_validate(made)
        app = build(settings, Spool.claim(settings.spool), engines={"ours": uds})
        await app.start()
        try:
            async with serving(app) as url:
                await _drive(url, num_sessions)
        finally:
            await app.close()
    return {"part": "exact", "sessions": num_sessions, **_agreement(engine, folder / "store")}


def _agreement(engine: FakeEngine, folder: Path) -> dict[str, int]:
    """Calls by what became of them; a call is known by its session and the seed of its draw."""
    pairs = zip(engine.requests, engine.completions, strict=True)
    drawn = {(request.session, request.sampling.seed): completion for request, completion in pairs}
    with Store(folder) as store:
        store.ingest(folder / "spool" / "0")
        calls = [each for session in captured_sessions(store).values() for each in session]
    same = 0
    for each in calls:
        if each.said.tokens is None:
            continue
        kept = from_json(orjson.dumps(each.said.tokens))
        found = drawn[f"{each.call.project}~{each.call.session}", kept.sampling["seed"]]
        same += (kept.completion_ids, kept.sampling_logprobs) == (found.token_ids, found.logprobs)
    linked = sum(each.parent is not None for each in calls)
    return {"calls": len(drawn), "captured": len(calls), "identical": same, "linked": linked}


async def _drive(url: str, num_sessions: int) -> None:
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}}
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": parameters}}]
    gate = asyncio.Semaphore(32)

    async def session(i: int, agent: AsyncOpenAI) -> None:
        messages: list[Any] = [{"role": "user", "content": f"ticket {i}"}]
        client = agent.with_options(api_key=f"{KEY}/s{i}")
        async with gate:
            for turn in range(4):
                asked: Any = {"model": "policy", "messages": messages, "tools": tools}
                if (i + turn) % 2:
                    async with client.chat.completions.stream(**asked) as stream:
                        said = (await stream.get_final_completion()).choices[0].message
                else:
                    said = (await client.chat.completions.create(**asked)).choices[0].message
                messages.append(said.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
                for call in said.tool_calls or ():
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": str(turn)})

    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=600.0) as agent:
        await asyncio.gather(*(session(i, agent) for i in range(num_sessions)))


PARTS: dict[str, Callable[[Options, Path], list[dict[str, Any]]]] = {
    "latency": latency,
    "processor": processor,
    "start": start,
    "kill": kill,
    "exact": exact,
}


# --- claims ----------------------------------------------------------------------------------------------------------


def findings(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    """The claims of the parts that were run."""
    made = {"latency": _latency, "processor": _processor, "start": _start, "kill": _kill, "exact": _exactness}
    found: list[Finding] = []
    for part, claims in made.items():
        if own := [row for row in rows if row["part"] == part]:
            found += claims(own)
    return found


def _by(rows: Sequence[dict[str, Any]], server: str, value: str) -> list[float]:
    return [row[value] for row in rows if row["server"] == server]


def _upper(
    name: str, claim: str, rule: str, values: Sequence[float], unit: str, most: float, **details: Any
) -> Finding:
    """A claim that the median of the rounds is at most `most`; the interval is the span of the rounds."""
    value = statistics.median(values)
    span = (min(values), max(values))
    return Finding(f"{NAME}.{name}", claim, rule, value, span, len(values), unit, value <= most, details)


def _latency(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    found = []
    for quantile, most in (("p50", 1.0), ("p99", 5.0)):
        pairs = zip(_by(rows, "gateway", f"{quantile}_ms"), _by(rows, "direct", f"{quantile}_ms"), strict=True)
        added = [through - alone for through, alone in pairs]
        claim = f"At {rows[0]['rate']} requests a second one worker adds at most {most:g} ms to the {quantile}"
        rule = "median over rounds of (quantile through the gateway - quantile of the mock alone); span of the rounds"
        found.append(_upper(f"added_{quantile}", claim, rule, added, "ms", most, requests=sum(r["n"] for r in rows)))
    return found


def _processor(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    ours, theirs = _by(rows, "gateway", "cpu_ms"), _by(rows, "litellm", "cpu_ms")
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    value = statistics.median(ratios)
    details = {"gateway_cpu_ms": ours, "litellm_cpu_ms": theirs, "requests": sum(r["n"] for r in rows)}
    return [
        Finding(
            f"{NAME}.processor",
            "A request costs a tenth of the processor time that LiteLLM's proxy takes, captured to disk",
            "median over rounds of LiteLLM's processor time of a request / ours, at least 10; span of the rounds",
            value,
            (min(ratios), max(ratios)),
            len(ratios),
            "ratio",
            value >= 10,
            details,
        )
    ]


def _start(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    rule = "median over starts, at most the bound; span of the starts"
    return [
        _upper("start_seconds", "The gateway answers within 1 s", rule, [r["seconds"] for r in rows], "s", 1.0),
        _upper("start_memory", "The gateway starts in 150 MB", rule, [r["memory_mb"] for r in rows], "MB", 150.0),
        _upper("graders_seconds", "Graders import in 1 s", rule, [r["graders_seconds"] for r in rows], "s", 1.0),
        _upper("graders_memory", "Graders import in 150 MB", rule, [r["graders_mb"] for r in rows], "MB", 150.0),
    ]


def _kill(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    seconds = [row["seconds"] for row in rows]
    claim = "Four workers under load, control plane dead: no answer of the candidate 2 s after the kill switch"
    rule = "the slowest round, at most 2 s; the canary had a share before"
    worst = max(seconds)
    holds = worst <= 2.0 and all(row["share_before"] > 0.3 for row in rows)
    about = {"requests": sum(row["n"] for row in rows), "shares_before": [row["share_before"] for row in rows]}
    return [Finding(f"{NAME}.kill", claim, rule, worst, (min(seconds), worst), len(rows), "s", holds, about)]


def _exactness(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    (row,) = rows
    claim = f"{row['sessions']} sessions with tools and streams: captured tokens are those that the engine drew"
    rule = "calls with identical token ids and logprobs over calls of the engine: all"
    estimate = wilson(row["identical"], row["calls"])
    holds = row["identical"] == row["captured"] == row["calls"]
    return [Finding(f"{NAME}.exact", claim, rule, estimate.value, bounds(estimate), row["calls"], "share", holds, row)]


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Default: all.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=float, default=20.0, show_default=True, help="Of load in each round.")
@click.option("--sessions", type=click.IntRange(min=1), default=1000, show_default=True, help="Of part exact.")
@click.option(
    "--rate", type=click.IntRange(min=5), default=RATE, show_default=True, help="To try it on a busy machine."
)
@click.option("--litellm", help="Program of LiteLLM's proxy, see requirements-gateway.txt.")
@click.option("--reasons", type=click.Path(path_type=Path), help="JSON: why a claim was missed, by its id.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="For the results.")
def main(
    parts: tuple[str, ...],
    rounds: int,
    seconds: float,
    sessions: int,
    rate: int,
    litellm: str | None,
    reasons: Path | None,
    folder: Path,
) -> None:
    """Run parts and write the results; rows of parts that are not run again are kept."""
    path, options = rows_file(NAME, folder), Options(rounds, seconds, sessions, rate, litellm, folder)
    for part in parts or PARTS:
        kept = [row for row in read_rows(path) if row["part"] != part]
        with tempfile.TemporaryDirectory() as scratch:
            fresh = PARTS[part](options, Path(scratch))
        path.unlink(missing_ok=True)
        for row in (*kept, *fresh):
            append_row(path, row)
        for row in fresh:
            print(row)
    found = findings(read_rows(path))
    for each in found:
        print(f"{each.id}: {each.value:.4g} {each.unit} {'holds' if each.holds else 'MISSED'}, n={each.n}")
    why = orjson.loads(reasons.read_bytes()) if reasons else {}
    publish(NAME, found, command=f"python -m benchmarks.{NAME}", reasons=why, folder=folder)


if __name__ == "__main__":
    main()
