"""How many samples a second the graders judge, on this machine.

    python benchmarks/graders.py [--seconds 3] [--rounds 5] [--reasons FILE]

Every rate is measured `rounds` times for `seconds` each; the value is the mean, with a 95 % t interval over rounds.
About four minutes with the defaults.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from scipy import stats
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.result import RESULTS, Finding, append_row, publish, rows_file
from flyball.graders.judge import Judge
from flyball.graders.make import grader_from
from flyball.graders.python import PythonGrader
from flyball.graders.row import attempt_of_text
from flyball.graders.similarity import has_wordnet
from flyball.graders.spec import Python
from flyball.graders.spec_grader import SpecGrader
from flyball.sandbox.calls import Calls
from flyball.sandbox.sandbox import SNIPPETS, Sandbox, find_sandbox

NAME = "graders"
TEXT = "The refund of $42.00 for order A123 was paid on Monday, and the customer was told so by email."
REFERENCE = "Order A123 was refunded with $42.00 on Monday; an email told the customer."
SOURCE = "def grade(sample, item):\n    return float(item['answer'] in sample['output_text'])\n"
ITEM = {"answer": REFERENCE}
HELD_OPEN = 64
METRICS = ("bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l")

Measure = Callable[[float], Awaitable[float]]


def templated(kind: str, **fields: str) -> SpecGrader[Any]:
    texts = {"input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
    return grader_from({"type": kind, "name": kind, **texts, **fields})


async def rate_of(grader: SpecGrader[Any], seconds: float, together: int = 1) -> float:
    """Samples a second, `together` asked for at a time. Raises AssertionError when one has no score."""
    attempt = attempt_of_text(TEXT, {})
    for score in await asyncio.gather(*(grader.grade(attempt, ITEM) for _ in range(together))):
        assert not score.missing, score
    count, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        await asyncio.gather(*(grader.grade(attempt, ITEM) for _ in range(together)))
        count += together
    return count / spent


async def python_rate(seconds: float) -> float:
    grader = grader_from({"type": "python", "name": "python", "source": SOURCE})
    try:
        return await rate_of(grader, seconds, together=16)
    finally:
        await grader.aclose()  # type: ignore[attr-defined]


async def fresh_rate(seconds: float) -> float:
    """A new sandbox and interpreter for every sample, on two threads."""
    sandbox, deadline = find_sandbox(), time.perf_counter() + seconds
    arguments = [{"output_text": TEXT}, ITEM]

    def work() -> int:
        count = 0
        while time.perf_counter() < deadline:
            calls = Calls(sandbox, SOURCE, "grade")
            assert calls.call(arguments).value == 0.0
            calls.close()
            count += 1
        return count

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as workers:
        counts = [future.result() for future in [workers.submit(work) for _ in range(2)]]
    return sum(counts) / (time.perf_counter() - started)


async def monty_rate(seconds: float) -> float:
    grader = PythonGrader(Python(type="python", name="python", source=SOURCE), Sandbox(SNIPPETS))
    try:
        return await rate_of(grader, seconds, together=16)
    finally:
        await grader.aclose()


class JudgeServer:
    """A judge on loopback that takes its time, and counts how many requests are with it at a time."""

    def __init__(self, seconds: float) -> None:
        self.most = self._flying = 0
        self._seconds = seconds
        app = Starlette(routes=[Route("/v1/chat/completions", self._answer, methods=["POST"])])
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    async def _answer(self, request: Request) -> JSONResponse:
        self._flying += 1
        self.most = max(self.most, self._flying)
        await asyncio.sleep(self._seconds)
        self._flying -= 1
        message = {"role": "assistant", "content": json.dumps({"steps": [], "result": 0.5})}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        return JSONResponse({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/v1"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


async def judge_concurrency(seconds: float) -> float:
    """Most requests that the judge's server had at a time, when 256 samples are asked for at once of one client."""
    server = JudgeServer(min(seconds, 0.5))
    with server as base_url:
        judge = Judge(base_url, concurrency=HELD_OPEN)
        ask = [{"role": "user", "content": "{{sample.output_text}}"}]
        grader = grader_from({"type": "score_model", "name": "judge", "model": "m", "input": ask}, judge=judge)
        scores = await asyncio.gather(*(grader.grade(attempt_of_text(f"{TEXT} {i}", {}), {}) for i in range(256)))
        await judge.aclose()
    assert not any(score.missing for score in scores)
    return float(server.most)


def similarity(metric: str) -> Measure:
    grader = templated("text_similarity", evaluation_metric=metric)
    return lambda seconds: rate_of(grader, seconds)


CLAIMS: dict[str, tuple[Measure, float, str, str]] = {
    "python": (python_rate, 200, "samples/s", "a python grader, one sandbox per worker and a fork per call"),
    "python_fresh": (fresh_rate, 40, "samples/s", "a python grader, a new sandbox for every sample"),
    "python_monty": (monty_rate, 200, "samples/s", "a python grader on Monty, a new session for every sample"),
    "string_check": (
        lambda seconds: rate_of(templated("string_check", operation="ilike"), seconds),
        5000,
        "samples/s",
        "string_check",
    ),
    "fuzzy_match": (similarity("fuzzy_match"), 5000, "samples/s", "text_similarity with fuzzy_match"),
    **{m: (similarity(m), 500, "samples/s", f"text_similarity with {m}") for m in METRICS},
    "judge_in_flight": (judge_concurrency, HELD_OPEN, "requests", "requests of one judge in flight at a time"),
}


def finding(name: str, values: list[float]) -> Finding:
    _, target, unit, what = CLAIMS[name]
    mean, half = float(np.mean(values)), 0.0
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    claim = f"{what}: at least {target:g} {unit}"
    how = f"mean over rounds of {unit}; holds when the mean is at least {target:g}"
    details: dict[str, object] = {}
    if name == "meteor":
        said = asyncio.run(templated("text_similarity", evaluation_metric=name).grade(attempt_of_text(TEXT, {}), ITEM))
        details = {"wordnet": has_wordnet(), "the score says": said.explanation}
    elif name.startswith("python"):
        details = {"rung": SNIPPETS.name if name == "python_monty" else find_sandbox().rung.name}
    return Finding(name, claim, how, mean, (mean - half, mean + half), len(values), unit, mean >= target, details)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reasons", type=Path, help="JSON file of claim to why it was missed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = rows_file(NAME, options.out)
    rows.unlink(missing_ok=True)
    findings = []
    for name, (measure, *_) in CLAIMS.items():
        values = []
        for turn in range(options.rounds):
            values.append(asyncio.run(measure(options.seconds)))
            append_row(rows, {"id": name, "round": turn, "value": values[-1]})
        findings.append(finding(name, values))
        print(f"{name:16} {findings[-1].value:10.0f} {findings[-1].unit}  {'ok' if findings[-1].holds else 'MISSED'}")
    reasons = json.loads(options.reasons.read_text()) if options.reasons else {}
    command = f"python benchmarks/graders.py --seconds {options.seconds:g} --rounds {options.rounds}"
    publish(NAME, findings, command=command, reasons=reasons, folder=options.out)


if __name__ == "__main__":
    main()
