"""Each guard: a run that trips it, and healthy runs that must not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from flyball.errors import ConfigError
from flyball.metrics import check
from flyball.rl.guards import EXPECTED_KL, GUARDS, KL_EXCESS, MIN_ENTROPY, actions, look, markdown

PAGE = Path(__file__).parents[2] / "docs" / "guards.md"
Curve = list[float]


def history(**curves: Curve) -> list[dict[str, float]]:
    """Steps of a healthy run apart from the curves given; `a__b` is the metric `a/b`, None leaves a step out."""
    length = max(map(len, curves.values()))
    named = {name.replace("__", "/"): curve for name, curve in curves.items()}
    rest = {name: curve for name, curve in healthy_run(length).items() if name not in named}
    steps: list[dict[str, float]] = [{} for _ in range(length)]
    for name, curve in (rest | named).items():
        for step, value in zip(steps, curve, strict=False):
            if value is not None:
                step[name] = value
    return steps


def healthy_run(length: int, seed: int = 0) -> dict[str, Curve]:
    """A run that learns: success and reward rise, entropy falls slowly, answers get somewhat longer."""
    t, noise = np.linspace(0, 1, length), np.random.default_rng(seed)
    success = np.clip(0.3 + 0.5 * t + noise.normal(0, 0.04, length), 0, 1)
    return {
        "success_rate": success.tolist(),
        "success_rate/low": (success - 0.1).tolist(),
        "success_rate/high": (success + 0.1).tolist(),
        "reward_mean": (success - 0.1).tolist(),
        "reward_mean/low": (success - 0.2).tolist(),
        "reward_mean/high": success.tolist(),
        "validation_success": [v if i % 5 == 4 else None for i, v in enumerate(success.tolist())],
        "entropy": (0.6 - 0.3 * t + noise.normal(0, 0.02, length)).tolist(),
        "zero_variance_share": np.clip(0.3 + 0.3 * t + noise.normal(0, 0.05, length), 0, 1).tolist(),
        "kl": (0.3 * t).tolist(),
        "grad_norm": np.exp(noise.normal(0, 0.5, length)).tolist(),
        "gradient_cosine": noise.normal(0.1, 0.2, length).tolist(),
        "completion_tokens_mean": (200 * (1 + 0.8 * t) + noise.normal(0, 10, length)).tolist(),
        "tool_calls_mean": (3 + t + noise.normal(0, 0.2, length)).tolist(),
        "turns_mean": (4 + t + noise.normal(0, 0.2, length)).tolist(),
        "score/format": np.clip(0.5 + 0.5 * t, 0, 1).tolist(),
        "score/holdout/careful": success.tolist(),
        "score/holdout/careful/low": (success - 0.1).tolist(),
        "score/holdout/careful/high": (success + 0.1).tolist(),
    }


TRIPPED: dict[str, dict[str, Curve]] = {
    "entropy_collapse": {"entropy": [0.4, *[MIN_ENTROPY / 2] * 3]},
    "advantage_collapse": {"zero_variance_share": [0.5] * 5 + [0.95] * 5},
    "kl_excess": {"kl": [0.2, *[KL_EXCESS * EXPECTED_KL + 0.5] * 3]},
    "gradient_norm": {"grad_norm": [1.0] * 6 + [12.0] * 3},
    "gradient_conflict": {"gradient_cosine": [0.2] * 5 + [-0.3] * 10},
    "length_explosion": {"completion_tokens_mean": [200.0] * 4 + [500.0] * 4, "success_rate": [0.4] * 8},
    "tool_call_explosion": {"tool_calls_mean": [3.0] * 4 + [9.0] * 4, "success_rate": [0.4] * 8},
    "verbosity_explosion": {
        "completion_tokens_mean": [200.0] * 4 + [300.0] * 4,
        "turns_mean": [4.0] * 4 + [2.5] * 4,
        "success_rate": [0.4] * 8,
    },
    "premature_stopping": {"turns_mean": [6.0] * 4 + [1.5] * 4, "success_rate": [0.5] * 4 + [0.3] * 4},
    "reward_hacking": {
        "reward_mean": np.linspace(0.2, 1.4, 20).tolist(),
        "reward_mean__low": np.linspace(0.1, 1.3, 20).tolist(),
        "reward_mean__high": np.linspace(0.3, 1.5, 20).tolist(),
        "success_rate": [0.5] * 20,
        "validation_success": [0.6 if i < 10 else 0.3 for i in range(20)],
        "validation_success__low": [0.48 if i < 10 else 0.2 for i in range(20)],
        "validation_success__high": [0.71 if i < 10 else 0.42 for i in range(20)],
    },
    "format_hacking": {"score__format": [0.4] * 5 + [0.9] * 5, "success_rate": [0.3] * 5 + [0.28] * 5},
    "success_collapse": {"success_rate": [0.6] * 6 + [0.29] * 3},
}


@pytest.mark.parametrize("name", GUARDS)
def test_its_sign_makes_it_speak(name: str) -> None:
    found = look(history(**TRIPPED[name]))
    assert name in found, found
    value, reason = found[name]
    assert math.isfinite(value) and reason


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", GUARDS)
def test_at_no_step_of_a_healthy_run_does_it_speak(name: str, seed: int) -> None:
    curves = healthy_run(40, seed)
    steps = history(**{key.replace("/", "__"): curve for key, curve in curves.items()})
    assert [n for n in range(41) if look(steps[:n], [name])] == []


@pytest.mark.parametrize(
    ("name", "curves"),
    [
        ("entropy_collapse", {"entropy": [0.4, MIN_ENTROPY / 2, MIN_ENTROPY / 2]}),
        ("entropy_collapse", {"entropy": [MIN_ENTROPY] * 3}),  # the bound itself is allowed
        ("entropy_collapse", {"entropy": [1e-4, None, 1e-4]}),  # a step without an update says nothing
        ("advantage_collapse", {"zero_variance_share": [0.9] * 5}),
        ("kl_excess", {"kl": [1.5, 1.5, 0.2]}),
        ("kl_excess", {"kl": [1.0] * 3}),
        ("kl_excess", {"kl": [11.0] * 3, "kl_expected": [6.0] * 3}),
        ("gradient_norm", {"grad_norm": [1.0] * 6 + [12.0, 12.0, 9.0]}),
        ("gradient_norm", {"grad_norm": [12.0] * 5}),  # nothing to compare with
        ("gradient_conflict", {"gradient_cosine": [-0.3] * 9}),
        ("length_explosion", {"completion_tokens_mean": [200.0] * 4 + [500.0] * 4}),  # it learned meanwhile
        ("length_explosion", {"completion_tokens_mean": [200.0] * 4 + [390.0] * 4, "success_rate": [0.4] * 8}),
        ("premature_stopping", {"turns_mean": [6.0] * 4 + [1.5] * 4, "success_rate": [0.5] * 8}),  # it got efficient
        ("reward_hacking", TRIPPED["reward_hacking"] | {"reward_mean": [0.2] * 20}),  # it just got worse
        (
            "reward_hacking",  # 60 to 45 % with n = 20 is noise
            TRIPPED["reward_hacking"]
            | {
                "validation_success": [0.6 if i < 10 else 0.45 for i in range(20)],
                "validation_success__low": [0.39 if i < 10 else 0.26 for i in range(20)],
                "validation_success__high": [0.78 if i < 10 else 0.66 for i in range(20)],
            },
        ),
        ("format_hacking", {"score__format": [0.4] * 5 + [0.9] * 5, "success_rate": [0.3] * 5 + [0.5] * 5}),
        (
            "format_hacking",
            {"score__polite": [0.4] * 5 + [0.9] * 5, "score__format": [0.4] * 10, "success_rate": [0.3] * 10},
        ),
        ("success_collapse", {"success_rate": [0.6] * 6 + [0.31] * 3}),
        ("success_collapse", {"success_rate": [0.6] * 8 + [0.0]}),  # one bad step
        ("success_collapse", {"success_rate": [0.19] * 6 + [0.05] * 3}),  # it never could do much
        ("success_collapse", {"success_rate": [0.9, 0.9, 0.9, 0.1, 0.1, 0.1]}),  # too early to tell
    ],
)
def test_less_than_its_sign_is_let_be(name: str, curves: dict[str, Curve]) -> None:
    assert look(history(**curves), [name]) == {}


def test_a_kl_that_is_no_number_speaks() -> None:
    """The learner refuses such weights where they arise; a guard must not take them for healthy by accident."""
    assert "kl_excess" in look(history(kl=[math.inf] * 3))


def test_hacking_is_seen_in_the_training_attempts_too() -> None:
    curves = {key: value for key, value in TRIPPED["reward_hacking"].items() if not key.startswith("validation")}
    curves |= {
        "success_rate": [0.6] * 10 + [0.3] * 10,
        "success_rate__low": [0.55] * 10 + [0.25] * 10,
        "success_rate__high": [0.65] * 10 + [0.35] * 10,
        "validation_success": [None] * 20,
    }
    value, reason = look(history(**curves))["reward_hacking"]
    assert value == pytest.approx(0.3) and "success_rate fell from 60.0% to 30.0%" in reason


def test_hacking_is_seen_by_a_grader_that_is_held_out() -> None:
    """Success is what the reward pays for and rises with it; a grader that learning never reads falls."""
    curves = {key: value for key, value in TRIPPED["reward_hacking"].items() if key.startswith("reward")}
    held_out: dict[str, Curve] = {
        "success_rate": [0.5] * 20,
        "score__holdout__careful": [0.6] * 10 + [0.3] * 10,
        "score__holdout__careful__low": [0.55] * 10 + [0.25] * 10,
        "score__holdout__careful__high": [0.65] * 10 + [0.35] * 10,
    }
    value, reason = look(history(**curves, **held_out))["reward_hacking"]
    assert value == pytest.approx(0.3) and "score/holdout/careful fell from 60.0% to 30.0%" in reason
    wide = held_out | {"score__holdout__careful__low": [0.0] * 20, "score__holdout__careful__high": [1.0] * 20}
    assert "reward_hacking" not in look(history(**curves, **wide)), "so few attempts cannot tell"


def test_no_history_says_nothing() -> None:
    assert look([]) == {} and look([{}] * 50) == {}


def test_the_page_is_that_of_the_table_and_its_metrics_are_declared() -> None:
    assert PAGE.read_text() == markdown(), "run `python -m flyball.rl.guards > docs/guards.md`"
    for name in GUARDS:
        check(f"guard/{name}")


def test_actions_are_those_of_the_table_unless_set() -> None:
    assert actions({})["reward_hacking"] == "pause"
    assert actions({"reward_hacking": "stop"})["reward_hacking"] == "stop"
    with pytest.raises(ConfigError, match="did you mean 'reward_hacking'"):
        actions({"reward_haking": "stop"})
    with pytest.raises(ConfigError, match="did you mean 'ignore'"):
        actions({"reward_hacking": "ignored"})
