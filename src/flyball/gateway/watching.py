"""What monitors read of served sessions: numbers from their records, words and tool calls where bodies are kept, late
facts from graders (`grading.py`) and from the frozen reference (`rescoring.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import get_args

from flyball.gateway.captured import attempt_of, captured_sessions
from flyball.gateway.rescoring import is_rescored
from flyball.graders.personal_data import Kind, without_personal_data
from flyball.release.monitors import LiveSession
from flyball.store.formats.trace import Trace, traces_of
from flyball.store.served import Fact
from flyball.store.store import Store
from flyball.tasks.from_traces import tasks_from_traces
from flyball.types import SessionRecord, Task


def live_sessions(store: Store, *, project: str | None = None, reference: str | None = None) -> list[LiveSession]:
    """Every session that users were answered in, in the order they began. `reference`: the version id whose distance
    counts (None = the one that was scored last). A session's newest score holds."""
    words = {
        f"{of}~{name}": attempt_of(calls) for (of, name), calls in captured_sessions(store, project=project).items()
    }
    told = store.feedback(project)
    scores = {f"{fact.project}~{fact.session}": fact.score for fact in told if fact.score is not None}
    far = distances(told, reference)
    found = []
    for record in store.served_sessions(project=project):
        if record.arm == "shadow":
            continue
        attempt = words.get(record.session_id)
        found.append(
            LiveSession(
                record,
                answer=attempt.answer if attempt and attempt.answer else None,
                tools=frozenset(call.name for call in attempt.tool_calls) if attempt else None,
                score=scores.get(record.session_id),
                kl=far.get(record.session_id),
            )
        )
    return found


def distances(told: Sequence[Fact], reference: str | None) -> dict[str, tuple[float, float]]:
    """Sum of k3 in nats and number of tokens, by session (`project~session`), of one reference: a version id, None =
    the one that was scored last."""
    scored = [fact for fact in told if is_rescored(fact)]
    if reference is None and scored:
        reference = str(scored[-1].facts["reference"])
    return {
        f"{fact.project}~{fact.session}": (float(fact.facts["k3"]), float(fact.facts["tokens"]))
        for fact in scored
        if fact.facts["reference"] == reference
    }


def refreshed_tasks(
    store: Store, *, project: str | None, since: float, field: str, known: Sequence[Task] = ()
) -> list[Task]:
    """What went wrong since a time (seconds since 1970), as tasks for training that `known` does not have.

    Wrong: no success, a person who corrected it, a refused tool call. The class of intent is the family, so a
    curriculum by family draws where production fails; personal data is taken out. For review: `hidden` holds what is
    known of the outcome, not what success is. Raises DatasetError for a known task without that public field.
    """
    records = {one.session_id: one for one in store.served_sessions(project=project, since=since)}

    def record(trace: Trace) -> SessionRecord | None:
        return records.get(f"{trace.meta.get('project', '')}~{trace.session}")

    def intent(trace: Trace) -> str:
        found = record(trace)
        return found.intent_class if found and found.intent_class else "default"

    wrong = [trace for trace in traces_of(store, project=project, since=since) if _went_wrong(record(trace))]
    clean = partial(without_personal_data, kinds=get_args(Kind))
    return tasks_from_traces(wrong, clean=clean, intent=intent, known=known, field=field)


def _went_wrong(record: SessionRecord | None) -> bool:
    return record is not None and (record.outcome is False or record.human_override or record.tool_error_count > 0)
