"""The spool: what the gateway accepts is on disk within milliseconds, whatever the database does.

    root/spool/0/lock                   held by the one process that appends here; names the spool
    root/spool/0/00000001.seg           frames (`frames.py`); the highest number is being written
    root/spool/1/ ...                   one folder for each gateway process

One thread writes and syncs; what is appended meanwhile is the next group, so one fdatasync serves many requests. A
segment is never continued after it was closed, by a full disk or by a crash: a (segment, byte) therefore names one
frame for ever, and a reader can keep its place with it.

Everything appended is stored or declared: a frame that does not reach the disk is counted in `counts` with its reason,
and the future that `append` returned raises. The counts are themselves frames of kind `counter`, written every minute,
at the end of a segment and at the end, so that a reader can reconcile what it found with what was accepted. A crash
takes what was not acknowledged yet, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import fcntl
import os
import secrets
import threading
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

import orjson

from flyball.errors import SpoolInUseError, StoreError
from flyball.store import failures
from flyball.store.frames import FRAME_OVERHEAD, MAGIC, MAX_BODY, Arm, Frame, Kind, decode, encode

Loss = Literal["disk_full", "read_only", "io", "backlog"]
"""Why a frame was not stored; `backlog`: more was waiting for the disk than `max_pending_bytes`."""

SEGMENT_BYTES = 64 << 20
GROUP_SECONDS = 0.005
MAX_PENDING_BYTES = 64 << 20
COUNTER_SECONDS = 60.0
_REASONS: dict[int, Loss] = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.EROFS: "read_only",
    errno.EACCES: "read_only",
    errno.EPERM: "read_only",
}
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Place(NamedTuple):
    """Where a frame begins: the number of its segment and the byte in it. Ordered as the frames were appended."""

    segment: int
    byte: int


@dataclass
class Counts:
    """What became of the frames appended since the spool was opened, by (kind, arm); `lost` also by reason."""

    accepted: Counter[tuple[Kind, Arm]] = field(default_factory=Counter)
    durable: Counter[tuple[Kind, Arm]] = field(default_factory=Counter)
    lost: Counter[tuple[Kind, Arm, Loss]] = field(default_factory=Counter)

    def body(self, life: int) -> bytes:
        """Return the body of a `counter` frame: JSON rows of (kind, arm, count) and (kind, arm, reason, count).

        `life` is the number of the first segment that this opening of the spool could write.
        """
        accepted = [[*key, count] for key, count in sorted(self.accepted.items())]
        lost = [[*key, count] for key, count in sorted(self.lost.items())]
        return orjson.dumps({"life": life, "accepted": accepted, "lost": lost})


@dataclass
class _Group:
    """Frames that go to disk together; `written` is done once they are there."""

    written: Future[None] = field(default_factory=Future)
    data: list[bytes] = field(default_factory=list)
    keys: list[tuple[Kind, Arm]] = field(default_factory=list)
    size: int = 0

    def __post_init__(self) -> None:
        self.written.set_running_or_notify_cancel()  # one waiter that is cancelled must not cancel it for the others


class Spool:
    """The appending end of the spool in `folder`, made if absent. Safe for threads; one process at a time.

    A segment ends at about `segment_bytes`; a group waits `group_seconds` for others to join it; more than
    `max_pending_bytes` never wait for the disk. Opening cuts the torn tail that a crash may have left (`torn_bytes`).
    Raises StoreError when another process appends here, or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        group_seconds: float = GROUP_SECONDS,
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self.folder = Path(folder)
        self.counts = Counts()
        self.torn_bytes = 0
        self._segment_bytes, self._group_seconds, self._max_pending = segment_bytes, group_seconds, max_pending_bytes
        self._file, self._size = -1, 0
        self._changed = threading.Condition()
        self._group, self._writing = _Group(), _Group()
        self._closing = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            try:
                self._last = self._cut_torn_tail()
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            raise failures.from_os(self.folder, error) from error
        self.life = self._last + 1
        self._counted = time.monotonic()
        self._thread = threading.Thread(target=self._write_groups, name=f"spool {self.folder}", daemon=True)
        self._thread.start()

    @classmethod
    def claim(
        cls,
        root: Path | str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        group_seconds: float = GROUP_SECONDS,
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> Spool:
        """Open the first folder `0`, `1`, ... under `root` that no other process appends to. Raises StoreError."""
        number = 0
        while True:
            try:
                return cls(
                    Path(root) / str(number),
                    segment_bytes=segment_bytes,
                    group_seconds=group_seconds,
                    max_pending_bytes=max_pending_bytes,
                )
            except SpoolInUseError:
                number += 1

    @property
    def pending_bytes(self) -> int:
        """Bytes that were appended and are not on disk yet."""
        return self._group.size + self._writing.size

    def snapshot(self) -> Counts:
        """Return the counts as they are now."""
        with self._changed:
            return copy.deepcopy(self.counts)

    def append(self, kind: Kind, body: bytes, *, arm: Arm = "") -> Future[None]:
        """Add one fact. Never waits for the disk: the future is done once the fact is on it (`asyncio.wrap_future`).

        The future raises StoreError when the fact is lost. Raises StoreError at once for a kind or an arm that is not
        one, a body that is too long, a closed spool, and when `max_pending_bytes` wait already; only the last of these
        counts as a loss.
        """
        data = encode(Frame(kind, body, arm, time.time_ns() // 1_000_000))
        with self._changed:
            if self._closing:
                raise StoreError(f"spool {self.folder} is closed")
            self.counts.accepted[kind, arm] += 1
            if self.pending_bytes + len(data) > self._max_pending:
                self.counts.lost[kind, arm, "backlog"] += 1
                raise StoreError(
                    f"spool {self.folder} has {self.pending_bytes} bytes waiting for the disk, the most is "
                    f"{self._max_pending}: a {kind} is lost. Use a faster disk, or spool less"
                )
            return self._add(kind, arm, data)

    def flush(self) -> None:
        """Wait until everything appended so far is on disk. Raises StoreError when part of what waited was lost."""
        for written in self._waiting():
            written.result()

    async def flushed(self) -> None:
        """Wait as `flush` does, without holding up the event loop. Raises StoreError."""
        for written in self._waiting():
            await asyncio.wrap_future(written)

    def close(self) -> None:
        """Write what waits and the last counts, and let the folder go; a second close does nothing."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify()
        self._thread.join()
        os.close(self._lock)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _add(self, kind: Kind, arm: Arm, data: bytes) -> Future[None]:
        group = self._group
        group.data.append(data)
        group.keys.append((kind, arm))
        group.size += len(data)
        if len(group.data) == 1:
            self._changed.notify()
        return group.written

    def _waiting(self) -> list[Future[None]]:
        with self._changed:
            return [group.written for group in (self._writing, self._group) if group.data]

    # --- the writing thread ------------------------------------------------------------------------------------------

    def _write_groups(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._group.data or self._closing)
            if not self._closing:
                time.sleep(self._group_seconds)  # others join the group
            with self._changed:
                closing = self._closing
                self._count(closing)
                self._writing, self._group = self._group, _Group()
            if self._writing.data:
                self._write(self._writing)
            with self._changed:
                self._writing = _Group()
            if closing:
                self._close_segment()
                return

    def _count(self, closing: bool) -> None:
        """Add a counter frame when one is due: the counts are those of the frames before it."""
        full = self._file >= 0 and self._size + self._group.size >= self._segment_bytes
        if not self.counts.accepted or not (closing or full or time.monotonic() - self._counted > COUNTER_SECONDS):
            return
        self._counted = time.monotonic()
        body = self.counts.body(self.life)
        self.counts.accepted["counter", ""] += 1
        self._add("counter", "", encode(Frame("counter", body, "", time.time_ns() // 1_000_000)))

    def _write(self, group: _Group) -> None:
        """Bring one group to disk, or declare it lost, take back what was written of it and leave the segment."""
        try:
            if self._file < 0:
                self._open_segment()
            _write_all(self._file, b"".join(group.data))
            _sync(self._file)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, "io")
            self._close_segment(cut=True)
            with self._changed:
                self.counts.lost.update((*key, reason) for key in group.keys)
            lost = failures.from_os(self.folder, error)
            group.written.set_exception(StoreError(f"{len(group.keys)} frames are lost ({reason}). {lost.args[0]}"))
            return
        self._size += group.size
        with self._changed:
            self.counts.durable.update(group.keys)
        if self._size >= self._segment_bytes:
            self._close_segment()
        group.written.set_result(None)

    def _open_segment(self) -> None:
        """Begin the next segment. One that cannot be begun leaves no file, however often a full disk is tried."""
        path = segment_path(self.folder, self._last + 1)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _write_all(file, MAGIC)
            _sync_folder(self.folder)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        self._file, self._size = file, len(MAGIC)
        self._last += 1

    def _close_segment(self, *, cut: bool = False) -> None:
        """Leave the segment being written, the next group begins another. `cut`: back to what is known to be on disk.

        After a failed sync the kernel may have dropped what it could not write, so nothing more is added to the file.
        """
        if self._file >= 0:
            with contextlib.suppress(OSError):
                if cut:
                    os.ftruncate(self._file, self._size)
                    _sync(self._file)
            os.close(self._file)
            self._file = -1

    def _cut_torn_tail(self) -> int:
        """Cut the last segment at its last whole frame and return its number, 0 when there is none."""
        numbers = segments(self.folder)
        if not numbers:
            return 0
        path = segment_path(self.folder, numbers[-1])
        data = path.read_bytes()
        end = decode(data, len(MAGIC))[1] if data.startswith(MAGIC) else 0
        if end < len(data):
            self.torn_bytes = len(data) - end
            with path.open("r+b") as file:
                file.truncate(end)
                os.fsync(file.fileno())
        return numbers[-1]


class SpoolReader:
    """The reading end of the spool in `folder`, in any process, while it is being written or after.

    `damaged_bytes` counts what was passed over because it is no frame.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.damaged_bytes = 0

    def identity(self) -> str:
        """Return the name of this spool, like no other's on any machine. Raises StoreError where no spool is."""
        path = self.folder / "lock"
        try:
            if name := path.read_text(encoding="ascii"):
                return name
        except OSError as error:
            raise failures.from_os(path, error) from error
        raise StoreError(f"{path} is empty: no gateway has opened the spool {self.folder} yet")

    def read(self, after: Place | None = None, *, limit_bytes: int = 4 << 20) -> tuple[list[Frame], Place | None]:
        """Return frames from the place `after` (None = the beginning) and the place behind them.

        At most about `limit_bytes` (always one frame at least), and never beyond one segment. No frame and the same
        place mean that nothing new is there. What is no frame in a segment that is no longer written is passed over.
        Raises StoreError.
        """
        rest = 0
        for number in self._segments_from(after):
            self.damaged_bytes += rest  # of the segment before, which ended when this one was begun
            start = after.byte if after and after.segment == number else len(MAGIC)
            frames, end, rest = self._frames(number, start, limit_bytes)
            after = Place(number, end)
            if frames:
                return frames, after
        return [], after

    def remove_before(self, place: Place) -> None:
        """Remove the segments in front of the one that `place` is in. Raises StoreError."""
        try:
            for number in segments(self.folder):
                if number < place.segment:
                    segment_path(self.folder, number).unlink(missing_ok=True)
        except OSError as error:
            raise failures.from_os(self.folder, error) from error

    def _segments_from(self, after: Place | None) -> list[int]:
        try:
            return [number for number in segments(self.folder) if after is None or number >= after.segment]
        except OSError as error:
            raise failures.from_os(self.folder, error) from error

    def _frames(self, number: int, start: int, limit_bytes: int) -> tuple[list[Frame], int, int]:
        """Return frames of one segment from byte `start`, where they end, and how many bytes follow."""
        path = segment_path(self.folder, number)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if file.read(len(MAGIC)) != MAGIC:
                    return [], start, size
                file.seek(start)
                data = file.read(limit_bytes)
                frames, end = decode(data)
                if not frames and len(data) == limit_bytes:  # the first frame is longer than the limit
                    frames, end = decode(data + file.read(MAX_BODY + FRAME_OVERHEAD))
        except OSError as error:
            raise failures.from_os(path, error) from error
        return frames, start + end, max(0, size - start - end)


def segments(folder: Path) -> list[int]:
    """Return the numbers of the segments in a spool folder, ascending."""
    return sorted(int(path.stem) for path in folder.glob("*.seg") if path.stem.isdigit())


def segment_path(folder: Path, number: int) -> Path:
    """Return where a segment lies."""
    return folder / f"{number:08}.seg"


def _lock(folder: Path) -> int:
    """Hold the folder for this process; the kernel lets go of it when the process ends, however it ends."""
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise SpoolInUseError(
            f"{folder} is being appended to by another process; give every gateway a spool folder of its own "
            "(`Spool.claim` finds a free one)"
        ) from error
    if not os.fstat(file).st_size:
        os.write(file, secrets.token_hex(8).encode())
        os.fsync(file)
    return file


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
