"""Guards in action on the loop: what is told, adjusted, paused for and ended, and what a resumed run remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flyball.errors import Fault
from flyball.rl.guards import Action, Alarm
from flyball.train import update as update_module
from flyball.train.attempt_metrics import attempt_metrics
from flyball.train.guards import Watchmen, lr_adjustment
from flyball.train.progress import Progress
from flyball.types import Attempt, GradedAttempt, Missing, Outcome, Score, StopReason, Task, Trajectory
from tests.train.small import small_learner, validated
from tests.train.test_rl import PLAN, Desk, go


@pytest.fixture(autouse=True)
def kl_is_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step finds a KL far beyond what is expected: `kl_excess` speaks after step 3 and after step 6."""
    monkeypatch.setattr(update_module, "kl_to_reference", lambda *_: validated(7.0))


def guarded(folder: Path, action: Action, **more: Any) -> tuple[Progress, list[Alarm]]:
    heard: list[Alarm] = []
    done = go(folder, small_learner(), watchmen=Watchmen({"kl_excess": action}, heard.append), **more)
    return done, heard


def metrics_of(done: Progress) -> list[Mapping[str, float]]:
    return [{k: v for k, v in step.items() if k.startswith("guard/")} for step in done.history]


def test_told_it_goes_on_and_repeats_itself_after_its_window(tmp_path: Path) -> None:
    done, heard = guarded(tmp_path, "tell")
    assert [(alarm.guard, alarm.step, alarm.value) for alarm in heard] == [("kl_excess", 3, 7.0), ("kl_excess", 6, 7.0)]
    assert metrics_of(done) == [{}, {}, {"guard/kl_excess": 7.0}, {}, {}, {"guard/kl_excess": 7.0}]
    assert (done.step, done.stopped_early, lr_adjustment(done)) == (6, "", 1.0)


def test_adjusted_the_learning_rate_is_halved_each_time(tmp_path: Path) -> None:
    told, _ = guarded(tmp_path / "told", "tell")
    done, _ = guarded(tmp_path / "adjusted", "adjust")
    assert lr_adjustment(done) == 0.25
    assert PLAN.lr_scale(replace(done, step=3)) == 0.25 * PLAN.lr_scale(replace(told, step=3))


def test_paused_it_is_saved_and_whoever_resumes_it_is_asked_again_only_after_the_window(tmp_path: Path) -> None:
    desk = Desk()
    paused, heard = guarded(tmp_path, "pause", desk=desk)
    assert (paused.step, paused.stopped_early) == (3, "") and paused.paused.startswith("guard kl_excess: kl 7")
    done, again = guarded(tmp_path, "pause", desk=desk)
    assert (done.step, [alarm.step for alarm in heard + again]) == (6, [3, 6])
    assert list(desk.recorded) == [1, 2, 3, 4, 5, 6], "nothing was attempted twice"


def test_stopped_it_ends_and_the_reason_is_kept(tmp_path: Path) -> None:
    done, heard = guarded(tmp_path, "stop")
    assert done.step == 3 and done.stopped_early == f"guard kl_excess: {heard[0].reason}"


def test_ignored_it_is_not_asked(tmp_path: Path) -> None:
    done, heard = guarded(tmp_path, "ignore")
    assert (done.step, heard, done.alarms) == (6, [], [])


def test_a_grader_that_is_held_out_is_recorded_with_its_interval() -> None:
    """What `reward_hacking` compares needs a width; what could not be graded is left out."""
    values: list[float | Missing] = [1.0, 0.0, 1.0, 1.0, Missing("no JSON", Fault.GRADER)]
    graded = [
        GradedAttempt(
            Attempt(f"a{i}", Task(f"t{i}", {}), Trajectory((), StopReason.ANSWERED), ()),
            Outcome(True),
            {"holdout/careful": Score(value), "tone": Score(0.5)},
            reward=1.0,
        )
        for i, value in enumerate(values)
    ]
    found = attempt_metrics(graded)
    assert (found["score/holdout/careful"], found["score/holdout/careful/n"]) == (0.75, 4)
    assert found["score/holdout/careful/low"] < 0.75 < found["score/holdout/careful/high"]
    assert found["score/tone"] == 0.5 and "score/tone/low" not in found
