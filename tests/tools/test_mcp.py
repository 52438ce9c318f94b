"""MCP servers over both transports: state, attempts apart and together, and every way in which one may fail."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flyball.config import FunctionSettings, McpSettings
from flyball.errors import ConfigError, ToolServerError
from flyball.models.fake import tool_call_text
from flyball.tools.mcp import McpServer
from flyball.types import Attempt, Limits, StopReason
from tests.tools.servers import attempt_with

SHELF = (sys.executable, str(Path(__file__).with_name("mcp_shelf.py")))
TAKE = (
    tool_call_text("take", item="cup", number=2),
    tool_call_text("count", item="cup"),
    tool_call_text("whose"),
    "done",
)


def shelf(**settings: Any) -> McpServer:
    if "url" not in settings:
        settings.setdefault("command", SHELF)
    return McpServer("shelf", McpSettings(**settings))


def attempts(server: McpServer, script: Any, number: int = 1, limits: Limits | None = None) -> list[Attempt]:
    async def go() -> list[Attempt]:
        await server.discover()
        return list(await asyncio.gather(*(attempt_with([server], script, limits=limits) for _ in range(number))))

    return asyncio.run(go())


def shown(done: Attempt) -> list[str]:
    return [result.content for result in done.tool_results]


@pytest.fixture(autouse=True)
def one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyball.rollout.attempt.MAX_RERUNS", 0)


@contextlib.contextmanager
def serving() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    process = subprocess.Popen([*SHELF, str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as address:
        yield address


def test_attempts_have_a_process_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELF_TOKEN", "tk-0123456789")
    server = shelf(env={"SHELF_TOKEN": "${SHELF_TOKEN}"})
    done = attempts(server, TAKE, 2)
    assert [each.stop for each in done] == [StopReason.ANSWERED] * 2
    assert [shown(each)[:2] for each in done] == [["took 2", "8 cups"]] * 2  # not 6: what one took the other still has
    told = [shown(each)[2].split() for each in done]
    assert [(trace, token) for trace, _, token in told] == [(each.trace_id, "${SHELF_TOKEN}") for each in done]
    assert told[0][1] != told[1][1]
    assert (server.tools["count"].writes, server.tools["take"].writes) == (False, True)
    assert server.tools["count"].description == "How many there are."


def test_a_server_that_dies_in_a_call_is_named_with_its_last_words() -> None:
    script = (tool_call_text("count", item="unicorn"), tool_call_text("die", said="out of paper"), "done")
    (done,) = attempts(shelf(), script)
    assert (done.stop, [r.problem for r in done.tool_results]) == (StopReason.TOOL_ERROR, ["raised", "unavailable"])
    assert "MCP server 'shelf' die: MCPError: Connection closed; its stderr ends with" in done.trajectory.detail
    assert "out of paper" in done.trajectory.detail


def test_one_that_dies_behind_http_is_named_too() -> None:
    with serving() as address:
        (done,) = attempts(shelf(url=address), (tool_call_text("die", said="out of paper"), "done"))
    assert (done.stop, [r.problem for r in done.tool_results]) == (StopReason.TOOL_ERROR, ["unavailable"])
    assert "MCP server 'shelf' die: " in done.trajectory.detail


def test_over_http_an_attempt_has_a_session_and_its_trace(url: str) -> None:
    (done,) = attempts(shelf(url=url), (tool_call_text("whose"), "done"))
    assert shown(done)[0].split()[0] == done.trace_id


def test_a_shared_session_serves_all_and_a_call_that_hangs_is_the_servers_fault(url: str) -> None:
    server = shelf(url=url, sessions="shared", timeout_seconds=10.0)
    first, second = attempts(server, (tool_call_text("take", item="pen"), "done"), 2)
    assert shown(first) == shown(second) == ["took 1"]
    (after,) = attempts(server, (tool_call_text("count", item="pen"), "done"))
    assert shown(after) == ["8 pens"]
    (flooded,) = attempts(server, (tool_call_text("flood"), "done"))
    assert [r.problem for r in flooded.tool_results] == ["too_large"]
    (hung,) = attempts(shelf(url=url, timeout_seconds=0.2), (tool_call_text("hang"), "done"))
    assert (hung.stop, [r.problem for r in hung.tool_results]) == (StopReason.TOOL_ERROR, ["unavailable"])
    assert "hang did not answer within 0.2 s" in hung.trajectory.detail


def test_the_functions_of_the_file_are_the_ones_that_are_shown(url: str) -> None:
    chosen = (FunctionSettings(name="take", writes=False, approval="human", scopes=("shelf.write",)),)
    server = shelf(url=url, functions=chosen)
    asyncio.run(server.discover())
    (take,) = server.tools.values()
    assert (take.writes, take.approval, take.scopes) == (False, "human", ("shelf.write",))
    with pytest.raises(ConfigError, match="MCP server 'shelf' has no tool 'takes'; did you mean 'take'"):
        asyncio.run(shelf(url=url, functions=(FunctionSettings(name="takes"),)).discover())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"command": (sys.executable, "-c", "raise SystemExit('no shelf here')")}, "no shelf here"),
        ({"command": ("no-such-program",)}, "FileNotFoundError"),
        ({"url": "http://127.0.0.1:9/mcp"}, "cannot be used: "),
    ],
)
def test_a_server_that_does_not_start_says_why(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ToolServerError, match=text):
        asyncio.run(shelf(**settings).discover())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "a command or a url, one of the two"),
        ({"url": "http://x", "env": {"A": "b"}}, "env would be ignored"),
        ({"command": ("x",), "headers": {"A": "b"}}, "headers would be ignored"),
        ({"command": ("x",), "functions": (FunctionSettings(name="a", description="b"),)}, "says description"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        McpSettings(**settings)
