"""`examples/tools` on its own servers, through the commands and checks that a user has."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from flyball.cli.main import invoke
from flyball.evals.run import attempt_all
from flyball.evals.scripted import do_nothing, scripted_arm
from flyball.types import GradedAttempt
from flyball.workflow.inputs import Inputs
from flyball.workflow.workflow import load_workflow

FOLDER = Path(__file__).parents[2] / "examples" / "tools"
FILE = FOLDER / "workflow.yaml"


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The orders' server of the example, on a port of its own, in a thread."""
    monkeypatch.setenv("ORDERS_SECRET", "whsec_MDEyMzQ1Njc4OWFiY2RlZg==")
    spec = importlib.util.spec_from_file_location("orders", FOLDER / "orders.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listening = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("ORDERS_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
    server = uvicorn.Server(uvicorn.Config(module.app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield
    server.should_exit = True
    thread.join()
    assert module.reserved == {}  # every context was closed


def attempts(inputs: Inputs, script: Callable) -> list[GradedAttempt]:
    arm = scripted_arm(script, inputs.world, inputs.graders)
    return asyncio.run(attempt_all(arm, inputs.tasks, num_trials=1, seed=0, concurrency=4, reduce=lambda g: g))


def test_the_oracle_succeeds_and_who_does_nothing_does_not(orders: None) -> None:
    inputs = Inputs(load_workflow(FILE))
    inputs.check()
    solved = attempts(inputs, inputs.workflow.oracle)
    assert [g.outcome.success for g in solved] == [True, True, True], solved[0].attempt.trajectory.detail
    assert solved[0].attempt.tool_state == {"orders": {"reserved": {"A1": 2}}}
    idle = attempts(inputs, do_nothing)
    assert [g.outcome.success for g in idle] == [
        False,
        False,
        False,
    ]  # nor for the lamps: that it cannot be has to be said
    assert set(inputs.world.tool_versions) == {"find_order", "reserve", "count"}


def test_doctor_tools_calls_every_endpoint(
    orders: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(["doctor", "tools", str(FILE), "--calls", "3"]) == 0
    printed = capsys.readouterr().out
    assert "ok    orders.find_order: answered 3 of 3, 3 tries, mean" in printed and ", n=3\n" in printed
    assert "ok    orders.reserve: answered 3 of 3" in printed
    assert "ok    stock.count: answered 3 of 3" in printed
    monkeypatch.setenv("ORDERS_SECRET", "another-secret")
    assert invoke(["doctor", "tools", str(FILE)]) == 1
    assert (
        "fail  orders: tool server 'orders' at ${ORDERS_URL}/call: context.open answered 401" in capsys.readouterr().out
    )


def test_a_missing_secret_is_said_before_anything_is_called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORDERS_URL", raising=False)
    assert invoke(["doctor", "tools", str(FILE)]) == 4
    assert "tool server 'orders' needs the environment variable ORDERS_URL, which is not set" in capsys.readouterr().err
