"""Settings files: YAML in, typed sections out, and `file:line` for everything that cannot be honoured.

A setting that would be ignored is an error (invariant 9), so every section forbids unknown keys and every scalar is
read strictly: `num_steps: "40"` or `group_size: true` is refused, not converted. Two departures from plain PyYAML:
`3e-4` is a number (YAML 1.1 needs `3.0e-4`) and a repeated key is an error (PyYAML keeps the last one silently).

The sections are pydantic models because they stand at the border to a file; a field's description is its rule in plain
words and ends the error message about it. `None` for an `rl` field means "as the preset says".
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from flyball.errors import ConfigError, nearest
from flyball.types import Limits

Location = tuple[str | int, ...]
S = TypeVar("S", bound="Section")

Names = Annotated[tuple[str, ...], Field(strict=False)]
"""A list of names; YAML gives lists, sections hold tuples."""


# --- sections --------------------------------------------------------------------------------------------------------


class Section(BaseModel):
    """One block of a settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Plan(Section):
    """The `workflow:` block of a napkin file: what is wanted, in the words of whoever asks for it."""

    target: str | None = Field(default=None, description="the work the agent should do, in one sentence")
    baseline: str | None = Field(default=None, description="name of the policy version to beat")
    reward_model: str | None = Field(default=None, description="name of a trained reward model")
    policy_training: str | None = Field(default=None, description="name of an RL preset")


class TinySettings(Section):
    """Shape of the policy that `policy: tiny` builds from nothing (Llama architecture, own tokenizer)."""

    vocab_size: int = Field(default=2560, ge=300, le=65536, description="entries of the BPE tokenizer, 300 to 65536")
    hidden_size: int = Field(default=160, ge=16, description="width, at least 16")
    intermediate_size: int = Field(default=432, ge=16, description="width inside a block, at least 16")
    num_layers: int = Field(default=4, ge=2, description="blocks, at least 2")
    num_heads: int = Field(default=2, ge=2, description="attention heads; a multiple of num_kv_heads")
    num_kv_heads: int = Field(default=2, ge=2, description="key-value heads, at least 2")
    head_dim: int = Field(default=64, ge=24, multiple_of=2, description="width of a head, even, at least 24")
    max_context: int = Field(default=1536, ge=128, description="tokens of one sequence, at least 128")

    @model_validator(mode="after")
    def _heads_fit(self) -> TinySettings:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")
        return self


class LoraSettings(Section):
    """Train low-rank adapters in place of the weights (LoRA, arXiv 2106.09685); every stage's result is merged."""

    rank: int = Field(default=16, ge=1, description="inner width of an adapter, at least 1")
    alpha: float = Field(default=32.0, gt=0, description="an adapter's output is scaled by alpha / rank; above 0")
    targets: Names = Field(
        default=(), description="names of linear layers, such as q_proj; unset = all but the output layer"
    )


class SFTSettings(Section):
    """Supervised cold start on demonstrations."""

    num_epochs: float = Field(default=4.0, gt=0, description="passes over the demonstrations, above 0")
    learning_rate: float = Field(default=1e-3, gt=0, lt=1, description="the peak, between 0 and 1")
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="adamw, or muon for the hidden layers of a model made from nothing"
    )
    batch_size: int = Field(default=16, ge=1, description="demonstrations per optimizer step, at least 1")
    max_demonstrations: int | None = Field(default=None, ge=1, description="how many to use; unset = all")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradient clipping, above 0")
    num_validations: int = Field(default=4, ge=1, description="how often the checkpoint is validated, at least 1")
    validation_tasks: int = Field(default=64, ge=1, description="tasks of one validation, at least 1")
    max_minutes: float | None = Field(default=None, gt=0, description="stop after this many minutes; unset = no limit")


class SamplingSettings(Section):
    """How tokens are drawn; the rules and their order are those of `engine.protocol.SamplingParams`."""

    temperature: float
    top_p: float = Field(default=1.0, gt=0, le=1, description="share of probability kept, above 0; 1 keeps all")
    top_k: int = Field(default=0, ge=0, description="how many of the likeliest tokens are kept; 0 keeps all")
    min_p: float = Field(default=0.0, ge=0, lt=1, description="least share of the likeliest token's probability")
    stop: Names = Field(default=(), description="texts that end a turn, besides its end-of-turn token")

    @model_validator(mode="after")
    def _rules_act(self) -> SamplingSettings:
        if self.temperature == 0 and (self.top_p < 1 or self.top_k or self.min_p):
            raise ValueError("temperature 0 takes the likeliest token, so top_p, top_k and min_p would be ignored")
        if "" in self.stop:
            raise ValueError("stop holds an empty text, which would end every turn at once")
        return self


class KlScheduleSettings(Section):
    """How the weight of the KL moves; the kinds and their formulae are those of `rl.kl.KlSchedule`."""

    kind: Literal["constant", "warmup-decay", "adaptive", "pid"] = "constant"
    warmup_steps: int = Field(default=0, ge=0, description="steps up to the full weight, 0 or more")
    final: float = Field(default=0.0, ge=0, description="share of the weight at the last step, 0 or more")
    target: float = Field(default=0.0, ge=0, description="KL aimed at, nats per token; above 0 for the controllers")
    horizon: float = Field(default=10_000.0, gt=0, description="attempts over which `adaptive` moves, above 0")
    gains: tuple[float, float, float] = Field(default=(0.0, 0.0, 0.0), strict=False, description="P, I, D of `pid`")


class RLSettings(SamplingSettings):
    """Group-relative RL with tools in the loop. Fields that are None take the preset's value."""

    preset: str = Field(default="rloo", description="a row of the table in rl/algorithms.py")
    schedule: Literal["sync", "async"] = Field(
        default="sync", description="sync: attempts in turn with the updates; async: ahead of them"
    )
    max_off_policy_steps: int | None = Field(
        default=None, ge=0, description="async: how many batches may begin ahead, 0 or more; unset = 1"
    )
    version_mode: Literal["in_flight", "own_version"] | None = Field(
        default=None,
        description="async: in_flight (running attempts get new weights) or own_version (they keep theirs)",
    )
    on_new_weights: Literal["recompute", "keep"] | None = Field(
        default=None, description="in_flight: what becomes of cached keys and values, recompute (unset) or keep"
    )
    reference: bool = Field(
        default=False, description="equal seeds give equal weights to the bit; several times slower"
    )
    stuck_after_seconds: float = Field(default=60.0, gt=0, description="say what has not returned for so long, above 0")
    num_steps: int = Field(default=40, ge=1, description="optimizer steps, at least 1")
    tasks_per_step: int = Field(default=16, ge=1, description="tasks drawn for one step, at least 1")
    updates_per_batch: int = Field(
        default=1, ge=1, description="optimizer steps on the attempts of one step, at least 1"
    )
    group_size: int = Field(default=8, ge=2, description="attempts per task, at least 2: a group of 1 has no advantage")
    learning_rate: float = Field(default=1e-4, gt=0, lt=1, description="between 0 and 1")
    temperature: float = Field(default=1.0, gt=0, le=10, description="of sampling, above 0 and at most 10")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradient clipping, above 0")
    concurrency: int = Field(default=64, ge=1, description="attempts in flight, at least 1")
    validate_every: int = Field(default=5, ge=1, description="steps between validations, at least 1")
    validation_tasks: int = Field(default=64, ge=1, description="tasks of one validation, at least 1")
    patience: int | None = Field(default=None, ge=1, description="stop after this many validations without a new best")
    max_minutes: float | None = Field(default=None, gt=0, description="stop after this many minutes; unset = no limit")
    kl_coef: float | None = Field(default=None, ge=0, description="weight of the KL to the reference, 0 or more")
    kl: str | None = Field(default=None, description="where the KL stands, such as k1-in-reward; see rl/kl.py")
    kl_schedule: KlScheduleSettings | None = Field(default=None, description="how the weight of the KL moves")
    allow_refused_kl: bool | None = Field(default=None, description="take a KL placement that is refused, to reproduce")
    clip_ratio_low: float | None = Field(default=None, gt=0, lt=1, description="lower clip range, between 0 and 1")
    clip_ratio_high: float | None = Field(default=None, gt=0, description="upper clip range, above 0")
    dual_clip: float | None = Field(default=None, gt=1, description="bound of the loss where A < 0, above 1")
    loss_agg_mode: str | None = Field(default=None, description="how token losses become one; see rl/aggregate.py")
    correction: str | None = Field(default=None, description="of the gap to the engine; see rl/correction.py")
    correction_low: float | None = Field(default=None, ge=0, description="its lower bound, 0 or more")
    correction_high: float | None = Field(default=None, gt=0, description="its upper bound, above 0")
    correction_normalizer: Literal["all", "accepted"] | None = Field(
        default=None, description="divides by which tokens"
    )
    proximal: Literal["learner", "sampler"] | None = Field(default=None, description="what the ratio compares with")
    overlong: Literal["keep", "punish", "filter"] | None = Field(default=None, description="of attempts out of tokens")

    @property
    def lead(self) -> int:
        """How many batches may begin ahead of the one in training."""
        if self.schedule == "sync":
            return 0
        return 1 if self.max_off_policy_steps is None else self.max_off_policy_steps

    @property
    def keeps_versions(self) -> bool:
        """Whether a trajectory ends on the version that began it; unset, only reference mode asks for that."""
        return self.reference if self.version_mode is None else self.version_mode == "own_version"

    @model_validator(mode="after")
    def _reference_is_possible(self) -> RLSettings:
        if self.reference and self.version_mode == "in_flight":
            raise ValueError(
                "reference: under in_flight the time of an update decides which weights sample a token; "
                "use version_mode own_version"
            )
        if self.reference and self.max_minutes is not None:
            raise ValueError("reference: max_minutes lets the clock set the learning rate; remove it")
        return self


class TrainingSettings(Section):
    """How the policy learns. A stage that is switched off is `null`."""

    seed: int = Field(default=0, ge=0, description="0 or more")
    tiny: TinySettings | None = None
    lora: LoraSettings | None = Field(default=None, description="adapters in place of full training; unset = full")
    sft: SFTSettings | None = SFTSettings()
    rl: RLSettings | None = RLSettings()
    controls: Annotated[tuple[Literal["sft", "rejection_sft"], ...], Field(strict=False)] = ("sft", "rejection_sft")

    @property
    def tiny_or_default(self) -> TinySettings:
        return self.tiny or TinySettings()


class EvaluationSettings(SamplingSettings):
    """What proves it. A suite is a split of the tasks, frozen by digest."""

    suites: Names = Field(default=("test",), min_length=1, description="names of splits, at least one")
    num_trials: int = Field(default=1, ge=1, description="attempts per task, at least 1")
    max_tasks: int | None = Field(default=None, ge=1, description="use this many tasks of each suite; unset = all")
    temperature: float = Field(default=0.0, ge=0, le=10, description="of sampling, 0 (greedy) to 10")
    concurrency: int = Field(default=64, ge=1, description="attempts in flight, at least 1")
    margin: float = Field(default=0.0, ge=0, lt=1, description="how much worse still counts as not worse, 0 to 1")


class EngineSettings(Section):
    """Who generates; `docs/engines.md` compares them. What a field belongs to is in ENGINE_FIELDS."""

    kind: Literal["local", "vllm", "http"] = Field(
        default="local",
        description="local: in this process; vllm: a server of vLLM; http: any OpenAI-compatible endpoint",
    )
    tool_format: str | None = Field(
        default=None, description="how the model writes tool calls (models/tool_formats.py); unset = its template's"
    )
    deterministic: bool | None = Field(
        default=None, description="local: each conversation alone, equal to the bit whoever else runs; slower"
    )
    url: str | None = Field(
        default=None, pattern=r"^https?://", description="address, with /v1 for http and without it for vllm"
    )
    model: str | None = Field(default=None, min_length=1, description="vllm: the name under which the server lists it")
    key_env: str | None = Field(
        default=None, min_length=1, description="name of the environment variable that holds the key of the endpoint"
    )
    num_logprobs: int | None = Field(
        default=None, ge=1, description="vllm: the largest stored support, the server's --max-logprobs; unset = 20"
    )
    max_context: int | None = Field(
        default=None, ge=1, description="http: tokens of one conversation as the endpoint allows them; unset = 128000"
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        default=None, description="http: newer OpenAI models want max_completion_tokens; unset = max_tokens"
    )


ENGINE_FIELDS: Mapping[str, frozenset[str]] = {
    "local": frozenset({"tool_format", "deterministic"}),
    "vllm": frozenset({"tool_format", "url", "model", "key_env", "num_logprobs"}),
    "http": frozenset({"url", "key_env", "max_context", "max_tokens_field"}),
}
"""The fields that each kind of engine reads."""


class TrackingSettings(Section):
    """A dashboard that gets the run's metrics as they go to the store; see `workflow/tracking.py`."""

    kind: Literal["tensorboard", "mlflow", "wandb"]
    folder: str | None = Field(default=None, min_length=1, description="tensorboard, wandb: where their files lie")
    uri: str | None = Field(default=None, min_length=1, description="mlflow: of its server or database")
    project: str | None = Field(default=None, min_length=1, description="mlflow, wandb: unset = the run's name")


class ReleaseSettings(Section):
    """What must hold before anyone but a test meets the candidate."""

    gates: Annotated[tuple[str | dict[str, Any], ...], Field(strict=False)] | None = Field(
        default=None, min_length=1, description="names, or {metric, margin, owner, evidence}; unset = release/gates.py"
    )
    canary_traffic_percent: float = Field(default=5.0, gt=0, le=50, description="of sessions, above 0, at most 50")


class PriceSettings(Section):
    """US dollars; printed with every cost that is computed from them. Unset = the default of `rollout/prices.py`."""

    usd_per_million_tokens_in: float | None = Field(default=None, ge=0, description="0 or more")
    usd_per_million_tokens_out: float | None = Field(default=None, ge=0, description="0 or more")
    usd_per_cpu_second: float | None = Field(default=None, ge=0, description="0 or more")
    usd_per_tool_call: float | None = Field(default=None, ge=0, description="0 or more")


SECRET_HEADER = re.compile(r"auth|cookie|key|secret|signature|token", re.IGNORECASE)
"""Names of headers whose value is taken for a secret."""
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""A value that the environment holds: `${NAME}`."""
IN_FILE = "secret_in_file"
"""Type of the error whose message must not show what was written."""


def _from_environment(value: str) -> str:
    if not VARIABLE.search(value):
        raise PydanticCustomError(IN_FILE, "a secret stands in the file; keep it in the environment and write ${NAME}")
    return value


def _no_secrets(values: dict[str, str]) -> dict[str, str]:
    for name, value in values.items():
        if SECRET_HEADER.search(name):
            _from_environment(value)
    return values


Secret = Annotated[str, AfterValidator(_from_environment)]
Values = Annotated[dict[str, str], AfterValidator(_no_secrets)]
"""Headers or environment variables. What its name calls a secret comes from the environment."""


class FunctionSettings(Section):
    """One tool of a server. An MCP server says `description` and `parameters` itself."""

    name: str = Field(min_length=1, description="as the server calls it")
    description: str | None = Field(default=None, description="what the model reads")
    parameters: dict[str, Any] | None = Field(default=None, description="JSON schema of type object")
    writes: bool | None = Field(default=None, description="whether it changes anything; unset = as an MCP server says")
    approval: Literal["none", "human"] = Field(default="none", description="none, or human: a person is asked")
    scopes: Names = Field(default=(), description="permissions that it needs")
    cost_usd: float = Field(default=0.0, ge=0, description="what one try is billed, 0 or more")
    example: dict[str, Any] | None = Field(
        default=None, description="arguments `flyball doctor tools` may call it with"
    )


class ContextSettings(Section):
    """Addresses that open and close the isolated world of one attempt at a tool server."""

    open: str = Field(description="an address, called before the first tool of an attempt")
    close: str = Field(description="an address, called when the attempt is over, however it ended")


class ToolServerSettings(Section):
    """What every tool server has. A call without an end by then is cut off, and tried again where that is allowed."""

    timeout_seconds: float | None = Field(
        default=None, gt=0, description="of one try, above 0; unset = limits.tool_timeout_seconds"
    )


class HttpToolsSettings(ToolServerSettings):
    """A server of the agent-RFT contract: one POST for each call (see `tools/http.py`)."""

    url: str = Field(pattern=r"^(https?://|\$\{)", description="the address that calls are posted to, http(s)://")
    functions: Annotated[tuple[FunctionSettings, ...], Field(strict=False)] = Field(
        min_length=1, description="the tools it has, at least one"
    )
    headers: Values = Field(default_factory=dict, description="sent with each request; secrets as ${NAME}")
    signing_secret: Secret | None = Field(default=None, description="${NAME} of the secret that signs each request")
    max_retries: int = Field(default=3, ge=0, description="more tries after a 5xx, a time-out or no connection")
    concurrency: int = Field(default=256, ge=1, description="calls under way, at least 1; further ones wait")
    max_bytes: int = Field(default=1_000_000, ge=1, description="of one answer; a longer one is not read further")
    send_hidden: bool = Field(default=False, description="whether `item` has the task's hidden fields, as OpenAI sends")
    context: ContextSettings | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> HttpToolsSettings:
        for function in self.functions:
            if function.description is None or function.parameters is None:
                raise ValueError(f"function {function.name!r} needs a description and parameters")
        return self


class McpSettings(ToolServerSettings):
    """An MCP server: a command that speaks on stdin and stdout, or the address of one that speaks streamable HTTP."""

    command: Names | None = Field(default=None, min_length=1, description="program and arguments: [python, server.py]")
    url: str | None = Field(default=None, pattern=r"^(https?://|\$\{)", description="its address, http(s)://")
    env: Values = Field(default_factory=dict, description="of the command; secrets as ${NAME}")
    headers: Values = Field(default_factory=dict, description="of requests to the url; secrets as ${NAME}")
    sessions: Literal["attempt", "shared"] = Field(
        default="attempt", description="attempt: one session each, for a server that keeps state; shared: one for all"
    )
    functions: Annotated[tuple[FunctionSettings, ...], Field(strict=False)] | None = Field(
        default=None, min_length=1, description="the tools that are used, unset = all; the others are not shown"
    )

    @model_validator(mode="after")
    def _is_one(self) -> McpSettings:
        if (self.command is None) == (self.url is None):
            raise ValueError("an MCP server has a command or a url, one of the two")
        if self.command is None and self.env:
            raise ValueError("env would be ignored: it is of the command, and this server has a url")
        if self.url is None and self.headers:
            raise ValueError("headers would be ignored: they are of the url, and this server has a command")
        for function in self.functions or ():
            if function.description is not None or function.parameters is not None:
                raise ValueError(f"function {function.name!r}: an MCP server says description and parameters itself")
        return self


class BudgetSettings(Section):
    """How often a tool may be called in one attempt. A call past that is refused and shown so."""

    max_calls: int = Field(ge=0, description="0 or more")
    penalty: float = Field(default=0.0, ge=0, description="what learning deducts for each call past it, 0 or more")


class ToolsSettings(Section):
    """Tools beside those of the world, and what the policy may do with all of them."""

    http: dict[str, HttpToolsSettings] = Field(default_factory=dict, description="servers by name")
    mcp: dict[str, McpSettings] = Field(default_factory=dict, description="servers by name")
    scopes: Names = Field(default=(), description="permissions granted; a tool that needs another one is refused")
    budgets: dict[str, BudgetSettings] = Field(default_factory=dict, description="by tool; `all` = all tools together")
    dry_run: bool = Field(default=False, description="whether calls that write are recorded and not carried out")


def _limits_section() -> type[Section]:
    """Section with the fields of `types.Limits`, all optional: what is not set keeps the task's own limit."""
    kinds: dict[str, Any] = {name: hint | None for name, hint in typing.get_type_hints(Limits).items()}
    fields: dict[str, Any] = {
        f.name: (kinds[f.name], Field(default=None, gt=0, description=f"above 0; default {f.default}"))
        for f in dataclasses.fields(Limits)
    }
    return create_model("LimitsSettings", __base__=Section, **fields)


LimitsSettings = _limits_section()


class Settings(Section):
    """A whole workflow file. `python` points at the code; every other key holds settings only."""

    python: str | None = Field(default=None, description="path of the Python file that defines `workflow`")
    name: str | None = Field(default=None, min_length=1, description="a name for runs and versions")
    workflow: Plan = Plan()
    policy: str | None = Field(default=None, min_length=1, description="`tiny`, a Hugging Face folder, or a known name")
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    engine: EngineSettings = EngineSettings()
    release: ReleaseSettings = ReleaseSettings()
    monitoring: Names = ()
    prices: PriceSettings = PriceSettings()
    tools: ToolsSettings = ToolsSettings()
    limits: LimitsSettings = LimitsSettings()  # type: ignore[valid-type]
    tracking: TrackingSettings | None = None


# --- where a key was written -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marks:
    """`file:line` of every key and list entry; a location that was not written answers with its parent's line."""

    source: str
    lines: Mapping[Location, int] = field(default_factory=dict)

    def at(self, location: Location) -> str:
        for end in range(len(location), -1, -1):
            if (line := self.lines.get(location[:end])) is not None:
                return f"{self.source}:{line}"
        return self.source


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `3e-4` as a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> tuple[dict[str, Any], Marks]:
    """Read a mapping with the line of each key. Raises ConfigError for what is missing, unreadable or not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `flyball init helpdesk` writes a working example") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {exc}") from exc
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        lines: dict[Location, int] = {(): 1}
        if root is not None:
            _mark(root, (), lines, path)
        data = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {exc.problem or exc.context}") from exc
    finally:
        loader.dispose()
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        found = "empty" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"{path}:1: the file is {found}; a workflow file is a mapping such as `python: workflow.py`")
    return data, Marks(str(path), lines)


def _mark(node: yaml.Node, at: Location, lines: dict[Location, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, key.value)
            line = key.start_mark.line + 1
            if here in lines:
                raise ConfigError(f"{path}:{line}: key {key.value!r} was already set on line {lines[here]}; keep one")
            lines[here] = line
            _mark(value, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*at, i)] = value.start_mark.line + 1
            _mark(value, (*at, i), lines, path)


# --- typed reading ---------------------------------------------------------------------------------------------------


def parse(section: type[S], data: Any, marks: Marks, at: Location = ()) -> S:
    """Validate `data` as `section`. Raises one ConfigError with a line for every key that cannot be honoured.

    `at` is where `data` lies inside the file that `marks` describes.
    """
    try:
        return section.model_validate(data)
    except ValidationError as exc:
        problems = [_explain(section, dict(error), marks, at) for error in exc.errors()]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def read_settings(path: Path) -> tuple[Settings, Marks]:
    """Read a whole workflow file."""
    data, marks = read_yaml(path)
    return parse(Settings, data, marks), marks


def _explain(section: type[Section], error: dict[str, Any], marks: Marks, at: Location) -> str:
    location: Location = tuple(error["loc"])
    where, dotted = marks.at((*at, *location)), ".".join(str(part) for part in (*at, *location))
    if error["type"] == "extra_forbidden":
        parent = _section_at(section, location[:-1])
        known = list(parent.model_fields) if parent else []
        inside = f" in {'.'.join(str(p) for p in (*at, *location[:-1]))!r}" if len(location) + len(at) > 1 else ""
        return f"{where}: unknown key {str(location[-1])!r}{inside}{nearest(str(location[-1]), known)}"
    if error["type"] == "missing":
        return f"{where}: {dotted} is missing{_rule(section, location)}"
    rule = error["msg"][0].lower() + error["msg"][1:]
    if error["type"] == IN_FILE:
        return f"{where}: {dotted}: {rule}"
    return f"{where}: {dotted or 'the file'} is {error['input']!r}: {rule}{_rule(section, location)}"


def _rule(section: type[Section], location: Location) -> str:
    """Return the field's own words, ready to end a message."""
    names = [part for part in location if isinstance(part, str)]
    parent = _section_at(section, tuple(names[:-1])) if names else None
    info = parent.model_fields.get(names[-1]) if parent else None
    return f"; {names[-1]}: {info.description}" if info and info.description else ""


def _section_at(section: type[Section], location: Sequence[str | int]) -> type[Section] | None:
    """Return the section that lies at `location`, None where there is no section."""
    here: type[Section] | None = section
    named = False
    for part in location:
        if isinstance(part, int) or named:
            named = False
            continue  # an entry of a list, or of sections by name, lies where the list's section does
        info = here.model_fields.get(part) if here else None
        here = section_of(info.annotation) if info else None
        named = info is not None and here is not None and typing.get_origin(info.annotation) is dict
    return here


def section_of(annotation: Any) -> type[Section] | None:
    """Return the Section inside an annotation such as `SFTSettings | None` or `tuple[Part, ...]`, None without one."""
    options = typing.get_args(annotation) or (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)


def merge(base: S, over: S) -> S:
    """Return `base` with every value that was written in `over`, key by key; unset keys of `over` change nothing."""
    return type(base).model_validate(_merge(_written(base), _written(over)))


def _written(section: Section) -> dict[str, Any]:
    return section.model_dump(exclude_unset=True)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
