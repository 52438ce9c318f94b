"""A small MCP server with state: `python mcp_shelf.py` speaks on stdin and stdout, with a port streamable HTTP."""

from __future__ import annotations

import os
import sys
import time

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations

server = MCPServer("shelf")
taken: dict[str, int] = {}


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def count(item: str) -> str:
    """How many there are."""
    if item == "unicorn":
        raise ValueError("no such item")
    return f"{10 - taken.get(item, 0)} {item}s"


@server.tool()
def take(item: str, number: int = 1) -> str:
    """Take some."""
    taken[item] = taken.get(item, 0) + number
    return f"took {number}"


@server.tool()
def whose(ctx: Context) -> str:
    """Whose attempt this is, and which process serves it."""
    told = (ctx.headers or {}).get("x-flyball-trace-id", "") or os.environ.get("FLYBALL_TRACE_ID", "")
    return f"{told} {os.getpid()} {os.environ.get('SHELF_TOKEN', '')}"


@server.tool()
def die(said: str) -> str:
    """End the process in the middle of the call."""
    print(said, file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def hang() -> str:
    """Never answer."""
    time.sleep(3600)
    return ""


@server.tool()
def flood() -> str:
    """Answer two megabytes."""
    return "x" * 2_000_000


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
