"""What a workflow file may rely on. Changing a line here changes other people's files: say so in CHANGELOG.md."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest

import flyball

PUBLIC = {
    "Attempt": "attempt_id task trajectory messages state usage cost_usd trace_id session_id group_index seed versions",
    "Block": "reason",
    "Command": "",
    "Fault": "",
    "Http": "",
    "Judge": "base_url api_key concurrency timeout_seconds max_retries backoff_seconds prices budget_usd cache "
    "embedding_model",
    "Limits": "max_turns max_tool_calls max_new_tokens max_tokens max_seconds tool_timeout_seconds tool_output_chars "
    "max_cost_usd",
    "Missing": "cause fault",
    "Outcome": "success safe grader_version",
    "Plan": "steps max_tool_calls",
    "Revise": "instruction",
    "RewardEvent": "branch turn call_id component value",
    "Score": "value raw raw_range parts explanation grader grader_version",
    "StopReason": "",
    "Task": "task_id public hidden tools limits split family stage cluster surface",
    "View": "task_id task tools messages",
    "Workflow": "world tasks success reward policy safety scores agent oracle demonstrations "
    "training evaluation release monitoring prices limits name",
    "grader_from": "spec judge",
    "tool": "fn writes approval name description retries cost_usd",
}
"""Public names, and for those that are called the first parameters in order; new ones may only follow."""


def test_public_names() -> None:
    assert sorted(PUBLIC) == flyball.__all__


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_loads_and_says_what_it_is(name: str) -> None:
    value = getattr(flyball, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)
    if pinned := PUBLIC[name].split():
        assert list(inspect.signature(value).parameters)[: len(pinned)] == pinned


def test_the_version_is_that_of_the_distribution() -> None:
    assert flyball.__version__ == version("flyball")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Wrokflow'"):
        getattr(flyball, "Wrokflow")  # noqa: B009  # an attribute, asked for as Python does
