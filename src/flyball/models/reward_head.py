"""A reward model: the body of a language model and one number on top of the tokens that are asked about.

    score(t) = w . h_t + b        h_t: last hidden state [C] of token t, which has seen the conversation up to there

The folder is that of a Hugging Face model with `reward_head.safetensors` and `reward_model.json` beside it. The output
layer of the language model is kept, so that the same folder can begin another training.
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

Kind = Literal["pairs", "outcome", "process"]
HEAD, FACTS = "reward_head.safetensors", "reward_model.json"


@dataclass(frozen=True)
class Facts:
    """What a score means: P = s((score - centre) / temperature).

    `pairs`: that an answer beats a middling one; `outcome`: that the attempt succeeds; `process`: what a step is worth.
    """

    kind: Kind = "pairs"
    temperature: float = 1.0
    centre: float = 0.0


class RewardModel(torch.nn.Module):
    """`body` is a causal language model; its hidden states are scored, its logits are not computed."""

    def __init__(self, body: Any, facts: Facts | None = None) -> None:
        super().__init__()
        self.body = body
        self.head = torch.nn.Linear(body.config.hidden_size, 1)
        torch.nn.init.zeros_(self.head.weight)  # every answer is worth the same until something is learned
        torch.nn.init.zeros_(self.head.bias)
        self.facts = facts or Facts()

    def forward(self, conversations: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> torch.Tensor:
        """Scores [N] at the places of each conversation, in order. Rows are padded on the right and masked."""
        lengths = [len(ids) for ids in conversations]
        tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, ids in enumerate(conversations):
            tokens[row, : len(ids)] = torch.as_tensor(ids)
            mask[row, : len(ids)] = 1
        hidden = self.body.base_model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        rows = torch.tensor([row for row, at in enumerate(places) for _ in at])
        columns = torch.tensor([place for at in places for place in at])
        scores: torch.Tensor = self.head(hidden[rows, columns].float())[:, 0]
        return scores


def save_reward_model(model: RewardModel, tokenizer: Any, folder: Path) -> str:
    """Write the folder; returns its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().contiguous() for k, v in model.head.state_dict().items()}, folder / HEAD)
    (folder / FACTS).write_text(json.dumps(asdict(model.facts)))
    return save_model(model.body, tokenizer, folder)


def is_reward_model(folder: Path) -> bool:
    """Whether a folder holds one."""
    return (folder / FACTS).is_file()


@dataclass(frozen=True)
class RewardScorer:
    """A reward model with its chat format: conversations in, probabilities out."""

    model: RewardModel
    chat: HfChat

    def probability(self, score: float) -> float:
        """What a score means, by the calibration it was saved with."""
        facts = self.model.facts
        return float(torch.sigmoid(torch.tensor((score - facts.centre) / facts.temperature, dtype=torch.float64)))

    def scores(self, messages: Sequence[Message]) -> list[float]:
        """One score for each turn of the assistant, at its last token. Raises ModelError for a talk too long."""
        ids, places = self.encode(messages)
        longest = self.model.body.config.max_position_embeddings
        if len(ids) > longest:
            raise ModelError(f"the conversation has {len(ids)} tokens, and the reward model can read {longest}")
        with torch.no_grad():
            found: list[float] = self.model([ids], [places]).tolist() if places else []
        return found

    def encode(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Token ids of a conversation, and the last token of every turn of the assistant."""
        return encode_turns(self.chat, messages)


def encode_turns(chat: HfChat, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and the last token of every turn of the assistant.

    Tools are not shown: what they did is in the conversation, and their list is the same for every answer.
    """
    ids, mask = chat.conversation(messages, ())
    ends = [i for i, said in enumerate(mask) if said and (i + 1 == len(mask) or not mask[i + 1])]
    return ids, ends


def load_reward_model(folder: Path) -> RewardScorer:
    """Raises ModelError for a folder that holds no reward model, or a damaged one."""
    try:
        facts: Mapping[str, Any] = json.loads((folder / FACTS).read_text())
        head = load_file(folder / HEAD)
        model = RewardModel(load_model(folder), Facts(**facts))
        model.head.load_state_dict(head)
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} holds no reward model ({FACTS} and {HEAD}); train one with the stage reward_model"
        ) from error
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the reward model in {folder} cannot be read: {error}") from error
    model.eval()
    return RewardScorer(model, load_chat(folder))
