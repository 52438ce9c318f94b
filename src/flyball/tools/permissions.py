"""What a policy may do with its tools: scopes granted, calls budgeted, writes only recorded."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flyball.config import BudgetSettings, ToolsSettings
from flyball.errors import ConfigError, nearest
from flyball.tools.tool import Tool

ALL = "all"
"""The budget of all tools together."""


@dataclass(frozen=True)
class Permissions:
    """Of a workflow. `scopes` are granted; a tool that needs another one is shown, and each call of it is refused."""

    scopes: frozenset[str] = frozenset()
    budgets: Mapping[str, BudgetSettings] = field(default_factory=dict)
    dry_run: bool = False

    @classmethod
    def of(cls, settings: ToolsSettings) -> Permissions:
        return cls(frozenset(settings.scopes), settings.budgets, settings.dry_run)

    @property
    def version(self) -> str:
        """'' where nothing is restricted or granted."""
        if self == Permissions():
            return ""
        budgets = {name: budget.model_dump() for name, budget in sorted(self.budgets.items())}
        text = json.dumps([sorted(self.scopes), budgets, self.dry_run])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def check(self, tools: Mapping[str, Tool]) -> None:
        """Raise ConfigError for a scope or a budget that no tool would ever meet."""
        needed = {scope for tool in tools.values() for scope in tool.scopes}
        _known("tools.scopes grants", self.scopes, needed, "; no tool declares a scope")
        _known("tools.budgets names", self.budgets, {*tools, ALL}, "")
        if self.dry_run and not any(tool.writes for tool in tools.values()):
            raise ConfigError("tools.dry_run would be ignored: no tool is declared with `writes`")

    def for_attempt(self) -> Allowance:
        return Allowance(self)


class Allowance:
    """What one attempt may still do."""

    def __init__(self, permissions: Permissions) -> None:
        self._permissions = permissions
        self._used: Counter[str] = Counter()
        self.dry_run = permissions.dry_run

    def lacking(self, tool: Tool) -> list[str]:
        """The scopes that a tool needs and that were not granted."""
        return sorted(set(tool.scopes) - self._permissions.scopes)

    def spend(self, tool: Tool) -> float | None:
        """Take one call of a tool from its budgets; the penalty when it is past one, None when it may go on.

        A call past a budget uses up no other one.
        """
        names = [name for name in (tool.origin or "", ALL) if name in self._permissions.budgets]
        spent = [name for name in names if self._used[name] >= self._permissions.budgets[name].max_calls]
        if spent:
            return max(self._permissions.budgets[name].penalty for name in spent)
        self._used.update(names)
        return None


def _known(what: str, names: Iterable[str], known: Iterable[str], none: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{what} {name!r}, which is of no tool{nearest(name, known) if known else none}")
