"""One long attempt through the built-in loop, and a group of attempts at once: how many tokens are computed twice.

    python -m benchmarks.prefill_ratio --fresh          # a minute and a half on two cores
    python -m benchmarks.prefill_ratio --fresh --turns 3 --folder OUT    # half a minute, to see that it runs

The policy is held to one tool call a turn by a grammar, hot enough to ask for another page each time. `prefilled`
counts every token of a prompt that the engine computed. `distinct` counts the tokens of prompts that were not there
before, neither said nor sampled: what an engine must compute at least.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from benchmarks.result import RESULTS, Finding, append_row, publish, read_rows, rows_file
from flyball.agent.loop import ToolLoop
from flyball.engine.grammar import json_schema_grammar
from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.errors import FlyballError
from flyball.models.hf_chat import HfChat, load_chat
from flyball.models.load import load_model, pays_bfloat16
from flyball.models.names import find
from flyball.rollout.attempt import run_attempt
from flyball.tasks.world import WorldSpec
from flyball.types import Limits, Task

NAME = "prefill_ratio"
TURNS, TOKENS, MOST = 20, 8000, 1.02
GROUP = 8
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"const": "read_page"},
        "arguments": {
            "type": "object",
            "properties": {"page": {"type": "integer", "minimum": 10, "maximum": 99_999}},
            "required": ["page"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
}


class Book:
    """You look something up, page by page."""

    def reset(self, length: int) -> str:
        self._length = length
        return "Which of the pages speaks of the governor?"

    def read_page(self, page: int) -> str:
        """Read a page."""
        return " ".join(f"Line {page}.{i} speaks of wheel {i * page % 89}." for i in range(self._length))


class Counting(LocalEngine):
    """The local engine, counting distinct tokens of prompts beside those it computes."""

    distinct = 0
    longest = 0
    _children: dict[tuple[int, int], int]

    async def generate(self, request: Request) -> Completion:
        """As the local engine."""
        self.distinct += self._add(request.prompt_ids)
        done = await super().generate(request)
        self._add((*request.prompt_ids, *done.token_ids))
        self.longest = max(self.longest, len(request.prompt_ids) + len(done.token_ids))
        return done

    def _add(self, tokens: Sequence[int]) -> int:
        """Put a sequence into the tree of all that was seen; how many of its tokens are new."""
        children = self.__dict__.setdefault("_children", {})
        before, node = len(children), 0
        for token in tokens:
            node = children.setdefault((node, token), len(children) + 1)
        return len(children) - before


@click.command()
@click.option("--policy", default="smollm2-135m", show_default=True, help="Known name or model folder.")
@click.option("--turns", default=TURNS, show_default=True)
@click.option("--lines", default=23, show_default=True, help="Lines of a page; 23 make 20 turns about 8,000 tokens.")
@click.option("--fresh", is_flag=True, help="Discard the rows of earlier runs.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="Where results go.")
@click.option("--reasons", type=click.Path(path_type=Path, dir_okay=False), help="JSON: why a claim was missed, by id.")
def main(policy: str, turns: int, lines: int, fresh: bool, folder: Path, reasons: Path | None) -> None:
    """Run what has no row yet, then write the results."""
    try:
        why = orjson.loads(reasons.read_bytes()) if reasons else {}
        file = rows_file(NAME, folder)
        if fresh:
            file.unlink(missing_ok=True)
        missing = {"attempt", "group"} - {row["case"] for row in read_rows(file)}
        if missing:
            chat, model = load_policy(find(policy))
            if "attempt" in missing:
                append_row(file, asyncio.run(attempt(chat, model, turns, lines)))
            if "group" in missing:
                append_row(file, asyncio.run(group(chat, model)))
        rows = {row["case"]: row for row in read_rows(file)}
        for finding in (found := findings(rows["attempt"], rows["group"])):
            print(f"{'holds ' if finding.holds else 'MISSED'}  {finding.id:24} {finding.value:10.4f} {finding.unit}")
        publish(NAME, found, command="python -m benchmarks.prefill_ratio --fresh", reasons=why, folder=folder)
    except FlyballError as exc:
        raise click.ClickException(str(exc)) from exc


def load_policy(folder: Path) -> tuple[HfChat, Any]:
    """Return chat format and model, in the precision that the engine samples with."""
    model = load_model(folder)
    return load_chat(folder), model.bfloat16() if pays_bfloat16(model) else model


async def attempt(chat: HfChat, model: Any, turns: int, lines: int) -> dict[str, Any]:
    """Return the row of one attempt."""
    engine = Counting(model, num_slots=1, tokenizer=chat.tokenizer)
    limits = Limits(turns, turns, max_new_tokens=64, max_tokens=engine.max_context, max_seconds=3600.0)
    call = json_schema_grammar(SCHEMA).removeprefix("start: ").strip()
    done = await run_attempt(
        Task("long", {"length": lines}, limits=limits),
        world=WorldSpec(Book),
        runner=ToolLoop(),
        engine=engine,
        chat=chat,
        sampling=SamplingParams(
            grammar=f'start: "<tool_call>" {call} "</tool_call>"\n', max_new_tokens=64, temperature=10.0
        ),
        seed=0,
    )
    await engine.close()
    return {
        "case": "attempt",
        "turns": len(done.trajectory.calls),
        "tool_calls": sum(len(call.tool_results) for call in done.trajectory.calls),
        "stop": str(done.stop),
        "tokens": engine.longest,
        "prefilled": engine.prefilled_tokens,
        "sampled": engine.sampled_tokens,
        "distinct": engine.distinct,
        "dtype": str(model.dtype),
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 2**30,
    }


async def group(chat: HfChat, model: Any) -> dict[str, Any]:
    """Return the row of a group whose requests arrive together, beside a conversation of another kind."""
    engine = Counting(model, num_slots=GROUP + 1, tokenizer=chat.tokenizer)
    page = Book()
    page.reset(21)
    talks = [[{"role": "user", "content": page.read_page(number)}] for number in (7, 77)]
    other, prompt = (tuple(chat.render(talk, ())) for talk in talks)

    def ask(tokens: tuple[int, ...], seed: int, most: int) -> asyncio.Task[Completion]:
        return asyncio.create_task(engine.generate(Request(tokens, SamplingParams(1.0, most, seed), ())))

    running = ask(other, 0, 64)
    while not engine.sampled_tokens:
        await asyncio.sleep(0)
    await asyncio.gather(running, *(ask(prompt, seed, 16) for seed in range(1, 1 + GROUP)))
    await engine.close()
    return {
        "case": "group",
        "size": GROUP,
        "prompt_tokens": len(prompt),
        "prefilled": engine.prefilled_tokens,
        "sampled": engine.sampled_tokens,
        "distinct": engine.distinct,
        "dtype": str(model.dtype),
    }


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def findings(row: dict[str, Any], together: dict[str, Any]) -> list[Finding]:
    """Return both claims about an attempt, and the one about a group."""
    ratio, shared = (each["prefilled"] / each["distinct"] for each in (row, together))
    return [
        Finding(
            "prefill_ratio.group",
            "the prompt of a group whose attempts arrive together is computed once",
            f"tokens prefilled over distinct tokens of prompts at most {MOST:g}, {GROUP} requests beside another",
            shared,
            (None, None),
            1,
            "times",
            shared <= MOST,
            together,
        ),
        Finding(
            "prefill_ratio.ratio",
            "a tool trajectory of 20 turns computes hardly a token of its prompts twice",
            f"tokens prefilled over distinct tokens of prompts at most {MOST:g}, in {TURNS} turns",
            ratio,
            (None, None),
            1,
            "times",
            ratio <= MOST and row["turns"] >= TURNS,
            row,
        ),
        Finding(
            "prefill_ratio.memory",
            "a trajectory of 20 calls and about 8,000 tokens completes",
            f"at least {TURNS} tool calls and 97 % of {TOKENS} tokens; the value is the peak resident set",
            row["peak_rss_gib"],
            (None, None),
            1,
            "GiB",
            row["tool_calls"] >= TURNS and row["tokens"] >= 0.97 * TOKENS,
            row,
        ),
    ]


if __name__ == "__main__":
    main()
