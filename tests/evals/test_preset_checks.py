"""What doctor says about presets and about rewards on turns."""

from __future__ import annotations

from flyball.evals.preset_checks import check_preset, check_turn_rewards
from tests.rl.test_chooser import attempt


def test_the_preset_is_advice_with_its_reason() -> None:
    groups = [[attempt(f"{g}{i}", [1, i], float(i % 2)) for i in range(4)] for g in "ab"]
    finding = check_preset(groups)
    assert (finding.name, finding.level) == ("preset", "ok")
    assert finding.text.startswith("`preset: rloo` fits: anything else") and finding.evidence["group_size"] == 4


def test_rewards_that_go_with_success_are_fine() -> None:
    groups = [[attempt(f"{g}{i}", [1, i], i % 2 + 0.2 * (i % 2), turn=0.2 * (i % 2)) for i in range(4)] for g in "ab"]
    (finding,) = check_turn_rewards(groups)
    assert (finding.level, finding.text) == ("ok", "1 rewards on turns go the way of success, n=8")


def test_a_reward_that_failures_earn_is_told() -> None:
    groups = [[attempt(f"{g}{i}", [1, i], float(i % 2), turn=0.2 * (1 - i % 2)) for i in range(4)] for g in "ab"]
    (finding,) = check_turn_rewards(groups)
    assert finding.level == "warn"
    assert "+0.2 goes the other way than success (correlation -1.00)" in finding.text
    assert "calls paid +0.2 have a mean advantage of -" in finding.text


def test_without_rewards_on_turns_there_is_nothing_to_say() -> None:
    assert check_turn_rewards([[attempt("a", [1], 1.0), attempt("b", [1], 0.0)]]) == []
