"""Secrets of tool servers: named in the workflow file as `${NAME}`, read from the environment when a server is used.

Settings, and so everything that is stored with a run, hold the name only. What a server answers is masked before it is
shown or kept: a value that comes back as it was sent stands there as `${NAME}` again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from flyball.config import VARIABLE
from flyball.errors import ConfigError

SHORTEST = 8
"""A shorter value would be masked in innocent text, and guessed."""


class Secrets:
    """The values that one server's settings name. `where` names the server in errors."""

    def __init__(self, where: str, environment: Mapping[str, str] = os.environ) -> None:
        self._where = where
        self._environment = environment
        self._values: dict[str, str] = {}

    def fill(self, text: str) -> str:
        """Return the text with every `${NAME}` replaced. Raises ConfigError for one that is not set or too short."""
        return VARIABLE.sub(lambda found: self._value(found[1]), text)

    def fill_all(self, texts: Mapping[str, str]) -> dict[str, str]:
        """As `fill`, for headers and environment variables."""
        return {name: self.fill(text) for name, text in texts.items()}

    def mask(self, text: str) -> str:
        """Return the text with every value that was filled in replaced by its name."""
        for value, name in self._values.items():
            text = text.replace(value, f"${{{name}}}")
        return text

    def _value(self, name: str) -> str:
        value = self._environment.get(name)
        if not value:
            raise ConfigError(f"{self._where} needs the environment variable {name}, which is not set")
        if len(value) < SHORTEST:
            raise ConfigError(
                f"{self._where}: the environment variable {name} has {len(value)} characters; a value that is to be "
                f"masked has at least {SHORTEST}. Write what is no secret into the file"
            )
        self._values[value] = name
        return value
