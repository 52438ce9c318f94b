"""What an update needs of policies other than the one that it moves, computed before it.

pi_ref   where a KL is part of what is optimised
pi_old   where several updates compare with it, a KL stands in the reward, or rejected tokens leave the normaliser
pi now   where a rule is about whole sequences
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from flyball.rl.algorithms import Algorithm
from flyball.rl.sequence import renormalised, with_sequence_terms
from flyball.train.learner import LocalLearner
from flyball.types import TrainingSample


def prepared(
    batches: Sequence[Sequence[TrainingSample]],
    learner: LocalLearner,
    reference: LocalLearner,
    algorithm: Algorithm,
    kl_coef: float,
    horizon: int | None,
    credit: Callable[[list[TrainingSample]], list[TrainingSample]],
) -> list[list[TrainingSample]]:
    """The batches with the logprobs they need and their advantages by `credit`, before the first update."""
    filled = [list(batch) for batch in batches]
    in_reward = kl_coef > 0 and algorithm.kl_in_reward
    accepted = algorithm.correction_normalizer == "accepted"
    for batch in filled:
        if kl_coef or algorithm.network == "implicit_rewards":
            batch[:] = [replace(s, ref_logprobs=r) for s, r in zip(batch, reference.forward(batch), strict=True)]
        if len(batches) > 1 or in_reward or accepted:
            batch[:] = [replace(s, old_logprobs=o) for s, o in zip(batch, learner.forward(batch), strict=True)]
        if accepted:
            batch[:] = renormalised(batch, algorithm, horizon)
    finished = credit([s for batch in filled for s in batch])
    ends = np.cumsum([len(batch) for batch in filled])
    return [finished[end - len(batch) : end] for end, batch in zip(ends, filled, strict=True)]


def with_policy_now(
    batch: Sequence[TrainingSample], learner: LocalLearner, algorithm: Algorithm
) -> tuple[list[TrainingSample], dict[str, float]]:
    """The batch with rules about whole sequences put into it, and what they kept as means over its tokens."""
    if not algorithm.looks_at_sequences:
        return list(batch), {}
    pairs = [
        with_sequence_terms(sample, logprobs, entropies, algorithm)
        for sample, (logprobs, entropies) in zip(batch, learner.score(batch), strict=True)
    ]
    tokens = sum(int(sample.loss_mask.sum()) for sample in batch)
    names = {name for _sample, found in pairs for name in found}
    return [s for s, _found in pairs], {n: sum(f.get(n, 0.0) for _s, f in pairs) / tokens for n in names}
