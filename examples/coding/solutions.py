"""The tasks, and the turns that solve them: what an oracle that knows the change would do."""

from __future__ import annotations

import json
from typing import Any

from changes import CASES, CHANGES, QUESTIONS

import flyball as fb
from flyball.types import Message

LIMITS = fb.Limits(max_turns=20, max_new_tokens=512, max_tokens=8000)


def tasks() -> list[fb.Task]:
    """Every task. `idna` is for testing, unseen in training; how mdurl decodes, for picking a checkpoint."""
    made = []
    for name, change in CHANGES.items():
        if name in CASES:
            made.append(_task("faster", name, change.repository, f"{change.report} Make it at least twice as fast."))
            continue
        where = f"{change.report} In which files would you make the change? Answer with the paths."
        made.append(_task("locate", name, change.repository, where, paths=[change.path]))
        made.append(_task("repair", name, change.repository, f"{change.report} Repair it."))
    for name, (repository, question, facts) in QUESTIONS.items():
        made.append(_task("question", name, repository, question, facts=list(facts)))
    return made


def _task(family: str, name: str, repository: str, request: str, **hidden: Any) -> fb.Task:
    change = name if name in CHANGES else ""
    return fb.Task(
        f"{family}-{name}",
        {"request": request, "repository": repository, "change": change},
        {"family": family, "repository": repository, "change": change, **hidden},
        limits=LIMITS,
        split="test" if repository == "idna" else "validation" if name.startswith("decode") else "train",
        family=family,
    )


def oracle_turns(task: fb.Task) -> list[Message]:
    """The assistant's turns that solve a task: the change undone, or the answer."""
    hidden = task.hidden
    if hidden["family"] == "locate":
        return [_says(" ".join(hidden["paths"]))]
    if hidden["family"] == "question":
        return [_says(" ".join(hidden["facts"]))]
    change = CHANGES[hidden["change"]]
    edit = {"path": change.path, "old": change.new, "new": change.old}
    return [_calls("edit", edit, 1), _calls("test", {}, 2), _says("It is done.")]


def _says(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _calls(name: str, arguments: dict[str, str], number: int) -> Message:
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": f"call_{number}", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}
