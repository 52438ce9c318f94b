"""Tasks from what people asked for in production: deduplicated, de-identified, each with where it comes from.

The opening of a conversation is the task; how it ended is for graders. A trace that a person overrode comes first, for
that is where the policy was wrong. Sessions that ask for the same thing are one task that names them all, so what is
frequent in production shows as a count and not as copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flyball.errors import DatasetError
from flyball.store.formats.trace import Trace
from flyball.tasks.leakage import leakage, near_duplicates
from flyball.types import Message, Task

Clean = Callable[[str], str]


def tasks_from_traces(
    traces: Iterable[Trace],
    *,
    clean: Clean,
    intent: Callable[[Trace], str] = lambda trace: "default",
    known: Sequence[Task] = (),
    field: str = "ticket",
    split: str = "train",
    threshold: float = 0.8,
) -> list[Task]:
    """Return a task for every request that `known` does not have, those with an override first.

    `clean` takes personal data out of a text (`flyball.graders.personal_data.without_personal_data`); whatever is kept
    of a trace goes through it. `intent` names the class of a request, which becomes the task's family. Requests whose
    words agree by `threshold` (Jaccard over shingles) are one task. `hidden` holds `reference` (the last answer, where
    the outcome was a success that nobody overrode), `outcome`, `override` and `provenance`: session, call and version
    of every trace behind the task. Raises DatasetError for a known task of another public field.
    """
    if strangers := [task.task_id for task in known if field not in task.public]:
        raise DatasetError(f"known task {strangers[0]!r} has no public field {field!r}; name the field to compare by")
    ordered = sorted(traces, key=lambda trace: "override" not in trace.meta)  # stable: else as they came
    asked = [(trace, clean(request)) for trace in ordered if (request := _request(trace.messages))]
    drafts = {_id(text): Task(_id(text), {field: text}) for _, text in asked}
    twin = near_duplicates(list(drafts.values()), threshold)
    groups: dict[str, list[tuple[Trace, str]]] = {}
    for trace, text in asked:
        groups.setdefault(twin.get(_id(text), _id(text)), []).append((trace, text))
    tasks = [_task(found, clean, intent, field, split) for found in groups.values()]
    taken = {leak.other_id for leak in leakage(known, tasks, compare=(field,), threshold=threshold)}
    return [task for task in tasks if task.task_id not in taken]


def _task(
    found: Sequence[tuple[Trace, str]], clean: Clean, intent: Callable[[Trace], str], field: str, split: str
) -> Task:
    first, text = found[0]
    hidden: dict[str, Any] = {"provenance": [_origin(trace) for trace, _ in found]}
    if first.outcome is not None:
        hidden["outcome"] = first.outcome
    if override := first.meta.get("override"):
        hidden["override"] = {**override, "reason": clean(override.get("reason", ""))}
    elif first.outcome and (answer := _text(first.messages[-1])):
        hidden["reference"] = clean(answer)
    return Task(_id(text), {field: text}, hidden, split=split, family=intent(first))


def _origin(trace: Trace) -> dict[str, Any]:
    named = {
        name: trace.meta[name] for name in ("project", "call_id", "version", "arm", "source") if trace.meta.get(name)
    }
    return {"session": trace.session, "trace": trace.digest, **named}


def _request(messages: Sequence[Message]) -> str:
    """What the user opened with, '' where no user spoke."""
    return next((_text(message).strip() for message in messages if message.get("role") == "user"), "")


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _id(text: str) -> str:
    return f"trace-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
