"""Frames: how one fact lies in a segment of the spool.

    segment = MAGIC, frame, frame, ...
    frame   = length u32, crc u32, time i64, kind u8, arm u8, body      (little-endian; 18 bytes and the body)

`length` counts the body. The checksum (CRC-32, `zlib.crc32`) covers everything of the frame but itself, the length too,
so neither a torn write nor a page of zeros reads as a frame. Any beginning of a segment reads as a beginning of its
frames: that is what makes a torn tail safe to cut.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from flyball.errors import StoreError, nearest

Kind = Literal["request", "response", "call", "session", "feedback", "counter"]
Arm = Literal["", "stable", "holdback", "canary", "shadow"]

# The place of a word is its code on disk: words are added at the end, never moved.
KINDS: tuple[Kind, ...] = get_args(Kind)
ARMS: tuple[Arm, ...] = get_args(Arm)

MAGIC = b"FLYSEG\x00\x01"
MAX_BODY = 64 << 20
"""Bytes. A longer body is refused, and a length above it is damage."""

T = TypeVar("T")

_HEAD = struct.Struct("<IIqBB")
_CHECKED = struct.Struct("<IqBB")
FRAME_OVERHEAD = _HEAD.size
"""Bytes on disk beside the body."""


@dataclass(frozen=True)
class Frame:
    """One fact. `at_ms` is wall-clock time in ms since 1970, for display only: nothing is ordered by it."""

    kind: Kind
    body: bytes
    arm: Arm = ""
    at_ms: int = 0


def encode(frame: Frame) -> bytes:
    """Return the bytes of one frame. Raises StoreError for an unknown kind or arm, or a body above MAX_BODY."""
    if frame.kind not in KINDS:
        raise StoreError(f"kind {frame.kind!r} is not one of the spool{nearest(frame.kind, KINDS)}")
    if frame.arm not in ARMS:
        raise StoreError(f"arm {frame.arm!r} is not one{nearest(frame.arm, ARMS)}")
    if (length := len(frame.body)) > MAX_BODY:
        raise StoreError(f"a {frame.kind} of {length} bytes is above the {MAX_BODY} that a frame holds; cut it first")
    kind, arm = KINDS.index(frame.kind), ARMS.index(frame.arm)
    crc = zlib.crc32(frame.body, zlib.crc32(_CHECKED.pack(length, frame.at_ms, kind, arm)))
    return _HEAD.pack(length, crc, frame.at_ms, kind, arm) + frame.body


def decode(data: bytes | memoryview, start: int = 0) -> tuple[list[Frame], int]:
    """Return the whole frames of `data` from byte `start`, and where they end.

    What follows the end is a frame that is not there in full, or damage. Raises StoreError for a kind or an arm of a
    newer flyball.
    """
    view, frames, at = memoryview(data), [], start
    while at + _HEAD.size <= len(view):
        length, crc, at_ms, kind, arm = _HEAD.unpack_from(view, at)
        end = at + _HEAD.size + length
        if length > MAX_BODY or end > len(view):
            break
        body = view[at + _HEAD.size : end]
        if zlib.crc32(body, zlib.crc32(_CHECKED.pack(length, at_ms, kind, arm))) != crc:
            break
        frames.append(Frame(_word(KINDS, kind, "kind"), bytes(body), _word(ARMS, arm, "arm"), at_ms))
        at = end
    return frames, at


def _word(words: Sequence[T], code: int, what: str) -> T:
    if code >= len(words):
        raise StoreError(f"a frame has {what} {code}, this flyball knows {len(words)}: a newer one wrote it. Upgrade")
    return words[code]
