"""OpenAI's templates: `{{ item.path }}` and `{{ sample.path }}`, spaces optional, dots and bracket indexes (3.1).

Text goes in as it is, everything else as JSON. What was filled in is never read as a template again, so a policy cannot
ask for `item` by writing braces. Only the two namespaces exist; braces around anything else are a mistake in the
grader and refused when it is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flyball.errors import ConfigError, Fault, nearest
from flyball.graders.flags import NotGraded
from flyball.graders.row import Row
from flyball.tools.jsonable import to_json

SAMPLE_MEMBERS = ("output_text", "output_json", "output_tools", "choices")
_HOLE = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_STEP = re.compile(r"""\.(?P<name>[^\W\d][\w-]*|\d+)|\[(?P<index>\d+)\]|\[(?P<quote>["'])(?P<key>.*?)(?P=quote)\]""")

Step = str | int


@dataclass(frozen=True)
class Path:
    """A place in `item` or `sample`, with the words it was written in."""

    text: str
    namespace: str
    steps: tuple[Step, ...]

    @staticmethod
    def of(text: str, where: str) -> Path:
        """Read a path. Raises ConfigError."""
        root = re.match(r"\w*", text)
        namespace = root[0] if root else ""
        if namespace not in ("item", "sample"):
            raise ConfigError(f"{where}: template {{{{{text}}}}} names {namespace!r}; only item and sample exist")
        steps: list[Step] = []
        at = len(namespace)
        while at < len(text):
            step = _STEP.match(text, at)
            if step is None:
                raise ConfigError(
                    f"{where}: template {{{{{text}}}}} cannot be read from {text[at:]!r} on; "
                    "write item.key, item.list[0] or item['a key']"
                )
            steps.append(int(step["index"]) if step["index"] else step["name"] or step["key"])
            at = step.end()
        if namespace == "sample" and steps and steps[0] not in SAMPLE_MEMBERS:
            raise ConfigError(
                f"{where}: template {{{{{text}}}}}: sample has no {str(steps[0])!r}"
                f"{nearest(str(steps[0]), SAMPLE_MEMBERS)}"
            )
        if steps[:1] == ["choices"] and len(steps) > 1 and steps[1] not in (0, "0"):
            raise ConfigError(f"{where}: template {{{{{text}}}}}: a sample has one choice, choices[0]")
        return Path(text, namespace, tuple(steps))

    def value(self, row: Row) -> Any:
        """Return what lies there.

        Raises NotGraded: the grader's fault for what the row does not have, the policy's for what it did not write.
        """
        if self.namespace == "item":
            return self._follow(row.item, self.steps)
        if not self.steps:
            return row.sample
        return self._follow(getattr(row, str(self.steps[0])), self.steps[1:])

    def _follow(self, value: Any, steps: tuple[Step, ...]) -> Any:
        for step in steps:
            if isinstance(value, Mapping) and str(step) in value:
                value = value[str(step)]
            elif isinstance(value, (list, tuple)) and str(step).isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                raise self._missing(step, value)
        return value

    def _missing(self, step: Step, value: Any) -> NotGraded:
        has = (
            f"it has {', '.join(map(str, list(value)[:8])) or 'nothing'}"
            if isinstance(value, Mapping)
            else _kind(value)
        )
        if self.namespace == "item":
            return NotGraded("invalid_variable_error", f"{self.text}: no {step!r} in the row; {has}")
        return NotGraded("sample_parse_error", f"{self.text}: the output has no {step!r}; {has}", Fault.POLICY)


class Template:
    """Text with holes, read once and filled in per attempt."""

    def __init__(self, text: str, where: str) -> None:
        self.pieces: list[str | Path] = []
        at = 0
        for hole in _HOLE.finditer(text):
            self.pieces += [text[at : hole.start()], Path.of(hole[1], where)]
            at = hole.end()
        self.pieces.append(text[at:])

    def value(self, row: Row) -> Any:
        """Return what a template that is one hole stands for, as it is; else the text. Raises NotGraded."""
        holes = [piece for piece in self.pieces if piece != ""]
        if len(holes) == 1 and isinstance(holes[0], Path):
            return holes[0].value(row)
        return self.render(row)

    def render(self, row: Row) -> str:
        """Return the text with every hole filled in. Raises NotGraded."""
        return "".join(piece if isinstance(piece, str) else _as_text(piece, row) for piece in self.pieces)


def _as_text(path: Path, row: Row) -> str:
    value = path.value(row)
    if isinstance(value, str):
        return value
    try:
        return to_json(value)
    except ValueError as error:
        raise NotGraded("invalid_variable_error", f"{path.text}: {error}") from error


def _kind(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"the list has {len(value)} entries"
    return f"there is {type(value).__name__} {str(value)[:40]!r}"
