"""A tiny network per seed that writes tokens, a world that reads them, and an RL loop around our losses.

World: prompt q has an answer of 1 to `HARDEST` symbols. Token 0 ends, token 1 is a filler that may stand anywhere (the
thinking), the rest are symbols; right is the answer's symbols in order and then the end, within T tokens.
Policy: tanh of the sum of three embeddings (prompt, position, last token), then logits; about 1,900 parameters a seed,
all seeds in one tensor. It starts from an imitation of answers with wrong symbols and much filler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.paper.mini import TRAIN_PRICE, Curve, Draws, Floats
from benchmarks.paper.table import Ints, by_group
from flyball.rl.advantage import Rewards, has_signal
from flyball.rl.aggregate import loss_weights
from flyball.rl.algorithms import Algorithm
from flyball.rl.loss import Tokens, policy_loss
from flyball.rl.shaping import overlong_punishment

PROMPTS, T, V, H, HARDEST = 32, 12, 8, 32, 4
END, FILLER, FIRST = 0, 1, 2
CACHE = 4
torch.set_num_threads(1)


class Policy:
    """Parameters [S, ...]; `prompts` are [S, B], `tokens` [S, B, T]."""

    def __init__(self, draws: Draws) -> None:
        sizes = {"prompt": (PROMPTS, H), "place": (T, H), "last": (V + 1, H), "out": (H, V)}
        self.weights = {
            name: torch.tensor(0.3 * draws.normal(*shape), dtype=torch.float32, requires_grad=True)
            for name, shape in sizes.items()
        }
        self.seeds = torch.arange(len(draws.seeds))[:, None]

    def copy(self) -> Policy:
        """The same weights, which no later update changes."""
        made = Policy.__new__(Policy)
        made.seeds = self.seeds
        made.weights = {name: w.detach().clone() for name, w in self.weights.items()}
        return made

    def logits(self, prompts: torch.Tensor, last: torch.Tensor, place: slice) -> torch.Tensor:
        """[S, B, L, V] for the last tokens [S, B, L] at the places."""
        w = self.weights
        hidden = w["prompt"][self.seeds, prompts][:, :, None] + w["place"][:, None, place]
        hidden = (hidden + w["last"][self.seeds[..., None], last]).tanh()
        return torch.einsum("sblh,shv->sblv", hidden, w["out"])

    def logprobs(self, prompts: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[S, B, T]."""
        start = torch.full_like(tokens[..., :1], V)
        last = torch.cat([start, tokens[..., :-1]], -1)
        scores = self.logits(prompts, last, slice(0, T)).log_softmax(-1)
        return scores.gather(-1, tokens[..., None])[..., 0]

    @torch.no_grad()
    def sample(self, prompts: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens, their logprobs, and which were sampled (up to the first END included), all [S, B, T]."""
        size = prompts.shape[1]
        chance = torch.tensor(draws.uniform(size, T), dtype=torch.float32)
        last = torch.full((*prompts.shape, 1), V)
        tokens, logprobs, on = [], [], []
        alive = torch.ones(prompts.shape, dtype=torch.bool)
        for t in range(T):
            scores = self.logits(prompts, last, slice(t, t + 1))[:, :, 0].log_softmax(-1)
            ends = scores.exp().cumsum(-1)
            token = (ends <= chance[..., t, None] * ends[..., -1:]).sum(-1).clamp(max=V - 1)
            tokens.append(token)
            logprobs.append(scores.gather(-1, token[..., None])[..., 0])
            on.append(alive)
            alive = alive & (token != END)
            last = token[..., None]
        return torch.stack(tokens, -1), torch.stack(logprobs, -1), torch.stack(on, -1)


@dataclass(frozen=True)
class World:
    """`answers` [S, PROMPTS, HARDEST + 1], ended and padded with END; a prompt of need 0 can never be answered."""

    answers: Ints
    needs: Ints

    @classmethod
    def drawn(cls, draws: Draws, needs: Ints) -> World:
        """Answers of the lengths `needs` [PROMPTS]."""
        symbols = FIRST + np.floor(draws.uniform(PROMPTS, HARDEST + 1) * (V - FIRST)).astype(np.int64)
        return cls(np.where(np.arange(HARDEST + 1) < needs[:, None], symbols, END), needs)

    def solved(self, prompts: torch.Tensor, tokens: torch.Tensor, on: torch.Tensor) -> Floats:
        """1 for right, [S, B]."""
        said, sampled = tokens.numpy(), on.numpy()
        answers = self.answers[np.arange(len(said))[:, None], prompts.numpy()]
        symbol = sampled & (said >= FIRST)
        place = (symbol.cumsum(-1) - 1).clip(0, HARDEST)
        fits = np.where(symbol, said == np.take_along_axis(answers, place, -1), True).all(-1)
        needs = self.needs[prompts.numpy()]
        ended = (sampled & (said == END)).any(-1)
        right: Floats = (fits & ended & (symbol.sum(-1) == needs) & (needs > 0)).astype(np.float64)
        return right

    def demonstrations(self, draws: Draws, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prompts [S, B], tokens and mask [S, B, T]: 3 in 10 symbols wrong, 3 in 10 places filler."""
        prompts = np.floor(draws.uniform(size) * PROMPTS).astype(np.int64)
        answers = self.answers[np.arange(len(prompts))[:, None], prompts]
        length = np.maximum(self.needs[prompts], 2)
        noise, wrong, other = draws.uniform(size, T), draws.uniform(size, T), draws.uniform(size, T)
        filler = noise < 0.3
        place = np.concatenate([np.zeros((*prompts.shape, 1), np.int64), (~filler).cumsum(-1)[..., :-1]], -1)
        said = np.take_along_axis(answers, place.clip(0, HARDEST), -1)
        said = np.where((wrong < 0.3) | (said == END), FIRST + np.floor(other * (V - FIRST)).astype(np.int64), said)
        said = np.where(place >= length[..., None], END, said)
        said = np.where(filler & (place < length[..., None]), FILLER, said)
        ends = (said == END).cumsum(-1)
        mask = (ends == 0) | ((said == END) & (ends == 1))
        return torch.from_numpy(prompts), torch.from_numpy(said), torch.from_numpy(mask)


def started(draws: Draws, needs: Ints, steps: int = 60) -> tuple[World, Policy]:
    """A world and a policy that has imitated its demonstrations."""
    world, policy = World.drawn(draws, needs), Policy(draws)
    optimizer = torch.optim.Adam(policy.weights.values(), lr=0.02)
    for _ in range(steps):
        prompts, tokens, mask = world.demonstrations(draws, 64)
        loss = -(policy.logprobs(prompts, tokens) * mask).sum() / 64
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return world, policy


# --- one batch -------------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """B attempts in groups that follow each other; `used` says which take part in the loss. All [S, B, ...]."""

    prompts: torch.Tensor
    tokens: torch.Tensor
    logprobs: torch.Tensor
    on: torch.Tensor
    advantages: Floats
    success: Floats
    used: np.ndarray

    def rows(self, index: np.ndarray) -> Batch:
        """The attempts at index [S, B'] of each seed."""
        s = np.arange(len(index))[:, None]
        at = torch.from_numpy(index.copy())
        t = torch.from_numpy(s)
        return Batch(*(v[t, at] if isinstance(v, torch.Tensor) else v[s, index] for v in vars(self).values()))


def rollouts(
    policy: Policy,
    world: World,
    prompts: np.ndarray,
    size: int,
    row: Algorithm,
    estimator: Callable[[Rewards], Rewards],
    draws: Draws,
    wrong: float = 0.0,
) -> Batch:
    """`size` attempts at each prompt [S, P], rewarded 1 or `wrong`, compared after the overlong rule."""
    repeated = torch.from_numpy(np.repeat(prompts, size, -1))
    tokens, logprobs, on = policy.sample(repeated, draws)
    success = world.solved(repeated, tokens, on)
    lengths, cut = on.sum(-1).numpy(), ~((tokens == END) & on).any(-1).numpy()
    reward = wrong + (1 - wrong) * success
    if row.overlong == "punish":
        reward = reward + np.array([overlong_punishment(n, T, CACHE) for n in range(T + 1)])[lengths]
    advantages = by_group(reward, size, estimator)
    used = ~cut if row.overlong == "filter" else np.ones(cut.shape, np.bool_)
    return Batch(repeated, tokens, logprobs, on, advantages, success, used)


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    row: Algorithm,
    reference: Policy,
    parts: int,
    *,
    on_policy: bool = False,
) -> None:
    """One pass over the batch in `parts` optimizer steps. `on_policy`: pi_old is the policy now, w corrects."""
    size = batch.advantages.shape[1] // parts
    for start in range(0, size * parts, size):
        part = batch.rows(np.broadcast_to(np.arange(start, start + size), (len(batch.used), size)))
        masks = part.on.numpy() & part.used[..., None]
        weights = np.stack([np.stack(loss_weights(list(m), row.loss_agg_mode)) for m in masks])
        now = policy.logprobs(part.prompts, part.tokens)
        with torch.no_grad():
            ref = reference.logprobs(part.prompts, part.tokens) if row.uses_kl else None
        advantages = torch.tensor(part.advantages, dtype=torch.float32)[..., None].expand_as(now)
        old = None if on_policy else part.logprobs
        loss, _ = policy_loss(Tokens(now, part.logprobs, advantages, None, old, ref), **row.loss_params(row.kl_coef))
        optimizer.zero_grad()
        (torch.from_numpy(weights) * loss).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def mixed_groups(batch: Batch, size: int) -> np.ndarray:
    """Which groups teach, [S, P]."""
    groups = batch.advantages.reshape(len(batch.advantages), -1, size)
    return np.apply_along_axis(has_signal, -1, groups)


def evaluated(policy: Policy, world: World, draws: Draws, trials: int = 4) -> Floats:
    """Success over all prompts that can be answered, [S]."""
    able = np.flatnonzero(world.needs)
    prompts = torch.from_numpy(np.tile(np.repeat(able, trials), (len(draws.seeds), 1)))
    tokens, _, on = policy.sample(prompts, draws)
    return world.solved(prompts, tokens, on).mean(-1)


class Meter:
    """Attempts and price so far, [S], and the curve of success over them."""

    def __init__(self, seeds: int) -> None:
        self.samples, self.cost, self.curve = np.zeros(seeds), np.zeros(seeds), Curve()

    def rolled_out(self, batch: Batch, counted: np.ndarray | None = None) -> None:
        """Count a batch, or the attempts of it that were asked for, [S, B]."""
        asked = np.ones(batch.used.shape) if counted is None else counted
        self.samples = self.samples + asked.sum(-1)
        self.cost = self.cost + (batch.on.numpy().sum(-1) * asked).sum(-1)

    def trained(self, batch: Batch) -> None:
        """Count the tokens of one pass."""
        self.cost = self.cost + TRAIN_PRICE * batch.on.numpy().sum((1, 2))

    def seen(self, success: Floats) -> None:
        """A point of the curve."""
        self.curve.add(self.samples, self.cost, success)


def without_kl(row: Algorithm, **changes: object) -> Algorithm:
    """The row without its KL and with the changes."""
    return replace(row, kl_coef=0.0, **changes)  # type: ignore[arg-type]
