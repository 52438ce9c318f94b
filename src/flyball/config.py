"""The settings of a workflow file, section by section; how they are read is in `settings_file.py`."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from flyball.rl_settings import OwnAttemptsSettings, RLSettings, SamplingSettings
from flyball.section import Names, Section
from flyball.settings_file import IN_FILE, Marks, parse, read_yaml
from flyball.types import Limits


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


class FitSettings(Section):
    """How long and how fast a stage of supervised training learns."""

    num_epochs: float = Field(default=1.0, gt=0, description="passes over the data, above 0")
    learning_rate: float = Field(default=1e-5, gt=0, lt=1, description="the peak, between 0 and 1")
    batch_size: int = Field(default=16, ge=1, description="rows per optimizer step, at least 1")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradient clipping, above 0")
    num_validations: int = Field(default=4, ge=1, description="how often the checkpoint is validated, at least 1")
    validation_tasks: int = Field(default=64, ge=1, description="tasks of one validation, at least 1")
    max_minutes: float | None = Field(default=None, gt=0, description="stop after this many minutes; unset = no limit")


class SFTSettings(FitSettings):
    """Supervised cold start on demonstrations."""

    num_epochs: float = Field(default=4.0, gt=0, description="passes over the demonstrations, above 0")
    learning_rate: float = Field(default=1e-3, gt=0, lt=1, description="the peak, between 0 and 1")
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="adamw, or muon for the hidden layers of a model made from nothing"
    )
    max_demonstrations: int | None = Field(default=None, ge=1, description="how many to use; unset = all")


class RejectionSettings(FitSettings):
    """Rejection-sampling SFT: the best of the policy's own attempts become demonstrations."""

    learning_rate: float = Field(default=1e-4, gt=0, lt=1, description="the peak, between 0 and 1")
    attempts: OwnAttemptsSettings = OwnAttemptsSettings()
    keep_per_task: int = Field(default=1, ge=1, description="successes of a task that are imitated, at least 1")
    from_runs: Names = Field(
        default=(), description="runs whose attempts are imitated too, weighed by how likely this policy makes them"
    )


class PreferenceSettings(FitSettings):
    """Learning from pairs of answers. `None` for a setting of the method takes the method's value."""

    method: str = Field(default="dpo", description="a row of the table in rl/preference_methods.py")
    pairs: str | None = Field(
        default=None, min_length=1, description="a JSONL file of pairs; unset = from attempts of the policy"
    )
    attempts: OwnAttemptsSettings | None = None
    min_margin: float | None = Field(default=None, ge=0, description="least difference of rewards of a pair; unset = 0")
    pairs_per_task: int | None = Field(default=None, ge=1, description="at most so many of each task; unset = 4")
    held_out_share: float = Field(default=0.1, ge=0, lt=1, description="of the tasks of pairs, judged and not learned")
    beta: float | None = Field(default=None, gt=0, description="how sharply scores are compared, above 0")
    gamma: float | None = Field(default=None, ge=0, description="simpo: margin by which the chosen should win")
    discount: float | None = Field(default=None, gt=0, le=1, description="dmpo: of later turns, above 0 to 1")
    desirable: float | None = Field(default=None, gt=0, description="kto: weight of good answers, above 0")
    undesirable: float | None = Field(default=None, gt=0, description="kto: weight of bad answers, above 0")


class RewardModelSettings(FitSettings):
    """A reward model on the body of the policy at hand, calibrated on tasks held out."""

    kind: Literal["pairs", "outcome", "process", "implicit"] = Field(
        default="pairs",
        description="pairs (Bradley-Terry), outcome (success or a rubric), process (every turn) or implicit (PRIME)",
    )
    name: str | None = Field(default=None, min_length=1, description="its name; unset = workflow.reward_model")
    pairs: str | None = Field(default=None, min_length=1, description="pairs: a JSONL file; unset = from attempts")
    labels: str | None = Field(
        default=None, min_length=1, description="all but pairs: a JSONL file of labels; unset = from attempts"
    )
    attempts: OwnAttemptsSettings | None = None
    from_runs: Names | None = Field(
        default=None, min_length=1, description="runs whose RL attempts are learned from by their success; unset = own"
    )
    min_margin: float | None = Field(default=None, ge=0, description="pairs: least difference of rewards; unset = 0")
    pairs_per_task: int | None = Field(default=None, ge=1, description="pairs: at most so many of a task; unset = 4")
    discount: float | None = Field(default=None, gt=0, le=1, description="process: of later rewards; unset = 0.95")
    beta: float | None = Field(default=None, gt=0, description="implicit: scale of the log ratios; unset = 0.05")
    held_out_share: float = Field(default=0.2, gt=0, lt=1, description="of the tasks, to calibrate and to report on")


StageName = Literal["sft", "rejection_sft", "reward_model", "preference", "rl"]
STAGES: tuple[StageName, ...] = get_args(StageName)
"""Kinds of training stages: each has a section of its name in `training`, and this order where none is written."""


class TrainingSettings(Section):
    """How the policy learns: stages in order, each with a section of its own.

    A stage that `stages` lists and whose section is not written has the defaults; one that it does not list is off. A
    section that is `null` switches its stage off.
    """

    seed: int = Field(default=0, ge=0, description="0 or more")
    tiny: TinySettings | None = None
    lora: LoraSettings | None = Field(default=None, description="adapters in place of full training; unset = full")
    stages: Annotated[tuple[StageName, ...], Field(strict=False)] | None = Field(
        default=None,
        min_length=1,
        description="in the order in which they train; unset = those whose section is set",
    )
    sft: SFTSettings | None = SFTSettings()
    rejection_sft: RejectionSettings | None = None
    reward_model: RewardModelSettings | None = None
    preference: PreferenceSettings | None = None
    rl: RLSettings | None = RLSettings()
    controls: Annotated[tuple[Literal["sft", "rejection_sft"], ...], Field(strict=False)] = ("sft", "rejection_sft")
    confirmation_tasks: int = Field(
        default=64,
        ge=0,
        description="validation tasks that no stage picks a checkpoint by, on which each one's result is measured; "
        "0 = no such measurement",
    )

    @property
    def tiny_or_default(self) -> TinySettings:
        return self.tiny or TinySettings()

    @property
    def order(self) -> tuple[str, ...]:
        """The stages that train, in order."""
        return self.stages or tuple(name for name in STAGES if getattr(self, name) is not None)

    @model_validator(mode="before")
    @classmethod
    def _listed_or_off(cls, data: Any) -> Any:
        listed = data.get("stages") if isinstance(data, Mapping) else None
        if not isinstance(listed, (list, tuple)):
            return data
        unwritten = [name for name in STAGES if name not in data]
        return {**data, **{name: {} if name in listed else None for name in unwritten}}

    @model_validator(mode="after")
    def _each_once(self) -> TrainingSettings:
        if self.stages is not None and len(set(self.stages)) < len(self.stages):
            raise ValueError("a stage has one section of settings, so it is listed once")
        return self


SliceValue = str | int | bool


class SliceSettings(Section):
    """A protected slice: a group of tasks on which nobody may lose, whatever the mean does (`evals/slices.py`)."""

    where: dict[str, SliceValue | Annotated[tuple[SliceValue, ...], Field(strict=False, min_length=1)]] = Field(
        min_length=1,
        description="family, stage, cluster or a field of the task, and the value or values that belong to it",
    )
    margin: float = Field(gt=0, lt=1, description="how much worse still counts as not worse there, above 0")


class BestOfSettings(Section):
    """Serving and evaluation by the best of several answers to each turn (`capture/best_of.py`)."""

    n: int = Field(ge=2, description="answers drawn for each turn, at least 2; all are paid for")
    reward_model: str = Field(min_length=1, description="folder of the reward model that ranks them")


class EvaluationSettings(SamplingSettings):
    """What proves it. A suite is a split of the tasks, frozen by digest."""

    suites: Names = Field(default=("test",), min_length=1, description="names of splits, at least one")
    num_trials: int = Field(default=1, ge=1, description="attempts per task, at least 1")
    max_tasks: int | None = Field(default=None, ge=1, description="use this many tasks of each suite; unset = all")
    temperature: float = Field(default=0.0, ge=0, le=10, description="of sampling, 0 (greedy) to 10")
    concurrency: int = Field(default=64, ge=1, description="attempts in flight, at least 1")
    margin: float = Field(default=0.0, ge=0, lt=1, description="how much worse still counts as not worse, 0 to 1")
    best_of: BestOfSettings | None = Field(
        default=None, description="give the best of n answers to each turn, as an upstream that serves so; unset = one"
    )
    fresh_tasks: int | None = Field(
        default=None, ge=1, description="size of the suite `fresh`, drawn by the workflow's `fresh` for each run"
    )
    slices: dict[str, SliceSettings] = Field(default_factory=dict, description="protected slices by name")
    interleave: bool | None = Field(
        default=None,
        description="attempt each task with baseline and candidate in turn; unset = yes, but not with vllm, whose "
        "server holds one set of weights",
    )


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
    separate_process: bool | None = Field(
        default=None, description="local: in a process of its own, weights through shared memory; unset = in this one"
    )
    adapters: dict[str, str] | None = Field(
        default=None, description="local: peft folders by name; each name is a policy, the adapter on the file's policy"
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
    "local": frozenset({"tool_format", "deterministic", "separate_process", "adapters"}),
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


LocaleName = Literal["en-US", "en-GB", "fr-FR"]
"""Locales that the Brief is written in; the first is the default. Each has a file in `reports/catalogue`."""


class BriefSettings(Section):
    """The Reliability Brief, the page that an owner signs or refuses."""

    locale: LocaleName = Field(
        default="en-US", description="language, numbers and dates of the page, and the evidence expected there"
    )


class PriceSettings(Section):
    """US dollars; printed with every cost that is computed from them. Unset = the default of `rollout/prices.py`."""

    usd_per_million_tokens_in: float | None = Field(default=None, ge=0, description="0 or more")
    usd_per_million_tokens_out: float | None = Field(default=None, ge=0, description="0 or more")
    usd_per_cpu_second: float | None = Field(default=None, ge=0, description="0 or more")
    usd_per_tool_call: float | None = Field(default=None, ge=0, description="0 or more")


class EconomicsSettings(Section):
    """What a success is worth and what it costs beside serving (reports/budget.py). An unset line is *optimistic by
    default*, and every page that shows the sum says so."""

    value_of_success_usd: float | None = Field(default=None, ge=0, description="0 or more; what one success earns")
    least_margin_usd: float | None = Field(
        default=None, description="margin per success above which an adjacent workflow may start"
    )
    labelling: float | None = Field(default=None, ge=0, description="USD a month, labelling and relabelling")
    evaluation_upkeep: float | None = Field(default=None, ge=0, description="USD a month, suites and graders")
    incidents: float | None = Field(default=None, ge=0, description="USD a month, people and refunds")
    rollout_infrastructure: float | None = Field(default=None, ge=0, description="USD a month, gateway and rollouts")
    retries: float | None = Field(default=None, ge=0, description="USD a month, what no session is billed")


SECRET_HEADER = re.compile(r"auth|cookie|key|secret|signature|token", re.IGNORECASE)
"""Names of headers whose value is taken for a secret."""
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""A value that the environment holds: `${NAME}`."""


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
    brief: BriefSettings = BriefSettings()
    monitoring: Annotated[tuple[str | dict[str, Any], ...], Field(strict=False)] = Field(
        default=(), description="names, or {metric, margin, window_days, owner}; unset = all, docs/monitors.md"
    )
    prices: PriceSettings = PriceSettings()
    economics: EconomicsSettings = EconomicsSettings()
    tools: ToolsSettings = ToolsSettings()
    limits: LimitsSettings = LimitsSettings()  # type: ignore[valid-type]
    tracking: TrackingSettings | None = None


def read_settings(path: Path) -> tuple[Settings, Marks]:
    """Read a whole workflow file."""
    data, marks = read_yaml(path)
    return parse(Settings, data, marks), marks
