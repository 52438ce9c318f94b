"""Presets: a name, its plain functions, its defaults and its tier. A new algorithm is one function and one row.

Tiers: `verified` (a curve on a model people know), `exact` (tests against the formulae), `experimental`. The page
docs/algorithms.md is made of this table: `python -m flyball.rl.page > docs/algorithms.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flyball.errors import ConfigError, nearest
from flyball.rl.advantage import (
    dr_grpo_advantages,
    grpo_advantages,
    no_baseline,
    pass_k_advantages,
    remax_advantages,
    rloo_advantages,
)
from flyball.rl.aggregate import MODES
from flyball.rl.conflict import conflict_weights
from flyball.rl.correction import correction
from flyball.rl.credit import Credit, gigpo, mt_grpo, process_grpo, remax, turn_return_hybrid, turn_rloo, whole_attempt
from flyball.rl.kl import KlSchedule, kl_placement
from flyball.rl.loss import Clip, Surrogate, cispo, ppo_clip, value_loss
from flyball.rl.ratio import as_sequence_ratio
from flyball.rl.shaping import overlong_punishment
from flyball.rl.token_credit import (
    gae,
    implicit_reward_loss,
    implicit_rewards,
    kl_rewards,
    prime_advantages,
    whiten,
)

Tier = Literal["verified", "exact", "experimental"]

CLIP_FIELDS: dict[Surrogate, tuple[str, ...]] = {
    ppo_clip: ("clip_ratio_low", "clip_ratio_high", "dual_clip"),
    cispo: ("clip_ratio_high",),
}
"""Which bounds a surrogate reads; one that is not listed reads none."""

CHOICES = (
    "clip_ratio_low",
    "clip_ratio_high",
    "dual_clip",
    "loss_agg_mode",
    "correction",
    "correction_low",
    "correction_high",
    "correction_normalizer",
    "proximal",
    "kl",
    "kl_coef",
    "kl_schedule",
    "allow_refused_kl",
    "overlong",
    "max_age",
    "max_refills",
)
"""Fields of a row that a workflow file may set under `training.rl`."""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One row. What is not said is as in design.md section 6: clip 0.2/0.2, token TIS 2, no KL, mean over tokens.

    `functions` are the formulae, `deviations` what differs from the paper. `credit` is None where a critic gives it.
    `reads_turns`: without rewards on turns it would be another method under this name. `group_baseline` False: a group
    whose attempts earned the same still has something to say, against the batch. `greedy_baseline`: each task is
    attempted greedily, too. `max_age`: attempts with a token that more optimizer steps than this lie behind are
    compared and not trained, for reproductions; `attempts/stale` and `censoring_index` show what that loses.
    `max_refills`: rounds of other tasks in place of groups that teach nothing. `network`: what is trained beside the
    policy to give credit by token; with a critic `discount` and `trace` are those of GAE.
    """

    name: str
    credit: Credit | None
    formula: str
    functions: tuple[Callable[..., Any], ...]
    source: str
    fits: str
    tier: Tier = "exact"
    reads_turns: bool = False
    deviations: str = ""
    surrogate: Surrogate = ppo_clip
    clip_ratio_low: float | None = 0.2
    clip_ratio_high: float | None = 0.2
    dual_clip: float | None = None
    loss_agg_mode: str = "token-mean"
    correction: str = "tis"
    correction_low: float | None = None
    correction_high: float | None = None
    correction_normalizer: Literal["all", "accepted"] = "all"
    proximal: Literal["learner", "sampler"] = "learner"
    kl: str = "k2-in-loss-weighted"
    kl_coef: float = 0.0
    kl_schedule: KlSchedule = field(default_factory=KlSchedule)
    allow_refused_kl: bool = False
    overlong: Literal["keep", "punish", "filter"] = "keep"
    max_age: int | None = None
    max_refills: int = 0
    network: Literal["critic", "implicit_rewards"] | None = None
    discount: float = 1.0
    trace: float = 0.95
    greedy_baseline: bool = False
    group_baseline: bool = True
    whitened: bool = False
    sequence_ratio: bool = False
    conflict_weight: float | None = None
    entropy_weight: float = 0.0
    entropy_threshold: float | None = None

    def __post_init__(self) -> None:
        kl_placement(self.kl, allow_refused=self.allow_refused_kl)
        chosen = correction(self.correction)
        if self.loss_agg_mode not in MODES:
            raise ConfigError(f"loss aggregation {self.loss_agg_mode!r} is unknown{nearest(self.loss_agg_mode, MODES)}")
        if chosen.high is None and (self.correction_low, self.correction_high) != (None, None):
            raise ConfigError("correction 'none' has no bounds: correction_low and correction_high would be ignored")
        if self.correction_normalizer == "accepted" and not chosen.rejects:
            raise ConfigError(
                f"correction_normalizer 'accepted' would be ignored: correction {self.correction!r} rejects nothing"
            )
        if self.proximal == "sampler" and self.correction != "none":
            raise ConfigError(
                "proximal 'sampler' compares with the sampler, so the ratio holds the engine gap and correction "
                f"{self.correction!r} would weigh it twice; set `correction: none` beside it"
            )

    @property
    def reads(self) -> frozenset[str]:
        """The fields of `CHOICES` that act in this row."""
        clips = {"clip_ratio_low", "clip_ratio_high", "dual_clip"} - {*CLIP_FIELDS.get(self.surrogate, ())}
        refills = set() if self.compares_groups else {"max_refills"}
        return frozenset(CHOICES) - clips - refills

    @property
    def compares_groups(self) -> bool:
        """Whether a group whose attempts all earned the same teaches nothing."""
        return self.credit is not None and self.group_baseline

    @property
    def clip(self) -> Clip:
        return Clip(self.clip_ratio_low, self.clip_ratio_high, self.dual_clip)

    @property
    def uses_kl(self) -> bool:
        """Whether a KL to the reference is part of what is optimised."""
        return self.kl_coef > 0

    @property
    def kl_in_reward(self) -> bool:
        return self.kl.endswith("-in-reward")

    @property
    def looks_at_sequences(self) -> bool:
        """Whether a rule is about whole sequences, so that `sequence.py` has to put it into the samples."""
        entropy = self.entropy_weight > 0 or self.entropy_threshold is not None
        return self.sequence_ratio or entropy or correction(self.correction).whole

    def loss_params(self, kl_coef: float) -> dict[str, Any]:
        """What `rl.loss.policy_loss` reads, at a KL weight."""
        inside = not self.looks_at_sequences
        return {
            "surrogate": self.surrogate,
            "clip": self.clip,
            "gap": self.correction if inside else "none",
            "gap_low": self.correction_low if inside else None,
            "gap_high": self.correction_high if inside else None,
            "bypass": self.proximal == "sampler" and inside,
            "kl": self.kl,
            "kl_coef": kl_coef,
        }


_GRPO = Algorithm(
    name="grpo",
    credit=whole_attempt(grpo_advantages),
    formula="A_i = (R_i - mean R)/(std R + eps); -min(rho A, clip(rho) A) + beta k3",
    functions=(grpo_advantages, ppo_clip),
    source="2402.03300, eq. 3 and 4.1.2",
    fits="reproducing published GRPO",
    loss_agg_mode="seq-mean-token-mean",
    kl="k3-in-loss",
    kl_coef=0.04,
    deviations="std with G-1 and eps 1e-6 as in verl; a group of one gives 0",
)

_PPO = Algorithm(
    name="ppo",
    credit=None,
    formula="A_t = GAE(r, V), g 1, lam 0.95, whitened; clipped surrogate; value loss clipped at 0.5",
    functions=(gae, whiten, ppo_clip, value_loss),
    source="1707.06347, eq. 7; 1506.02438, eq. 16",
    fits="dense rewards and a critic that one can afford",
    network="critic",
    group_baseline=False,
    whitened=True,
    deviations="the critic is a network of its own, as large as the policy, with a head that begins at 0; one step of "
    "each per update",
)

_ROWS = (
    Algorithm(
        name="rloo",
        credit=whole_attempt(rloo_advantages),
        formula="A_i = R_i - mean of R_j over j != i; -min(rho A, clip(rho, 0.8, 1.28) A)",
        functions=(rloo_advantages, ppo_clip),
        source="2402.14740, section 3; clip 2503.14476",
        fits="the default: one reward per attempt",
        clip_ratio_high=0.28,
        deviations="clipped token ratios in place of plain REINFORCE; KL off (the paper: 0.03 in the reward)",
    ),
    Algorithm(
        name="turn_rloo",
        credit=turn_rloo,
        formula="A_{i,k} = G_{i,k} - mean of G_{j,k} over j != i that reach call k",
        functions=(turn_rloo, ppo_clip),
        source="own derivation; the bias it avoids: 2505.11821",
        fits="the default for several turns with rewards on turns",
        clip_ratio_high=0.28,
        deviations="alone at call k: the others' full returns; no turn rewards in the group: exactly `rloo`",
    ),
    _GRPO,
    Algorithm(
        name="dr_grpo",
        credit=whole_attempt(dr_grpo_advantages),
        formula="A_i = R_i - mean R; sum over tokens / (B H), H constant",
        functions=(dr_grpo_advantages, ppo_clip),
        source="2503.20783, section 3.2",
        fits="reproducing Dr. GRPO; lengths differ and must not matter",
        loss_agg_mode="seq-mean-token-sum-norm",
    ),
    Algorithm(
        name="reinforce_pp",
        credit=whole_attempt(no_baseline),
        formula="A_t = return-to-go of (R at the end - beta k1_t), whitened over all tokens of the batch",
        functions=(no_baseline, kl_rewards, whiten, ppo_clip),
        source="2501.03262, eq. 6-8",
        fits="many tasks with few attempts each: it has no group baseline",
        kl="k1-in-reward",
        kl_coef=0.01,
        group_baseline=False,
        whitened=True,
        deviations="discount 1; groups whose attempts earned the same are kept, their baseline is the batch",
    ),
    Algorithm(
        name="reinforce_pp_baseline",
        credit=whole_attempt(dr_grpo_advantages),
        formula="A_i = R_i - mean R, then whitened over all tokens of the batch; KL k2 in the loss",
        functions=(dr_grpo_advantages, whiten, ppo_clip),
        source="2501.03262, section 3.3 (baseline form)",
        fits="group baseline with one scale for the whole batch",
        kl="k2-in-loss",
        kl_coef=0.01,
        whitened=True,
        deviations="zero-variance groups are left out before whitening",
    ),
    Algorithm(
        name="remax",
        credit=remax,
        formula="A_i = R_i - R(greedy attempt)",
        functions=(remax_advantages, ppo_clip),
        source="2310.10505, eq. 5",
        fits="groups of one, where a greedy attempt is cheap",
        greedy_baseline=True,
        deviations="clipped token ratios in place of plain REINFORCE; discount 1; KL off",
    ),
    Algorithm(
        name="pass_k",
        credit=whole_attempt(pass_k_advantages),
        formula="A = R_max - R_second for the best attempt, else 0",
        functions=(pass_k_advantages, ppo_clip),
        source="GRPO pass@k, as in verl",
        fits="tasks where one success among k is what counts",
        tier="experimental",
        deviations="not divided by the std; a group whose best attempts tie gives 0, though it is a mixed one",
    ),
    replace(
        _GRPO,
        name="gspo",
        formula="s_i = exp(mean_t log pi/pi_old); -min(s A, clip(s, 1-3e-4, 1+4e-4) A)",
        functions=(grpo_advantages, as_sequence_ratio, ppo_clip),
        source="2507.18071, eq. 5-7 and 14",
        fits="mixture-of-experts models, long answers, several updates per batch",
        sequence_ratio=True,
        clip_ratio_low=3e-4,
        clip_ratio_high=4e-4,
        kl="k2-in-loss-weighted",
        kl_coef=0.0,
        deviations="a sequence is one branch of an attempt, all its turns together",
    ),
    replace(
        _GRPO,
        name="cispo",
        formula="-sg[min(rho, 1+eps_high)] A log pi",
        functions=(grpo_advantages, cispo),
        source="2506.13585, eq. 4-5",
        fits="rare decisive tokens that a clip would silence",
        surrogate=cispo,
        clip_ratio_low=None,
        clip_ratio_high=4.0,
        loss_agg_mode="token-mean",
        kl="k2-in-loss-weighted",
        kl_coef=0.0,
        deviations="weight cap 5 as in ScaleRL; the paper does not print its own",
    ),
    replace(
        _GRPO,
        name="dapo",
        formula="GRPO advantages of R + R_len; clip 0.2/0.28; mean over all tokens; only groups that differ",
        functions=(grpo_advantages, ppo_clip, overlong_punishment),
        source="2503.14476, eq. 8-13",
        fits="long answers with a reward of right or wrong",
        clip_ratio_high=0.28,
        loss_agg_mode="token-mean",
        kl="k2-in-loss-weighted",
        kl_coef=0.0,
        overlong="punish",
        max_refills=3,
        deviations="overlong filtering is `overlong: filter`, an alternative to the punishment; L_max is the most "
        "tokens an attempt can sample, L_cache a fifth of it; at most 3 refills, with as many tasks as are missing",
    ),
    replace(
        _GRPO,
        name="gtpo",
        formula="lambda_t (A_i - 0.1 <H>_i) log pi; lambda 0 or 2 on conflict tokens; 0 where <H>_i > 0.7",
        functions=(grpo_advantages, conflict_weights, ppo_clip),
        source="2508.03772, section 4; the released code",
        fits="answers with a fixed format that good and bad attempts share",
        tier="experimental",
        kl="k2-in-loss-weighted",
        kl_coef=0.0,
        conflict_weight=2.0,
        entropy_weight=0.1,
        entropy_threshold=0.7,
        deviations="threshold 0.7 and always on, as in the code; not divided by the number of conflict tokens",
    ),
    Algorithm(
        name="mt_grpo",
        credit=mt_grpo,
        formula="A_{i,k} = sum over l >= k of norm_l(r)_i + norm(o)_i",
        functions=(mt_grpo, ppo_clip),
        source="2505.11821 v1; K turns as in 2604.02869",
        fits="reproducing MT-GRPO; biased towards more turns, `turn_rloo` is not",
        tier="experimental",
        loss_agg_mode="seq-mean-token-mean",
        reads_turns=True,
        deviations="a turn that one attempt alone reaches gives 0, so a mixed group can give nothing but 0",
    ),
    Algorithm(
        name="turn_return_hybrid",
        credit=turn_return_hybrid,
        formula="A_{i,k} = norm_k(G_{.,k})_i + 0.3 norm(o)_i, G discounted by 0.9",
        functions=(turn_return_hybrid, ppo_clip),
        source="2604.02869; GTPO of 2511.14846",
        fits="rewards on turns that were calibrated against success (rl/calibration.py)",
        tier="experimental",
        loss_agg_mode="seq-mean-token-mean",
        reads_turns=True,
    ),
    Algorithm(
        name="process_grpo",
        credit=process_grpo,
        formula="A_{i,k} = sum over l >= k of step rewards normalised over all steps of the group",
        functions=(process_grpo, ppo_clip),
        source="2402.03300, section 4.1.3",
        fits="reproducing GRPO with process supervision",
        tier="experimental",
        loss_agg_mode="seq-mean-token-mean",
        reads_turns=True,
        deviations="attempts that differ only in how many equal steps they have give 0, though they earned differently",
    ),
    Algorithm(
        name="gigpo",
        credit=gigpo,
        formula="A_{i,k} = R_i - mean R + (G_{i,k} - mean of G over the calls made in the same state)",
        functions=(gigpo, ppo_clip),
        source="2505.10978, eq. 3-8",
        fits="worlds whose states come back, such as games and web pages",
        tier="experimental",
        loss_agg_mode="seq-mean-token-mean",
        deviations="form without std; the state of a call is what it was newly shown, token for token",
    ),
    _PPO,
    replace(
        _PPO,
        name="ppo_kl",
        formula="PPO on the rewards less beta k1 per token",
        functions=(gae, kl_rewards, ppo_clip, value_loss),
        source="1909.08593; 2203.02155, eq. 2",
        fits="a learned reward model that must not be over-optimised",
        kl="k1-in-reward",
        kl_coef=0.05,
    ),
    replace(
        _PPO,
        name="mt_ppo",
        formula="GAE of rewards on the last token of each turn, observation tokens skipped",
        source="2505.11821 v2",
        fits="rewards on turns and a critic",
        reads_turns=True,
    ),
    Algorithm(
        name="prime",
        credit=whole_attempt(rloo_advantages),
        formula="RLOO(o) + 5 x return-to-go of (beta log pi_phi/pi_ref less its leave-one-out mean)",
        functions=(prime_advantages, implicit_rewards, implicit_reward_loss, ppo_clip),
        source="2502.01456, eq. 3-6",
        fits="outcomes only, where credit per token is wanted without labels of steps",
        tier="experimental",
        network="implicit_rewards",
        deviations="pi_phi begins as the policy and learns after it has credited a batch; groups that all succeeded or "
        "all failed are left out instead of those outside 20 to 80 %; clip 0.2, process rewards are not whitened",
    ),
)

ALGORITHMS = {row.name: row for row in _ROWS}


def algorithm(name: str) -> Algorithm:
    """The row of that name. Raises ConfigError naming the nearest one."""
    if name not in ALGORITHMS:
        raise ConfigError(f"algorithm {name!r} is unknown{nearest(name, ALGORITHMS)}")
    return ALGORITHMS[name]


def own_choices(settings: Any) -> dict[str, Any]:
    """The choices that the section `training.rl` of a workflow file sets."""
    chosen = {key: value for key in CHOICES if (value := getattr(settings, key)) is not None}
    if "kl_schedule" in chosen:
        chosen["kl_schedule"] = KlSchedule(**chosen["kl_schedule"].model_dump())
    return chosen


def configured(name: str, own: Mapping[str, Any]) -> Algorithm:
    """The row with the choices of a workflow file (those that are not None) in place of its own.

    Raises ConfigError for a choice that the row does not read, and choices that contradict.
    """
    row = algorithm(name)
    chosen = {key: value for key, value in own.items() if value is not None}
    for key in chosen:
        if key not in row.reads:
            raise ConfigError(f"{key} would be ignored: preset {name!r} does not read it{nearest(key, row.reads)}")
    made = replace(row, **chosen)
    for key in ("kl", "kl_schedule"):
        if key in chosen and not made.uses_kl:
            raise ConfigError(f"{key} would be ignored: preset {name!r} has kl_coef 0; set `kl_coef` beside it")
    if made.allow_refused_kl and not kl_placement(made.kl, allow_refused=True).refused:
        raise ConfigError(f"allow_refused_kl would be ignored: KL placement {made.kl!r} is not a refused one")
    return made
