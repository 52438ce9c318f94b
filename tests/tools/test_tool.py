"""What a policy is told about a tool, and which methods of a world are tools."""

import datetime
import functools
from enum import Enum
from typing import Any, Literal

import pytest

from flyball.errors import ConfigError
from flyball.tools.tool import Tool, find_tools, tool, tool_from_function


class Color(Enum):
    RED = "red"


class Base:
    def inherited(self) -> str:
        """From the base."""
        return "base"


class Desk(Base):
    attribute = 3

    def reset(self, anything) -> str:  # type: ignore[no-untyped-def]
        return ""

    def find_order(self, order_id: str, limit: int = 5, note: str | None = None) -> dict[str, Any]:
        """Look up
        one order.

        Never shown.

        Args:
            order_id: number printed on
                the parcel
            limit (int): at most so many

        Returns:
            order: not a parameter
        """
        return {"order_id": order_id, "limit": limit}

    @tool(writes=True, approval="human", name="give_back", description="Refund, in cents.")
    def refund(self, cents: int) -> str:
        return str(cents)

    @staticmethod
    def add(a: float, b: float) -> float:
        return a + b

    @classmethod
    def which(cls, kind: Literal["a", "b"]) -> str:
        return cls.__name__ + kind

    @property
    def broken(self) -> int:
        raise RuntimeError("a property is not run to see whether it is a tool")

    def _private(self, x) -> None: ...  # type: ignore[no-untyped-def]

    def export_state(self) -> None: ...

    async def user_reply(self, text: str) -> None: ...

    def close(self) -> None: ...


def test_public_typed_methods_are_tools_and_nothing_else_is() -> None:
    tools = find_tools(Desk())
    assert list(tools) == ["inherited", "find_order", "give_back", "add", "which"]
    assert tools["add"].parameters["required"] == ["a", "b"] and tools["add"].fn(a=1.0, b=2.0) == 3.0
    assert tools["which"].parameters["required"] == ["kind"] and tools["which"].fn(kind="a") == "Deska"


def test_schema_comes_from_signature_and_docstring() -> None:
    assert find_tools(Desk())["find_order"].schema() == {
        "type": "function",
        "function": {
            "name": "find_order",
            "description": "Look up one order.",
            "parameters": {
                "type": "object",
                "properties": {
                    "order_id": {"type": "string", "description": "number printed on the parcel"},
                    "limit": {"type": "integer", "description": "at most so many", "default": 5},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
                "required": ["order_id"],
            },
        },
    }


def test_decorator_says_what_the_signature_cannot() -> None:
    refund = find_tools(Desk())["give_back"]
    assert (refund.writes, refund.approval, refund.description) == (True, "human", "Refund, in cents.")
    assert find_tools(Desk())["add"].approval == "none"


def test_mark_survives_another_decorator_below_it() -> None:
    def logged(fn: Any) -> Any:
        @functools.wraps(fn)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return inner

    class World:
        @tool(writes=True)
        @logged
        def pay(self, cents: int) -> int:
            return cents

    pay = find_tools(World())["pay"]
    assert pay.writes and pay.parameters["required"] == ["cents"] and pay.fn(cents=3) == 3


def test_tools_are_bound_to_their_own_world() -> None:
    class Counter:
        def __init__(self, start: int) -> None:
            self.n = start

        def get(self) -> int:
            return self.n

    assert [find_tools(Counter(n))["get"].fn() for n in (1, 2)] == [1, 2]


def test_arguments_become_the_annotated_types() -> None:
    def book(day: datetime.date, color: Color = Color.RED, tags: list[str] | None = None) -> None: ...

    read = tool_from_function(book).arguments.read('{"day": "2026-01-31", "color": "red", "tags": ["x"]}')
    assert read == {"day": datetime.date(2026, 1, 31), "color": Color.RED, "tags": ["x"]}


def test_version_follows_the_source() -> None:
    def make(kind: str) -> Tool:
        if kind == "one":

            def f(x: int) -> int:
                return x
        else:

            def f(x: int) -> int:
                return x + 1

        return tool_from_function(f)

    assert make("one").version == make("one").version != make("two").version


class Untyped:
    def look(self, order_id): ...  # type: ignore[no-untyped-def]


class Star:
    def look(self, *ids: str) -> None: ...


class Opaque:
    def look(self, order: object, thing: Desk) -> None: ...


class Twins:
    def look(self) -> None: ...

    @tool(name="look")
    def see(self) -> None: ...


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (Untyped, "Untyped.look: parameter 'order_id' has no type; annotate it"),
        (Star, "parameter 'ids' cannot be passed by name"),
        (Opaque, "parameter 'thing' is .*Desk.*no JSON form; use str, int"),
        (Twins, "Twins has two tools named 'look'"),
    ],
)
def test_methods_that_cannot_be_tools_are_refused(world: type, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_tools(world())


def test_unknown_approval_and_bad_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="approval 'boss': valid are 'none' and 'human'"):
        tool(approval="boss")  # type: ignore[call-overload]

    @tool(name="two words")
    def named() -> None: ...

    with pytest.raises(ConfigError, match="tool name 'two words'"):
        tool_from_function(named)
