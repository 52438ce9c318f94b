"""Carries out one tool call. What a model wrote never raises here: it becomes a `ToolResult` with a problem.

The text of a problem is written for the model: short, and saying what to do instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from flyball.errors import ConfigError, FlyballError, ToolError, ToolServerError, nearest
from flyball.tools.approval import Asked
from flyball.tools.arguments import UNKNOWN_ARGUMENT, BadArguments, MalformedArguments
from flyball.tools.jsonable import to_json
from flyball.tools.permissions import Allowance
from flyball.tools.tool import Tool
from flyball.tools.user_code import Finished, message_of, run_user_code
from flyball.types import ToolCall, ToolProblem, ToolResult

PAUSE_SECONDS = 0.05
"""Before the first repetition of a call; doubled before each further one."""
SERVER_PAUSE_SECONDS = 0.25
"""The same for a tool server, with jitter, at most `LONGEST_PAUSE_SECONDS`; or as long as it asks for."""
LONGEST_PAUSE_SECONDS = 8.0


async def call_tool(
    tools: Mapping[str, Tool],
    call: ToolCall,
    *,
    timeout_seconds: float = 10.0,
    output_chars: int = 4000,
    approver: Asked | None = None,
    allowance: Allowance | None = None,
    on_failed_try: Callable[[str], None] = lambda why: None,
) -> ToolResult:
    """Run the tool and return what the model is shown, at most `output_chars` characters.

    Text is shown as it is, other values as JSON. `allowance` says what the attempt may still do (None = everything),
    `approver` answers for tools with `approval="human"`. A sync tool runs in a thread; one that does not return within
    `timeout_seconds` is abandoned. Calls of tools that share a `turn` follow one another. Raises ConfigError for a tool
    that needs approval and no approver, WorldError for an approver that fails. `on_failed_try` hears of a tool server
    that is to be tried again.
    """
    tool = tools.get(call.name)
    if tool is None:
        hint = nearest(call.name, tools) if tools else ""
        return _refused(call, "unknown_tool", f"there is no tool {call.name!r}{hint}", output_chars)
    if allowance is not None and (lacking := allowance.lacking(tool)):
        text = f"{call.name} needs the permission {', '.join(lacking)}, which was not granted"
        return _refused(call, "out_of_scope", text, output_chars)
    try:
        arguments = tool.arguments.read(call.arguments)
    except MalformedArguments as error:
        return _refused(call, "malformed", str(error), output_chars)
    except BadArguments as error:
        return _refused(call, "bad_arguments", str(error), output_chars)
    if allowance is not None and (penalty := allowance.spend(tool)) is not None:
        text = f"{call.name} may not be called again in this task; go on without it"
        return replace(_refused(call, "over_budget", text, output_chars), penalty=penalty)
    run = partial(_dry_run, call, output_chars) if tool.writes and allowance is not None and allowance.dry_run else None
    run = run or partial(_carry_out, tool, call, arguments, timeout_seconds, output_chars, on_failed_try)
    if tool.approval == "none":
        return await run()
    decision = await needed(approver, tool).decide(call, timeout_seconds)
    if decision == "approve":
        result = await run()
    elif decision == "deny":
        result = _refused(call, "denied", f"{call.name} was not approved", output_chars)
    else:
        text = f"nobody approved {call.name} in time; it was not carried out"
        result = _refused(call, "expired", text, output_chars)
    return replace(result, approval=decision)


def needed(approver: Asked | None, tool: Tool) -> Asked:
    """Return the approver, or raise ConfigError: nobody may be asked who was not declared, and nothing is approved."""
    if approver is None:
        raise ConfigError(
            f'tool {tool.origin or tool.name!r} has approval="human" and no approver is declared; declare who answers '
            "in training and evaluation: `fb.Workflow(approver=...)` takes 'approve', 'deny', 'expire' or a function"
        )
    return approver


async def _dry_run(call: ToolCall, output_chars: int) -> ToolResult:
    content, truncated = _cut(f"dry run: {call.name} was let pass and not carried out", output_chars)
    return ToolResult(call.call_id, call.name, content, truncated=truncated, dry_run=True)


async def _carry_out(
    tool: Tool,
    call: ToolCall,
    arguments: Mapping[str, Any],
    timeout_seconds: float,
    output_chars: int,
    on_failed_try: Callable[[str], None],
) -> ToolResult:
    """Run the tool, again where it is declared idempotent. Waiting for one's turn is not the tool's time."""
    tries = 0
    limit = timeout_seconds if tool.timeout_seconds is None else tool.timeout_seconds
    positional = (replace(call, name=tool.origin or call.name),) if tool.server else ()
    async with tool.turn or contextlib.nullcontext():
        started = time.perf_counter()
        while True:
            finished = await run_user_code(_shown(tool.fn), arguments, limit, *positional)
            tries += 1
            if tries > tool.retries or not _may_pass(tool, finished):
                break
            if tool.server:
                on_failed_try(_read(tool, finished, limit)[1])
            await asyncio.sleep(_pause(tool, finished, tries))
        seconds = time.perf_counter() - started
    problem, text = _read(tool, finished, limit)
    if problem == "unavailable":
        text = f"{text} ({tries} {'try' if tries == 1 else 'tries'})"
    content, truncated = _cut(text, output_chars)
    return ToolResult(call.call_id, call.name, content, problem, seconds, truncated, tool.cost_usd * tries, tries)


def _may_pass(tool: Tool, finished: Finished) -> bool:
    """Whether trying again could help: not where it worked, or said in our own words what is wrong with the call."""
    if finished.timed_out:
        return bool(tool.server) or inspect.iscoroutinefunction(tool.fn)
    if isinstance(finished.error, ToolServerError):
        return finished.error.passing
    return finished.error is not None and not isinstance(finished.error, FlyballError)


def _pause(tool: Tool, finished: Finished, tries: int) -> float:
    if not tool.server:
        return PAUSE_SECONDS * 2.0 ** (tries - 1)
    asked = getattr(finished.error, "wait_seconds", None)
    if asked is not None:
        return float(asked)
    longest: float = min(LONGEST_PAUSE_SECONDS, SERVER_PAUSE_SECONDS * 2.0 ** (tries - 1))
    return longest * random.uniform(0.75, 1.0)


def cancelled(call: ToolCall, seconds: float) -> ToolResult:
    """The record of a call that the end of its attempt cut off after `seconds`."""
    return ToolResult(call.call_id, call.name, "error: the attempt was over before it answered", "cancelled", seconds)


def hallucinated_parameter(result: ToolResult) -> bool:
    """Return whether the call was refused for an argument that the tool does not have."""
    return result.problem == "bad_arguments" and UNKNOWN_ARGUMENT in result.content


def _shown(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a tool so that its value is turned into text where the time limit holds, in the thread for a sync tool."""
    if inspect.iscoroutinefunction(fn):

        async def run_async(*call: ToolCall, **arguments: Any) -> Any:
            return _text(await fn(*call, **arguments))

        return run_async

    def run(*call: ToolCall, **arguments: Any) -> Any:
        value = fn(*call, **arguments)
        return _text_later(value) if inspect.isawaitable(value) else _text(value)

    return run


async def _text_later(value: Any) -> str:
    return _text(await value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


def _read(tool: Tool, finished: Finished, timeout_seconds: float) -> tuple[ToolProblem | None, str]:
    if finished.timed_out and tool.server:
        what = f"tool server {tool.server!r}: {tool.name} did not answer within {timeout_seconds:g} s"
        return "unavailable", f"error: {what}"
    if finished.timed_out:
        return "timeout", f"error: {tool.name} did not answer within {timeout_seconds:g} s"
    if finished.error is not None:
        problem = finished.error.problem if isinstance(finished.error, ToolError) else "raised"
        return problem, f"error: {message_of(finished.error)}"
    return None, str(finished.value)


def _refused(call: ToolCall, problem: ToolProblem, text: str, output_chars: int) -> ToolResult:
    content, truncated = _cut(f"error: {text}", output_chars)
    return ToolResult(call.call_id, call.name, content, problem, truncated=truncated)


def _cut(text: str, output_chars: int) -> tuple[str, bool]:
    """Cut to the limit, saying so, and replace what is not Unicode text (lone surrogates break tokenizers)."""
    truncated = len(text) > output_chars
    if truncated:
        note = f"\n[cut: {len(text)} characters in all]"
        text = (text[: max(output_chars - len(note), 0)] + note)[:output_chars]
    return (text if text.isascii() else text.encode("utf-8", "replace").decode()), truncated
