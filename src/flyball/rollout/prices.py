"""What an attempt costs, from a table of prices; the same table prices baseline and candidate."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from flyball.errors import ConfigError
from flyball.types import Usage


@dataclass(frozen=True)
class Prices:
    """US dollars. The defaults are round numbers for a small hosted model and a rented CPU; state your own.

    Model time is in the price of the tokens, so CPU-seconds are those of the tools. A price per tool call is for tools
    that somebody bills.
    """

    usd_per_million_tokens_in: float = 0.10
    usd_per_million_tokens_out: float = 0.40
    usd_per_cpu_second: float = 0.05 / 3600
    usd_per_tool_call: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            price = getattr(self, field.name)
            if not (math.isfinite(price) and price >= 0):
                raise ConfigError(f"{field.name} is {price}; a price is a finite number of US dollars, 0 or more")

    def cost(self, usage: Usage, num_tool_calls: int) -> float:
        """US dollars for what was consumed."""
        return (
            usage.tokens_in * self.usd_per_million_tokens_in / 1e6
            + usage.tokens_out * self.usd_per_million_tokens_out / 1e6
            + usage.tool_seconds * self.usd_per_cpu_second
            + num_tool_calls * self.usd_per_tool_call
        )
