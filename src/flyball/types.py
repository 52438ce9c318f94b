"""The types that travel the one path.

    Task -> World + AgentRunner --door--> Engine                                   (one attempt)
              `-> Attempt = task, Trajectory, state -> graders -> Score, Outcome, RewardEvents
                      `-> rl -> TrainingSample -> Learner -> PolicyVersion -> evals -> Comparison -> release

Everything here is data: no clock, no I/O, no torch. Axes: T tokens of one linear branch, G attempts of one task, P
tasks. Times are seconds, money is US dollars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flyball.errors import Fault

Message = dict[str, Any]
"""One chat message in OpenAI's form: role, content, and for an assistant optionally `tool_calls`."""


# --- tasks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """When an attempt is stopped. `max_tokens` bounds prompt plus completion of one branch. `max_cost_usd` bounds model
    and tools by the run's prices (None = no bound); the call that reaches it is the last."""

    max_turns: int = 12
    max_tool_calls: int = 24
    max_new_tokens: int = 256
    max_tokens: int = 4096
    max_seconds: float = 120.0
    tool_timeout_seconds: float = 10.0
    tool_output_chars: int = 4000
    max_cost_usd: float | None = None


@dataclass(frozen=True)
class Task:
    """One thing to do. `public` reaches the world and the policy, `hidden` reaches graders only.

    `cluster` names what was sampled together (template x snapshot); intervals are clustered by it. `family` is a
    fixed stratum, `stage` says how long the work is (`single_tool`, `two_to_five`, `long`). `surface`: `tools/surface`.
    """

    task_id: str
    public: Mapping[str, Any]
    hidden: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    split: str = "train"
    family: str = "default"
    stage: str = "default"
    cluster: str = ""
    surface: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cluster:
            object.__setattr__(self, "cluster", self.task_id)


# --- one attempt -----------------------------------------------------------------------------------------------------


class StopReason(StrEnum):
    """Every way an attempt ends. `fault` says what it counts for."""

    ANSWERED = "answered"
    MAX_TURNS = "max_turns"
    MAX_TOOL_CALLS = "max_tool_calls"
    MAX_TOKENS = "max_tokens"
    MAX_SECONDS = "max_seconds"
    MAX_COST = "max_cost"
    MALFORMED = "malformed"
    LOOP = "loop"
    APPROVAL_DENIED = "approval_denied"
    BLOCKED = "blocked"
    WORLD_ERROR = "world_error"
    TOOL_ERROR = "tool_error"
    AGENT_ERROR = "agent_error"
    ENGINE_ERROR = "engine_error"
    CANCELLED = "cancelled"

    @property
    def fault(self) -> Fault | None:
        """None for a finished attempt; policy for its own limits; infrastructure for everything around it."""
        if self is StopReason.ANSWERED:
            return None
        machinery = self is StopReason.CANCELLED or self.value.endswith("_error")
        return Fault.INFRASTRUCTURE if machinery else Fault.POLICY


@dataclass(frozen=True)
class ToolCall:
    """A call as the model wrote it; `arguments` is the raw JSON text."""

    call_id: str
    name: str
    arguments: str


Refusal = Literal["unknown_tool", "bad_arguments", "malformed", "not_allowed", "out_of_scope", "denied", "expired"]
ToolProblem = Literal["raised", "timeout", "cancelled", "too_large", "unavailable", "over_budget"] | Refusal
ApprovalDecision = Literal["approve", "deny", "expire"]
Drift = Literal["clean", "realigned", "forked"]


@dataclass(frozen=True)
class ToolResult:
    """What the model was shown for a call. `problem` is None when the tool did its work.

    `seconds` and `cost_usd` are of all `tries`; `approval` None = nobody was asked; `penalty` is what learning deducts
    for a call past its budget; `dry_run`: it was let pass and not carried out.
    """

    call_id: str
    name: str
    content: str
    problem: ToolProblem | None = None
    seconds: float = 0.0
    truncated: bool = False
    cost_usd: float = 0.0
    tries: int = 1
    approval: ApprovalDecision | None = None
    penalty: float = 0.0
    dry_run: bool = False


WHOLE, UNKNOWN = -1, -2
"""In `Support.index`: nothing was cut from this draw's vocabulary; something was, and it is not known what."""


@dataclass(frozen=True, eq=False)
class Support:
    """What each of T draws chose among, where top-p, top-k, min-p or a grammar had cut the vocabulary.

    `index` [T] says which set a draw used (or WHOLE, UNKNOWN). Equal sets are stored once: set s is
    `ids[ends[s - 1]:ends[s]]`, the ids that were kept, or where `cut[s]` the fewer ids that were taken away.
    """

    index: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int64]
    cut: npt.NDArray[np.bool_]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Support) and all(
            np.array_equal(mine, theirs) for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
        )


@dataclass(frozen=True)
class Call:
    """One model call: what it added to its parent's tokens, and what was sampled.

    Tokens up to and including this call = the parent's + `prompt_ids` (given, never trained) + `completion_ids`
    (sampled, one `sampling_logprobs` and one `policy_versions` entry each, among `support`; None = nothing was cut).
    `drift`: clean = the new prompt extends what was sampled; realigned = the agent wrote it anew with other spacing or
    call ids, and the prompt extends the sampled tokens; forked = agent or template changed it, so a new branch starts
    from the root. In each case the tokens are those the engine saw, so what is trained is exact.
    """

    call_id: str
    parent_id: str | None
    agent: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    sampling_logprobs: tuple[float, ...]
    policy_versions: tuple[int, ...]
    sampling: Mapping[str, Any]
    finish_reason: str
    message: Message
    tool_calls: tuple[ToolCall, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    drift: Drift = "clean"
    seconds: float = 0.0
    support: Support | None = None

    def __post_init__(self) -> None:
        n = len(self.completion_ids)
        if self.support is not None and len(self.support.index) != n:
            raise ValueError(f"call {self.call_id}: {n} sampled tokens, support of {len(self.support.index)} draws")
        if len(self.sampling_logprobs) != n or len(self.policy_versions) != n:
            raise ValueError(
                f"call {self.call_id}: {n} sampled tokens, {len(self.sampling_logprobs)} logprobs and "
                f"{len(self.policy_versions)} policy versions; every sampled token carries one of each (invariant 1)"
            )


@dataclass(frozen=True)
class Branch:
    """One root-to-leaf line of calls as flat arrays, all [T].

    `loss_mask` is True for tokens the policy sampled and that no earlier branch of the trajectory has claimed, so a
    shared token is trained once. `call_index` is the position in `Trajectory.calls` (-1 for prompt tokens).
    """

    token_ids: npt.NDArray[np.int64]
    loss_mask: npt.NDArray[np.bool_]
    sampling_logprobs: npt.NDArray[np.float32]
    policy_versions: npt.NDArray[np.int64]
    call_index: npt.NDArray[np.int64]
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Trajectory:
    """A tree of calls with one stop reason. Sub-agents, retries and compaction are branches."""

    calls: tuple[Call, ...]
    stop: StopReason
    detail: str = ""

    def branches(self) -> Iterator[Branch]:
        """Yield one linear view per leaf, in the order the leaves were called."""
        index = {call.call_id: i for i, call in enumerate(self.calls)}
        parents = {call.parent_id for call in self.calls}
        claimed: set[str] = set()
        for leaf in self.calls:
            if leaf.call_id in parents:
                continue
            line: list[Call] = [leaf]
            while line[-1].parent_id is not None:
                line.append(self.calls[index[line[-1].parent_id]])
            line.reverse()
            yield _flatten(line, index, claimed)
            claimed.update(call.call_id for call in line)


def _flatten(line: list[Call], index: Mapping[str, int], claimed: set[str]) -> Branch:
    def column(given: Any, sampled: Callable[[Call], Iterable[Any]], dtype: Any) -> npt.NDArray[Any]:
        return np.asarray([v for call in line for v in (*[given] * len(call.prompt_ids), *sampled(call))], dtype)

    return Branch(
        np.asarray([token for call in line for token in (*call.prompt_ids, *call.completion_ids)], np.int64),
        column(False, lambda call: [call.call_id not in claimed] * len(call.completion_ids), np.bool_),
        column(0.0, lambda call: call.sampling_logprobs, np.float32),
        column(-1, lambda call: call.policy_versions, np.int64),
        column(-1, lambda call: [index[call.call_id]] * len(call.completion_ids), np.int64),
        tuple(line),
    )


@dataclass(frozen=True)
class Usage:
    """What an attempt consumed. `tokens_in` counts each prompt token once per branch (prefix reuse)."""

    tokens_in: int = 0
    tokens_out: int = 0
    model_seconds: float = 0.0
    tool_seconds: float = 0.0
    wall_seconds: float = 0.0


@dataclass(frozen=True)
class HookRecord:
    """What a hook of the built-in loop said, and after which model call (None = before the first).

    `value`: of a plan its steps and tool budget, of a critic its score, of a policy check `pass`, `block` or `revise`.
    """

    kind: Literal["plan", "critic", "policy_check"]
    name: str
    call_id: str | None
    value: Any
    detail: str = ""


@dataclass(frozen=True)
class Attempt:
    """One attempt at one task: all that graders may see, kept to grade it again. `tool_state`: by tool server."""

    attempt_id: str
    task: Task
    trajectory: Trajectory
    messages: tuple[Message, ...]
    state: Any = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    trace_id: str = ""
    session_id: str = ""
    group_index: int = 0
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    hooks: tuple[HookRecord, ...] = ()
    tool_state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stop(self) -> StopReason:
        return self.trajectory.stop

    @property
    def answer(self) -> str:
        """Text of the last assistant message that calls no tool, or ''."""
        return self._texts[-1] if self._texts else ""

    @property
    def said(self) -> str:
        """Everything the assistant said to the customer, one line per message."""
        return "\n".join(self._texts)

    @property
    def _texts(self) -> list[str]:
        return [m.get("content") or "" for m in self.messages if m["role"] == "assistant" and not m.get("tool_calls")]

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        return tuple(result for call in self.trajectory.calls for result in call.tool_results)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(tc for call in self.trajectory.calls for tc in call.tool_calls)

    @property
    def drifts(self) -> tuple[Drift, ...]:
        """`Call.drift` of every call in which something was sampled."""
        return tuple(call.drift for call in self.trajectory.calls if call.completion_ids)

    @property
    def num_tool_calls(self) -> int:
        return len(self.tool_calls)

    @property
    def num_tool_errors(self) -> int:
        return sum(result.problem is not None for result in self.tool_results)


@dataclass(frozen=True)
class AttemptGroup:
    """G attempts at one task, all by the same policy intent."""

    task: Task
    attempts: tuple[Attempt, ...]


# --- judgement -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Missing:
    """There is no value, and this is why. Never zero, never dropped (invariant 2)."""

    cause: str
    fault: Fault


@dataclass(frozen=True)
class Score:
    """A grader's report. `value` is in [0, 1]; `raw` is what the grader said on its own `raw_range`."""

    value: float | Missing
    raw: float | None = None
    raw_range: tuple[float, float] = (0.0, 1.0)
    parts: Mapping[str, float] = field(default_factory=dict)
    explanation: str = ""
    grader: str = ""
    grader_version: str = ""

    @property
    def missing(self) -> bool:
        return isinstance(self.value, Missing)


@dataclass(frozen=True)
class Outcome:
    """What releases are judged by; frozen with the suite. `safe` is None when no safety grader ran."""

    success: bool | Missing
    safe: bool | Missing | None = None
    grader_version: str = ""


@dataclass(frozen=True)
class RewardEvent:
    """What learning reads: any finite float, placed on a turn of a branch. `call_id` None = the end of the branch."""

    branch: int
    turn: int
    call_id: str | None
    component: str
    value: float

    def __post_init__(self) -> None:
        if not np.isfinite(self.value):
            raise ValueError(f"reward component {self.component!r} is {self.value}; a reward is a finite float")


@dataclass(frozen=True)
class GradedAttempt:
    """An attempt with its judgement. `reward` is the sum of its events, or Missing when a grader failed."""

    attempt: Attempt
    outcome: Outcome
    scores: Mapping[str, Score] = field(default_factory=dict)
    events: tuple[RewardEvent, ...] = ()
    reward: float | Missing = 0.0


# --- learning --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingSample:
    """One branch ready for the learner; every array is [T].

    The learner only sums `loss_weights * token_loss`: cutting or packing cannot change it (invariant 3).
    """

    token_ids: npt.NDArray[np.int64]
    loss_mask: npt.NDArray[np.bool_]
    sampling_logprobs: npt.NDArray[np.float32]
    advantages: npt.NDArray[np.float32]
    loss_weights: npt.NDArray[np.float32]
    attempt_id: str = ""
    branch: int = 0
    policy_versions: npt.NDArray[np.int64] | None = None
    ref_logprobs: npt.NDArray[np.float32] | None = None
    old_logprobs: npt.NDArray[np.float32] | None = None
    """of the policy before the first of several updates on this batch; None with one update"""
    support: Support | None = None
    """what sampled tokens were drawn among; all logprobs here are over it. None = the whole vocabulary"""
    temperatures: tuple[float, ...] = ()
    """at which they were drawn, each once; empty where it does not matter (imitation)"""

    def __post_init__(self) -> None:
        n = len(self.token_ids)
        lengths = {k: len(getattr(self, k)) for k in ("loss_mask", "sampling_logprobs", "advantages", "loss_weights")}
        lengths["support"] = n if self.support is None else len(self.support.index)
        for name, m in lengths.items():
            if m != n:
                raise ValueError(f"training sample {self.attempt_id}: {name} has {m} of {n} tokens")


@dataclass(frozen=True)
class WeightsRef:
    """Where published weights lie. `version` increases by one per publication of a run."""

    version: int
    path: str
    digest: str


# --- versions, evaluation, release -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PolicyVersion:
    """An immutable registry entry: all that made this policy, by digest. `version_id` is the digest of the rest."""

    version_id: str
    name: str
    weights: str
    base: str
    parent: str | None = None
    reward_model: str | None = None
    dataset: str = ""
    graders: Mapping[str, str] = field(default_factory=dict)
    suites: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    code: str = ""
    path: str = ""


@dataclass(frozen=True)
class Estimate:
    """A number with what it rests on (invariant 6): bounds at `level`, `n` units, `clusters` clusters."""

    value: float
    low: float
    high: float
    n: int
    clusters: int = 0
    level: float = 0.95
    unit: str = ""
    method: str = ""


@dataclass(frozen=True)
class TaskResult:
    """One trial of one task, reduced to what comparisons need. `model_calls` sampled something, drifted or not."""

    task_id: str
    trial: int
    split: str
    family: str
    stage: str
    cluster: str
    attempt_id: str
    success: bool | Missing
    safe: bool | Missing | None
    tool_calls: int
    tool_errors: int
    hallucinated_tools: int
    hallucinated_parameters: int
    tokens_in: int
    tokens_out: int
    tool_seconds: float
    wall_seconds: float
    cost_usd: float
    stop: str
    scores: Mapping[str, float | None] = field(default_factory=dict)
    approvals_refused: int = 0
    model_calls: int = 0
    realigned_calls: int = 0
    forked_calls: int = 0


@dataclass(frozen=True)
class EvalRun:
    """Outcomes of one version on one suite; `slices`: task ids by name, `conditions`: all but the policy, by name."""

    run_id: str
    version_id: str
    suite: str
    suite_digest: str
    grader_version: str
    num_trials: int
    results: tuple[TaskResult, ...]
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    conditions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Candidate minus baseline on the same tasks: paired by task, stratified by family, clustered by `Task.cluster`."""

    suite: str
    suite_digest: str
    baseline: str
    candidate: str
    metric: str
    difference: Estimate
    baseline_estimate: Estimate
    candidate_estimate: Estimate
    verdict: Literal["accept", "reject", "inconclusive"]
    margin: float = 0.0
    more_needed: int | None = None


GateState = Literal["pass", "fail", "inconclusive", "not_evaluable"]


@dataclass(frozen=True)
class GateResult:
    """A gate's answer with its margin, owner and evidence. Missing evidence never passes (invariant 7)."""

    name: str
    state: GateState
    owner: str
    rule: str
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    more_needed: int | None = None


@dataclass(frozen=True)
class Release:
    """A candidate on its way. Only `release/` moves a production alias."""

    release_id: str
    baseline: str
    candidate: str
    stage: Literal["offline", "shadow", "canary", "general", "rolled_back"]
    gates: tuple[GateResult, ...]
    verdict: str


Channel = Literal["offline_eval", "canary", "general"]


@dataclass(frozen=True)
class SessionRecord:
    """The minimum schema kept for every served or evaluated session."""

    session_id: str
    model_version: str
    policy_version: str
    reward_model_version: str
    tool_calls_count: int
    tool_error_count: int
    tokens_in: int
    tokens_out: int
    duration_ms: float
    human_override: bool
    release_channel: Channel
    arm: Literal["stable", "holdback", "canary", "shadow"] = "stable"
    attempt_id: str = ""
    cost_usd: float = 0.0
    outcome: bool | None = None
    intent_class: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
