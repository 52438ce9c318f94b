"""Everything appended to the spool is stored or declared lost, whatever happens to the disk and the process."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from flyball.errors import SpoolInUseError, StoreError
from flyball.store import spool as spools
from flyball.store.frames import MAGIC, Frame, encode
from flyball.store.spool import Place, Spool, SpoolReader, segment_path, segments

WRITER = Path(__file__).with_name("spooler.py")


def read_all(folder: Path, *, limit_bytes: int = 4 << 20) -> list[Frame]:
    reader, place, found = SpoolReader(folder), None, []
    while True:
        frames, place = reader.read(place, limit_bytes=limit_bytes)
        if not frames:
            return found
        found += frames


def bodies(folder: Path) -> list[bytes]:
    return [frame.body for frame in read_all(folder) if frame.kind != "counter"]


def test_what_was_flushed_is_read_in_order(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for i in range(100):
            spool.append("call", f"{i}".encode(), arm="canary")
        spool.flush()
        assert bodies(tmp_path) == [f"{i}".encode() for i in range(100)]
        assert spool.pending_bytes == 0
    frames = read_all(tmp_path)
    assert {(frame.kind, frame.arm) for frame in frames[:-1]} == {("call", "canary")}
    assert orjson.loads(frames[-1].body) == {"life": 1, "accepted": [["call", "canary", 100]], "lost": []}


def test_the_future_is_done_once_the_fact_is_on_disk(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append("session", b"s").result(timeout=30)
        assert segment_path(tmp_path, 1).read_bytes()[:-1].endswith(encode(Frame("session", b"s"))[18:-1])
        assert spool.counts.durable == {("session", ""): 1}


def test_one_sync_serves_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(spools, "_sync", syncs.append)
    with Spool(tmp_path, group_seconds=0.2) as spool:
        for _ in range(1000):
            spool.append("call", b"x" * 100)
        spool.flush()
        assert len(syncs) <= 2


def test_segments_end_at_their_size_and_are_read_across(tmp_path: Path) -> None:
    with Spool(tmp_path, segment_bytes=500) as spool:
        for i in range(50):
            spool.append("call", f"{i:100}".encode()).result(timeout=30)
    assert len(segments(tmp_path)) > 5
    assert [int(body) for body in bodies(tmp_path)] == list(range(50))
    for limit in (1, 130, 1000):  # frames longer than the limit are read one by one
        assert len(read_all(tmp_path, limit_bytes=limit)) == len(read_all(tmp_path))


def test_counts_at_the_end_of_a_segment_are_those_of_the_frames_before(tmp_path: Path) -> None:
    with Spool(tmp_path, segment_bytes=2000) as spool:
        for i in range(60):
            spool.append("call" if i % 3 else "feedback", bytes(100), arm="stable").result(timeout=30)
    seen: dict[tuple[str, str], int] = {}
    told = 0
    for frame in read_all(tmp_path):
        if frame.kind == "counter":
            accepted = {(kind, arm): count for kind, arm, count in orjson.loads(frame.body)["accepted"]}
            assert accepted == seen
            told += 1
        seen[frame.kind, frame.arm] = seen.get((frame.kind, frame.arm), 0) + 1
    assert told > 2


def test_read_segments_can_be_removed_and_the_numbers_go_on(tmp_path: Path) -> None:
    with Spool(tmp_path, segment_bytes=200) as spool:
        for _ in range(9):
            spool.append("call", bytes(150)).result(timeout=30)
    last = segments(tmp_path)[-1]
    reader, place = SpoolReader(tmp_path), None
    while True:
        frames, place = reader.read(place)
        if not frames:
            break
        assert place is not None
        reader.remove_before(place)
    assert segments(tmp_path) == [last]
    with Spool(tmp_path) as spool:
        spool.append("call", b"next")
        assert spool.life == last + 1
    assert reader.read(place)[0][0].body == b"next"


def test_a_torn_tail_is_cut_at_the_last_whole_frame(tmp_path: Path) -> None:
    whole = encode(Frame("call", b"first")) + encode(Frame("call", b"second"))
    torn = encode(Frame("call", b"third"))
    for cut in range(1, len(torn)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        segment_path(folder, 1).write_bytes(MAGIC + whole + torn[:cut])
        before, place = SpoolReader(folder).read()
        assert [frame.body for frame in before] == [b"first", b"second"]
        with Spool(folder) as spool:
            assert spool.torn_bytes == cut
            spool.append("call", b"fourth")
        assert bodies(folder) == [b"first", b"second", b"fourth"]
        after, _ = SpoolReader(folder).read(place)
        assert after[0].body == b"fourth"


@pytest.mark.parametrize("beginning", [b"", MAGIC[:3], b"another program's file"])
def test_a_segment_without_a_beginning_holds_nothing(tmp_path: Path, beginning: bytes) -> None:
    segment_path(tmp_path, 4).write_bytes(beginning)
    with Spool(tmp_path) as spool:
        assert (spool.torn_bytes, spool.life) == (len(beginning), 5)
        spool.append("call", b"x")
    assert bodies(tmp_path) == [b"x"]


def test_damage_inside_a_segment_is_counted(tmp_path: Path) -> None:
    for _ in range(2):
        with Spool(tmp_path) as spool:
            spool.append("call", b"sound").result(timeout=30)
            spool.append("call", b"damaged").result(timeout=30)
    data = segment_path(tmp_path, 1).read_bytes()
    segment_path(tmp_path, 1).write_bytes(data.replace(b"damaged", b"dAmaged"))
    reader = SpoolReader(tmp_path)
    frames, place = reader.read()
    assert [frame.body for frame in frames] == [b"sound"]
    frames, _ = reader.read(place)
    assert [frame.body for frame in frames][:2] == [b"sound", b"damaged"]
    assert reader.damaged_bytes == len(data) - len(MAGIC) - len(encode(Frame("call", b"sound")))


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with Spool.claim(tmp_path) as first, Spool.claim(tmp_path) as second:
        assert [first.folder.name, second.folder.name] == ["0", "1"]
        with pytest.raises(SpoolInUseError, match=r"0 is being appended to by another process; give every gateway"):
            Spool(tmp_path / "0")
    with Spool.claim(tmp_path) as third:
        assert third.folder.name == "0"


def test_threads_append_to_one_spool(tmp_path: Path) -> None:
    with Spool(tmp_path, segment_bytes=10_000) as spool:

        def work(name: int) -> None:
            for i in range(200):
                spool.append("call", f"{name}.{i}".encode())
            spool.flush()

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = bodies(tmp_path)
    for name in range(4):  # each thread's facts, in its order
        assert [body for body in found if body.startswith(b"%d." % name)] == [b"%d.%d" % (name, i) for i in range(200)]


def test_one_cancelled_waiter_leaves_the_others(tmp_path: Path) -> None:
    async def two_wait_and_one_leaves(spool: Spool) -> None:
        first, second = (asyncio.create_task(spool.flushed()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first

    with Spool(tmp_path, group_seconds=0.1) as spool:
        spool.append("call", b"x")
        asyncio.run(two_wait_and_one_leaves(spool))
        assert spool.counts.durable == {("call", ""): 1}


def refusing(code: int) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, "disk_full"), (errno.EROFS, "read_only"), (errno.EIO, "io")]
)
def test_a_group_that_is_refused_is_declared_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    with Spool(tmp_path, group_seconds=0.05) as spool:
        spool.append("call", b"before").result(timeout=30)
        with monkeypatch.context() as broken:
            broken.setattr(spools, "_sync", refusing(code))
            lost = [spool.append("call", b"during", arm="canary") for _ in range(3)]
            with pytest.raises(StoreError, match=rf"are lost \({reason}\)\. .*{tmp_path}"):
                spool.flush()
            assert [type(one.exception(timeout=30)) for one in lost] == [StoreError] * 3
        spool.append("call", b"after").result(timeout=30)
        assert spool.counts.lost == {("call", "canary", reason): 3}
        assert spool.counts.accepted.total() == spool.counts.durable.total() + spool.counts.lost.total()
    assert bodies(tmp_path) == [b"before", b"after"]
    last = orjson.loads(read_all(tmp_path)[-1].body)
    assert last["lost"] == [["call", "canary", reason, 3]]
    assert last["accepted"] == [["call", "", 2], ["call", "canary", 3]]


def test_a_full_disk_leaves_no_empty_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Spool(tmp_path) as spool:
        monkeypatch.setattr(spools, "_sync_folder", refusing(errno.ENOSPC))
        for _ in range(5):
            assert isinstance(spool.append("call", b"x").exception(timeout=30), StoreError)
        assert segments(tmp_path) == []


def test_more_than_may_wait_is_refused_and_counted(tmp_path: Path) -> None:
    with Spool(tmp_path, group_seconds=0.5, max_pending_bytes=100) as spool:
        spool.append("call", bytes(60))
        with pytest.raises(StoreError, match="has 78 bytes waiting for the disk, the most is 100: a response is lost"):
            spool.append("response", bytes(60), arm="stable")
        assert spool.counts.lost == {("response", "stable", "backlog"): 1}
    assert len(bodies(tmp_path)) == 1


def test_a_closed_spool_says_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.close()
    spool.close()
    with pytest.raises(StoreError, match="is closed"):
        spool.append("call", b"")
    assert segments(tmp_path) == []


def test_a_place_behind_the_end_goes_on_with_the_next_segment(tmp_path: Path) -> None:
    """After a power failure a segment may be shorter than what a reader saw of it."""
    with Spool(tmp_path) as spool:
        spool.append("call", b"kept")
    with Spool(tmp_path) as spool:
        spool.append("call", b"next")
    frames, _ = SpoolReader(tmp_path).read(Place(1, 10_000))
    assert frames[0].body == b"next"


def run(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(WRITER), *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for life in range(3):
        writer = run(tmp_path, f"life{life}")
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(5 + life)]
        writer.kill()
        rest, _ = writer.communicate(timeout=60)
        acknowledged |= set(("".join(lines) + rest).rpartition("\n")[0].split())
        found = [body.decode() for body in bodies(tmp_path)]
        assert acknowledged <= set(found)
        assert len(set(found)) == len(found)
    assert len(acknowledged) > 100


def test_a_limit_of_the_file_size_is_a_full_disk(tmp_path: Path) -> None:
    """The operating system itself refuses to let a segment grow: the frames are declared, and what follows is kept."""
    output, _ = run(tmp_path, "full", 20_000).communicate(timeout=60)
    *acknowledged, last = output.splitlines()
    told = orjson.loads(last)
    assert set(told["lost"]) == {"disk_full"}
    found = [body.decode() for body in bodies(tmp_path)]
    assert found == " ".join(acknowledged).split()
    assert told["accepted"] == len(found) + told["lost"]["disk_full"]
