"""What was served is read back as sessions with what became known later; what was said can be erased."""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson
import pytest

from flyball.errors import StoreError
from flyball.store.serving_frames import FeedbackFrame
from flyball.store.store import Store
from flyball.types import PolicyVersion
from tests.store.served import ANSWERED, ASKED, TOOLS, call, names, report, session, spooled


def test_a_session_is_the_sum_of_its_parts_and_of_what_came_late(store: Store, tmp_path: Path) -> None:
    store.put_version(PolicyVersion("v2", "desk", "w", base="base-1", reward_model="rm-1"))
    spooled(
        tmp_path / "0",
        ("call", call("c1")),
        ("call", call("c2", stands_at="at-c1")),  # asked again
        ("call", call("c3", agent="helper", stands_at="at-c1")),  # another agent: no retry
        ("session", session("c1")),
        ("feedback", report("f1", outcome=False)),
        ("feedback", report("f2", override={"kind": "edit", "reason": "wrong amount"})),
        ("feedback", report("f3", outcome=True, kpi={"name": "refund", "value": 12.5, "unit": "EUR"})),
        ("feedback", report("f4", context={"summary": "second complaint", "retrieved": ["doc-7"]})),
    )
    store.request_approval("shop~s1", "c2", "refund", "{}", "2999-01-01T00:00:00+00:00")
    spooled(tmp_path / "1", ("session", session("c9", calls=1, duration_ms=10.0)))
    for folder in ("0", "1"):
        store.ingest(tmp_path / folder)
    (one,) = store.served_sessions()
    assert one.session_id == "shop~s1"
    assert (one.model_version, one.policy_version, one.reward_model_version) == ("base-1", "v2", "rm-1")
    assert (one.tokens_in, one.tokens_out, one.duration_ms, one.tool_calls_count) == (48, 12, 50.0, 2)
    assert (one.release_channel, one.arm, one.outcome, one.human_override) == ("canary", "canary", True, True)
    assert one.context["calls"] == 3 and one.context["retries"] == 1
    assert one.context["kpis"] == [{"name": "refund", "value": 12.5, "unit": "EUR", "delay_seconds": 0.0}]
    assert (one.context["summary"], one.context["retrieved"]) == ("second complaint", ["doc-7"])
    assert [asked["tool"] for asked in one.context["approvals"]] == ["refund"]
    assert store.served_sessions(channel="general") == store.served_sessions(version_id="v1") == []


def test_shadow_is_no_outcome_of_what_people_got(store: Store, tmp_path: Path) -> None:
    shadow = session("c5", arm="shadow", version="v3", release_channel="offline_eval")
    told = ("feedback", report("f1", outcome=True))
    store.ingest(spooled(tmp_path / "0", ("session", session("c1", arm="stable")), ("session", shadow), told))
    assert [(one.arm, one.outcome) for one in store.served_sessions()] == [("stable", True), ("shadow", None)]


def test_a_call_without_an_end_is_seen(store: Store, tmp_path: Path) -> None:
    begun = [("request", names(f"c{i}")) for i in range(3)]
    store.ingest(spooled(tmp_path / "0", *begun, ("call", call("c0")), ("response", names("c1"))))  # type: ignore[arg-type]
    assert store.unfinished_calls(before=1e12) == [("shop", "c2")]
    assert store.unfinished_calls(before=1000.0) == []


def test_calls_are_found_by_what_they_are(store: Store, tmp_path: Path) -> None:
    calls = [call(f"c{i}", f"s{i % 3}", arm="stable" if i % 2 else "canary", at=float(i)) for i in range(300)]
    store.ingest(spooled(tmp_path / "0", *[("call", one) for one in calls]))  # type: ignore[arg-type]
    assert [one.call_id for one in store.calls(session="s1", arm="stable", since=290)] == ["c295"]
    assert len(list(store.calls())) == 300
    assert len(list(store.calls(after=299))) == 1
    assert list(store.calls(project="other")) == list(store.calls(version_id="v1")) == []


def test_late_facts_are_added_never_changed(store: Store) -> None:
    fact = FeedbackFrame(project="shop", session="s1", at=1.0, report_id="f1", outcome=True)
    assert store.add_feedback(fact) and not store.add_feedback(fact)
    with pytest.raises(StoreError, match="report 'f1' of project 'shop' is there with other content"):
        store.add_feedback(fact.model_copy(update={"outcome": False}))
    for statement in ("UPDATE feedback SET outcome = 0", "DELETE FROM feedback"):
        with pytest.raises(StoreError, match="append-only"), store._db.write() as db:
            db.execute(statement)


def test_what_was_said_is_kept_once_by_its_content(store: Store, tmp_path: Path) -> None:
    store.ingest(spooled(tmp_path / "0", *[("call", call(f"c{i}")) for i in range(5)]))  # type: ignore[arg-type]
    (one, *_) = store.calls()
    assert len(store._db.rows("SELECT digest FROM bodies")) == 2  # what was said, and the tools
    said = store.said(one)
    assert (said.messages, said.message, said.tools) == (ASKED, ANSWERED, TOOLS)
    assert one.body and hashlib.sha256(store.body(one.body)).hexdigest() == one.body


def test_an_erased_body_leaves_its_digest(store: Store, tmp_path: Path) -> None:
    store.ingest(spooled(tmp_path / "0", ("call", call("c1")), ("call", call("c2", message={"content": "other"}))))
    one, other = store.calls()
    assert one.body and other.body
    with pytest.raises(StoreError, match="needs a reason"):
        store.erase_bodies([one.body], "ana", "")
    assert store.erase_bodies([one.body, "0" * 64], "ana", "asked for by the customer") == 1
    with pytest.raises(StoreError, match=rf"body {one.body} was erased by ana at .*: asked for by the customer"):
        store.said(one)
    assert store.said(other).message == {"content": "other"}
    assert [stone.digest for stone in store.tombstones()] == [one.body]
    assert list(store.calls()) == [one, other]  # the facts, and the digests that an audit holds, are as they were
    assert store.erase_bodies([one.body], "ana", "again") == 0


def test_bodies_are_kept_as_long_as_their_class_says(store: Store, tmp_path: Path) -> None:
    said = [call(f"c{i}", message={"content": f"{i}"}, tools=None) for i in range(2)]
    store.ingest(spooled(tmp_path / "0", *[("call", one) for one in said]))  # type: ignore[arg-type]
    plain, evidence = store.calls()
    assert plain.body and evidence.body
    store.hold_bodies([evidence.body], "evidence", "ana", "release r1")
    day = 86400.0
    (row,) = store._db.rows("SELECT max(at) FROM bodies")
    assert store.expire_bodies(at=row[0] + 29 * day) == 0
    assert store.expire_bodies(at=row[0] + 31 * day) == 1
    assert [stone.digest for stone in store.tombstones()] == [plain.body]
    assert store.expire_bodies({"body": 1, "evidence": 3}, at=row[0] + 4 * day) == 1
    with pytest.raises(StoreError, match="retention 'evidense' is not one; did you mean 'evidence'"):
        store.hold_bodies([], "evidense", "ana", "")  # type: ignore[arg-type]


def test_old_rows_go_and_young_ones_and_evidence_stay(store: Store, tmp_path: Path) -> None:
    day = 86400.0
    frames = [
        (kind, made(f"{kind}{i}", f"s{i}", at=i * day))
        for i in range(1, 4)
        for kind, made in (("call", call), ("session", session), ("feedback", report))
    ]
    store.ingest(spooled(tmp_path / "0", *frames))  # type: ignore[arg-type]
    first = next(iter(store.calls(session="s1")))
    assert first.body
    store.hold_bodies([first.body], "evidence", "ana", "release r1")  # kept once, so it is that of all three
    assert store.expire_rows(1, at=4 * day) == 0
    store.ingest(spooled(tmp_path / "1", ("call", call("other", "s4", at=day, message={"content": "x"}))))
    assert store.expire_rows(2, at=4 * day) == 1
    assert [one.session for one in store.calls()] == ["s1", "s2", "s3"]
    (entry,) = store._db.rows("SELECT before, row_count, actor FROM expirations")
    assert tuple(entry) == (2 * day, 1, "retention")
    with pytest.raises(StoreError, match="append-only"), store._db.write() as db:
        db.execute("DELETE FROM served_calls WHERE session = 's3'")
    with pytest.raises(StoreError, match="append-only"), store._db.write() as db:
        db.execute("DELETE FROM expirations")


def test_a_damaged_body_is_told(sqlite: Store, tmp_path: Path) -> None:
    sqlite.ingest(spooled(tmp_path / "0", ("call", call("c1"))))
    (one,) = sqlite.calls()
    with sqlite._db.write() as db:
        db.execute("UPDATE bodies SET data = ?", (b"(\xb5/\xfd damaged",))
    with pytest.raises(StoreError, match=rf"body {one.body}: damaged"):
        sqlite.said(one)


def test_a_call_stored_without_its_body_says_so(store: Store, tmp_path: Path) -> None:
    bare = {name: value for name, value in call("c1").items() if name not in ("messages", "message", "tools", "tokens")}
    store.ingest(spooled(tmp_path / "0", ("call", orjson.dumps(bare))))
    (one,) = store.calls()
    with pytest.raises(StoreError, match="c1 was stored without its body"):
        store.said(one)
