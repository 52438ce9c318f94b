"""Settings files: every error has file, line, value, rule and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyball.config import Settings, SFTSettings, read_settings
from flyball.errors import ConfigError
from flyball.settings_file import Marks, merge, parse, read_yaml


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "w.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_settings(write(tmp_path, text))
    return str(caught.value)


def test_a_file_is_read_into_typed_sections(tmp_path: Path) -> None:
    settings, marks = read_settings(write(tmp_path, "python: w.py\ntraining:\n  rl:\n    learning_rate: 3e-4\n"))
    assert settings.training.rl is not None
    assert settings.training.rl.learning_rate == 3e-4
    assert marks.at(("training", "rl", "learning_rate")).endswith("w.yaml:4")
    assert marks.at(("training", "rl", "group_size")).endswith("w.yaml:3"), "what was not written points at its section"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("pyhton: w.py", 1, ["unknown key 'pyhton'", "did you mean 'python'?"]),
        ("\ntraining:\n  rl:\n    gruop_size: 4", 4, ["unknown key 'gruop_size' in 'training.rl'", "'group_size'"]),
        ("training:\n  rl:\n    group_size: 1", 3, ["training.rl.group_size is 1", "at least 2"]),
        (
            'training:\n  sft:\n    batch_size: "8"',
            3,
            ["training.sft.batch_size is '8'", "valid integer", "at least 1"],
        ),
        ("training:\n  rl:\n    num_steps: true", 3, ["num_steps is True", "valid integer"]),
        ("training:\n  rl:\n    learning_rate: .nan", 3, ["learning_rate is nan", "between 0 and 1"]),
        ("limits:\n  max_turns: 0", 2, ["limits.max_turns is 0", "greater than 0"]),
        ("limits:\n  max_turn: 3", 2, ["did you mean 'max_turns'?"]),
        ("evaluation:\n  suites: test", 2, ["evaluation.suites is 'test'"]),
        ("evaluation:\n  suites:\n    - test\n    - 3", 4, ["evaluation.suites.1 is 3", "valid string"]),
        ("training: 7", 1, ["training is 7"]),
        ("name: a\nname: b", 2, ["key 'name' was already set on line 1"]),
        ("a: [1, 2", 1, ["not YAML"]),
        ("- python: w.py", 1, ["the file is a list"]),
        ("", 1, ["the file is empty"]),
    ],
)
def test_what_cannot_be_honoured_is_refused_where_it_was_written(
    tmp_path: Path, text: str, line: int, words: list[str]
) -> None:
    message = refusal(tmp_path, text)
    assert f"w.yaml:{line}: " in message
    for word in words:
        assert word in message


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "relase: {}\ntraining:\n  rl: {num_steps: 0}\n")
    assert "w.yaml:1: unknown key 'relase'" in message
    assert "w.yaml:3: training.rl.num_steps is 0" in message


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; `flyball init helpdesk`"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        read_yaml(tmp_path / "b.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory; name a YAML file"):
        read_yaml(tmp_path)


def test_merging_changes_only_what_was_written(tmp_path: Path) -> None:
    _, marks = read_yaml(write(tmp_path, "python: w.py"))
    base = parse(Settings, {"training": {"rl": {"num_steps": 7, "group_size": 4}, "seed": 5}}, marks)
    both = merge(base, parse(Settings, {"training": {"rl": {"num_steps": 9}}}, marks))
    assert both.training.seed == 5
    assert both.training.rl is not None
    assert (both.training.rl.num_steps, both.training.rl.group_size) == (9, 4)
    off = merge(base, parse(Settings, {"training": {"rl": None}}, marks))
    assert off.training.rl is None
    assert off.training.seed == 5


def test_cuts_that_greedy_sampling_would_ignore_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "evaluation:\n  top_p: 0.9\n")
    assert "w.yaml:1: evaluation is" in message and "would be ignored" in message
    assert "an empty text" in refusal(tmp_path, "evaluation:\n  stop: ['END', '']\n")
    _, marks = read_yaml(write(tmp_path, "python: w.py"))
    cut = parse(Settings, {"training": {"rl": {"top_p": 0.9, "top_k": 20, "min_p": 0.05}}}, marks).training.rl
    assert cut is not None and (cut.top_p, cut.top_k, cut.min_p, cut.temperature) == (0.9, 20, 0.05, 1.0)


TOOLS = """tools:
  http:
    shop:
      url: http://shop
      functions:
        - {name: find, description: Look., parameters: {type: object}}
"""


@pytest.mark.parametrize(
    ("more", "line", "words"),
    [
        (
            "      timeout_second: 3\n",
            7,
            "unknown key 'timeout_second' in 'tools.http.shop'; did you mean 'timeout_sec",
        ),
        ("  mcp:\n    shelf: {commnd: [a]}\n", 8, "unknown key 'commnd' in 'tools.mcp.shelf'; did you mean 'command'"),
        ("  mcp:\n    shelf: {}\n", 8, "an MCP server has a command or a url, one of the two"),
        ("  budgets:\n    find: {max_calls: -1}\n", 8, "tools.budgets.find.max_calls is -1"),
        ("  scope: [a]\n", 7, "unknown key 'scope' in 'tools'; did you mean 'scopes'"),
    ],
)
def test_sections_by_name_are_read_as_strictly(tmp_path: Path, more: str, line: int, words: str) -> None:
    message = refusal(tmp_path, TOOLS + more)
    assert f"w.yaml:{line}: " in message and words in message


@pytest.mark.parametrize("more", ["headers: {X-Api-Key: s3cr3t-value}", "signing_secret: s3cr3t-value"])
def test_a_secret_in_the_file_is_refused_and_not_shown(tmp_path: Path, more: str) -> None:
    message = refusal(tmp_path, f"{TOOLS}      {more}\n")
    assert "a secret stands in the file; keep it in the environment and write ${NAME}" in message
    assert "s3cr3t" not in message


def test_listed_stages_are_on_and_the_others_off() -> None:
    marks = Marks("w.yaml")
    training = parse(Settings, {"training": {"stages": ["rl"], "rl": {"num_steps": 3}}}, marks).training
    assert (training.order, training.sft, training.rl and training.rl.num_steps) == (("rl",), None, 3)
    bare = parse(Settings, {"training": {"stages": ["sft"]}}, marks).training
    assert (bare.sft, bare.rl) == (SFTSettings(), None)
    assert Settings().training.order == ("sft", "rl")
    assert parse(Settings, {"training": {"sft": None}}, marks).training.order == ("rl",)
    with pytest.raises(ConfigError, match="listed once"):
        parse(Settings, {"training": {"stages": ["sft", "sft"]}}, marks)
    with pytest.raises(ConfigError, match="'sft'"):
        parse(Settings, {"training": {"stages": ["stf"]}}, marks)


def test_stages_of_the_file_win_over_those_of_the_code() -> None:
    marks = Marks("w.yaml")
    code = parse(Settings, {"training": {"sft": {"batch_size": 3}, "rl": {"group_size": 4}}}, marks)
    both = merge(code, parse(Settings, {"training": {"stages": ["rl"]}}, marks)).training
    assert (both.order, both.sft, both.rl and both.rl.group_size) == (("rl",), None, 4)
