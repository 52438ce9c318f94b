"""Every frame of a spool becomes one row, or stands in quarantine, or is told missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball.errors import StoreError
from flyball.store import ingest
from flyball.store.frames import Frame, encode
from flyball.store.spool import Spool, segment_path, segments
from flyball.store.store import Store
from tests.store.served import call, names, report, session, spooled


def test_frames_become_rows_once(store: Store, tmp_path: Path) -> None:
    folder = spooled(tmp_path / "spool", ("request", names("c1")), ("call", call("c1")), ("feedback", report("r1")))
    done = store.ingest(folder)
    assert (done.stored, done.repeated, done.quarantined, done.counters) == (3, 0, 0, 1)
    assert store.ingest(folder) == ingest.Ingested()
    (one,) = store.calls()
    assert (one.project, one.call_id, one.session, one.version_id, one.tokens_in) == ("shop", "c1", "s1", "v2", 12)
    assert one.facts == {"v": 1, "table": 3}
    assert store.said(one).message == {"role": "assistant", "content": "On its way."}


def test_what_is_spooled_later_is_read_later_and_done_segments_go(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    for life in range(3):
        frames = [("call", call(f"c{life}-{i}")) for i in range(20)]
        spooled(folder, *frames, segment_bytes=4000)  # type: ignore[arg-type]
        assert store.ingest(folder).stored == 20
        assert len(segments(folder)) == 1
    assert len(list(store.calls())) == len(list(store.calls(since=1000.0, until=1000.5))) == 60
    assert not list(store.calls(until=1000.0))
    assert store.reconciliations(missing_only=True) == []
    assert {one.life for one in store.reconciliations()} > {1}


def test_a_batch_is_written_with_its_place_or_not_at_all(
    store: Store, again: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = spooled(tmp_path / "spool", *[("call", call(f"c{i}")) for i in range(50)])  # type: ignore[arg-type]
    calls_of_put = 0

    def crash(*_: object, **__: object) -> None:
        nonlocal calls_of_put
        calls_of_put += 1
        if calls_of_put == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(ingest, "put_bodies", crash)
        with pytest.raises(KeyboardInterrupt):
            store.ingest(folder, limit_bytes=5000)
    with again() as other:
        assert 0 < len(list(other.calls())) < 50
        other.ingest(folder)
        assert [one.call_id for one in other.calls()] == [f"c{i}" for i in range(50)]
        assert other.reconciliations(missing_only=True) == []


def test_a_report_sent_twice_is_one_and_another_under_its_id_is_told(store: Store, tmp_path: Path) -> None:
    folder = spooled(tmp_path / "0", ("feedback", report("r1", outcome=True)), ("feedback", report("r1", outcome=True)))
    assert (done := store.ingest(folder)).stored == 1 and done.repeated == 1
    other = spooled(tmp_path / "1", ("feedback", report("r1", outcome=False)))
    assert store.ingest(other).quarantined == 1
    assert [(kind, reason) for kind, reason, _ in store.quarantined()] == [
        ("feedback", "another fact has this id already")
    ]
    assert [fact.outcome for fact in store.feedback("shop", "s1")] == [True]
    assert store.reconciliations(missing_only=True) == []


def test_a_report_sent_to_two_gateways_is_one(store: Store, tmp_path: Path) -> None:
    again = {**report("r1", outcome=True, by="agent"), "at": 2000.0}
    folders = [
        spooled(tmp_path / str(i), ("feedback", body))
        for i, body in enumerate((report("r1", outcome=True, by="agent", at=1000.0), again, {**again, "call_id": "c2"}))
    ]
    done = [store.ingest(folder) for folder in folders]
    assert [(one.stored, one.repeated, one.quarantined) for one in done] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    (kept,) = store.feedback("shop", "s1")
    assert (kept.at, kept.call_id) == (1000.0, "c1")


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("call", b"not json", "line 1 column 1"),
        ("call", b"[1]", "valid dictionary"),
        ("call", call("c1", tokens_in=2**60), "tokens_in"),
        ("call", call("c\x001"), "call_id"),
        ("session", session("c1", release_channel="everywhere"), "release_channel"),
        ("feedback", report("r1", score=1.5), "score"),
    ],
)
def test_a_frame_that_cannot_be_read_is_kept_apart(
    store: Store, tmp_path: Path, kind: Any, body: dict[str, Any] | bytes, reason: str
) -> None:
    folder = spooled(tmp_path / "spool", (kind, body), ("call", call("sound")))
    done = store.ingest(folder)
    assert (done.stored, done.quarantined) == (1, 1)
    ((found, why, kept),) = store.quarantined()
    assert found == kind and reason in why
    assert kept == (body if isinstance(body, bytes) else orjson.dumps(body))
    assert [one.call_id for one in store.calls()] == ["sound"]
    assert store.reconciliations(missing_only=True) == []


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted(call("c"))), value=json, extra=json)
def test_no_content_of_a_frame_stops_the_reading(
    store: Store, tmp_path: Path, field: str, value: Any, extra: Any
) -> None:
    try:
        body = orjson.dumps({**call("c"), field: value, "extra": extra})
    except TypeError:  # no JSON: an integer of more than 64 bits, half a surrogate
        return
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    done = store.ingest(spooled(folder, ("call", body)))
    assert done.stored + done.repeated + done.quarantined == 1


def test_what_is_missing_is_told(store: Store, tmp_path: Path) -> None:
    """A frame in the middle of a segment is damaged: what is behind it in that segment is gone, and counted."""
    folder = tmp_path / "spool"
    with Spool(folder) as spool:
        for i in range(5):
            spool.append("call", orjson.dumps(call(f"c{i}")), arm="canary").result(timeout=30)
        path = segment_path(folder, 1)
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"c3"', b'"c?"'))
        spool._close_segment()  # as a full disk would make it
        spool.append("call", orjson.dumps(call("c9")), arm="canary").result(timeout=30)
    store.ingest(folder)
    assert [one.call_id for one in store.calls()] == ["c0", "c1", "c2", "c9"]
    (missing,) = store.reconciliations(missing_only=True)
    assert (missing.kind, missing.arm, missing.accepted, missing.found, missing.missing) == ("call", "canary", 6, 4, 2)


def test_declared_losses_are_not_missing(store: Store, tmp_path: Path) -> None:
    data = orjson.dumps(call("c1"))
    with Spool(tmp_path / "spool", group_seconds=0.5, max_pending_bytes=2 * len(data)) as spool:
        spool.append("call", data, arm="stable")
        with pytest.raises(StoreError, match="a call is lost"):
            spool.append("call", data, arm="stable")
    store.ingest(tmp_path / "spool")
    (told,) = store.reconciliations()
    assert (told.kind, told.arm, told.accepted, told.declared, told.found, told.missing) == (
        "call", "stable", 2, 1, 1, 0
    )  # fmt: skip


def test_spools_of_two_gateways_do_not_mix(store: Store, tmp_path: Path) -> None:
    for machine in ("a", "b"):
        folder = tmp_path / machine / "0"
        store.ingest(spooled(folder, ("call", call(f"c-{machine}"))))
    assert [one.call_id for one in store.calls()] == ["c-a", "c-b"]
    with pytest.raises(StoreError, match="cannot be opened"):
        store.ingest(tmp_path / "nothing")


def test_a_clock_that_jumps_changes_no_order(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spooled(folder)
    frames = [encode(Frame("call", orjson.dumps(call(f"c{at}", at=float(at))), "canary", at)) for at in (9000, 10, 500)]
    segment_path(folder, 1).write_bytes(b"FLYSEG\x00\x01" + b"".join(frames))
    store.ingest(folder)
    assert [one.call_id for one in store.calls()] == ["c9000", "c10", "c500"]
