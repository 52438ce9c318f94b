"""The gateway's file: who may call, which model answers, what is checked and kept. YAML, read strictly.

    keys: [{key_env: SHOP_KEY, project: shop}]
    upstreams:
      in_force: {url: "https://api.example.com/v1", model: large-3, key_env: PROVIDER_KEY}
    default: in_force

Secrets stay in the environment: the file names variables.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from flyball.errors import ConfigError, nearest
from flyball.graders.personal_data import Kind
from flyball.section import Names, Section
from flyball.settings_file import parse, read_yaml

Role = Literal["agent", "operator"]


class KeySettings(Section):
    """A caller's key. Calls and reports of one project never meet those of another."""

    key_env: str = Field(min_length=1, description="name of the environment variable that holds the key")
    project: str = Field(default="default", pattern=r"^[\w-]{1,64}$", description="letters, digits, _ and -")
    role: Role = Field(default="agent", description="agent, or operator: may pin an arm")
    scopes: Names = Field(default=(), description="scopes of tools that calls with this key may use")


class UpstreamSettings(Section):
    """A server that answers. `local` is an engine of our own in a child process; its calls are captured exactly."""

    url: str | None = Field(default=None, pattern=r"^https?://", description="address with /v1 of a compatible server")
    local: str | None = Field(default=None, description="folder or name of a model for the engine of our own")
    temperature: float | None = Field(default=None, ge=0, le=10, description="local: of sampling; unset = 1")
    max_new_tokens: int | None = Field(default=None, ge=1, description="local: tokens of one answer; unset = 1024")
    best_of: int | None = Field(default=None, ge=2, description="local: answers drawn for each; the best is given")
    reward_model: str | None = Field(default=None, min_length=1, description="local: folder of what ranks them")
    model: str | None = Field(default=None, min_length=1, description="replaces the request's `model`; unset = kept")
    key_env: str | None = Field(default=None, min_length=1, description="variable that holds the server's key")
    version: str = Field(default="", description="id of the policy version that it serves, as in the registry")
    ask_usage: bool = Field(default=True, description="ask for the tokens of a stream, and keep that from the agent")
    tokens: Literal["none", "vllm"] = Field(
        default="none", description="vllm: ask a vLLM server for the token ids and logprobs of chat completions"
    )
    prompt: str | None = Field(default=None, description="file whose text takes the place of the system prompt")
    connect_seconds: float = Field(default=5.0, gt=0, description="to open a connection")
    first_byte_seconds: float = Field(default=120.0, gt=0, description="from the request to the head of the answer")
    idle_seconds: float = Field(default=60.0, gt=0, description="between two parts of an answer")
    max_connections: int = Field(default=1024, ge=1, description="open connections, at least 1")
    input_usd: float = Field(default=0.0, ge=0, description="dollars per million tokens of the prompt")
    output_usd: float = Field(default=0.0, ge=0, description="dollars per million sampled tokens")

    @model_validator(mode="after")
    def _one_place(self) -> UpstreamSettings:
        if (self.url is None) == (self.local is None):
            raise ValueError("an upstream has a `url`, or `local` for an engine of our own; not both")
        ignored = [n for n in (URL_ONLY if self.local else LOCAL_ONLY) if n in self.model_fields_set]
        if ignored:
            where = "`local`" if self.local else "`url`"
            raise ValueError(f"{ignored[0]} would be ignored beside {where}")
        if (self.best_of is None) != (self.reward_model is None):
            raise ValueError("best_of and reward_model belong together: how many are drawn, and what ranks them")
        if self.best_of is not None and self.temperature == 0:
            raise ValueError(f"at temperature 0 the best of {self.best_of} is one answer drawn again and again")
        return self


URL_ONLY = ("model", "key_env", "ask_usage", "tokens")
LOCAL_ONLY = ("temperature", "max_new_tokens", "best_of", "reward_model")


class RoutingSettings(Section):
    """How old the routing table may grow, and what is used without it."""

    poll_seconds: float = Field(default=1.0, gt=0, le=30, description="between two looks at the table, at most 30")
    lease_seconds: float = Field(default=60.0, gt=0, description="without a look for so long, everybody gets stable")
    kill_file: str = Field(default="KILL", description="while this file exists, everybody gets stable")
    max_failures: int = Field(default=5, ge=1, description="failures in a row that open the circuit of an upstream")
    open_seconds: float = Field(default=10.0, gt=0, description="for which a circuit stays open")


class ShadowSettings(Section):
    """What a release in its shadow stage may use."""

    share: float = Field(default=1.0, gt=0, le=1, description="of the sessions, above 0 to 1")
    concurrency: int = Field(default=8, ge=1, description="shadow requests in flight; more are dropped and counted")
    max_calls: int = Field(default=10_000, ge=0, description="shadow requests to a candidate until a restart")


class BudgetSettings(Section):
    """What one session may use, as far as this worker knows."""

    calls: int | None = Field(default=None, ge=1, description="model calls")
    tokens: int | None = Field(default=None, ge=1, description="tokens, prompts and answers together")
    cost_usd: float | None = Field(default=None, gt=0, description="dollars by the upstreams' prices")


class ToolRule(Section):
    """What a tool of the agent needs. Tools without a rule are free."""

    scopes: Names = Field(default=(), description="all of these")
    approval: Literal["none", "human"] = Field(default="none", description="none, or human: a person is asked")


class CheckSettings(Section):
    """Checks on the way to the agent. An answer that is checked is held until it is whole."""

    tools: dict[str, ToolRule] = Field(default_factory=dict, description="by name of the tool")
    policy: str | None = Field(default=None, description="Python file with a list of functions, `policy_checks`")
    max_revisions: int = Field(default=2, ge=0, description="times the model is asked again before the call is refused")
    approval_seconds: float = Field(default=60.0, gt=0, description="to wait for a person; nobody answers = expired")


class CaptureSettings(Section):
    """What is written of every call. Text and tokens pass `redact` first."""

    redact: Annotated[tuple[Kind, ...], Field(strict=False)] = Field(
        default=("email", "phone", "card", "iban", "ssn"), description="kinds of personal data that are replaced"
    )
    bodies: bool = Field(default=True, description="false: numbers only, no messages")
    queue_mb: int = Field(default=64, ge=1, description="of calls that wait for the disk; more are dropped and counted")
    on_full: Literal["serve", "refuse"] = Field(default="serve", description="what happens when nothing can be written")
    session_idle_seconds: float = Field(default=1800.0, gt=0, description="after which a session is over")


class OtelSettings(Section):
    """Where calls go as OpenTelemetry spans and metrics. Headers are the SDK's: OTEL_EXPORTER_OTLP_HEADERS."""

    endpoint: str = Field(pattern=r"^https?://", description="a collector's address for OTLP/HTTP, mostly port 4318")
    names: Literal["latest", "1.36"] = Field(default="latest", description="of the GenAI conventions")
    content: bool = Field(default=False, description="send what was said, as capture keeps it")
    seconds: float = Field(default=60.0, gt=0, description="between two exports of metrics")


class GatewaySettings(Section):
    """The whole file."""

    host: str = Field(default="127.0.0.1", description="address to listen at")
    port: int = Field(default=8080, ge=0, le=65535, description="0 = any free one")
    workers: int = Field(default=1, ge=1, description="processes, at least 1")
    worker_port: int | None = Field(
        default=None, ge=1, le=65000, description="worker n also listens at this + n: for drills and for Prometheus"
    )
    metrics: bool = Field(default=False, description="serve /metrics for Prometheus, without a key")
    log: Literal["calls", "problems", "nothing"] = Field(
        default="problems", description="lines of JSON on standard error: of every call, of what went wrong, none"
    )
    store: str = Field(default=".flyball", description="folder of the store: routing table, inbox of approvals, spool")
    receipt_env: str = Field(default="FLYBALL_RECEIPT_KEY", description="variable with the secret that signs receipts")
    max_body_mb: float = Field(default=32.0, gt=0, description="largest request")
    client_seconds: float = Field(
        default=30.0, gt=0, description="for a client to send its whole request, or to take one part of the answer"
    )
    max_requests: int = Field(default=1000, ge=1, description="requests in flight per worker; more are answered 503")
    keys: Annotated[tuple[KeySettings, ...], Field(strict=False, min_length=1)]
    upstreams: dict[str, UpstreamSettings] = Field(min_length=1, description="servers by a name of your own")
    default: str = Field(description="name of the upstream that serves where the routing table names none")
    fallback: str | None = Field(default=None, description="name of the upstream that answers where its own one cannot")
    routing: RoutingSettings = Field(default_factory=RoutingSettings)
    shadow: ShadowSettings = Field(default_factory=ShadowSettings)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    checks: CheckSettings = Field(default_factory=CheckSettings)
    capture: CaptureSettings = Field(default_factory=CaptureSettings)
    otel: OtelSettings | None = Field(default=None, description="unset = no OpenTelemetry")

    @property
    def spool(self) -> Path:
        """Below which each worker has a spool folder of its own."""
        return Path(self.store) / "spool"

    @property
    def worker_addresses(self) -> tuple[str, ...]:
        """An address of each worker. Raises ConfigError where they only share one, or it is not known beforehand."""
        if self.worker_port is not None:
            return tuple(f"http://{self.host}:{self.worker_port + n}" for n in range(self.workers))
        if self.workers > 1 or not self.port:
            raise ConfigError(
                f"{self.workers} worker(s) at port {self.port} cannot be asked one by one; set `worker_port` in the "
                "gateway's file"
            )
        return (f"http://{self.host}:{self.port}",)

    @model_validator(mode="after")
    def _names_exist(self) -> GatewaySettings:
        for field in ("default", "fallback"):
            if (name := getattr(self, field)) is not None and name not in self.upstreams:
                raise ValueError(f"{field} {name!r} is no upstream{nearest(name, self.upstreams)}")
        if self.metrics and self.workers > 1 and self.worker_port is None:
            raise ValueError("metrics of several workers need `worker_port`: each worker counts what it served itself")
        versions = Counter(each.version or name for name, each in self.upstreams.items())
        if twice := [version for version, count in versions.items() if count > 1]:
            raise ValueError(f"version {twice[0]!r} is served by two upstreams; the routing table could mean either")
        return self


def read_gateway_file(path: Path) -> GatewaySettings:
    """Read the file; paths in it start at its folder. Raises ConfigError with the line of what cannot be honoured."""
    data, marks = read_yaml(path)
    return _placed(parse(GatewaySettings, data, marks), path.resolve().parent)


def _placed(settings: GatewaySettings, folder: Path) -> GatewaySettings:
    def at(value: str | None) -> str | None:
        return None if value is None else str(folder / value)

    upstreams = {
        name: upstream.model_copy(update={"prompt": at(upstream.prompt)})
        for name, upstream in settings.upstreams.items()
    }
    routing = settings.routing.model_copy(update={"kill_file": at(settings.routing.kill_file)})
    checks = settings.checks.model_copy(update={"policy": at(settings.checks.policy)})
    placed = {"upstreams": upstreams, "routing": routing, "checks": checks, "store": at(settings.store)}
    return settings.model_copy(update=placed)


def secret(variable: str, what: str) -> str:
    """The value of an environment variable. Raises ConfigError when it is not set."""
    if not (value := os.environ.get(variable)):
        raise ConfigError(f"{what} names the variable {variable}, which is not set; export it where the gateway starts")
    return value
