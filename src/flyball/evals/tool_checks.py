"""Every tool server called before money is spent: what answers, how fast, what breaks the contract.

A tool is called with its declared `example`, or else with arguments made up from its schema. One that writes is called
with an example only, or where the server gives every attempt a world of its own.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flyball.errors import ToolServerError
from flyball.evals.readiness import Finding
from flyball.stats.intervals import mean_interval
from flyball.stats.written import format_estimate
from flyball.tasks.world import WorldSpec
from flyball.tools.call import call_tool
from flyball.tools.server import Connection, ToolServer, Trace
from flyball.tools.tool import Tool
from flyball.types import Task, ToolCall, ToolResult

NUM_CALLS = 5


async def check_tools(spec: WorldSpec, task: Task, num_calls: int = NUM_CALLS) -> list[Finding]:
    """Call each tool of each server `num_calls` times on behalf of `task`. What goes wrong is a finding."""
    own = [name for name, tool in spec.tools.items() if not tool.server]
    findings = [Finding("world", "ok", f"{len(own)} Python tools, not called: {', '.join(own)}")] if own else []
    for name, tool in spec.tools.items():
        if lacking := spec.permissions.for_attempt().lacking(tool):
            text = f"needs {', '.join(lacking)}, which tools.scopes does not grant: every call is refused"
            findings.append(Finding(name, "warn", text))
    for server in spec.servers.servers.values():
        findings += await _check_server(server, task, num_calls)
    return findings


async def _check_server(server: ToolServer, task: Task, num_calls: int) -> list[Finding]:
    findings = []
    if server.sends_hidden:
        text = "each call sends the task's hidden fields, the answers among them, as OpenAI does (send_hidden)"
        findings.append(Finding(server.name, "warn", text))
    started = time.perf_counter()
    try:
        connection = await server.connect(Trace(f"trace_{uuid.uuid4().hex}", task))
    except ToolServerError as error:
        return [*findings, Finding(server.name, "fail", error.args[0])]
    opened = 1000 * (time.perf_counter() - started)
    findings.append(Finding(server.name, "ok", f"ready after {opened:.0f} ms (n=1), {len(server.tools)} tools"))
    try:
        for name in server.tools:
            findings.append(await _check_tool(server, connection, name, task, num_calls))
    finally:
        findings += await _close(server, connection)
    return findings


async def _close(server: ToolServer, connection: Connection) -> list[Finding]:
    try:
        await connection.close()
    except ToolServerError as error:
        return [Finding(server.name, "fail", error.args[0])]
    return []


async def _check_tool(server: ToolServer, connection: Connection, name: str, task: Task, num_calls: int) -> Finding:
    tool = connection.tools[name]
    title = f"{server.name}.{name}"
    if tool.writes and name not in server.examples and not server.isolates:
        text = "not called: it writes; declare an `example` it may be called with, or a `context` of its own"
        return Finding(title, "warn", text)
    arguments = json.dumps(server.examples.get(name) or made_up_arguments(tool.parameters))
    results = [await _call(tool, ToolCall(f"doctor{i}", name, arguments), task) for i in range(num_calls)]
    return _judge(title, arguments, results)


async def _call(tool: Tool, call: ToolCall, task: Task) -> ToolResult:
    """Nobody is asked for approval: whoever runs the doctor declared the example, or the context."""
    tools = {tool.name: replace(tool, approval="none")}
    return await call_tool(tools, call, timeout_seconds=task.limits.tool_timeout_seconds)


def _judge(title: str, arguments: str, results: list[ToolResult]) -> Finding:
    failed = [result for result in results if result.problem == "unavailable"]
    refused = [result for result in results if result.problem not in (None, "unavailable")]
    took = mean_interval([1000 * result.seconds for result in results], unit="ms")
    evidence: Mapping[str, Any] = {"arguments": arguments, "milliseconds": took, "failed": len(failed)}
    tries = sum(result.tries for result in results)
    answered = f"answered {len(results) - len(failed)} of {len(results)}, {tries} tries"
    speed = f"mean {format_estimate(replace(took, low=max(took.low, 0.0)))}"
    if failed:
        return Finding(title, "fail", f"{answered}: {failed[0].content.removeprefix('error: ')}", evidence)
    if refused:
        text = f"{answered}, {speed}; it refuses {arguments}: {refused[0].content.removeprefix('error: ')[:200]}"
        return Finding(title, "warn", f"{text}. Declare an `example` that it takes", evidence)
    if tries > len(results):
        return Finding(title, "warn", f"{answered}, {speed}", evidence)
    return Finding(title, "ok", f"{answered}, {speed}", evidence)


def made_up_arguments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The required arguments of a schema, each with its default, its first choice, or the plainest value it allows."""
    properties = parameters.get("properties", {})
    return {name: _made_up(properties.get(name, {})) for name in parameters.get("required", ())}


_PLAINEST: Mapping[str, Any] = {
    "string": "x",
    "integer": 1,
    "number": 1,
    "boolean": False,
    "array": [],
    "object": {},
    "null": None,
}


def _made_up(schema: Mapping[str, Any]) -> Any:
    if "default" in schema:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    if schema.get("anyOf"):
        return _made_up(schema["anyOf"][0])
    if "minimum" in schema:
        return schema["minimum"]
    value = _PLAINEST.get(schema.get("type", "string"), "x")
    return value * schema.get("minLength", 1) if value == "x" else value
