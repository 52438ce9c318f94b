"""Tasks come from production once each, without personal data, and know where they come from."""

from __future__ import annotations

import re

import pytest

from flyball.errors import DatasetError
from flyball.store.formats.trace import Trace
from flyball.tasks.from_traces import tasks_from_traces
from flyball.tasks.leakage import near_duplicates
from flyball.types import Task

LOST = "My parcel with order o1 has been lost on the way to me, what can you do about it now"


def clean(text: str) -> str:
    return re.sub(r"\S+@\S+", "[email]", text)


def trace(asked: str, session: str = "s1", answer: str = "Sent to a@b.de.", **given: object) -> Trace:
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": asked})
    meta = {"project": "shop", "call_id": f"c-{session}", "version": "v2", **given.pop("meta", {})}  # type: ignore[dict-item]
    return Trace(session, (*messages, {"role": "assistant", "content": answer}), meta=meta, **given)  # type: ignore[arg-type]


def test_a_request_becomes_a_task_without_personal_data() -> None:
    (task,) = tasks_from_traces(
        [trace("I am a@b.de. Where is o1?", outcome=True)], clean=clean, intent=lambda _: "status"
    )
    assert task.public == {"ticket": "I am [email] Where is o1?"}
    assert (task.family, task.split) == ("status", "train")
    assert task.hidden["reference"] == "Sent to [email]"
    (origin,) = task.hidden["provenance"]
    assert (origin["session"], origin["call_id"], origin["version"]) == ("s1", "c-s1", "v2")


def test_the_same_request_is_one_task_that_names_every_session() -> None:
    asked = [trace(LOST, "s1"), trace(LOST + " please", "s2"), trace("Cancel o2", "s3"), trace(LOST, "s4")]
    lost, cancel = tasks_from_traces(asked, clean=clean)
    assert [one["session"] for one in lost.hidden["provenance"]] == ["s1", "s2", "s4"]
    assert cancel.public["ticket"] == "Cancel o2"


def test_what_a_person_overrode_comes_first_and_is_no_reference() -> None:
    override = {"override": {"kind": "edit", "reason": "write to c@d.de"}}
    first, second = tasks_from_traces(
        [trace("Cancel o2", outcome=True), trace(LOST, "s2", outcome=True, meta=override)], clean=clean
    )
    assert first.public["ticket"] == LOST
    assert first.hidden["override"] == {"kind": "edit", "reason": "write to [email]"}
    assert "reference" not in first.hidden and "reference" in second.hidden
    assert "reference" not in tasks_from_traces([trace("Cancel o2", outcome=False)], clean=clean)[0].hidden


def test_what_is_known_is_left_out() -> None:
    known = [Task("t1", {"ticket": LOST + " today"})]
    assert [
        task.public["ticket"] for task in tasks_from_traces([trace(LOST), trace("Cancel o2")], clean=clean, known=known)
    ] == ["Cancel o2"]
    with pytest.raises(DatasetError, match="known task 't2' has no public field 'ticket'"):
        tasks_from_traces([], clean=clean, known=[Task("t2", {"question": "?"})])


def test_a_trace_in_which_no_user_spoke_is_no_task() -> None:
    assert tasks_from_traces([Trace("s", ({"role": "assistant", "content": "Hello"},))], clean=clean) == []


def test_near_duplicates_point_at_the_first_of_their_kind() -> None:
    texts = [LOST, "Cancel o2", LOST + " please", LOST + " now"]
    tasks = [Task(f"t{i}", {"ticket": text}) for i, text in enumerate(texts)]
    assert near_duplicates(tasks) == {"t2": "t0", "t3": "t0"}
