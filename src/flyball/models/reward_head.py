"""Reward models: scores of a conversation at the tokens that are asked about.

    RewardModel             score(t) = w . h_t + b        h_t: last hidden state [C] of token t
    ImplicitRewardModel     score(t) = beta sum over s <= t of log pi_phi(y_s) / pi_ref(y_s), over what was said

The first is the body of a language model with one number on top. The second is hidden in a language model that learns
outcomes against a frozen reference (PRIME, arXiv 2502.01456, eq. 3): its sum is the log-odds of success, and what a
step adds to it is the step's process reward. The folder is that of a Hugging Face model with `reward_model.json` beside
it, and `reward_head.safetensors` or the folder `reference`. The output layer of the language model is kept, so that the
same folder can begin another training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flyball.errors import ModelError
from flyball.models.hf_chat import HfChat, load_chat
from flyball.models.load import load_model, save_model
from flyball.types import Message

Kind = Literal["pairs", "outcome", "process", "implicit"]
HEAD, FACTS, REFERENCE = "reward_head.safetensors", "reward_model.json", "reference"
BETA = 0.05
"""Scale of the log ratios of an implicit reward; the paper's."""


@dataclass(frozen=True)
class Facts:
    """What a score means: P = s((score - centre) / temperature).

    `pairs`: that an answer beats a middling one; `outcome`: that the attempt succeeds; `process`: what a step is worth;
    `implicit`: that an attempt which came this far succeeds, with the scale `beta` of its log ratios.
    """

    kind: Kind = "pairs"
    temperature: float = 1.0
    centre: float = 0.0
    beta: float = BETA


@dataclass(frozen=True)
class Talk:
    """A conversation, the tokens whose scores are asked for, and for each token whether the assistant said it.

    `said` may be empty for a model that does not read it.
    """

    token_ids: tuple[int, ...]
    places: tuple[int, ...]
    said: tuple[bool, ...] = ()


class RewardModel(torch.nn.Module):
    """`body` is a causal language model; its hidden states are scored, its logits are not computed."""

    def __init__(self, body: Any, facts: Facts | None = None) -> None:
        super().__init__()
        self.body = body
        self.head = torch.nn.Linear(body.config.hidden_size, 1)
        torch.nn.init.zeros_(self.head.weight)  # every answer is worth the same until something is learned
        torch.nn.init.zeros_(self.head.bias)
        self.facts = facts or Facts()

    def forward(self, talks: Sequence[Talk]) -> torch.Tensor:
        """Scores [N] at the places of each conversation, in order."""
        scores: torch.Tensor = self.head(_hidden(self.body, *_padded(talks))[_places(talks)].float())[:, 0]
        return scores


class ImplicitRewardModel(torch.nn.Module):
    """`body` is pi_phi, `reference` the frozen pi_ref with the same tokens; talks carry what was `said`.

    While the two are equal every score is 0. The reference is no part of what is trained or saved as a checkpoint.
    """

    def __init__(self, body: Any, reference: Any, facts: Facts | None = None) -> None:
        super().__init__()
        self.body = body
        self._frozen = (reference.eval(),)  # in a tuple, so that torch does not take it for a part of this module
        self.facts = facts or Facts("implicit")

    @property
    def reference(self) -> Any:
        return self._frozen[0]

    def forward(self, talks: Sequence[Talk]) -> torch.Tensor:
        """Scores [N] at the places of each conversation, in order."""
        tokens, mask = _padded(talks)
        said = torch.zeros_like(tokens, dtype=torch.bool)
        for row, talk in enumerate(talks):
            said[row, : len(talk.said)] = torch.as_tensor(talk.said)
        said[:, 0] = False  # nothing was seen before the first token, so nothing could draw it
        with torch.no_grad():
            before = _logprobs(self.reference, tokens, mask, said)
        ratios = torch.zeros(tokens.shape).masked_scatter(said, _logprobs(self.body, tokens, mask, said) - before)
        scores: torch.Tensor = self.facts.beta * ratios.cumsum(1)[_places(talks)]
        return scores


def _padded(talks: Sequence[Talk]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask [B, T], padded on the right."""
    lengths = [len(talk.token_ids) for talk in talks]
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, talk in enumerate(talks):
        tokens[row, : lengths[row]] = torch.as_tensor(talk.token_ids)
        mask[row, : lengths[row]] = 1
    return tokens, mask


def _places(talks: Sequence[Talk]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.tensor([row for row, talk in enumerate(talks) for _ in talk.places])
    return rows, torch.tensor([place for talk in talks for place in talk.places])


def _hidden(body: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    hidden: torch.Tensor = body.base_model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden


def _logprobs(body: Any, tokens: torch.Tensor, mask: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [N] of the tokens that were said, row by row."""
    foreseen = body.get_output_embeddings()(_hidden(body, tokens, mask)[:, :-1][said[:, 1:]])
    return -torch.nn.functional.cross_entropy(foreseen.float(), tokens[said], reduction="none")


AnyRewardModel = RewardModel | ImplicitRewardModel


def save_reward_model(model: AnyRewardModel, tokenizer: Any, folder: Path) -> str:
    """Write the folder; returns the digest of the body."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, ImplicitRewardModel):
        save_model(model.reference, tokenizer, folder / REFERENCE)
    else:
        save_file({k: v.detach().contiguous() for k, v in model.head.state_dict().items()}, folder / HEAD)
    (folder / FACTS).write_text(json.dumps(asdict(model.facts)))
    return save_model(model.body, tokenizer, folder)


def is_reward_model(folder: Path) -> bool:
    """Whether a folder holds one."""
    return (folder / FACTS).is_file()


@dataclass(frozen=True)
class RewardScorer:
    """A reward model with its chat format: conversations in, probabilities out."""

    model: AnyRewardModel
    chat: HfChat

    def probability(self, score: float) -> float:
        """What a score means, by the calibration it was saved with."""
        facts = self.model.facts
        return float(torch.sigmoid(torch.tensor((score - facts.centre) / facts.temperature, dtype=torch.float64)))

    def scores(self, messages: Sequence[Message]) -> list[float]:
        """One score for each turn of the assistant, at its last token. Raises ModelError for a talk too long."""
        talk = encode_turns(self.chat, messages)
        longest = self.model.body.config.max_position_embeddings
        if len(talk.token_ids) > longest:
            raise ModelError(
                f"the conversation has {len(talk.token_ids)} tokens, and the reward model can read {longest}"
            )
        with torch.no_grad():
            found: list[float] = self.model([talk]).tolist() if talk.places else []
        return found


def encode_turns(chat: HfChat, messages: Sequence[Message]) -> Talk:
    """A conversation whose places are the last tokens of every turn of the assistant.

    Tools are not shown: what they did is in the conversation, and their list is the same for every answer.
    """
    ids, mask = chat.conversation(messages, ())
    ends = [i for i, said in enumerate(mask) if said and (i + 1 == len(mask) or not mask[i + 1])]
    return Talk(tuple(ids), tuple(ends), tuple(mask))


def load_reward_model(folder: Path) -> RewardScorer:
    """Raises ModelError for a folder that holds no reward model, or a damaged one."""
    try:
        written: Mapping[str, Any] = json.loads((folder / FACTS).read_text())
        model = _load(folder, Facts(**written))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} holds no reward model ({FACTS} with {HEAD} or {REFERENCE}); train one with the "
            "stage reward_model"
        ) from error
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the reward model in {folder} cannot be read: {error}") from error
    model.eval()
    return RewardScorer(model, load_chat(folder))


def _load(folder: Path, facts: Facts) -> AnyRewardModel:
    if facts.kind == "implicit":
        return ImplicitRewardModel(load_model(folder), load_model(folder / REFERENCE), facts)
    head = load_file(folder / HEAD)
    model = RewardModel(load_model(folder), facts)
    model.head.load_state_dict(head)
    return model
