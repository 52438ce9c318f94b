"""A task may change how tools look, never what they do."""

import asyncio
from typing import Any

import pytest

from flyball.errors import DatasetError
from flyball.tools.call import call_tool
from flyball.tools.surface import apply_surface
from flyball.tools.tool import find_tools, tool
from flyball.types import ToolCall, ToolResult


class Shop:
    def get_order(self, order_id: str, full: bool = False) -> str:
        """Look up one order."""
        return f"{order_id} {full}"

    @tool(writes=True)
    def cancel(self, order_id: str) -> str:
        return f"cancelled {order_id}"


SURFACE: dict[str, Any] = {
    "rename": {
        "get_order": {
            "name": "lookup_order",
            "description": "Fetch an order.",
            "parameters": {"order_id": "ref"},
            "optional": {"verbose": {"type": "boolean"}},
        }
    },
    "distractors": [
        {
            "name": "weather",
            "description": "Today's weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            "answer": "sunny",
        }
    ],
}


def call(name: str, arguments: str) -> ToolResult:
    return asyncio.run(call_tool(apply_surface(find_tools(Shop()), SURFACE), ToolCall("1", name, arguments)))


def test_no_surface_changes_nothing() -> None:
    tools = find_tools(Shop())
    assert apply_surface(tools, {}) == tools


def test_schema_shows_the_new_names_in_the_old_order() -> None:
    tools = apply_surface(find_tools(Shop()), SURFACE)
    assert list(tools) == ["lookup_order", "cancel", "weather"]
    shown = tools["lookup_order"].schema()["function"]
    assert shown["description"] == "Fetch an order."
    assert list(shown["parameters"]["properties"]) == ["ref", "full", "verbose"]
    assert shown["parameters"]["required"] == ["ref"]
    assert [t.origin for t in tools.values()] == ["get_order", "cancel", ""]
    assert tools["cancel"].writes and tools["lookup_order"].version == find_tools(Shop())["get_order"].version


@pytest.mark.parametrize(
    ("name", "arguments", "content"),
    [
        ("lookup_order", '{"ref": "A1", "full": true, "verbose": true}', "A1 True"),
        ("lookup_order", '{"ref": "A1"}', "A1 False"),
        ("cancel", '{"order_id": "A1"}', "cancelled A1"),
        ("weather", '{"city": "Rome"}', "sunny"),
        ("lookup_order", '{"order_id": "A1"}', "error: missing argument 'ref'; unknown argument 'order_id'"),
        ("lookup_order", '{"ref": "A1", "verbose": 1}', "error: argument 'verbose' must be a valid boolean"),
        ("get_order", '{"order_id": "A1"}', "error: there is no tool 'get_order'"),
    ],
)
def test_calls_go_by_the_new_names_only(name: str, arguments: str, content: str) -> None:
    assert call(name, arguments).content.startswith(content)


@pytest.mark.parametrize(
    ("surface", "message"),
    [
        ({"renames": {}}, "surface: renames"),
        ({"rename": {"get_ordr": {}}}, "renames tool 'get_ordr'.*did you mean 'get_order'"),
        ({"rename": {"get_order": {"parameters": {"order": "x"}}}}, "renames parameter 'order' of 'get_order'"),
        ({"rename": {"get_order": {"parameters": {"order_id": "full"}}}}, "two parameters of 'get_order' one name"),
        ({"rename": {"get_order": {"optional": {"full": {"type": "string"}}}}}, "two parameters of 'get_order'"),
        ({"rename": {"get_order": {"optional": {"v": {"type": "bool"}}}}}, "type 'bool' is not known"),
        ({"rename": {"get_order": {"name": "cancel"}}}, "two tools named 'cancel'"),
        ({"distractors": [{"name": "x", "description": ""}]}, "distractors.0.answer: Field required"),
        ({"distractors": [{"name": "x", "description": "", "answer": 1}]}, "distractors.0.answer"),
    ],
)
def test_a_surface_that_does_not_fit_is_refused(surface: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        apply_surface(find_tools(Shop()), surface)
