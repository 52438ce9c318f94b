"""TRL's GRPOTrainer on the help desk: one batch each time a line comes in; its seconds go out.

Run by `benchmarks.helpdesk_trl` in the environment of requirements-rivals.txt. World, graders and tool texts are those
of this project, which need no more than TRL's own environment has; the tool loop (`environment_factory`), sampling and
learning are TRL's.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from flyball.models.planted import hold_planted
from flyball.tools.jsonable import to_json
from flyball.tools.tool import Tool, tools_of_class
from flyball.tools.user_code import message_of

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "helpdesk"))
from desk import Desk
from grading import reward

CALL_FORM = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|end\|>", "content": "text"},
    },
}
"""How a turn of the tiny policy is read, in transformers' notation; TRL knows the templates of large families only."""
TOOLS = tools_of_class(Desk)


class Ticket:
    """One attempt as TRL wants it: `reset` and a public method for each tool of `Desk`, added below."""

    def reset(self, ticket: str, snapshot: str, **_: Any) -> None:
        """Open the desk anew; the ticket is in the prompt already."""
        if hasattr(self, "_desk"):
            self._desk.close()
        self._desk = Desk()
        self._desk.reset(ticket, snapshot)

    def _state(self) -> Any:
        return self._desk.export_state()


def _as_method(tool: Tool) -> Callable[..., str]:
    """The tool with the texts that our own loop shows for results and errors, and the docstring that TRL asks for."""

    @functools.wraps(tool.fn)
    def call(self: Ticket, **arguments: Any) -> str:
        try:
            accepted = tool.arguments.read(json.dumps(arguments))
            return to_json(tool.fn(self._desk, **accepted))
        except Exception as error:  # as a policy meets it: a text that says what went wrong
            return f"error: {message_of(error)}"

    described = "".join(f"\n    {name}: {name}" for name in tool.parameters["properties"])
    call.__doc__ = f"{tool.description}\n\nArgs:{described}\n"
    return call


for _tool in TOOLS.values():
    setattr(Ticket, _tool.name, _as_method(_tool))


def judge(completions: list[Any], environments: list[Ticket], hidden: list[str], **_: Any) -> list[float]:
    """The reward of the help desk for each conversation."""
    return [
        reward(_as_attempt(messages, ticket), json.loads(secret))
        for messages, ticket, secret in zip(completions, environments, hidden, strict=True)
    ]


def _as_attempt(messages: list[dict[str, Any]], ticket: Ticket) -> Any:
    """What the reward reads of an attempt."""
    said = [m for m in messages if m["role"] == "assistant"]
    texts = [m.get("content") or "" for m in said if not m.get("tool_calls")]
    calls = sum(len(m.get("tool_calls") or ()) for m in said)
    answer = texts[-1] if texts else ""
    return SimpleNamespace(state=ticket._state(), answer=answer, said="\n".join(texts), num_tool_calls=calls)


class OnCommand(TrainerCallback):  # type: ignore[misc]
    """Waits for a line before every batch; after it saves the weights, which takes no time of the clock."""

    def __init__(self, updates: int, save: Callable[[], None]) -> None:
        self._updates, self._save = updates, save
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step % self._updates == 0:
            print("ready", file=ANSWERS, flush=True)
            if not sys.stdin.readline():
                raise SystemExit(0)
            self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step % self._updates == 0:
            seconds = time.perf_counter() - self._started
            self._save()
            print(json.dumps({"seconds": seconds}), file=ANSWERS, flush=True)


def main(job: dict[str, Any]) -> None:
    """Train on the job's rows until the input ends."""
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    tokenizer.response_template = CALL_FORM
    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype="float32")
    hold_planted(model)
    tokenizer.save_pretrained(job["out"])
    with tempfile.TemporaryDirectory() as output:
        config = GRPOConfig(output_dir=output, use_cpu=True, report_to=[], save_strategy="no", **job["settings"])
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=judge,
            args=config,
            train_dataset=Dataset.from_list(job["rows"]),
            environment_factory=Ticket,
            callbacks=[OnCommand(job["updates"], lambda: model.save_pretrained(job["out"]))],
        )
        methods = trainer._env_tools[None]  # sorted by name; the policy was taught another order
        methods.sort(key=lambda method: list(TOOLS).index(method.__name__))
        _check_prompt(tokenizer, methods, job)
        trainer.train()


def _check_prompt(tokenizer: Any, methods: list[Callable[..., Any]], job: dict[str, Any]) -> None:
    """Both sides must ask in the same tokens."""
    messages = job["rows"][0]["prompt"]
    ids = tokenizer.apply_chat_template(messages, tools=methods, add_generation_prompt=True, return_dict=False)
    if ids != job["prompt_ids"]:
        raise SystemExit(f"TRL asks {tokenizer.decode(ids)!r}, we ask {tokenizer.decode(job['prompt_ids'])!r}")


if __name__ == "__main__":
    ANSWERS, sys.stdout = sys.stdout, sys.stderr  # what the libraries print is no answer
    main(json.loads(sys.stdin.readline()))
