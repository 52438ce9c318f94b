"""Every type of the path survives the way to text and back; what cannot is refused with its place."""

from __future__ import annotations

import dataclasses
import math
import types as python_types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball import types
from flyball.errors import Fault, StoreError
from flyball.rl.support import unknown_support
from flyball.store import records
from flyball.types import Call, Missing, Outcome, Score, StopReason, Trajectory

NUMBERS = st.floats(width=32)
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
KEYS = st.text(max_size=3) | st.just(records.TAG) | st.integers() | st.tuples(st.integers(), st.text(max_size=2))
ARRAYS = st.builds(
    lambda values, dtype: np.asarray(values, dtype),
    st.lists(st.integers(0, 1), max_size=5) | st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=2), max_size=3),
    st.sampled_from([np.int64, np.float32, np.bool_]),
)
ANYTHING = st.recursive(
    ATOMS | ARRAYS | st.sampled_from([*StopReason, *Fault, Missing("gone", Fault.GRADER)]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=6,
)


def strategy(hint: Any) -> st.SearchStrategy[Any]:
    """Values of one annotation of `flyball.types`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return ANYTHING
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if dataclasses.is_dataclass(hint):
        return record(typing.cast(type[Any], hint))
    if origin in (typing.Union, python_types.UnionType):
        return st.one_of(*map(strategy, arguments))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(strategy(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(strategy, arguments))
    if origin is np.ndarray:
        return ARRAYS
    if origin in (dict, Mapping):
        return st.dictionaries(st.text(max_size=3), strategy(arguments[1]), max_size=2)
    return st.from_type(hint)


def record(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Instances of one dataclass; arrays and rows per token are made equally long where the class insists."""
    hints = typing.get_type_hints(kind)
    fields = {name: strategy(hint) for name, hint in hints.items()}
    if kind is Call:
        of_tokens = ("completion_ids", "policy_versions", "sampling_logprobs", "support")
        tokens = st.integers(0, 3).flatmap(lambda n: st.tuples(*[st.lists(st.integers(), min_size=n, max_size=n)] * 2))
        return st.builds(
            lambda pair, **rest: Call(
                **rest,
                completion_ids=tuple(pair[0]),
                policy_versions=tuple(pair[1]),
                sampling_logprobs=tuple(-0.1 * len(str(i)) for i in pair[0]),
                support=unknown_support(len(pair[0])) if len(pair[0]) % 2 else None,
            ),
            tokens,
            **{k: v for k, v in fields.items() if k not in of_tokens},
        )
    if kind is types.TrainingSample:
        floats = ("sampling_logprobs", "advantages", "loss_weights")
        return st.builds(
            lambda values: types.TrainingSample(
                np.arange(len(values)),
                np.ones(len(values), np.bool_),
                **{name: np.asarray(values, np.float32) for name in floats},
            ),
            st.lists(NUMBERS, max_size=4),
        )
    return st.builds(kind, **fields)


def same(a: Any, b: Any) -> bool:
    """Equality that sees types, NaN and what is inside arrays."""
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return bool(a == b)


@pytest.mark.parametrize("kind", records.DATACLASSES.values(), ids=lambda kind: kind.__name__)
def test_every_type_comes_back(kind: type[Any]) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(record(kind))
    def comes_back(value: Any) -> None:
        assert same(value, records.from_json(records.to_json(value)))
        assert same(value, records.unpack(records.pack(value)[1]))

    comes_back()


@settings(max_examples=150, deadline=None)
@given(ANYTHING)
def test_any_value_comes_back(value: Any) -> None:
    assert same(value, records.from_json(records.to_json(value)))


def test_every_type_of_the_path_is_known() -> None:
    declared = [kind for kind in vars(types).values() if isinstance(kind, type) and kind.__module__ == types.__name__]
    assert {kind.__name__ for kind in declared} == {*records.DATACLASSES, *(set(records.ENUMS) - {"Fault"})}
    assert all(issubclass(kind, Enum) for kind in records.ENUMS.values())


def test_the_written_form_is_pinned() -> None:
    """A change of this text needs a new RECORD_VERSION, or stores in the field cannot be read."""
    outcome = Outcome(Missing("grader raised", Fault.GRADER), safe=True)
    assert records.to_json((outcome, {3: 1.5})) == (
        '{"record":1,"body":{"$":"tuple","items":[{"$":"Outcome","success":{"$":"Missing","cause":"grader raised",'
        '"fault":{"$":"enum","type":"Fault","value":"grader"}},"safe":true,"grader_version":""},'
        '{"$":"map","items":[[3,1.5]]}]}}'
    )


def test_a_key_of_the_user_that_looks_like_our_tag_stays_theirs() -> None:
    value = {"$": "Outcome", "success": True}
    assert records.from_json(records.to_json(value)) == value


def test_numpy_scalars_become_numbers() -> None:
    assert records.from_json(records.to_json([np.float32(0.5), np.int64(3), np.bool_(True)])) == [0.5, 3, True]


def test_an_absent_field_takes_its_default() -> None:
    assert records.from_json('{"record":1,"body":{"$":"Outcome","success":true}}') == Outcome(True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"record":1,"body":{"$":"Outcome","success":true,"sucess_rate":1}}', "'sucess_rate' that this version"),
        ('{"record":1,"body":{"$":"Outcome"}}', "Outcome record is not valid"),
        ('{"record":1,"body":{"$":"Outcom","success":true}}', "did you mean 'Outcome'"),
        ('{"record":2,"body":null}', "version 2 was written by a newer flyball"),
        ('{"record":1,"bo', "cannot be read"),
        ("[]", "cannot be read"),
        ('{"record":1,"body":{"$":"enum","type":"StopReason","value":"tired"}}', "tired"),
    ],
)
def test_what_is_not_a_record_is_refused(text: str, told: str) -> None:
    with pytest.raises(StoreError, match=told):
        records.from_json(text)


def test_a_flipped_bit_is_refused() -> None:
    _, body = records.pack({"reward": [0.125] * 50})
    for position in range(2, len(body)):
        damaged = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
        with pytest.raises(StoreError):
            records.unpack(damaged)


def test_a_value_without_a_form_is_refused_with_its_place() -> None:
    with pytest.raises(StoreError, match=r"Trajectory\.detail\['seen'\]\[1\] is \{3\} of type set"):
        records.to_json(Trajectory((), StopReason.ANSWERED, detail={"seen": [1, {3}]}))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="of type ndarray"):
        records.to_json({"a": np.asarray([object()])})


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(StoreError, match="contains itself"):
        records.to_json(loop)


def test_a_digest_is_of_the_value_not_of_the_order_of_keys() -> None:
    assert records.digest({"a": 1, "b": (2,)}) == records.digest({"b": (2,), "a": 1}) != records.digest({"a": 1})
    assert len(records.digest(Score(0.5))) == 64


def test_keys_keep_their_order() -> None:
    """A chat template prints the arguments of a tool call in the order in which the model wrote them."""
    assert list(records.from_json(records.to_json({"b": 1, "a": 2}))) == ["b", "a"]
