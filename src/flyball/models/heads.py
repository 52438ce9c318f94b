"""Networks that say one number of each position instead of a distribution over tokens."""

from __future__ import annotations

import copy
from typing import Any

import torch


def with_value_head(model: Any) -> Any:
    """A copy of a causal language model whose output layer gives one number, 0 at the start.

    The number at a position is read where the token after it would be predicted: the value of the state in which it is
    drawn. Starting from 0, the first advantages are those without a critic.
    """
    copied = copy.deepcopy(model)
    embeddings = copied.get_input_embeddings().weight
    head = torch.nn.Linear(embeddings.shape[1], 1, bias=True, dtype=embeddings.dtype, device=embeddings.device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    copied.config.tie_word_embeddings = False  # else loading would tie the head to the embeddings
    copied.set_output_embeddings(head)
    return copied
