"""Best of n at the door: for each turn n answers are drawn, and the one that a scorer ranks first is given.

One door for evaluation and serving (invariant 5), so what is evaluated is what is served. All draws are paid for: the
tokens and seconds of those not given stand in the record of the call (`not_given_tokens` in its `sampling`) and count
in the usage of the attempt and in its cost. The answer that was chosen is no draw of the policy any more, so its tokens
may be imitated and never enter a policy gradient. The agent sees one answer; tools run once.

n draws of one model cost n times its output and, one after another over the cached prompt, n times its time to answer.
What the choice is worth on attempts that were drawn already: `stats/best_of_n.py`. KL of the policy this makes from the
one that draws: at most log n - (n - 1) / n.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flyball.errors import ConfigError
from flyball.store.artifacts import tree_digest
from flyball.types import Message

BEST_OF, NOT_GIVEN_TOKENS = "best_of", "not_given_tokens"
"""What a call's `sampling` says of it: how many were drawn, and the tokens of those that were not given."""


@dataclass(frozen=True)
class BestOf:
    """`score` ranks a conversation by its last turn, the assistant's; higher is better. It runs in a thread of its own.
    `name` says who ranks, as conditions of an evaluation have to. Raises ConfigError for n below 2."""

    n: int
    score: Callable[[Sequence[Message]], float]
    name: str

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ConfigError(f"best of {self.n}: there is nothing to choose from; draw 2 or more")

    async def choose(self, messages: Sequence[Message], answers: Sequence[Message]) -> int:
        """The place of the best answer, the first among equals."""
        scores = [await asyncio.to_thread(self.score, [*messages, answer]) for answer in answers]
        return max(range(len(scores)), key=lambda i: scores[i])


def ranked_by(folder: Path, n: int) -> BestOf:
    """The best of n by the reward model in `folder`, the score of whose last turn counts.

    Raises ModelError for a folder that holds none, ConfigError where the extra that brings torch is not installed.
    """
    try:
        from flyball.models.reward_head import load_reward_model
    except ModuleNotFoundError as error:
        raise ConfigError(f"a reward model needs {error.name}; pip install 'flyball[train]'") from error
    scorer = load_reward_model(folder)
    return BestOf(n, lambda messages: scorer.scores(messages)[-1], f"{folder.name} {tree_digest(folder)[:12]}")
