"""The table of presets, its page, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from flyball.errors import ConfigError
from flyball.rl.algorithms import ALGORITHMS, CHOICES, algorithm, configured, own_choices
from flyball.rl.kl import PLACEMENTS, KlSchedule, adapted
from flyball.rl.page import markdown
from flyball.rl_settings import RLSettings

PAGE = Path(__file__).parents[2] / "docs" / "algorithms.md"


def test_the_page_is_that_of_the_table() -> None:
    assert PAGE.read_text() == markdown(), "run `python -m flyball.rl.page > docs/algorithms.md`"
    assert all(f"| `{name}` |" in markdown() for name in (*ALGORITHMS, *PLACEMENTS))


def test_every_row_can_run_and_is_told() -> None:
    for row in ALGORITHMS.values():
        assert (row.credit is None) == (row.network == "critic"), row.name
        assert row.functions and row.source and row.fits and all(fn.__doc__ for fn in row.functions), row.name


def test_every_choice_is_a_setting_of_the_workflow_file() -> None:
    assert set(CHOICES) <= set(RLSettings.model_fields)
    assert set(CHOICES) <= set(vars(algorithm("rloo")))


def test_an_unknown_algorithm_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'dr_grpo'"):
        algorithm("dr_gpro")


@pytest.mark.parametrize(
    ("name", "own", "said"),
    [
        ("reinforce_pp", {"max_refills": 2}, "does not read it"),
        ("ppo", {"max_refills": 2}, "does not read it"),
        ("cispo", {"clip_ratio_low": 0.2}, "does not read it"),
        ("rloo", {"kl": "k2-in-loss"}, "kl would be ignored"),
        ("rloo", {"kl_schedule": KlSchedule()}, "kl_schedule would be ignored"),
        ("rloo", {"kl": "k1-in-loss", "kl_coef": 0.1}, "its expected gradient is 0"),
        ("rloo", {"kl": "k2-in-reward", "kl_coef": 0.1}, "is refused"),
        ("rloo", {"kl": "k3-in-reward", "kl_coef": 0.1}, "collapse"),
        ("rloo", {"allow_refused_kl": True}, "not a refused one"),
        ("rloo", {"correction": "tiss"}, "did you mean 'tis'"),
        ("rloo", {"correction": "none", "correction_high": 3.0}, "has no bounds"),
        ("rloo", {"correction_normalizer": "accepted"}, "rejects nothing"),
        ("rloo", {"proximal": "sampler"}, "weigh it twice"),
        ("rloo", {"loss_agg_mode": "token-meen"}, "did you mean 'token-mean'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(name: str, own: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(name, own)


def test_a_refused_placement_is_taken_where_it_is_asked_for() -> None:
    row = configured("rloo", {"kl": "k3-in-reward", "kl_coef": 0.1, "allow_refused_kl": True})
    assert row.kl_in_reward and PLACEMENTS["k3-in-loss"].gradient == "forward-KL gradient, as published in GRPO"


def test_settings_reach_the_row() -> None:
    settings = RLSettings.model_validate(
        {"kl_coef": 0.1, "kl_schedule": {"kind": "adaptive", "target": 6.0}, "correction": "icepop"}
    )
    row = configured("rloo", own_choices(settings))
    assert (row.correction, row.kl_schedule.kind, row.kl_schedule.target) == ("icepop", "adaptive", 6.0)
    ignored = RLSettings.model_validate({"kl_schedule": {"kind": "constant", "target": 1.0}})
    with pytest.raises(ConfigError, match="would ignore target"):
        own_choices(ignored)


def test_schedules_by_hand() -> None:
    assert adapted(0.2, 9.0, 6.0, 256, 10_000) == pytest.approx(0.201024)
    warm = KlSchedule("warmup-decay", 0.4, warmup_steps=2)
    assert [warm.weight(s, 5, ()) for s in range(5)] == pytest.approx([0.2, 0.4, 0.4, 0.2, 0.0])
    adaptive = KlSchedule("adaptive", 0.2, target=6.0)
    assert adaptive.weight(2, 9, [9.0, 0.0], 256) == pytest.approx(0.2 * (1 + 0.2 * 0.0256) * (1 - 0.2 * 0.0256))
    pid = KlSchedule("pid", 0.1, target=1.0, gains=(0.1, 0.01, 0.5))
    assert pid.weight(2, 9, [1.5, 2.0]) == pytest.approx(0.1 + 0.1 * 1 + 0.01 * 1.5 + 0.5 * 0.5)
    assert pid.weight(1, 9, [0.0]) == 0.0 and KlSchedule(coef=0.3).weight(7, 9, [math.inf]) == 0.3
    with pytest.raises(ConfigError, match="above 0"):
        KlSchedule("pid", 0.1)
