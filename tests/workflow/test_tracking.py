"""Metrics in a dashboard: read back from its own files, each step once however often a run was cut off."""

from __future__ import annotations

import math
import struct
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tensorboardX.proto.event_pb2 import Event

from flyball.errors import ConfigError
from flyball.store.store import Store
from flyball.workflow import tracking
from flyball.workflow.fake import FakeTrainer
from flyball.workflow.napkin import judge_file
from flyball.workflow.progress import Silent
from flyball.workflow.run import Finished, resume, start
from flyball.workflow.tracking import Place, Tracking, WandB
from flyball.workflow.workflow import load_workflow

from .conftest import answers
from .test_run import StoppingTrainer


class Listed:
    """A tracker that keeps what it gets and refuses the steps it is told to."""

    def __init__(self, refuse: tuple[int, ...] = ()) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.closed: list[bool] = []
        self._refuse = refuse

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step in self._refuse:
            raise ConnectionError("no route to the dashboard")
        self.rows.append((step, dict(values)))

    def close(self, complete: bool) -> None:
        self.closed.append(complete)


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def tracked(project: Path, text: str) -> Path:
    file = project.with_name("tracked.yaml")
    file.write_text(f"python: {project.name}\nname: stock\ntracking: {text}\n")
    return file


def run(file: Path, home: Path, trainer: FakeTrainer, said: Said | None = None) -> Finished:
    with Store(home) as store:
        return start(load_workflow(file), store, trainer, said or Silent(), kind="train")


def go_on(run_id: str, home: Path) -> Finished:
    with Store(home) as store:
        return resume(run_id, store, FakeTrainer(answers()), Silent())


def events(folder: Path) -> Iterator[Event]:
    """Records of event files: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length


def test_a_stopped_and_resumed_run_in_tensorboard_has_every_step_once(project: Path, tmp_path: Path) -> None:
    file = tracked(project, "{kind: tensorboard, folder: board}")
    stopped = run(file, tmp_path / "home", StoppingTrainer(answers()))
    assert stopped.stopped
    assert not go_on(stopped.run_id, tmp_path / "home").stopped
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(project.parent / "board" / stopped.run_id):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    found = {name: sorted(curve) for name, curve in found.items()}  # of two files, either may be read first
    with Store(tmp_path / "home") as store:
        kept = store.metrics(stopped.run_id)
    assert [step for step, _ in kept["success_rate"]] == [1, 2, 3]
    assert found.keys() == kept.keys() and "sft_loss/sft" in found
    for name, curve in kept.items():
        assert [step for step, _ in found[name]] == [step for step, _ in curve]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in curve])


def test_a_stopped_and_resumed_run_is_one_run_of_mlflow(project: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    file = tracked(project, f"{{kind: mlflow, uri: '{uri}', project: desks}}")
    stopped = run(file, tmp_path / "home", StoppingTrainer(answers()))
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("desks")
    assert [one.info.status for one in client.search_runs([experiment.experiment_id])] == ["KILLED"]
    go_on(stopped.run_id, tmp_path / "home")
    (one,) = client.search_runs([experiment.experiment_id])
    assert (one.info.status, one.info.run_name) == ("FINISHED", stopped.run_id)
    with Store(tmp_path / "home") as store:
        for name, curve in store.metrics(stopped.run_id).items():
            assert [(m.step, m.value) for m in client.get_metric_history(one.info.run_id, name)] == curve


def test_wandb_is_given_one_id_and_its_own_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in for the package: what is sent to it."""
    calls: list[tuple[str, object]] = []

    def note(name: str) -> object:
        return lambda *args, **kwargs: calls.append((name, args or kwargs))

    run = types.SimpleNamespace(**{name: note(name) for name in ("define_metric", "log", "finish")})
    module = types.SimpleNamespace(init=lambda **kwargs: calls.append(("init", kwargs)) or run)
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    tracker = WandB(Place("run-1", "desks", tmp_path / "files"))
    tracker.write(4, {"kl": 0.5})
    tracker.close(complete=False)
    assert calls[0] == (
        "init",
        {"project": "desks", "id": "run-1", "name": "run-1", "dir": str(tmp_path / "files"), "resume": "allow"},
    )
    assert calls[2:] == [("log", ({"kl": 0.5, "step": 4},)), ("finish", {"exit_code": 1})]


def test_a_repeated_step_is_sent_once_and_what_a_kill_kept_back_is_sent_first(tmp_path: Path) -> None:
    marks, first, second = tmp_path / "marks.json", Listed(), Listed()
    one = Tracking(lambda: first, marks, {}, print)
    for step in (1, 2):
        one.write(step, {"kl": step / 10})
    one.close(complete=False)
    two = Tracking(lambda: second, marks, {"kl": [(1, 0.1), (2, 0.2), (3, math.nan)], "entropy": [(3, 1.0)]}, print)
    for step in (2, 3, 4):  # the loop goes on from the checkpoint of step 1
        two.write(step, {"kl": step / 10})
    two.close(complete=True)
    assert first.rows == [(1, {"kl": 0.1}), (2, {"kl": 0.2})]
    assert [(step, set(values)) for step, values in second.rows] == [(3, {"kl", "entropy"}), (4, {"kl"})]
    assert math.isnan(second.rows[0][1]["kl"])
    assert (first.closed, second.closed) == ([False], [True])


def test_a_tracker_that_fails_never_stops_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, said = Listed(refuse=(1, 2)), Said()
    monkeypatch.setattr("flyball.workflow.context.TRACKERS", {"tensorboard": lambda place: board})
    finished = run(tracked(project, "{kind: tensorboard}"), tmp_path / "home", FakeTrainer(answers()), said)
    assert {step for step, _ in board.rows} == {3}
    told = [line for line in said.lines if "tracker" in line]
    assert len(told) == 2
    assert "ConnectionError: no route to the dashboard" in told[0]
    with Store(tmp_path / "home") as store:
        assert store.run(finished.run_id).status == "finished"
        (event,) = store.events(finished.run_id, "tracking")
        assert [step for step, _ in store.metrics(finished.run_id)["success_rate"]] == [1, 2, 3]
    assert told[1].startswith(f"{event.payload['failed']} steps did not reach the tracker")


def test_a_tracker_that_hangs_holds_up_nothing(tmp_path: Path) -> None:
    free, said = threading.Event(), Said()
    hanging = Listed()
    hanging.write = lambda step, values: free.wait()  # type: ignore[method-assign, assignment]
    one = Tracking(lambda: hanging, tmp_path / "marks.json", {}, said.say)
    one.write(1, {"kl": 0.1})
    one.close(complete=True, seconds=0.05)
    free.set()
    assert said.lines == ["the tracker has not taken all steps after 0.05 s; the run's store has them"]


def test_a_missing_package_is_told_before_any_training(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tracked(project, "{kind: wandb}")
    monkeypatch.setitem(tracking.PACKAGES, "wandb", "no_such_package")
    (row,) = [row for row in judge_file(file, ()) if row.key == "tracking.kind"]
    assert row.state == "missing"
    with pytest.raises(ConfigError, match=r"no_such_package is not installed: pip install 'flyball\[wandb\]'"):
        run(file, tmp_path / "home", FakeTrainer(answers()))
    with Store(tmp_path / "home") as store:
        assert store.runs() == []


def test_a_resume_without_the_package_is_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = run(tracked(project, "{kind: tensorboard}"), tmp_path / "home", StoppingTrainer(answers()))
    monkeypatch.setitem(tracking.PACKAGES, "tensorboard", "no_such_package")
    with pytest.raises(ConfigError, match=r"tracked.yaml:3: tracking.kind is 'tensorboard'.*pip install"):
        go_on(stopped.run_id, tmp_path / "home")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{kind: tensorboard, project: x}", "tracking.project would be ignored by tensorboard; it reads folder"),
        ("{kind: wandb, uri: x}", "tracking.uri would be ignored by wandb; it reads folder, project"),
        ("{kind: mlflow, uri: 'postgresql://me:secret@db/x'}", "a password stands in tracking.uri"),
        ("{kind: comet}", "tracking.kind is 'comet'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(project: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"tracked.yaml:3") as refused:
        judge_file(tracked(project, text), ())
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_dashboard_is_no_input_of_a_run(project: Path, tmp_path: Path) -> None:
    stopped = run(tracked(project, "{kind: tensorboard}"), tmp_path / "home", StoppingTrainer(answers()))
    tracked(project, "{kind: tensorboard, folder: elsewhere}")
    go_on(stopped.run_id, tmp_path / "home")
    steps = [e.step for e in events(project.parent / "elsewhere" / stopped.run_id) for v in e.summary.value]
    assert {1, 2, 3} <= set(steps)
