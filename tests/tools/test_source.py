"""Digests of code."""

import functools
from collections.abc import Callable

from flyball.tools.source import UNREAD, source_digest


def above(limit: float) -> Callable[[float], bool]:
    def judge(value: float) -> bool:
        return value > limit

    return judge


def test_same_code_same_digest() -> None:
    assert source_digest(above) == source_digest(above)
    assert len(source_digest(above)) == 64


def test_bound_values_are_part_of_the_code() -> None:
    assert source_digest(above(1.0)) != source_digest(above(2.0))
    assert source_digest(functools.partial(above, 1.0)) != source_digest(functools.partial(above, 2.0))
    assert source_digest(functools.partial(above, limit=1.0)) != source_digest(functools.partial(above, limit=2.0))


def test_objects_with_addresses_do_not_change_the_digest() -> None:
    def make(thing: object) -> Callable[[], object]:
        return lambda: thing

    assert source_digest(make(object())) == source_digest(make(object()))


def test_a_source_that_cannot_be_read_is_marked() -> None:
    scope: dict[str, Callable[[], int]] = {}
    exec("def built(): return 1", scope)
    assert source_digest(scope["built"]).startswith(UNREAD)
    assert source_digest(len).startswith(UNREAD) and source_digest(len) != source_digest(max)
