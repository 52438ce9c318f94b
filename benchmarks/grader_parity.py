"""Grader parity: every reference vector of OpenAI's rules, and every grader object that it refuses.

python -m benchmarks.grader_parity          # a few seconds; writes results/grader_parity.json and its rows
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from benchmarks.grader_vectors import PYTHON, REFUSED, VECTORS, Refused, Vector, agrees, reward_of
from benchmarks.result import Finding, append_row, bounds, publish, rows_file
from flyball.errors import ConfigError
from flyball.graders.flags import error_flags
from flyball.graders.judge import Judge
from flyball.graders.make import grader_from
from flyball.graders.row import attempt_of_text
from flyball.stats.binomial import wilson

NAME = "grader_parity"


def row_of(vector: Vector) -> dict[str, Any]:
    """Grade a vector and return what came of it beside what should have."""
    grader = grader_from(vector.grader, judge=judge_that(lambda: vector.says))
    score = asyncio.run(grader.grade(attempt_of_text(vector.sample, {}), vector.item))
    flags = error_flags(score)
    return {
        "rule": vector.rule,
        "expected": vector.reward,
        "reward": reward_of(score),
        "expected_flags": list(vector.flags),
        "flags": [flag for flag, up in flags.items() if up],
        "agrees": agrees(vector, score, flags),
    }


def refusal_of(refused: Refused) -> dict[str, Any]:
    """Try to make a grader that must be refused."""
    try:
        grader_from(refused.grader, judge=judge_that(lambda: None))
    except ConfigError as error:
        return {"rule": refused.rule, "refused": str(error), "agrees": True}
    return {"rule": refused.rule, "refused": None, "agrees": False}


def judge_that(says: Callable[[], Any]) -> Judge:
    """A judge whose server answers what it is told to."""

    def answer(request: httpx.Request) -> httpx.Response:
        message = {"role": "assistant", "content": json.dumps(says())}
        return httpx.Response(200, json={"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    return Judge("http://judge/v1", transport=httpx.MockTransport(answer))


def has_sandbox() -> bool:
    """Whether graders of type `python` can be made here."""
    try:
        grader_from(PYTHON[0].grader)
    except ConfigError:
        return False
    return True


def main() -> None:
    """Measure, print, and write the result."""
    vectors = (*VECTORS, *PYTHON) if has_sandbox() else VECTORS
    rows = [*map(row_of, vectors), *map(refusal_of, REFUSED)]
    file = rows_file(NAME)
    file.unlink(missing_ok=True)
    for row in rows:
        append_row(file, row)
        if not row["agrees"]:
            print("differs:", row)
    agreed = sum(row["agrees"] for row in rows)
    share = wilson(agreed, len(rows))
    finding = Finding(
        id="grader_parity",
        claim="graders of OpenAI's types answer as OpenAI's rules say",
        target="share of reference vectors with the same reward and flags, or the same refusal; holds at 100 %",
        value=100 * share.value,
        interval=bounds(share, 100),
        n=len(rows),
        unit="%",
        holds=agreed == len(rows),
        details={"by_type": dict(Counter(vector.grader["type"] for vector in vectors)), "refusals": len(REFUSED)},
    )
    publish(NAME, [finding], command=f"python -m benchmarks.{NAME}", reasons={})
    print(f"{agreed} of {len(rows)} agree")


if __name__ == "__main__":
    main()
