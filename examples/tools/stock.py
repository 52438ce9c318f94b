"""An MCP server: how much of an item is on the shelf. `python stock.py` speaks on stdin and stdout."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

SHELF = {"kettle": 5, "lamp": 3}

server = MCPServer("stock")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def count(item: str) -> int:
    """How many of an item are on the shelf."""
    return SHELF.get(item, 0)


if __name__ == "__main__":
    server.run()
