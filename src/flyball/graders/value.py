"""Settings of a grader that are values or templates: `{{item.order}}` alone is the value itself, in text it is text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyball.graders.flags import NotGraded
from flyball.graders.row import Row
from flyball.graders.template import Template


class Value:
    """A JSON value as written in a grader object, with the templates inside it read once. Raises ConfigError."""

    def __init__(self, written: Any, where: str) -> None:
        self._made: Any
        if isinstance(written, str):
            self._made = Template(written, where)
        elif isinstance(written, Mapping):
            self._made = {key: Value(inner, where) for key, inner in written.items()}
        elif isinstance(written, (list, tuple)):
            self._made = [Value(inner, where) for inner in written]
        else:
            self._made = written

    def of(self, row: Row) -> Any:
        """Return the value for a row. Raises NotGraded."""
        made = self._made
        if isinstance(made, Template):
            return made.value(row)
        if isinstance(made, dict):
            return {key: inner.of(row) for key, inner in made.items()}
        return [inner.of(row) for inner in made] if isinstance(made, list) else made

    def texts(self, row: Row, what: str) -> list[str]:
        """Return the value as a list of texts. Raises NotGraded when it is none."""
        found = self.of(row)
        if not isinstance(found, (list, tuple)) or not all(isinstance(one, str) for one in found):
            raise NotGraded("invalid_variable_error", f"{what} is {str(found)[:80]!r}; it is a list of texts")
        return list(found)

    def answer(self, row: Row, what: str) -> bool:
        """Return the value as yes or no. Raises NotGraded when it is neither."""
        found = self.of(row)
        if not isinstance(found, bool):
            raise NotGraded("invalid_variable_error", f"{what} is {str(found)[:80]!r}; it is true or false")
        return found
