"""PPO's critic and the implicit rewards of PRIME: numbers by hand, and tiny policies that learn with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flyball.models.heads import with_value_head
from flyball.rl.algorithms import Algorithm, algorithm
from flyball.rl.loss import value_loss
from flyball.rl.samples import GREEDY, compared, rewarded_samples, samples_from_groups
from flyball.rl.token_credit import explained_variance, implicit_reward_loss, implicit_reward_slope
from flyball.train.credit_network import CreditNetwork
from flyball.train.critic import Critic, CriticLearner
from flyball.train.implicit_rewards import ImplicitRewards
from flyball.train.learner import LocalLearner, OptimizerConfig
from flyball.train.progress import Checkpoints, Progress
from flyball.train.rl_plan import RLPlan
from flyball.train.update import update
from flyball.types import Attempt, Call, GradedAttempt, Outcome, RewardEvent, StopReason, Task, Trajectory
from tests.train.small import TOKENIZER, same_weights, small_learner

PPO = algorithm("ppo")
TASK = Task("pick", {})
PROMPT = (11, 12, 13)
SIZE, RATE = 48, 3e-2
GOOD = 60
"""Tokens below this are right: a fifth of the vocabulary."""


def small_critic(lr: float = 1e-2) -> CriticLearner:
    return CriticLearner(with_value_head(small_learner().model), TOKENIZER, OptimizerConfig(lr=lr))


def call(name: str, parent: str | None, prompt: Sequence[int], sampled: Sequence[int]) -> Call:
    n = len(sampled)
    said = {"role": "assistant"}
    return Call(name, parent, "main", tuple(prompt), tuple(sampled), (-1.0,) * n, (0,) * n, {}, "stop", said)


def attempt(*calls: Call, reward: float, events: tuple[RewardEvent, ...] = (), index: int = 0) -> GradedAttempt:
    made = Attempt(f"at-{calls[0].call_id}", TASK, Trajectory(calls, StopReason.ANSWERED), (), group_index=index)
    return GradedAttempt(made, Outcome(reward > 0.5), events=events, reward=reward)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_a_value_head_is_a_copy_that_says_nothing_at_first() -> None:
    policy, critic = small_learner(), small_critic()
    sample = rewarded_samples(attempt(call("a", None, PROMPT, (1, 2)), reward=1.0))[0]
    assert critic.forward([sample])[0].tolist() == [0.0] * 5
    assert policy.forward([sample])[0][3:].min() < 0, "the policy still speaks"
    embeddings = [learner.model.get_input_embeddings().weight for learner in (policy, critic)]
    assert torch.equal(*embeddings) and embeddings[0].data_ptr() != embeddings[1].data_ptr()


def test_rewards_stand_on_the_last_token_of_each_call() -> None:
    first, second = call("a", None, PROMPT, (1, 2)), call("b", "a", (9, 9), (3, 4, 5))
    paid = RewardEvent(0, 0, "a", "turn", -0.25)
    (sample,) = rewarded_samples(attempt(first, second, reward=0.75, events=(paid,)))
    assert sample.advantages.tolist() == [0, 0, 0, 0, -0.25, 0, 0, 0, 0, 1.0]


def test_what_a_branch_does_not_see_still_counts_for_it() -> None:
    """A call, a sub-agent's branch, and the call that ends the attempt: every branch is paid what came after."""
    root, side, last = call("a", None, PROMPT, (1,)), call("b", "a", (9,), (2,)), call("c", "a", (8,), (3,))
    paid = RewardEvent(0, 1, "b", "turn", 0.5)
    one, two = rewarded_samples(attempt(root, side, last, reward=1.5, events=(paid,)))
    assert one.advantages.tolist() == [0, 0, 0, 0.0, 0, 1.5], "the sub-agent's 0.5 and the end's 1"
    assert two.advantages.tolist() == [0, 0, 0, 0, 0, 1.0], "the root is trained once, on the first branch"


def test_gae_of_values_that_are_zero_and_a_kl_in_the_reward() -> None:
    row = replace(algorithm("ppo_kl"), whitened=False)
    (sample,) = rewarded_samples(attempt(call("a", None, PROMPT, (1, 2, 3)), reward=1.0))
    plain = Critic(small_critic()).credited([sample], [], replace(row, kl="k2-in-loss"), 0.1)[0]
    assert plain.advantages[3:] == pytest.approx([0.9025, 0.95, 1.0])
    old, ref = np.zeros(6, np.float32), np.zeros(6, np.float32)
    old[3:], ref[3:] = [-1.0, -2.0, -0.5], [-1.2, -1.5, -0.5]
    critic = Critic(small_critic())
    with_kl = critic.credited([replace(sample, old_logprobs=old, ref_logprobs=ref)], [], row, 0.1)[0]
    to_go = [-0.02 + 0.95 * (0.05 + 0.95), 0.05 + 0.95, 1.0]
    assert with_kl.advantages[3:] == pytest.approx(to_go)
    target = critic.learner.targets["at-a", 0]
    assert target.returns[3:] == pytest.approx(to_go) and target.old_values.tolist() == [0.0] * 6


def test_value_loss_by_hand_and_the_side_that_moves() -> None:
    values = torch.tensor([1.0, 1.0, 3.0], requires_grad=True)
    old, returns = torch.tensor([0.8, 0.0, 0.0]), torch.tensor([2.0, 2.0, 2.0])
    loss = value_loss(values, old, returns, 0.5)
    assert loss.tolist() == pytest.approx([0.5, 0.5 * 1.5**2, 0.5 * 1.5**2])
    (slope,) = torch.autograd.grad(loss.sum(), values)
    assert slope.tolist() == pytest.approx([-1.0, 0.0, 0.0]), "moved by more than 0.5 from before: no gradient"


def test_explained_variance_by_hand() -> None:
    returns = np.array([0.0, 1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(np.full(4, 7.0), returns) == 0.0
    assert explained_variance(returns, np.ones(4)) is None


def test_the_slope_of_the_implicit_reward_is_that_of_its_loss() -> None:
    beta, step = 0.05, 1e-6
    for total in (-2.0, 0.0, 3.0):
        for success in (True, False):
            up, down = (implicit_reward_loss(np.array([total + d * beta]), success) for d in (step, -step))
            assert implicit_reward_slope(total, success, beta) == pytest.approx((up - down) / (2 * step), abs=1e-8)
    assert implicit_reward_loss(np.zeros(3), True) == pytest.approx(np.log(2))


def test_with_equal_process_rewards_prime_is_rloo_on_outcomes() -> None:
    """A reward model that is the reference says 0 of every token."""
    group = [attempt(call(f"c{i}", None, PROMPT, (i, i + 1)), reward=float(i == 0)) for i in range(3)]
    row, start = algorithm("prime"), small_learner()
    samples = list(samples_from_groups([group], row).samples)
    filled = [replace(s, ref_logprobs=r) for s, r in zip(samples, start.forward(samples), strict=True)]
    credited = ImplicitRewards(small_learner()).credited(filled, [group], row, 0.0)
    assert [s.advantages[3:].tolist() for s in credited] == [[1.0, 1.0], [-0.5, -0.5], [-0.5, -0.5]]


def test_remax_compares_with_the_greedy_attempt_which_learns_nothing() -> None:
    sampled = [attempt(call(f"c{i}", None, PROMPT, (i,)), reward=r) for i, r in enumerate([1.0, 0.0])]
    greedy = attempt(call("g", None, PROMPT, (7,)), reward=0.25, index=GREEDY)
    signal = samples_from_groups([[greedy, *sampled]], algorithm("remax"))
    assert [(s.attempt_id, s.advantages[-1]) for s in signal.samples] == [("at-c0", 0.75), ("at-c1", -0.25)]
    assert compared(sampled, algorithm("remax")) == [], "without its baseline nothing is compared"
    assert samples_from_groups([sampled], algorithm("remax")).num_missing == 2


# --- they learn ------------------------------------------------------------------------------------------------------


def share_of_good(policy: LocalLearner) -> float:
    with torch.no_grad():
        return float(policy.model(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)[:GOOD].sum())


def sampled_group(policy: LocalLearner, size: int, seed: int, *, greedy: bool) -> list[GradedAttempt]:
    """Attempts of two tokens by the policy itself; the first decides, the second is chance."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([PROMPT] * (size + greedy))
    logprobs = []
    for _ in range(2):
        with torch.no_grad():
            now = policy.model(tokens).logits[:, -1].log_softmax(-1)
        drawn = torch.multinomial(now.exp(), 1, generator=generator)
        drawn[size:] = now[size:].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, drawn], 1)
        logprobs.append(now.gather(1, drawn)[:, 0])
    made = []
    for i, (row, said) in enumerate(zip(tokens.tolist(), torch.stack(logprobs, 1).tolist(), strict=True)):
        one = replace(call(f"{seed}-{i}", None, PROMPT, row[3:]), sampling_logprobs=tuple(said))
        made.append(attempt(one, reward=float(row[3] < GOOD), index=GREEDY if i == size else i))
    return made


def network_of(row: Algorithm) -> CreditNetwork | None:
    if row.network == "critic":
        return Critic(small_critic(RATE))
    return ImplicitRewards(small_learner(lr=RATE)) if row.network else None


def trained(row: Algorithm, steps: int) -> tuple[LocalLearner, list[dict[str, float]], CreditNetwork | None]:
    policy, reference, network = small_learner(lr=RATE), small_learner(), network_of(row)
    plan = RLPlan(row, steps, 1, 0, 1, warmup_steps=1)
    history: list[dict[str, float]] = []
    for step in range(steps):
        groups = [sampled_group(policy, SIZE, step, greedy=row.greedy_baseline)]
        history.append(update(policy, reference, groups, plan, Progress(step=step), network))
    return policy, history, network


@pytest.mark.parametrize("name", ["ppo", "ppo_kl", "mt_ppo", "prime", "remax"])
def test_a_tiny_policy_learns_its_task(name: str) -> None:
    policy, history, _network = trained(algorithm(name), 25)
    before, after = share_of_good(small_learner()), share_of_good(policy)
    assert before < 0.25 and after > 0.5, f"{before:.2f} to {after:.2f}"
    if name.startswith("ppo"):
        assert {"value_loss", "grad_norm/critic"} <= history[0].keys()
    if name == "prime":
        assert history[0]["implicit_reward_loss"] == pytest.approx(np.log(2), abs=1e-4)


def test_a_kl_in_the_reward_holds_ppo_back() -> None:
    held = replace(algorithm("ppo_kl"), kl_coef=0.5)
    free, _, _ = trained(PPO, 15)
    bound, history, _ = trained(held, 15)
    assert share_of_good(bound) < share_of_good(free) and history[-1]["kl_coef"] == 0.5


def test_the_critic_learns_to_foresee() -> None:
    good, bad = (attempt(call(f"v{t}", None, PROMPT, (t, 5)), reward=r) for t, r in ((1, 1.0), (200, 0.0)))
    samples = list(samples_from_groups([[good, bad]], PPO).samples)
    critic = Critic(small_critic())
    for _ in range(60):
        critic.credited(samples, [[good, bad]], PPO, 0.0)
        found = critic.learn(samples, 1.0)
    values = critic.learner.forward(samples)
    assert values[0][4] > 0.8 and values[1][4] < 0.2, "what was drawn first tells the end"
    assert values[0][3] == pytest.approx(0.5, abs=0.2), "before it, nothing is known"
    assert found["explained_variance"] > 0.3


def test_the_network_beside_the_policy_is_saved_and_resumed(tmp_path: Path) -> None:
    policy, _history, network = trained(PPO, 2)
    assert network is not None
    Checkpoints(tmp_path, policy, {"network": network.learner}).save(Progress(step=2), force=True)
    fresh, critic = small_learner(seed=9), small_critic()
    Checkpoints(tmp_path, fresh, {"network": critic}).resume()
    assert same_weights(critic.snapshot(), network.learner.snapshot()) and critic.version == 2
    assert same_weights(fresh.snapshot(), policy.snapshot())
