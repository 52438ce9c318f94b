"""The blocks of a settings file that say how tokens are drawn and how RL learns; see `settings_file.py` for the rules.

`None` for a field of `rl` means "as the preset says".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from flyball.section import Names, Section


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


class OwnAttemptsSettings(SamplingSettings):
    """Attempts at the training tasks that the policy at hand makes for a stage; they are kept in the store."""

    num_tasks: int | None = Field(default=None, ge=1, description="the first so many training tasks; unset = all")
    per_task: int = Field(default=8, ge=2, description="attempts at each, at least 2")
    temperature: float = Field(default=1.0, gt=0, le=10, description="of sampling, above 0 and at most 10")
    concurrency: int = Field(default=64, ge=1, description="attempts in flight, at least 1")


class KlScheduleSettings(Section):
    """How the weight of the KL moves; the kinds and their formulae are those of `rl.kl.KlSchedule`."""

    kind: Literal["constant", "warmup-decay", "adaptive", "pid"] = "constant"
    warmup_steps: int = Field(default=0, ge=0, description="steps up to the full weight, 0 or more")
    final: float = Field(default=0.0, ge=0, description="share of the weight at the last step, 0 or more")
    target: float = Field(default=0.0, ge=0, description="KL aimed at, nats per token; above 0 for the controllers")
    horizon: float = Field(default=10_000.0, gt=0, description="attempts over which `adaptive` moves, above 0")
    gains: tuple[float, float, float] = Field(default=(0.0, 0.0, 0.0), strict=False, description="P, I, D of `pid`")


class CurriculumSettings(Section):
    """Which tasks RL is at: levels with promotion, families by SEC's bandit, room that grows (tasks/curriculum.py)."""

    levels: Names = Field(default=(), description="stages of tasks, the easiest first; unset = all tasks are one level")
    promote_at: float = Field(default=0.7, gt=0, lt=1, description="up when the lower bound of success reaches this")
    demote_at: float = Field(default=0.2, ge=0, lt=1, description="down when the upper bound of success is below this")
    review_share: float = Field(default=0.2, ge=0, lt=1, description="of a step's tasks, drawn from earlier levels")
    by_family: bool = Field(default=False, description="draw families by how much there is to learn in each")
    streams: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="families side by side in every step, by weight; unset = as they come"
    )
    step_size: float = Field(default=0.5, gt=0, le=1, description="by_family: weight of the newest step, above 0 to 1")
    family_temperature: float = Field(default=0.2, gt=0, description="by_family: lower draws the best more, above 0")
    family_floor: float = Field(default=0.05, ge=0, le=1, description="by_family: share that is drawn evenly, 0 to 1")
    room: int | None = Field(default=None, ge=1, description="tokens of an attempt at first; unset = as the tasks say")

    @model_validator(mode="after")
    def _bounds_are_apart(self) -> CurriculumSettings:
        if self.demote_at >= self.promote_at:
            raise ValueError(f"demote_at {self.demote_at:g} must lie below promote_at {self.promote_at:g}")
        if self.streams and self.by_family:
            raise ValueError("by_family draws families by what is learned, and streams fixes their shares; keep one")
        return self


class ToolFilterSettings(OwnAttemptsSettings):
    """RL at tasks that tools help with: the policy attempts each with and without tools before the first step.

    The rule is `tasks.curriculum.needs_tools` on shares of success; tasks that were not tried are left out.
    """

    gain: float = Field(default=0.0, ge=0, lt=1, description="success with tools less without must be above this")
    least_with: float = Field(default=0.0, ge=0, lt=1, description="success with tools must be above this")
    most_without: float = Field(default=1.0, gt=0, le=1, description="success without tools must be below this")


class RefreshSettings(Section):
    """When the reward model that RL learns from is trained anew on what the run did (workflow/reward_refresh.py)."""

    every: int = Field(default=10, ge=1, description="steps between two looks at its accuracy, at least 1")
    fall: float = Field(default=0.1, ge=0, lt=1, description="fall of its accuracy that is too much, beyond noise")
    always: bool = Field(default=False, description="anew at every look, whatever its accuracy")


class RLSettings(SamplingSettings):
    """Group-relative RL with tools in the loop. Fields that are None take the preset's value."""

    preset: str = Field(default="rloo", description="a row of the table in rl/algorithms.py")
    schedule: Literal["sync", "async"] = Field(
        default="sync", description="sync: attempts in turn with the updates; async: ahead of them"
    )
    max_off_policy_steps: int | None = Field(
        default=None, ge=0, description="async: how many batches may begin ahead, 0 or more; unset = 1"
    )
    replay_ratio: float = Field(
        default=0.0, ge=0, le=8, description="earlier groups learned from again beside each new one, 0 (none) to 8"
    )
    replay_steps: int | None = Field(
        default=None, ge=1, description="from how many of the last steps they are, at least 1; unset = 4"
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
    curriculum: CurriculumSettings | None = Field(default=None, description="unset = all tasks, in seeded epochs")
    tool_filter: ToolFilterSettings | None = Field(default=None, description="unset = tools need not help with a task")
    refresh_reward_model: RefreshSettings | None = Field(
        default=None, description="unset = workflow.reward_model stays as it is while RL learns from it"
    )
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
    max_age: int | None = Field(
        default=None, ge=0, description="async or replay: attempts with older tokens are not trained; unset = all are"
    )
    network_learning_rate: float | None = Field(
        default=None, gt=0, lt=1, description="of the critic or implicit reward model; unset = learning_rate"
    )
    max_refills: int | None = Field(
        default=None, ge=0, description="rounds of other tasks in place of groups that teach nothing, 0 or more"
    )
    greso: bool = Field(default=False, description="skip tasks that taught nothing lately before they are attempted")
    guards: dict[str, Literal["ignore", "tell", "adjust", "pause", "stop"]] = Field(
        default_factory=dict, description="what is done about the signs of docs/guards.md, by name; unset = as there"
    )

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
