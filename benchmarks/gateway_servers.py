"""Processes of benchmarks.gateway: the mock upstream, the gateway and LiteLLM's proxy, and what they use.

The mock is an ASGI application of this module (`benchmarks.gateway_servers:mock`): it answers every request at once,
after the body has come, with a chat completion whose `model` is the one that was asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

KEY, RECEIPT_KEY = "bench-key", "bench-receipts"
TEXT = "The order was shipped on Monday and should arrive by Thursday. " * 4
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"%s","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"' + TEXT.encode() + b'"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":500,"completion_tokens":60,"total_tokens":560}}'
)
MODEL = re.compile(rb'"model":\s*"([^"]*)"')


async def mock(scope: Any, receive: Any, send: Any) -> None:
    """The upstream."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    found = MODEL.search(body)
    data = ANSWER % (found[1] if found else b"?")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


@dataclass(frozen=True)
class Running:
    """A server in a process of its own (with workers: its children too). `url` has no path."""

    process: subprocess.Popen[bytes]
    url: str
    started_seconds: float

    def cpu_seconds(self) -> float:
        """Processor time of the process and its children so far."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Resident memory of the process and its children."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids())
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def pids(self) -> list[int]:
        """The process and its children."""
        found = [self.process.pid]
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            found += [int(pid) for pid in (task / "children").read_text().split()]
        return found


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def started(command: list[str], port: int, ready: str, **environment: str) -> Iterator[Running]:
    """Run a server until the block ends; the block begins when `ready` (a path) answers."""
    url, began = f"http://127.0.0.1:{port}", time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            while time.perf_counter() - began < 180:
                if process.poll() is not None:
                    raise RuntimeError(f"{command[0]} ended with code {process.returncode}")
                with contextlib.suppress(httpx.TransportError):
                    if client.get(f"{url}{ready}").status_code < 500:
                        break
                time.sleep(0.01)
            else:
                raise RuntimeError(f"{command[0]} did not answer within 180 s")
        yield Running(process, url, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(30)


def mock_server() -> contextlib.AbstractContextManager[Running]:
    """The mock upstream."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.gateway_servers:mock", "--port", str(port)]
    return started([*command, "--log-level", "critical", "--lifespan", "off", "--no-access-log"], port, "/")


def gateway_server(
    folder: Path, upstream: str, *, workers: int = 1, **settings: Any
) -> contextlib.AbstractContextManager[Running]:
    """`flyball gateway` in front of `upstream`, capturing below `folder`."""
    port = free_port()
    written = {
        "port": port,
        "workers": workers,
        "keys": [{"key_env": "BENCH_KEY", "project": "bench"}],
        "upstreams": {
            "old": {"url": f"{upstream}/v1", "model": "old"},
            "new": {"url": f"{upstream}/v1", "model": "new"},
        },
        "default": "old",
        **settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gateway.yaml").write_text(yaml.safe_dump(written))
    command = [sys.executable, "-m", "flyball.cli.main", "gateway", str(folder / "gateway.yaml")]
    return started(command, port, "/healthz", BENCH_KEY=KEY, FLYBALL_RECEIPT_KEY=RECEIPT_KEY)


def litellm_server(folder: Path, upstream: str, program: str) -> contextlib.AbstractContextManager[Running]:
    """LiteLLM's proxy with one worker and neither database nor logs, as its page on production advises."""
    port = free_port()
    written = {
        "model_list": [
            {
                "model_name": "old",
                "litellm_params": {"model": "openai/old", "api_base": f"{upstream}/v1", "api_key": "none"},
            }
        ],
        "litellm_settings": {"set_verbose": False, "telemetry": False},
        "general_settings": {"master_key": KEY},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "litellm.yaml").write_text(yaml.safe_dump(written))
    command = [program, "--config", str(folder / "litellm.yaml"), "--port", str(port), "--num_workers", "1"]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
    return started(command, port, "/health/liveliness", **quiet)
