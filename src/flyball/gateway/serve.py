"""From a gateway's file to processes that serve it: one engine child for each local upstream, then the workers.

SIGUSR1 sent to a worker turns its kill switch on, SIGUSR2 off again; the kill file reaches all workers at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket as sockets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn

from flyball.errors import ConfigError
from flyball.gateway.app import Gateway
from flyball.gateway.capture import Capture
from flyball.gateway.checks import Checks
from flyball.gateway.log import start_log
from flyball.gateway.memory import Memory
from flyball.gateway.metrics import GatewayMetrics
from flyball.gateway.receipts import Receipts
from flyball.gateway.relay import Relay
from flyball.gateway.request import Keyring
from flyball.gateway.router import Router, Source
from flyball.gateway.served import Served
from flyball.gateway.settings import GatewaySettings, UpstreamSettings, read_gateway_file, secret
from flyball.gateway.shadow import Shadow
from flyball.gateway.upstream import Upstream, UpstreamError
from flyball.release.routing import RoutingTable
from flyball.store.spool import Spool
from flyball.store.store import Store
from flyball.tools.inbox import Inbox

if TYPE_CHECKING:
    from flyball.gateway.otel import Export

FILE, SOCKETS = "FLYBALL_GATEWAY_FILE", "FLYBALL_GATEWAY_SOCKETS"
"""Variables that tell a worker process its file and where the engines listen."""
RECEIPT_KEY = "receipt_env (a long random text of your own, kept: it signs receipts and makes pseudonyms)"
ENGINE_SECONDS = 600.0

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application."""


def build(
    settings: GatewaySettings, spool: Spool, *, engines: Mapping[str, str] | None = None, source: Source | None = None
) -> Gateway:
    """The application of a file. `engines`: sockets of local upstreams; `source`: unset = the table of the store.

    Raises ConfigError for what cannot be honoured, such as a variable that is not set.
    """
    relay = _relay(settings, engines or {})
    receipts = Receipts(secret(settings.receipt_env, RECEIPT_KEY))
    export = _export(settings, spool)
    memory = Memory(Path(settings.store) / "gateway.db")
    checks = Checks(settings.checks, settings.budget, _inbox(settings), memory)
    capture = Capture(
        settings.capture,
        spool,
        receipts.pseudonym,
        lambda served, response_id: _tokens(relay, served, response_id),
        lambda served, said, answer: None if served.arm == "shadow" else checks.spend(served, answer),
        export.call if export else None,
    )
    gateway = Gateway(
        settings,
        keys=Keyring(settings.keys),
        router=Router(settings.routing, source or Tables(settings.store), memory=memory),
        relay=relay,
        capture=capture,
        receipts=receipts,
        shadow=Shadow(settings.shadow, _relay(settings, engines or {}, fallback=False), capture),
        checks=checks,
        memory=memory,
        metrics=GatewayMetrics(spool, capture, export.counts if export else {}) if settings.metrics else None,
    )
    if export:
        gateway.resources.callback(export.close)
    return gateway


def _export(settings: GatewaySettings, spool: Spool) -> Export | None:
    if settings.otel is None:
        return None
    from flyball.gateway.otel import Export  # an extra

    return Export(settings.otel, spool)


def _relay(settings: GatewaySettings, engines: Mapping[str, str], *, fallback: bool = True) -> Relay:
    upstreams = {
        name: Upstream(name, each, settings.routing, engines.get(name, "")) for name, each in settings.upstreams.items()
    }
    return Relay(upstreams, settings.default, settings.fallback if fallback else None, settings.client_seconds)


class Tables:
    """Reads the routing table of a store. The store is opened at the first look: a gateway starts without it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._store: Store | None = None

    def __call__(self) -> RoutingTable | None:
        """The table in force, None before the first release. Raises StoreError, ReleaseError."""
        if self._store is None:
            self._store = _store(self._folder)
        found = self._store.route()
        return None if found is None else RoutingTable.from_json(found.body)


def _store(folder: str) -> Store:
    """The store of the file, its rows in PostgreSQL where FLYBALL_DATABASE says so, as for the command line."""
    return Store(folder, database=os.environ.get("FLYBALL_DATABASE"))


def _inbox(settings: GatewaySettings) -> Inbox | None:
    """Whoever answers for the person, None where nobody is asked."""
    if not any(rule.approval == "human" for rule in settings.checks.tools.values()):
        return None
    return Inbox(_store(settings.store), expires_seconds=settings.checks.approval_seconds)


async def _tokens(relay: Relay, served: Served, response_id: str) -> Any:
    """The engine's own record of a call, None where it has none any more."""
    upstream = relay.upstreams[served.upstream]
    call = response_id.removeprefix("chatcmpl-").removeprefix("resp_")
    path = f"/{served.caller.project}~{served.session}/calls/{call}"
    try:
        async with upstream.ask(path, None, {}, "GET") as response:
            if response.status != 200:
                return None
            return orjson.loads(b"".join([part async for part in upstream.parts(response)]))
    except UpstreamError:
        return None


def make_worker() -> Application:
    """The application of one worker process, by the environment that `serve` set."""
    settings = read_gateway_file(Path(os.environ[FILE]))
    log = start_log(settings.log)
    spool = Spool.claim(settings.spool)
    gateway = build(settings, spool, engines=orjson.loads(os.environ.get(SOCKETS, "{}")))

    gateway.resources.callback(log.stop)

    def kill(on: bool) -> None:
        gateway.router.killed_by_signal = on

    signal.signal(signal.SIGUSR1, lambda *_: kill(True))
    signal.signal(signal.SIGUSR2, lambda *_: kill(False))
    if settings.worker_port is None:
        return gateway
    return also_at(gateway, settings.host, settings.worker_port + int(spool.folder.name))


def also_at(gateway: Gateway, host: str, port: int) -> Application:
    """The same gateway, which as long as it lives listens at an address that no other worker shares."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await gateway(scope, receive, send)
            return
        async with serving(gateway, host=host, port=port):
            await gateway(scope, receive, send)

    return app


def serve(path: Path, say: Callable[[str], None]) -> None:
    """Serve a gateway's file until told to stop; `say` is told where. Raises ConfigError before anything is started."""
    settings = read_gateway_file(path)
    Keyring(settings.keys)
    secret(settings.receipt_env, RECEIPT_KEY)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # meant for workers; its default would end this process
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    with _engines(settings) as engines:
        say(f"serving {', '.join(settings.upstreams)} at http://{settings.host}:{settings.port}/v1")
        os.environ[FILE] = str(path.resolve())
        os.environ[SOCKETS] = orjson.dumps(engines).decode()
        uvicorn.run(
            "flyball.gateway.serve:make_worker",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            **SERVER,
        )


SERVER: dict[str, Any] = {
    "loop": "uvloop",
    "http": "httptools",
    "ws": "none",
    "lifespan": "on",
    "log_level": "warning",
    "access_log": False,
    "server_header": False,
    "date_header": False,
    "timeout_keep_alive": 75,
    "timeout_graceful_shutdown": 10,
    "backlog": 4096,
}
"""How uvicorn runs the gateway."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program."""
        yield


@contextlib.asynccontextmanager
async def serving(app: Any, uds: str | None = None, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve an application on this event loop inside the block, as workers serve; yields its address (or `uds`).

    Port 0 is any free one. The application's own `start` and `close` are the caller's. Raises OSError for a port that
    is taken.
    """
    logging_as_it_is = {"log_level": None, "log_config": None}
    options = {**SERVER, "loop": "none", "lifespan": "off", "timeout_graceful_shutdown": 1, **logging_as_it_is}
    listening = None if uds else sockets.create_server((host, port), backlog=1024)
    server = _Server(uvicorn.Config(app, uds=uds, **options))
    task = asyncio.create_task(server.serve(sockets=[listening] if listening else None))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://{host}:{listening.getsockname()[1]}" if listening else str(uds)
    finally:
        server.should_exit = True
        await task


@contextlib.contextmanager
def _engines(settings: GatewaySettings) -> Iterator[dict[str, str]]:
    """Engine children of the local upstreams, by the upstream's name: their sockets. Ended with the block."""
    local = {name: upstream for name, upstream in settings.upstreams.items() if upstream.local is not None}
    with tempfile.TemporaryDirectory(prefix="flyball-engines-") as folder:
        children = {name: _start(upstream, f"{folder}/{i}") for i, (name, upstream) in enumerate(local.items())}
        found = {name: f"{folder}/{i}" for i, name in enumerate(local)}
        try:
            for name, child in children.items():
                _wait(name, child, found[name])
            yield found
        finally:
            for child in children.values():
                child.terminate()
            for child in children.values():
                child.wait()


def _start(upstream: UpstreamSettings, socket: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flyball.gateway.engine_child", socket, str(upstream.local)]
    if upstream.temperature is not None:
        command += ["--temperature", str(upstream.temperature)]
    if upstream.max_new_tokens is not None:
        command += ["--max-new-tokens", str(upstream.max_new_tokens)]
    if upstream.best_of is not None and upstream.reward_model is not None:
        command += ["--best-of", str(upstream.best_of), "--reward-model", upstream.reward_model]
    return subprocess.Popen(command)


def _wait(name: str, child: subprocess.Popen[bytes], socket: str) -> None:
    """Until the engine listens. Raises ConfigError when it ends, or takes ENGINE_SECONDS."""
    ends = time.monotonic() + ENGINE_SECONDS
    while time.monotonic() < ends:
        if child.poll() is not None:
            raise ConfigError(f"the engine of upstream {name} ended with code {child.returncode}; see what it printed")
        with contextlib.suppress(OSError), sockets.socket(sockets.AF_UNIX) as probe:
            probe.connect(socket)
            return
        time.sleep(0.05)
    raise ConfigError(f"the engine of upstream {name} did not listen within {ENGINE_SECONDS:g} s")
