"""Whatever a crash leaves of a segment reads as a beginning of its frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import StoreError
from flyball.store.frames import ARMS, FRAME_OVERHEAD, KINDS, MAX_BODY, Frame, decode, encode

frames = st.lists(
    st.builds(
        Frame,
        kind=st.sampled_from(KINDS),
        body=st.binary(max_size=40),
        arm=st.sampled_from(ARMS),
        at_ms=st.integers(-(2**63), 2**63 - 1),
    ),
    max_size=6,
)


@given(frames, st.data())
def test_any_prefix_of_the_bytes_is_a_prefix_of_the_frames(written: list[Frame], data: st.DataObject) -> None:
    parts = [encode(frame) for frame in written]
    whole = b"".join(parts)
    cut = data.draw(st.integers(0, len(whole)))
    found, end = decode(whole[:cut])
    assert found == written[: len(found)]
    assert end == sum(map(len, parts[: len(found)])) <= cut
    assert len(found) == len(written) or end + len(parts[len(found)]) > cut  # none that is whole is left out


@given(frames.filter(bool), st.data())
def test_a_flipped_bit_ends_the_frames_before_it(written: list[Frame], data: st.DataObject) -> None:
    parts = [encode(frame) for frame in written]
    whole = bytearray(b"".join(parts))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    found, end = decode(bytes(whole))
    sound = next(i for i in range(len(parts)) if sum(map(len, parts[: i + 1])) > bit // 8)
    assert (found, end) == (written[:sound], sum(map(len, parts[:sound])))


def test_a_page_of_zeros_is_no_frame() -> None:
    assert decode(bytes(4096)) == ([], 0)


def test_a_frame_is_its_head_and_its_body() -> None:
    assert len(encode(Frame("call", b"12345", "canary", 7))) == FRAME_OVERHEAD + 5 == 23


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (Frame("cal", b""), "kind 'cal' is not one of the spool; did you mean 'call'"),  # type: ignore[arg-type]
        (Frame("call", b"", "canry"), "arm 'canry' is not one; did you mean 'canary'"),  # type: ignore[arg-type]
        (Frame("call", bytes(MAX_BODY + 1)), f"a call of {MAX_BODY + 1} bytes is above the {MAX_BODY}"),
    ],
)
def test_what_has_no_form_is_refused(frame: Frame, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        encode(frame)


def test_a_kind_of_a_newer_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Frame("counter", b"{}"))
    monkeypatch.setattr("flyball.store.frames.KINDS", KINDS[:-1])
    with pytest.raises(StoreError, match="a frame has kind 5, this flyball knows 5: a newer one wrote it"):
        decode(data)
