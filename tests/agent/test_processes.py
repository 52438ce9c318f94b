"""Agents in other processes: a real command and a real server of an agent, over a real loopback socket."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flyball.agent.command import Command
from flyball.agent.http import Http
from flyball.agent.runner import AgentEnd, AgentRunner
from flyball.capture.door import Door
from flyball.engine.fake import FakeEngine
from flyball.engine.protocol import SamplingParams
from flyball.errors import ConfigError
from flyball.models.fake import tool_call_text
from flyball.tasks.world import WorldSpec
from flyball.types import Limits, StopReason
from tests.agent.desk import Desk, assert_exact, open_door, task

# The standard library only: an agent needs nothing of ours.
AGENT = """
import json, os, urllib.request

def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))

task = json.loads(os.environ["FLYBALL_TASK"])
tools = json.load(urllib.request.urlopen(task["tools_url"]))["tools"]
assert tools == task["tools"]
messages = [{"role": "user", "content": task["observation"]}]
while True:
    body = {"model": "m", "messages": messages, "tools": tools}
    message = post(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body)["choices"][0]["message"]
    messages.append(message)
    if not message.get("tool_calls"):
        print(message["content"])
        break
    for call in message["tool_calls"]:
        url = task["tools_url"] + "/" + call["function"]["name"]
        shown = post(url, {"arguments": json.loads(call["function"]["arguments"]), "tool_call_id": call["id"]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": shown["content"]})
"""


SDK_AGENT = """
import json, os
import openai

task = json.loads(os.environ["FLYBALL_TASK"])
text = ""
with openai.OpenAI() as client:
    for chunk in client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": task["observation"]}], stream=True
    ):
        text += chunk.choices[0].delta.content or ""
print(text)
"""


def drive(runner: AgentRunner, engine: FakeEngine, limits: Limits | None = None) -> tuple[AgentEnd, Door, list[str]]:
    limits = limits or Limits()
    door = open_door(engine, limits)

    async def go() -> tuple[AgentEnd, list[str]]:
        world = await WorldSpec(Desk).open(task(limits=limits))
        end = await runner.run(world, door, limits)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return end, await world.export_state()

    end, state = asyncio.run(go())
    return end, door, state


def script(text: str) -> Command:
    return Command([sys.executable, "-c", text])


def test_a_command_is_trained_on_exactly_what_the_engine_sampled() -> None:
    engine = FakeEngine([tool_call_text("find_order", order_id="A1"), "It has shipped."])
    end, door, state = drive(script(AGENT), engine)
    assert (end.stop, end.detail) == (StopReason.ANSWERED, "")
    assert (end.messages[-1]["content"], state) == ("It has shipped.", ["find A1"])
    assert_exact(door.calls, engine)
    assert [call.drift for call in door.calls] == ["clean", "clean"]
    assert door.calls[0].tool_results[0].call_id == door.calls[0].tool_calls[0].call_id


def test_commands_at_the_same_time_share_a_server_and_not_their_doors() -> None:
    command = script(AGENT)
    engines = [FakeEngine([f"answer {i}"]) for i in range(3)]
    doors = [
        Door(engine, engine.chat, SamplingParams(), limits=Limits(), seed=i, session=f"session-{i}")
        for i, engine in enumerate(engines)
    ]

    async def go() -> list[AgentEnd]:
        worlds = [await WorldSpec(Desk).open(task()) for _ in doors]
        ends = [command.run(world, door, Limits()) for world, door in zip(worlds, doors, strict=True)]
        return await asyncio.gather(*ends)

    assert [end.messages[-1]["content"] for end in asyncio.run(go())] == ["answer 0", "answer 1", "answer 2"]
    for door, engine in zip(doors, engines, strict=True):
        assert_exact(door.calls, engine)


def test_the_openai_client_finds_the_door_by_its_environment() -> None:
    pytest.importorskip("openai")
    engine = FakeEngine(["Grüße aus dem Lager"])
    end, door, _ = drive(script(SDK_AGENT), engine)
    assert (end.detail, end.messages[-1]["content"]) == ("", "Grüße aus dem Lager")
    assert_exact(door.calls, engine)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; print('x'); sys.exit('no such shelf')", "exited with 1; it said: 'no such shelf'"),
        ("print('x' * 2_000_000)", "printed more than 1000000 bytes"),
    ],
)
def test_a_command_that_fails_is_the_agents_failure(text: str, said: str) -> None:
    end, _, _ = drive(script(text), FakeEngine(["x"]))
    assert end.stop is StopReason.AGENT_ERROR
    assert said in end.detail


def test_a_command_that_cannot_start_says_so() -> None:
    end, _, _ = drive(Command("no-such-program --flag"), FakeEngine(["x"]))
    assert end.stop is StopReason.AGENT_ERROR
    assert "no-such-program --flag could not be started" in end.detail
    with pytest.raises(ConfigError, match="is empty"):
        Command("")


def test_a_command_runs_in_the_folder_of_its_workflow_unless_it_has_its_own(tmp_path: Path) -> None:
    where = [sys.executable, "-c", "import os; print(os.getcwd())"]
    (tmp_path / "own").mkdir()
    for command, expected in ((Command(where), tmp_path), (Command(where, cwd=tmp_path / "own"), tmp_path / "own")):
        end, _, _ = drive(command.beside(tmp_path), FakeEngine(["x"]))
        assert end.messages[-1]["content"] == str(expected.resolve())
        assert command.beside(tmp_path).name == command.name


def test_past_a_limit_the_command_and_its_children_are_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    text = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
time.sleep(600)
"""
    end, _, _ = drive(script(text), FakeEngine(["x"]), Limits(max_seconds=1.0))
    assert end.stop is StopReason.MAX_SECONDS
    for pid in pids.read_text().split():
        assert not _running(int(pid))


def test_children_left_behind_do_not_hold_up_the_answer() -> None:
    text = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("done")
"""
    end, _, _ = drive(script(text), FakeEngine(["x"]), Limits(max_seconds=20.0))
    assert (end.stop, end.messages[-1]["content"]) == (StopReason.ANSWERED, "done")


def test_a_refused_command_ends_with_the_limit_and_not_with_its_crash() -> None:
    engine = FakeEngine([tool_call_text("find_order", order_id="A1")])
    end, door, _ = drive(script(AGENT), engine, Limits(max_turns=1))
    assert (end.stop, len(door.calls)) == (StopReason.MAX_TURNS, 1)


def test_an_http_agent_is_given_the_task_and_answers() -> None:
    engine = FakeEngine([tool_call_text("find_order", order_id="A1"), "It has shipped."])
    seen: list[dict[str, Any]] = []

    async def run(request: Request) -> JSONResponse:
        body = await request.json()
        seen.append(body)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            AGENT,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "OPENAI_BASE_URL": body["base_url"], "FLYBALL_TASK": (await request.body()).decode()},
        )
        answer, _ = await process.communicate()
        return JSONResponse({"answer": answer.decode().strip()})

    end, door, state = _with_agent_server(run, engine)
    assert (end.stop, end.messages[-1]["content"], state) == (StopReason.ANSWERED, "It has shipped.", ["find A1"])
    assert seen[0]["task"] == {"ticket": "Where is order A1?"}
    assert_exact(door.calls, engine)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (JSONResponse({"error": "busy"}, status_code=503), "answered 503"),
        (JSONResponse({"text": "hi"}), 'it must answer {"answer": "text"}'),
        (JSONResponse(["hi"]), 'it must answer {"answer": "text"}'),
    ],
)
def test_an_http_agent_that_answers_nonsense_is_the_agents_failure(response: JSONResponse, said: str) -> None:
    async def run(request: Request) -> JSONResponse:
        return response

    end, _, _ = _with_agent_server(run, FakeEngine(["x"]))
    assert end.stop is StopReason.AGENT_ERROR
    assert said in end.detail


def test_an_http_agent_that_is_not_there_says_so() -> None:
    end, _, _ = drive(Http("http://127.0.0.1:9"), FakeEngine(["x"]))
    assert end.stop is StopReason.AGENT_ERROR
    assert "did not answer: ConnectError" in end.detail
    with pytest.raises(ConfigError, match="must start with http"):
        Http("agent.example")


def _with_agent_server(run: Any, engine: FakeEngine) -> tuple[AgentEnd, Door, list[str]]:
    app = Starlette(routes=[Route("/run", run, methods=["POST"])])
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    door = open_door(engine, Limits())

    async def go() -> tuple[AgentEnd, list[str]]:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        world = await WorldSpec(Desk).open(task())
        end = await Http(f"http://127.0.0.1:{listening.getsockname()[1]}").run(world, door, Limits())
        server.should_exit = True
        await serving
        return end, await world.export_state()

    end, state = asyncio.run(go())
    return end, door, state


def _running(pid: int) -> bool:
    """Whether the process still works; a killed one that nobody has reaped yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
