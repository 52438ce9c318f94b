"""Labels that people or rubrics gave conversations, for reward models: one JSON object a line.

{"id": "t-1", "messages": [...], "label": 0.75}             outcome: success, or the share of a rubric that is met
{"id": "t-1", "messages": [...], "labels": [1, 0.5, 0]}     process: one for each turn of the assistant
"""

from __future__ import annotations

from pathlib import Path

from flyball.errors import DatasetError
from flyball.workflow.demonstrations import read_lines
from flyball.workflow.trainer import LabelledTalk


def read_labels(path: Path, kind: str) -> list[LabelledTalk]:
    """Read a file of labels. Raises DatasetError with the row for labels that are none or not one for each turn."""
    talks = []
    for number, row in enumerate(read_lines(path), start=1):
        turns = sum(message.get("role") == "assistant" for message in row["messages"])
        labels, wanted = (row.get("labels"), turns) if kind == "process" else ([row.get("label")], 1)
        good = isinstance(labels, list) and all(
            isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 1 for x in labels
        )
        if not turns or not good or not isinstance(labels, list) or len(labels) != wanted:
            what = f"labels, a list of {turns} numbers" if kind == "process" else "label, one number"
            raise DatasetError(f"{path}: row {number} ({row['id']!r}) needs {what} from 0 to 1; it has {labels!r}")
        talks.append(LabelledTalk(row["id"], tuple(row["messages"]), tuple(float(x) for x in labels)))
    if not talks:
        raise DatasetError(f"{path}: no labelled conversation in this file")
    return talks
